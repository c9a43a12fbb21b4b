"""Whatever bytes arrive, the decoder answers with records, with reasons, or with one of its own errors."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from monitor import masking, otlp, otlp_logs, otlp_metrics, otlp_text, spanlogs
from monitor.records import Rejection, Span
from monitor.spanlogs import Said
from tests.contract.recordings import clients, counted, others, requests
from tests.monitor.otlp_builders import as_json, as_protobuf, export, json_span, log, logs_export
from tests.monitor.test_otlp_parts import field

BODIES = [(one.body, one.content_type) for client in clients() for one in requests(client)]


def storable(body: bytes, content_type: str) -> int | None:
    """What is read must fit where it goes: text without NUL, JSON, signed 64-bit ids.

    How many spans were kept or named; None where the export was refused as a whole.
    """
    try:
        spans, rejections = otlp.spans(otlp.decode(body, content_type))
    except otlp.OtlpError:
        return None
    for span in spans:
        text = msgspec.json.encode(span)
        assert b"\\u0000" not in text
        text.decode()
        assert -(2**63) <= span.span_id < 2**63
        assert msgspec.convert(msgspec.to_builtins(span), Span).digest == span.digest
    for rejection in rejections:
        assert isinstance(rejection, Rejection)
    otlp.partial_success(content_type, rejections)
    counted(spans)
    return len(spans) + len(rejections)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(BODIES),
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=8),
    st.integers(0, 2**20),
)
def test_recorded_bodies_with_broken_bytes(recorded, changes, cut):
    body, content_type = recorded
    broken = bytearray(body)
    for at, byte in changes:
        broken[at % len(broken)] = byte
    storable(bytes(broken), content_type)
    storable(bytes(broken[: cut % len(broken)]), content_type)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([otlp.PROTOBUF, otlp.JSON]))
def test_bytes_without_sense(body, content_type):
    storable(body, content_type)
    readable(body, content_type)


OTHERS = [one for client in clients() for one in others(client)]


def readable(body: bytes, content_type: str) -> bool:
    """The same of logs and metrics: messages that can be put together and stored, or an error of ours.

    Whether logs were not refused as a whole.
    """
    are_logs = True
    try:
        found = otlp_logs.read(otlp_logs.decode(body, content_type))
    except otlp.OtlpError:
        are_logs = False
    else:
        for message in found.messages:
            assert -(2**63) <= message.span_id < 2**63
            assert 0 <= message.at_ns < 2**63
            assert "\0" not in message.name + message.said
            told = spanlogs.contents([Said(message.name, message.at_ns, msgspec.json.decode(message.said))])
            assert "\0" not in (told.input or "") + (told.output or "")
            masking.text(message.said, masking.Rule(True, True))
        otlp.partial_success(content_type, found.rejected, otlp_logs.LOGS)
    try:
        assert otlp_metrics.decode(body, content_type).points >= 0
    except otlp.OtlpError:
        pass
    return are_logs


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(OTHERS),
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=8),
    st.integers(0, 2**20),
)
def test_recorded_logs_and_metrics_with_broken_bytes(recorded, changes, cut):
    broken = bytearray(recorded.body)
    for at, byte in changes:
        broken[at % len(broken)] = byte
    readable(bytes(broken), recorded.content_type)
    readable(bytes(broken[: cut % len(broken)]), recorded.content_type)


NAMES = [
    "gen_ai.operation.name",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.cost",
    "gen_ai.request.model",
    "gen_ai.provider.name",
    "gen_ai.response.finish_reasons",
    "gen_ai.server.time_to_first_token",
    "gen_ai.tool.call.arguments",
    "openinference.span.kind",
    "langfuse.observation.usage_details",
    "langfuse.observation.cost_details",
    "langfuse.observation.level",
    "langfuse.observation.completion_start_time",
    "logfire.pending_parent_id",
    "logfire.span_type",
    "handrail.execution.id",
    "metadata",
    "tool.parameters",
    "llm.input_messages.0.message.content",
    "gen_ai.prompt.0.0.0",
    "something.else",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8), st.text(max_size=5))
def test_known_names_with_values_that_nobody_expects(attributes, kind):
    named = {name: given if given is not None else "" for name, given in attributes.items()}
    storable(as_json(export(json_span(attributes={**named, "openinference.span.kind": kind}))), otlp.JSON)
    named = {name: str(given) for name, given in attributes.items()}
    storable(as_json(export(json_span(attributes=named, status={"code": kind}))), otlp.JSON)


EVENT_NAMES = ["gen_ai.user.message", "gen_ai.choice", "gen_ai.client.inference.operation.details", "else", ""]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(EVENT_NAMES),
    VALUES.filter(lambda one: one is not None),
    st.dictionaries(st.sampled_from([*NAMES, "event.name", "event_name", "gen_ai.input.messages"]), VALUES, max_size=5),
    st.integers(-(2**70), 2**70) | st.text(max_size=5),
)
def test_log_records_with_values_that_nobody_expects(name, body, attributes, at):
    named = {key: given for key, given in attributes.items() if given is not None}
    try:
        record = log(name, body, attributes=named)
    except RecursionError:
        return
    readable(as_json(logs_export(record | {"timeUnixNano": at}, record)), otlp.JSON)
    readable(as_json(logs_export(log(name, str(body)), log(name, json.dumps({"content": body})))), otlp.JSON)


# Numbers as JSON can write them, whatever the attribute can hold.
DIGITS = st.sampled_from([sign * int("9" * digits) for digits in (1, 19, 20, 310, 450) for sign in (1, -1)])
NUMBERS = (
    st.integers(-(2**65), 2**65)
    | DIGITS
    | DIGITS.map(str)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["abc", "", " 7 ", "1e3", "1e999", "NaN", "-Infinity", "0x10", "1_0", "٣"])
)
WRITTEN = st.recursive(
    st.builds(lambda field, number: {field: number}, st.sampled_from(["intValue", "doubleValue"]), NUMBERS)
    | st.sampled_from([{"boolValue": True}, {"bytesValue": "!"}, {"stringValue": "\x00"}, {}, None]),
    lambda inner: (
        st.builds(lambda one: {"arrayValue": {"values": [one]}}, inner)
        | st.builds(lambda one: {"kvlistValue": {"values": [{"key": "k", "value": one}]}}, inner)
    ),
    max_leaves=3,
)
PLACES = ["resource", "scope", "span", "event", "link"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from([*NAMES, "service.name"]), WRITTEN), max_size=4))
def test_numbers_that_no_attribute_holds_wherever_they_stand(written):
    span = json_span(events=[("exception", 0, {})]) | {"links": [{"traceId": "ab" * 16, "spanId": "cd" * 8}]}
    request = export(span)
    (resource,) = request["resourceSpans"]
    parts = resource["resource"], resource["scopeSpans"][0]["scope"], span, span["events"][0], span["links"][0]
    put(dict(zip(PLACES, parts, strict=True)), written)
    assert storable(as_json(request), otlp.JSON) == 1


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["resource", "scope", "record"]), st.sampled_from(NAMES), WRITTEN), max_size=4),
    WRITTEN,
    st.sampled_from(EVENT_NAMES),
)
def test_the_same_numbers_in_log_records(written, body, name):
    record = log(name) | {"body": body}
    request = logs_export(record)
    (resource,) = request["resourceLogs"]
    put({"resource": resource["resource"], "scope": resource["scopeLogs"][0]["scope"], "record": record}, written)
    assert readable(as_json(request), otlp.JSON)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["resource", "scope", "point"]), st.sampled_from(NAMES), WRITTEN), max_size=4),
    NUMBERS,
)
def test_the_same_numbers_in_metrics(written, number):
    point = {"asInt": number, "asDouble": number, "timeUnixNano": number}
    scope = {"scope": {}, "metrics": [{"name": "tokens", "sum": {"dataPoints": [point]}}]}
    resource = {"resource": {}, "scopeMetrics": [scope]}
    put({"resource": resource["resource"], "scope": scope["scope"], "point": point}, written)
    readable(as_json({"resourceMetrics": [resource]}), otlp.JSON)


def put(parts, written):
    """Give each part its attributes, as they are written."""
    for place, key, value in written:
        parts[place].setdefault("attributes", []).append({"key": key, "value": value})


HELD = (
    st.builds(lambda number: AnyValue(int_value=number), st.integers(-(2**63), 2**63 - 1))
    | st.builds(lambda number: AnyValue(double_value=number), st.floats())
    | st.builds(lambda raw: AnyValue(bytes_value=raw), st.binary(max_size=4))
    | st.builds(lambda digits: AnyValue(string_value=f"[{digits}]"), DIGITS)
    | st.just(AnyValue())
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(NAMES), HELD), max_size=4))
def test_the_numbers_of_protobuf_wherever_they_stand(written):
    message = ExportTraceServiceRequest.FromString(as_protobuf(export(json_span(events=[("exception", 0, {})]))))
    (resource,) = message.resource_spans
    (scope,) = resource.scope_spans
    (span,) = scope.spans
    parts = dict(zip(PLACES, (resource.resource, scope.scope, span, span.events[0], span.links.add()), strict=True))
    for place, key, held in written:
        parts[place].attributes.add(key=key, value=held)
    assert storable(message.SerializeToString(), otlp.PROTOBUF) == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["resource", "scope", "record", "body"]), HELD), max_size=4))
def test_the_numbers_of_protobuf_in_log_records(written):
    message = ExportLogsServiceRequest.FromString(as_protobuf(logs_export(log("gen_ai.user.message"))))
    (resource,) = message.resource_logs
    (scope,) = resource.scope_logs
    (record,) = scope.log_records
    for place, held in written:
        if place == "body":
            record.body.CopyFrom(held)
            continue
        part = {"resource": resource.resource, "scope": scope.scope, "record": record}[place]
        part.attributes.add(key="gen_ai.input.messages", value=held)
    assert readable(message.SerializeToString(), otlp.PROTOBUF)


LIST = '{"arrayValue":{"values":[%s]}}'
MAP = '{"kvlistValue":{"values":[{"key":"a","value":%s}]}}'
SHAPES = {"lists": (LIST, LIST), "maps": (MAP, MAP), "by turns": (MAP, LIST)}


def nested(shape, depth):
    """A value of a string that is so many lists and maps deep."""
    value = '{"stringValue":"the ground"}'
    for n in range(depth):
        value = SHAPES[shape][n % 2] % value
    return value


def in_protobuf(request, shape, depth):
    """The same export on the other wire, with such a value in the place of `~`; deeper than builders go."""
    value = field(1, b"the ground")
    for n in range(depth):
        is_list = SHAPES[shape][n % 2] == LIST
        value = field(5, field(1, value)) if is_list else field(6, field(1, field(1, b"a") + field(2, value)))
    span = ExportTraceServiceRequest.FromString(as_protobuf(request)).resource_spans[0].scope_spans[0].spans[0]
    del span.attributes[:], span.events[:]
    pair = field(1, b"x") + field(2, value)
    event = field(11, field(2, b"e") + field(3, pair))
    return field(1, field(2, field(2, span.SerializeToString() + field(9, pair) + event)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("depth", [28, 42, 43, 44, 60, 150, 1000])
def test_a_value_is_cut_at_one_place_on_whatever_wire(shape, depth):
    attributes = [{"key": "x", "value": {"stringValue": "~"}}]
    request = export(json_span() | {"attributes": attributes, "events": [{"name": "e", "attributes": attributes}]})
    in_json = as_json(request).replace(b'{"stringValue": "~"}', nested(shape, depth).encode())
    told = []
    for body, media_type in ((in_json, otlp.JSON), (in_protobuf(request, shape, depth), otlp.PROTOBUF)):
        [span], refused = otlp.spans(otlp.decode(body, media_type))
        assert refused == []
        told.append((span.attributes["x"], span.attributes["events"][0]["x"]))
    assert told[0] == told[1]
    assert told[0][0] == told[0][1]
    kept = msgspec.json.encode(told[0][0])
    levels = kept.count(b"[") + kept.count(b"{")
    most = {"lists": 43, "maps": 29, "by turns": 34}[shape]
    assert (levels, b"the ground" in kept) == ((depth, True) if depth < most else (most, False))
    assert (otlp_text.TOO_DEEP.encode() in kept) == (depth >= most)


@pytest.mark.parametrize("depth", [50, 5000])
def test_values_nested_without_end(depth):
    body = as_json(export(json_span(attributes={"x": "~"})))
    deep = b'{"arrayValue":{"values":[' * depth + b'{"intValue":1}' + b"]}}" * depth
    assert storable(body.replace(b'{"stringValue": "~"}', deep), otlp.JSON) == 1
    record = as_json(logs_export(log("gen_ai.user.message", "~")))
    assert readable(record.replace(b'{"stringValue": "~"}', deep), otlp.JSON)
    resource = as_json(export(json_span(), resource={"x": "~"}))
    assert storable(resource.replace(b'{"stringValue": "~"}', deep), otlp.JSON) == 1
    assert readable(as_json(logs_export(log("gen_ai.user.message", '{"a":' * depth + "1" + "}" * depth))), otlp.JSON)
