"""OTLP log records: those that carry what a model or a tool was told and answered belong to a span."""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from monitor import otlp_parts, semconv
from monitor.nesting import DEEPEST, nests_deeper_than
from monitor.otlp import Signal, bounded, from_json, media_type_of, parsed, value
from monitor.otlp_groups import Groups
from monitor.otlp_json import MOST_INT64, Pair, Value, identity, integer, json_value, pairs
from monitor.otlp_text import clean
from monitor.records import DIGEST_BYTES, Rejection

LOGS = Signal(ExportLogsServiceResponse, "rejected_log_records", "rejectedLogRecords", "a log record")
# Where a record's name stands when its own field is empty, newest first.
NAMES = ("event.name", "event_name")
# What a record tells under other names, by the name that it goes by here.
CONTENTS: Mapping[str, tuple[str, ...]] = {
    "gen_ai.input.messages": (*semconv.FIELDS["input"], *semconv.FIELDS["arguments"]),
    "gen_ai.output.messages": (*semconv.FIELDS["output"], *semconv.FIELDS["result"]),
}
MESSAGES = semconv.INPUT_EVENTS | semconv.OUTPUT_EVENTS
# Says of a message what its span says as well.
BESIDES = frozenset({*NAMES, *semconv.FIELDS["provider"], *semconv.FIELDS["operation"]})
# What is left of a message without its words.
FRAME = frozenset({"role", "index", "finish_reason", "id", "type"})
LONGEST = 1_000_000

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message of a span as it was logged; `said` is JSON, `place` its index in the request.

    `at_ns` counts nanoseconds since 1970, 0 when nobody knows. `digest` stands for the record.
    """

    trace_id: bytes
    span_id: int
    name: str
    at_ns: int
    place: int
    said: str
    digest: bytes


class Read(NamedTuple):
    """What an export holds: the messages, what can't be taken, and how many other records there were."""

    messages: list[Message]
    rejected: list[Rejection]
    others: int


class _Record(msgspec.Struct, rename="camel"):
    trace_id: str | None = None
    span_id: str | None = None
    time_unix_nano: int | str | None = None
    observed_time_unix_nano: int | str | None = None
    event_name: str | None = None
    body: Value | None = None
    attributes: list[Pair] | None = None


class _ScopeLogs(msgspec.Struct, rename="camel"):
    log_records: list[msgspec.Raw] | None = None


class _UnreadLogs(_ScopeLogs, kw_only=True):
    """The records of a group that can't be read."""

    why: str


class _ResourceLogs(msgspec.Struct, rename="camel"):
    scope_logs: list[_ScopeLogs] | None = None


class JsonLogs(msgspec.Struct, rename="camel"):
    """A decoded export; its records are still raw, so that a bad one spoils no other."""

    resource_logs: list[_ResourceLogs] | None = None


_logs = msgspec.json.Decoder(JsonLogs).decode
_logs_in_groups = Groups(otlp_parts.LOGS, JsonLogs, _ResourceLogs, _ScopeLogs, _UnreadLogs).read
_record = msgspec.json.Decoder(_Record).decode


class LogsRequest(NamedTuple):
    """A decoded export and the media type to answer in."""

    media_type: str
    message: ExportLogsServiceRequest | JsonLogs


def decode(body: bytes, content_type: str) -> LogsRequest:
    """Parse an export by its media type; raises UnsupportedMediaType or Malformed."""
    media_type = media_type_of(content_type)
    message: ExportLogsServiceRequest | JsonLogs
    if media_type.endswith("json"):
        message = from_json(body, _logs, "an OTLP logs export", _logs_in_groups)
    else:
        message = parsed(body, ExportLogsServiceRequest, "an OTLP logs export")
    bounded(body, message, otlp_parts.LOGS)
    return LogsRequest(media_type, message)


def read(request: LogsRequest) -> Read:
    """Map every record; the good ones are kept whatever the bad ones look like."""
    message = request.message
    mapped = _json_records(message) if isinstance(message, JsonLogs) else _protobuf_records(message)
    messages: list[Message] = []
    rejected: list[Rejection] = []
    others = 0
    for place, one in enumerate(mapped):
        if isinstance(one, Rejection):
            rejected.append(one)
            continue
        found = _message(*one, place)
        if found is None:
            others += 1
        elif isinstance(found, Rejection):
            rejected.append(found)
        else:
            messages.append(found)
    return Read(messages, rejected, others)


class _Told(NamedTuple):
    """A record as it came, whatever the wire."""

    trace_id: bytes
    span_id: bytes
    name: str
    at_ns: int
    body: Any
    attributes: dict[str, Any]


def _protobuf_records(message: ExportLogsServiceRequest) -> Iterator[_Told]:
    for resource_logs in message.resource_logs:
        for scope_logs in resource_logs.scope_logs:
            for one in scope_logs.log_records:
                yield _Told(
                    one.trace_id,
                    one.span_id,
                    clean(one.event_name),
                    one.time_unix_nano or one.observed_time_unix_nano,
                    value(one.body),
                    {clean(pair.key): value(pair.value) for pair in one.attributes},
                )


def _json_records(message: JsonLogs) -> Iterator[_Told | Rejection]:
    for resource_logs in message.resource_logs or ():
        for scope_logs in resource_logs.scope_logs or ():
            if isinstance(scope_logs, _UnreadLogs):
                yield from (Rejection(scope_logs.why) for _ in scope_logs.log_records or ())
                continue
            for raw in scope_logs.log_records or ():
                try:
                    one = _record(raw)
                    yield _Told(
                        identity(one.trace_id),
                        identity(one.span_id),
                        clean(one.event_name or ""),
                        integer(one.time_unix_nano) or integer(one.observed_time_unix_nano),
                        json_value(one.body),
                        dict(pairs(one.attributes)),
                    )
                except (ValueError, RecursionError) as error:
                    yield Rejection(f"not a log record: {error}")


def _message(
    trace_id: bytes, span_id: bytes, name: str, at_ns: int, body: Any, attributes: dict[str, Any], place: int
) -> Message | Rejection | None:
    """The message that a record carries, why it can't be taken, or None: it carries none."""
    name = name or next((str(attributes[key]) for key in NAMES if attributes.get(key)), "")
    name, said = _said(name, _unwrapped(body), attributes)
    if _is_silent(said):
        return None
    try:
        text = _encode(said)
        wanting = _wanting(trace_id, span_id, text)
    except (RecursionError, OverflowError, ValueError) as error:
        wanting = f"it can't be written as JSON: {error}"
    if wanting:
        return Rejection(f"{name}: {wanting}", trace_id[:16].hex(), span_id[:8].hex(), name)
    at_ns = at_ns if 0 <= at_ns < MOST_INT64 else 0
    seal = blake2b(f"{name}\0{at_ns}\0".encode() + text, digest_size=DIGEST_BYTES).digest()
    return Message(trace_id, int.from_bytes(span_id, "big", signed=True), name, at_ns, place, text.decode(), seal)


def _said(name: str, body: Any, attributes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a record says for its span, and the name by which monitor/story.py knows it."""
    if name in MESSAGES:
        if isinstance(body, dict):
            return name, body
        if body:
            return name, {"content": body}
        return name, {key: given for key, given in attributes.items() if key not in BESIDES and given not in (None, "")}
    everything = attributes | body if isinstance(body, dict) else attributes
    said: dict[str, Any] = {}
    for field, names in CONTENTS.items():
        found = next((everything[key] for key in names if everything.get(key)), None)
        if found is not None:
            said[field] = found
    return semconv.DETAILS_EVENT, said


def _is_silent(said: dict[str, Any]) -> bool:
    """Whether there are no words in it: clients that keep them to themselves tell that somebody spoke."""
    return all(key in FRAME or (isinstance(given, dict) and _is_silent(given)) for key, given in said.items())


def _unwrapped(body: Any) -> Any:
    """The body; of one that is an object written as text, the object."""
    if isinstance(body, str) and body.startswith("{"):
        try:
            found = _decode(body)
        except (msgspec.DecodeError, RecursionError):
            return body
        return found if isinstance(found, dict) else body
    return body


def _wanting(trace_id: bytes, span_id: bytes, text: bytes) -> str | None:
    if len(trace_id) != 16 or not any(trace_id):
        return "the trace id is missing or is not 16 bytes"
    if len(span_id) != 8 or not any(span_id):
        return "the span id is missing or is not 8 bytes"
    if len(text) > LONGEST:
        return f"it has more than {LONGEST:,} bytes"
    if nests_deeper_than(text, DEEPEST):
        return f"it nests deeper than {DEEPEST} levels"
    return None
