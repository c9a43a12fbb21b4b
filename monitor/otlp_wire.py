"""What it would take to read an export, told from its bytes alone: two of them can make an object of two hundred."""

import re
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from monitor.otlp_parts import MOST_PARTS

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# A message takes that many times the room of a number or a text.
OF_A_MESSAGE = 2
# No part of an export that means something weighs more.
OF_A_PART = 7
HEAVIEST = OF_A_PART * MOST_PARTS
# With fewer bytes at which a message could begin, a body is not worth walking through.
FEW = HEAVIEST // (2 * OF_A_MESSAGE)
MOST_COMMAS = 3 * MOST_PARTS

# The three low bits of the byte before it say that a text or a message comes.
_BEGINNINGS = bytes(byte for byte in range(256) if byte & 7 == _BYTES)
# On to the next comma that stands in no text; never back, so that it takes the time of one pass.
_TO_COMMA = re.compile(rb'[^",]*+(?:"(?:[^"\\]++|\\.)*+"[^",]*+)*+,', re.DOTALL)

# The messages within a message, by the tag that begins them.
Within = dict[int, Any]


def is_heavy_protobuf(body: bytes, message: Descriptor) -> bool:
    """Whether a message has too many messages or fields to be read; raises ValueError when it is none."""
    if len(body) - len(body.translate(None, _BEGINNINGS)) <= FEW:
        return False
    return weight(body, message) > HEAVIEST


def is_heavy_json(body: bytes) -> bool:
    """Whether a JSON document has too many values to be read."""
    if body.count(b",") <= MOST_COMMAS:
        return False
    at = 0
    for _ in range(MOST_COMMAS + 1):
        found = _TO_COMMA.match(body, at)
        if found is None:
            return False
        at = found.end()
    return True


def weight(body: bytes, message: Descriptor) -> int:
    """Of every message two, of every other field one, counted no further than just above HEAVIEST.

    Raises ValueError when the bytes are no message.
    """
    total, size = 0, len(body)
    pending = [(0, size, _layout(message))]
    try:
        while pending:
            at, end, within = pending.pop()
            while at < end:
                total += 1
                if total > HEAVIEST:
                    return total
                tag = body[at]
                at += 1
                if tag > 127:
                    tag, at = varint(body, at - 1)
                    tag &= 0xFFFFFFFF
                wire = tag & 7
                if wire == _BYTES:
                    length = body[at]
                    at += 1
                    if length > 127:
                        length, at = varint(body, at - 1)
                    inner = within.get(tag)
                    if inner is not None:
                        total += OF_A_MESSAGE - 1
                        if length:
                            pending.append((at, at + length, inner))
                    at += length
                elif wire == _VARINT:
                    while body[at] > 127:
                        at += 1
                    at += 1
                elif wire == _FIXED64:
                    at += 8
                elif wire == _FIXED32:
                    at += 4
                else:
                    raise ValueError("unknown wire type")
            if at > end:
                raise ValueError("cut short")
    except IndexError as error:
        raise ValueError("cut short") from error
    return total


def varint(body: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends; raises ValueError."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(body):
            raise ValueError("cut short")
        byte = body[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number too long")


@cache
def _layout(message: Descriptor) -> Within:
    return _within(message, {})


def _within(message: Descriptor, known: dict[str, Within]) -> Within:
    found = known.get(message.full_name)
    if found is None:
        # Known before it is filled: a list may hold lists.
        found = known[message.full_name] = {}
        for field in message.fields:
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                found[field.number << 3 | _BYTES] = _within(field.message_type, known)
    return found
