"""The wire: what is decoded, what is refused and how the sender hears of it."""

import gzip
import json

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from monitor import encodings, otlp
from monitor.records import Rejection
from tests.contract.recordings import mapped, requests
from tests.monitor.otlp_builders import START_NS, TRACE, as_json, as_protobuf, export, json_span


def spans_of(body: bytes, content_type: str = otlp.PROTOBUF):
    return otlp.spans(otlp.decode(body, content_type))


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_the_media_type_is_matched_by_its_beginning(content_type):
    spans, rejections = spans_of(as_json(export(json_span())), content_type)

    assert len(spans) == 1
    assert rejections == []


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-ndjson"])
def test_another_media_type_is_refused(content_type):
    with pytest.raises(otlp.UnsupportedMediaType):
        otlp.decode(b"{}", content_type)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"resourceSpans": 3}', b"[" * 100_000, b"\xff\xfe"])
def test_what_is_not_json_of_that_shape_is_malformed(body):
    with pytest.raises(otlp.Malformed):
        otlp.decode(body, otlp.JSON)


@pytest.mark.parametrize("body", [b"{}", b"\x0a\xff", b"\xff" * 40, b"\x0a" * 3])
def test_what_is_not_protobuf_is_malformed(body):
    with pytest.raises(otlp.Malformed):
        otlp.decode(body, otlp.PROTOBUF)


def test_an_empty_export_is_good():
    assert spans_of(b"") == ([], [])
    assert spans_of(b"{}", otlp.JSON) == ([], [])


def test_the_same_span_reads_the_same_in_json_and_in_protobuf():
    written = json_span(
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.usage.input_tokens": 12,
            "ratio": 0.5,
            "flag": True,
            "list": ["a", 2],
            "object": {"deep": {"deeper": "x"}},
            "blob": b"\x00\x01\xff",
        }
    )
    (from_json,), _ = spans_of(as_json(export(written)), otlp.JSON)
    (from_protobuf,), _ = spans_of(as_protobuf(export(written)))

    assert from_json == from_protobuf
    assert from_json.digest == from_protobuf.digest
    assert from_json.attributes == {
        "ratio": 0.5,
        "flag": True,
        "list": ["a", 2],
        "object": {"deep": {"deeper": "x"}},
        "blob": "0001ff",
    }


def test_the_digest_follows_the_content():
    (one,), _ = spans_of(as_json(export(json_span(name="a", span=1))), otlp.JSON)
    (again,), _ = spans_of(as_json(export(json_span(name="a", span=1))), otlp.JSON)
    (other,), _ = spans_of(as_json(export(json_span(name="b", span=1))), otlp.JSON)

    assert one.digest == again.digest != other.digest
    assert len(one.digest) == 16


def test_json_takes_64_bit_integers_as_strings_and_as_numbers():
    span = json_span(attributes={"gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 7})
    span["attributes"][1]["value"] = {"intValue": "7"}
    span["startTimeUnixNano"] = START_NS
    (read,), _ = spans_of(as_json(export(span)), otlp.JSON)

    assert read.tokens.input == 7


def test_a_mark_of_the_byte_order_before_json_is_no_part_of_it():
    assert len(spans_of(b"\xef\xbb\xbf" + as_json(export(json_span())), otlp.JSON)[0]) == 1


def test_an_id_that_is_far_too_long_is_told_in_short():
    _, (rejection,) = spans_of(as_json(export(json_span() | {"spanId": "ab" * 5000})), otlp.JSON)
    assert (rejection.span_id, rejection.trace_id) == ("ab" * 8, TRACE)


def test_what_claims_to_be_base64_and_is_not_stays_as_it_came():
    span = json_span(attributes={"blob": b""})
    span["attributes"][0]["value"] = {"bytesValue": "no base64"}
    (read,), _ = spans_of(as_json(export(span)), otlp.JSON)

    assert read.attributes == {"blob": "no base64"}


BAD = {
    "no trace id": {"traceId": ""},
    "a trace id of zeros": {"traceId": "0" * 32},
    "a short trace id": {"traceId": "ab"},
    "a trace id in base64": {"traceId": "W47/95gDgQPSabYzgT/GDA=="},
    "no span id": {"spanId": ""},
    "a span id of zeros": {"spanId": "0" * 16},
    "a long span id": {"spanId": "ab" * 9},
    "a short parent": {"parentSpanId": "ab"},
    "a parent in base64": {"parentSpanId": "W47/95gDgQM="},
    "no start": {"startTimeUnixNano": "0"},
    "a negative start": {"startTimeUnixNano": "-5"},
    "a start in milliseconds": {"startTimeUnixNano": str(START_NS // 10**6)},
    "a start in 2200": {"startTimeUnixNano": str(START_NS + 6 * 10**18)},
    "a start beyond 64 bits": {"startTimeUnixNano": "9" * 30},
    "an end in 2200": {"endTimeUnixNano": str(START_NS + 6 * 10**18)},
    "a start that is no number": {"startTimeUnixNano": "soon"},
    "a name that is no text": {"name": 5},
    "attributes that are no list": {"attributes": {"a": 1}},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_bad_span_is_named_and_the_good_ones_are_kept(change):
    bad = json_span() | change
    spans, rejections = spans_of(as_json(export(json_span(), bad, json_span())), otlp.JSON)

    assert len(spans) == 2
    assert len(rejections) == 1
    assert rejections[0].reason


def test_a_logs_export_at_the_traces_url_is_refused_span_by_span():
    # A log record decodes into a span without ids, since both are third in their envelope.
    body = ExportTraceServiceRequest()
    body.resource_spans.add().scope_spans.add().spans.add().start_time_unix_nano = 1
    spans, rejections = spans_of(body.SerializeToString())

    assert spans == []
    assert rejections[0].reason == "the trace id is missing or is not 16 bytes"


def test_nul_bytes_become_visible():
    (span,), _ = spans_of(
        as_protobuf(
            export(
                json_span(
                    name="a\x00b",
                    attributes={"k\x00": "v\x00", "gen_ai.agent.name": "x\x00", "o": {"i\x00": ["\x00"]}},
                )
            )
        )
    )

    assert span.name == "a\ufffdb"
    assert span.agent == "x\ufffd"
    assert span.attributes == {"k\ufffd": "v\ufffd", "o": {"i\ufffd": ["\ufffd"]}}


def test_text_that_is_not_utf8_costs_a_letter_and_not_the_request():
    broken = as_protobuf(export(json_span(name="caf~~"), json_span(name="fine"))).replace(b"~~", b"\xc3\x28")
    spans, rejections = spans_of(broken)

    assert [span.name for span in spans] == ["caf\ufffd(", "fine"]
    assert rejections == []

    broken = as_json(export(json_span(name="caf~~"))).replace(b"~~", b"\xc3\x28")
    assert spans_of(broken, otlp.JSON)[0][0].name == "caf\ufffd("


def test_numbers_that_json_has_no_word_for_are_kept_as_text():
    span = json_span()
    span["attributes"] = [{"key": "x", "value": {"doubleValue": "NaN"}}]
    (read,), _ = spans_of(as_json(export(span)), otlp.JSON)

    assert read.attributes == {"x": "nan"}


# Values that JSON writes and an attribute can't hold.
IMPOSSIBLE = {
    "an integer in words": {"intValue": "abc"},
    "an integer of 30 digits": {"intValue": int("9" * 30)},
    "an integer of 30 digits as text": {"intValue": "9" * 30},
    "an integer as large as a double": {"intValue": 1e300},
    "a double in words": {"doubleValue": "x"},
    "a double of 400 digits": {"doubleValue": int("9" * 400)},
    "one in a list": {"arrayValue": {"values": [{"doubleValue": int("-" + "9" * 400)}]}},
    "one in an object": {"kvlistValue": {"values": [{"key": "k", "value": {"intValue": "1e3"}}]}},
}


@pytest.mark.parametrize("place", ["span", "event", "resource"])
@pytest.mark.parametrize("value", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_an_attribute_that_cannot_be_read_costs_its_spans_and_no_others(value, place):
    attribute = {"key": "a", "value": value}
    bad = json_span(events=[("e", 0, {})])
    request = export(bad)
    {
        "span": bad,
        "event": bad["events"][0],
        "resource": request["resourceSpans"][0]["resource"],
    }[place]["attributes"] = [attribute]
    request["resourceSpans"] += export(json_span(name="good"))["resourceSpans"]
    spans, rejections = spans_of(as_json(request), otlp.JSON)

    assert [span.name for span in spans] == ["good"]
    assert [one.reason[:5] for one in rejections] == ["not a"]


def nested(depth):
    """A good span and one whose attribute nests, in JSON."""
    body = as_json(export(json_span(attributes={"k": "~"}), json_span(name="good", attributes={"]": '[{"'})))
    deep = b'{"arrayValue":{"values":[' * depth + b'{"stringValue":"}]}"}' + b"]}}" * depth
    return body.replace(b'{"stringValue": "~"}', deep)


def test_what_nests_too_deep_in_json_is_cut_and_what_follows_is_kept():
    (deep, good), rejections = spans_of(nested(5000), otlp.JSON)

    assert rejections == []
    assert (good.name, good.attributes["]"]) == ("good", '[{"')
    value = deep.attributes["k"]
    for _ in range(43):
        (value,) = value
    assert value == "(nested too deep)"


@pytest.mark.parametrize(
    "change", [lambda body: body[:-1], lambda body: b"]" + body, lambda body: body.replace(b'"}]}"', b'"}]}', 1)]
)
def test_what_is_no_json_stays_none_however_deep(change):
    with pytest.raises(otlp.Malformed):
        otlp.decode(change(nested(5000)), otlp.JSON)


def test_half_an_emoji_costs_a_letter_and_not_the_request():
    body = as_json(export(json_span(name="~"), json_span(name="whole")))
    body = body.replace(b'"~"', b'"\\ud83d \\ud83d\\ude00 \\ude00 \\\\ud83d"')
    spans, rejections = spans_of(body, otlp.JSON)

    assert [span.name for span in spans] == ["\ufffd \U0001f600 \ufffd \\ud83d", "whole"]
    assert rejections == []


@pytest.mark.parametrize("media_type", [otlp.PROTOBUF, otlp.JSON])
def test_the_answer_is_in_the_coin_of_the_request(media_type):
    refused = [Rejection("no start", "aa", f"{number:02x}", "x") for number in range(7)]
    answer = otlp.partial_success(media_type, refused)

    if media_type == otlp.JSON:
        partial = json.loads(answer)["partialSuccess"]
        count, text = int(partial["rejectedSpans"]), partial["errorMessage"]
    else:
        message = ExportTraceServiceResponse.FromString(answer).partial_success
        count, text = message.rejected_spans, message.error_message
    assert count == 7
    assert text == ("00: no start; 01: no start; 02: no start; 03: no start; 04: no start; and 2 more")


def test_full_success_says_nothing():
    assert otlp.partial_success(otlp.PROTOBUF, []) == b""
    assert otlp.partial_success(otlp.JSON, []) == b"{}"


def test_recorded_bodies_read_the_same_after_gzip():
    recorded = requests("oi_langchain")[0]
    body = encodings.undone(gzip.compress(recorded.body), recorded.content_encoding, limit=10**7)

    assert recorded.content_encoding == "gzip"
    assert otlp.spans(otlp.decode(body, recorded.content_type))[0] == mapped("oi_langchain")[0]
