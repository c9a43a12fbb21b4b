"""OTLP in JSON: ids in hex, 64-bit integers as strings or numbers, each span judged by itself."""

import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from monitor import mapper, otlp_parts
from monitor.otlp_groups import Groups
from monitor.otlp_text import DEEPEST_VALUE, OF_A_LIST, OF_A_MAP, TOO_DEEP, clean
from monitor.records import Rejection, Span
from monitor.story import Event

T = TypeVar("T")
MOST_INT64 = 2**63
NO_ID = b"?"
# Escapes in JSON: short ones as many as come, a surrogate pair, a surrogate alone, or any other.
_ESCAPE = re.compile(r"(?:\\[^u][^\\]*+)++|\\(?:u(d[89ab]..\\ud[c-f]..)|u(d[89a-f]..)|.)", re.IGNORECASE | re.DOTALL)


class Value(msgspec.Struct, rename="camel"):
    """An attribute's value, or a log record's body."""

    string_value: str | None = None
    int_value: int | str | float | None = None
    double_value: float | int | str | None = None
    bool_value: bool | None = None
    array_value: "_Array | None" = None
    kvlist_value: "_Pairs | None" = None
    bytes_value: str | None = None


class Pair(msgspec.Struct):
    """An attribute."""

    key: str = ""
    value: Value | None = None


class _Array(msgspec.Struct):
    values: list[Value] | None = None


class _Pairs(msgspec.Struct):
    values: list[Pair] | None = None


class _Status(msgspec.Struct):
    code: int | str | None = None
    message: str | None = None


class _Event(msgspec.Struct, rename="camel"):
    name: str | None = None
    time_unix_nano: int | str | None = None
    attributes: list[Pair] | None = None


class _Span(msgspec.Struct, rename="camel"):
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    name: str | None = None
    start_time_unix_nano: int | str | None = None
    end_time_unix_nano: int | str | None = None
    attributes: list[Pair] | None = None
    events: list[_Event] | None = None
    status: _Status | None = None


class _Scope(msgspec.Struct):
    name: str | None = None


class _ScopeSpans(msgspec.Struct):
    scope: _Scope | None = None
    spans: list[msgspec.Raw] | None = None


class _UnreadSpans(_ScopeSpans, kw_only=True):
    """The spans of a group that can't be read."""

    why: str


class _Resource(msgspec.Struct):
    attributes: list[Pair] | None = None


class _ResourceSpans(msgspec.Struct, rename="camel"):
    resource: _Resource | None = None
    scope_spans: list[_ScopeSpans] | None = None


class JsonRequest(msgspec.Struct, rename="camel"):
    """A decoded export; its spans are still raw, so that a bad one spoils no other."""

    resource_spans: list[_ResourceSpans] | None = None


request_of = msgspec.json.Decoder(JsonRequest).decode
request_in_groups = Groups(otlp_parts.TRACES, JsonRequest, _ResourceSpans, _ScopeSpans, _UnreadSpans).read
_span = msgspec.json.Decoder(_Span).decode

_STATUS_CODES = {
    "STATUS_CODE_UNSET": 0,
    "STATUS_CODE_OK": 1,
    "STATUS_CODE_ERROR": 2,
}


def repaired(body: bytes, decode: Callable[[bytes], T], in_groups: Callable[[bytes], T] | None = None) -> T:
    """Decode an export, or what can be read of it `in_groups`; raises msgspec.DecodeError or RecursionError.

    Text cut in the middle of a character, in bytes or in an escaped surrogate pair, is repaired.
    """
    try:
        body.decode()
        return decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError):
        body = whole(body.decode("utf-8", "replace")).encode()
    try:
        return decode(body)
    except msgspec.DecodeError:
        if in_groups is None:
            raise
        return in_groups(body)


def whole(text: str) -> str:
    """JSON with U+FFFD in the place of each escaped half of a character, as cutting a text in JavaScript leaves."""
    return _ESCAPE.sub(_whole, text)


def _whole(escape: re.Match[str]) -> str:
    return r"\ufffd" if escape[2] else escape[0]


def json_spans(request: JsonRequest) -> Iterator[Span | Rejection]:
    """Map each span, or say why not."""
    for resource_spans in request.resource_spans or ():
        source = _source(resource_spans.resource)
        for scope_spans in resource_spans.scope_spans or ():
            scope = clean(scope_spans.scope.name or "") if scope_spans.scope else ""
            if isinstance(scope_spans, _UnreadSpans):
                yield from (Rejection(scope_spans.why) for _ in scope_spans.spans or ())
                continue
            for raw in scope_spans.spans or ():
                if isinstance(source, Rejection):
                    yield source
                    continue
                try:
                    s = _span(raw)
                    yield mapper.span(
                        identity(s.trace_id),
                        identity(s.span_id),
                        _parent(s.parent_span_id),
                        clean(s.name or ""),
                        integer(s.start_time_unix_nano),
                        integer(s.end_time_unix_nano),
                        _code(s.status),
                        clean((s.status and s.status.message) or ""),
                        pairs(s.attributes),
                        [
                            Event(
                                clean(e.name or ""),
                                integer(e.time_unix_nano),
                                dict(pairs(e.attributes)),
                            )
                            for e in s.events or ()
                        ],
                        source,
                        scope,
                    )
                except (ValueError, RecursionError) as error:
                    yield Rejection(f"not a span: {error}")


def _source(resource: _Resource | None) -> mapper.Resource | Rejection:
    """What a resource says of its spans, or why none can be taken: it may be the one that names who pays."""
    try:
        return mapper.resource(pairs(resource.attributes if resource else None))
    except (ValueError, RecursionError) as error:
        return Rejection(f"not a resource: {error}")


def pairs(attributes: list[Pair] | None, depth: int = 0) -> list[tuple[str, Any]]:
    """Return the attributes as keys and plain values."""
    return [(clean(pair.key), json_value(pair.value, depth)) for pair in attributes or ()]


def json_value(value: Value | None, depth: int = 0) -> Any:
    """Return a value as plain JSON has it, cut where it nests too deep; raises ValueError."""
    if value is None:
        return None
    if depth > DEEPEST_VALUE:
        return TOO_DEEP
    if value.string_value is not None:
        return clean(value.string_value)
    if value.int_value is not None:
        return integer(value.int_value)
    if value.bool_value is not None:
        return value.bool_value
    if value.double_value is not None:
        number = _number(value.double_value)
        return number if number - number == 0 else str(number)
    if value.array_value is not None:
        return [json_value(item, depth + OF_A_LIST) for item in value.array_value.values or ()]
    if value.kvlist_value is not None:
        return dict(pairs(value.kvlist_value.values, depth + OF_A_MAP))
    return _hex(value.bytes_value) if value.bytes_value is not None else None


def _hex(text: str) -> str:
    """Bytes as they are kept from any wire; what is no base64 stays as it came."""
    try:
        return b64decode(text, validate=True).hex()
    except ValueError:
        return clean(text)


def _number(value: float | int | str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("a number beyond what a double holds") from error


def integer(value: int | str | float | None) -> int:
    """Return a 64-bit integer given as such or in digits; raises ValueError."""
    if not value:
        return 0
    if isinstance(value, str) and len(value) > 20:
        raise ValueError("an integer of more than 64 bits")
    number = int(value)
    if not -MOST_INT64 <= number < 2 * MOST_INT64:
        raise ValueError("an integer of more than 64 bits")
    return number


def identity(text: str | None) -> bytes:
    """Return the bytes of an id in hex, none when it is not hex."""
    try:
        return bytes.fromhex(text or "")
    except ValueError:
        return b""


def _parent(text: str | None) -> bytes:
    """The parent's id; bytes of no id's length when it is not hex, for a span without a parent is another thing."""
    return identity(text) or (NO_ID if text else b"")


def _code(status: _Status | None) -> int:
    if status is None or status.code is None:
        return 0
    return status.code if isinstance(status.code, int) else _STATUS_CODES.get(status.code, 0)
