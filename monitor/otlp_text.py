"""Text that PostgreSQL can hold: without NUL bytes, in valid UTF-8."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from monitor.otlp_wire import varint

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
DEEPEST = 64
# Each costs microseconds; a body that means something has fewer.
MOST_FIELDS = 500_000


def clean(text: str) -> str:
    """Return the text with each NUL byte shown as U+FFFD, for PostgreSQL stores none."""
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def readable(body: bytes, message: Descriptor) -> bytes:
    """Return a protobuf message whose text is valid UTF-8, U+FFFD in the place of what was not.

    Clients that cut a label in the middle of a character send such text. Raises ValueError when the bytes
    are no message at all, or one of more than MOST_FIELDS fields.
    """
    return bytes(_readable(body, 0, len(body), message, 0, count(1)))


def _readable(body: bytes, at: int, end: int, message: Descriptor, depth: int, counted: Iterator[int]) -> bytearray:
    if depth > DEEPEST:
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


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
