"""What can be held: text without NUL bytes, in valid UTF-8, and values cut where they nest too deep to be read."""

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from monitor.otlp_wire import varint

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Protobuf's own readers stop at 100 messages one in the other.
DEEPEST = 90
# On whatever wire it came, a value is cut below so many messages of protobuf: a list in a list takes two, a map three.
# That is no deeper than what the readers below leave of a body that is too deep for protobuf's, or for JSON's.
DEEPEST_VALUE = 84
OF_A_LIST, OF_A_MAP = 2, 3
TOO_DEEP = "(nested too deep)"
_VALUE = AnyValue.DESCRIPTOR.full_name
_CUT = AnyValue(string_value=TOO_DEEP).SerializeToString()
# In JSON a list in a list is three brackets; and what stands in the place of the next one.
DEEPEST_JSON = 150
_CUT_JSON = b'{"stringValue":"%s"}' % TOO_DEEP.encode()
MOST_BRACKETS = 500_000
# On to the next bracket that stands in no text; never back, so that it takes the time of one pass.
_TO_BRACKET = re.compile(rb'[^"\[\]{}]*+(?:"(?:[^"\\]++|\\.)*+"[^"\[\]{}]*+)*+[\[\]{}]', re.DOTALL)
# Each costs microseconds; a body that means something has fewer.
MOST_FIELDS = 500_000


def clean(text: str) -> str:
    """Return the text with each NUL byte shown as U+FFFD, for PostgreSQL stores none."""
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def readable(body: bytes, message: Descriptor) -> bytes:
    """Return a protobuf message that can be read: its text valid UTF-8, U+FFFD in the place of what was not.

    Clients that cut a label in the middle of a character send such text. A value nested too deep is cut there. Raises
    ValueError when the bytes are no message at all, or one of more than MOST_FIELDS fields.
    """
    return bytes(_readable(body, 0, len(body), message, 0, count(1)))


def _readable(body: bytes, at: int, end: int, message: Descriptor, depth: int, counted: Iterator[int]) -> bytearray:
    if depth > DEEPEST and message.full_name == _VALUE:
        return bytearray(_CUT)
    # Between a value and the next there may be a list of pairs and a pair.
    if depth > DEEPEST + 2:
        raise ValueError("nested too deep")
    out = bytearray()
    while at < end:
        begin = at
        if next(counted) > MOST_FIELDS:
            raise ValueError("too many fields")
        key, at = varint(body, at)
        wire = key & 7
        if wire == _VARINT:
            _, at = varint(body, at)
        elif wire == _FIXED64:
            at += 8
        elif wire == _FIXED32:
            at += 4
        elif wire == _BYTES:
            size, at = varint(body, at)
            field: Any = message.fields_by_number.get(key >> 3)
            inside = at
            at += size
            if at > end:
                raise ValueError("cut short")
            part: bytes | bytearray
            if field is not None and field.type == FieldDescriptor.TYPE_STRING:
                part = body[inside:at].decode("utf-8", "replace").encode()
            elif field is not None and field.type == FieldDescriptor.TYPE_MESSAGE:
                part = _readable(body, inside, at, field.message_type, depth + 1, counted)
            else:
                part = body[inside:at]
            out += _as_varint(key) + _as_varint(len(part))
            out += part
            continue
        else:
            raise ValueError("unknown wire type")
        if at > end:
            raise ValueError("cut short")
        out += body[begin:at]
    return out


def shallow(body: bytes, brackets: bytes = b"{") -> bytes:
    """Return a JSON document without what nests too deep and begins with one of the brackets.

    Raises RecursionError when it has too many to look, or when what is too deep does not end.
    """
    if body.count(b"[") + body.count(b"{") > MOST_BRACKETS:
        raise RecursionError("nested too deep")
    out = bytearray()
    at = kept_to = depth = cut_at = 0
    while (found := _TO_BRACKET.match(body, at)) is not None:
        at = found.end()
        bracket = body[at - 1 : at]
        if bracket in b"[{":
            depth += 1
            if bracket in brackets and depth > DEEPEST_JSON and not cut_at:
                out += body[kept_to : at - 1] + _CUT_JSON
                cut_at = depth
            continue
        if cut_at and depth == cut_at:
            kept_to, cut_at = at, 0
        depth -= 1
    if cut_at:
        raise RecursionError("nested too deep")
    return bytes(out) + body[kept_to:]


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
