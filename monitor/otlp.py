"""OTLP/HTTP trace exports on the wire: protobuf and JSON in, records out, and the answer in the same coin."""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from monitor import mapper, otlp_parts, otlp_wire
from monitor.otlp_json import JsonRequest, json_spans, repaired, request_in_groups, request_of
from monitor.otlp_parts import MOST_PARTS, Layout
from monitor.otlp_text import DEEPEST_VALUE, OF_A_LIST, OF_A_MAP, TOO_DEEP, clean, readable, shallow
from monitor.records import Rejection, Span
from monitor.story import Event

M = TypeVar("M", bound=Message)
T = TypeVar("T")
PROTOBUF = "application/x-protobuf"
JSON = "application/json"
MOST_REASONS = 5
# A body of fewer bytes has too few parts to be worth counting them.
SMALL_BYTES = 256 * 1024


class OtlpError(ValueError):
    """The request as a whole can't be read.

    OtlpError
     ├─ UnsupportedMediaType   neither protobuf nor JSON
     └─ Malformed              not what its media type says
    """


class UnsupportedMediaType(OtlpError):
    """The body is neither protobuf nor JSON."""


class Malformed(OtlpError):
    """The body is not what its media type says."""


class Signal(NamedTuple):
    """How an export of a signal is answered: the message, the counter of what was refused, and what one is called."""

    response: type[Any]
    field: str
    json_field: str
    one: str


TRACES = Signal(ExportTraceServiceResponse, "rejected_spans", "rejectedSpans", "a span")


class TracesRequest(msgspec.Struct, frozen=True):
    """A decoded export and the media type to answer in."""

    media_type: str
    message: ExportTraceServiceRequest | JsonRequest


def decode(body: bytes, content_type: str) -> TracesRequest:
    """Parse an export by its media type, whatever parameters follow it.

    Text that is not UTF-8 is repaired, since one bad label must not cost the whole request. Raises
    UnsupportedMediaType or Malformed.
    """
    if media_type_of(content_type) == PROTOBUF:
        message = parsed(body, ExportTraceServiceRequest, "an OTLP trace export")
        bounded(body, message, otlp_parts.TRACES)
        return TracesRequest(PROTOBUF, message)
    request = from_json(body, request_of, "an OTLP trace export", request_in_groups)
    bounded(body, request, otlp_parts.TRACES)
    return TracesRequest(JSON, request)


def media_type_of(content_type: str) -> str:
    """Return PROTOBUF or JSON, whatever parameters follow; raises UnsupportedMediaType."""
    media_type = content_type.strip().lower()
    if media_type.startswith((PROTOBUF, "application/protobuf")):
        return PROTOBUF
    if media_type.startswith(JSON):
        return JSON
    raise UnsupportedMediaType(f"send {PROTOBUF} or {JSON}, not {content_type!r}")


def spans(request: TracesRequest) -> tuple[list[Span], list[Rejection]]:
    """Map every span; the good ones are kept whatever the bad ones look like."""
    message = request.message
    mapped = json_spans(message) if isinstance(message, JsonRequest) else _protobuf_spans(message)
    kept: list[Span] = []
    refused: list[Rejection] = []
    for item in mapped:
        if type(item) is Span:
            kept.append(item)
        elif isinstance(item, Rejection):
            refused.append(item)
    return kept, refused


def partial_success(media_type: str, rejections: Sequence[Rejection], signal: Signal = TRACES) -> bytes:
    """Return the body of the answer, in the media type of the request; empty success without rejections."""
    reasons = [f"{r.span_id or signal.one}: {r.reason}" for r in rejections[:MOST_REASONS]]
    if len(rejections) > MOST_REASONS:
        reasons.append(f"and {len(rejections) - MOST_REASONS} more")
    text = "; ".join(reasons)
    if media_type.startswith(JSON):
        # 64-bit integers are strings in OTLP/JSON.
        partial = {signal.json_field: str(len(rejections)), "errorMessage": text} if rejections else None
        return msgspec.json.encode({"partialSuccess": partial} if partial else {})
    response = signal.response()
    if rejections:
        setattr(response.partial_success, signal.field, len(rejections))
        response.partial_success.error_message = text
    return response.SerializeToString()


def bounded(body: bytes, message: Any, layout: Layout) -> None:
    """Raise Malformed when what the body was decoded to has more parts than can be read in a few seconds."""
    if len(body) <= SMALL_BYTES:
        return
    count = otlp_parts.protobuf_parts if isinstance(message, Message) else otlp_parts.json_parts
    if count(message, layout) > MOST_PARTS:
        raise _too_many()


def parsed(body: bytes, message: type[M], what: str) -> M:
    """Parse a protobuf message, repaired where not UTF-8 or nested too deep; raises Malformed: it is not `what`."""
    try:
        if not otlp_wire.is_heavy_protobuf(body, message.DESCRIPTOR):
            return _message(body, message)
    except (DecodeError, RecursionError, ValueError) as error:
        raise Malformed(f"the body is not {what} in protobuf") from error
    raise _too_many()


def _message(body: bytes, message: type[M]) -> M:
    try:
        return message.FromString(body)
    except (DecodeError, RecursionError):
        return message.FromString(readable(body, message.DESCRIPTOR))


def from_json(body: bytes, decode: Callable[[bytes], T], what: str, in_groups: Callable[[bytes], T] | None = None) -> T:
    """Decode a JSON document, repaired where not UTF-8 or nested too deep, or what can be read of it `in_groups`.

    Raises Malformed: it is not `what`.
    """
    body = body.removeprefix(BOM_UTF8)
    if otlp_wire.is_heavy_json(body):
        raise _too_many()
    try:
        try:
            return repaired(body, decode, in_groups)
        except RecursionError:
            return repaired(shallow(body), decode, in_groups)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"the body is not {what} in JSON: {error}") from error


def _too_many() -> Malformed:
    return Malformed(f"the body has more than {MOST_PARTS:,} parts (a record counts as five); send fewer at once")


def _protobuf_spans(message: ExportTraceServiceRequest) -> Iterator[Span | Rejection]:
    to_span = mapper.span
    for resource_spans in message.resource_spans:
        source = mapper.resource(_pairs(resource_spans.resource.attributes))
        for scope_spans in resource_spans.scope_spans:
            scope = clean(scope_spans.scope.name)
            for s in scope_spans.spans:
                status = s.status
                yield to_span(
                    s.trace_id,
                    s.span_id,
                    s.parent_span_id,
                    clean(s.name),
                    s.start_time_unix_nano,
                    s.end_time_unix_nano,
                    status.code,
                    clean(status.message),
                    _pairs(s.attributes),
                    _events(s.events),
                    source,
                    scope,
                )


def _events(events: Any) -> list[Event]:
    return [
        Event(clean(e.name), e.time_unix_nano, {clean(key): item for key, item in _pairs(e.attributes)}) for e in events
    ]


def _pairs(attributes: Any) -> list[tuple[str, Any]]:
    # Reading a field is cheaper than asking which one is set, and a number that is set is rarely zero.
    return [
        (kv.key, clean(text) if (text := (held := kv.value).string_value) else held.int_value or value(held))
        for kv in attributes
    ]


def value(held: Any, depth: int = 0) -> Any:
    """Return an attribute's value, or a log record's body, as plain JSON has it; cut where it nests too deep."""
    if depth > DEEPEST_VALUE:
        return TOO_DEEP
    kind = held.WhichOneof("value")
    if kind == "string_value":
        return clean(held.string_value)
    if kind == "array_value":
        return [value(item, depth + OF_A_LIST) for item in held.array_value.values]
    if kind == "kvlist_value":
        return {clean(pair.key): value(pair.value, depth + OF_A_MAP) for pair in held.kvlist_value.values}
    if kind == "bytes_value":
        return held.bytes_value.hex()
    if kind == "double_value":
        number = held.double_value
        # JSON has no word for what is not finite.
        return number if number - number == 0 else str(number)
    return getattr(held, kind) if kind in ("int_value", "bool_value") else None
