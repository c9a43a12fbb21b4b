"""Bodies that are cheap to send and dear to read are refused before they are read."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.conf import settings
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st
from msgspec.json import Decoder
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from monitor import otlp, otlp_logs, otlp_metrics, otlp_parts, otlp_wire
from monitor.otlp_parts import MOST_PARTS, protobuf_parts
from monitor.otlp_wire import HEAVIEST, MOST_COMMAS, OF_A_MESSAGE, OF_A_PART, weight
from tests.contract.recordings import clients, requests
from tests.monitor.otlp_builders import as_json, as_protobuf, export, json_span

TRACES = ExportTraceServiceRequest.DESCRIPTOR
BODIES = [one.body for client in clients() for one in requests(client) if one.content_type == otlp.PROTOBUF]
MOST_BYTES = settings.MAX_OTLP_BYTES


def field(number: int, body: bytes) -> bytes:
    size, out = len(body), bytearray([number << 3 | 2])
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes(out) + bytes([size]) + body


def empties(tag: bytes) -> bytes:
    return (tag + b"\0") * (MOST_BYTES // 2 - 50)


def as_both(request: dict) -> list[tuple[bytes, str]]:
    return [(as_protobuf(request), otlp.PROTOBUF), (as_json(request), otlp.JSON)]


def in_a_span(body: bytes) -> bytes:
    return field(1, field(2, field(2, field(1, b"t" * 16) + field(2, b"s" * 8) + body)))


NOT_UTF8 = field(9, field(1, b"\xff"))
HOSTILE = {
    "groups": empties(b"\x0a"),
    "scopes": field(1, empties(b"\x12")),
    "attributes of a resource": field(1, field(1, empties(b"\x0a"))),
    "spans": field(1, field(2, empties(b"\x12"))),
    "attributes": in_a_span(empties(b"\x4a")),
    "events": in_a_span(empties(b"\x5a")),
    "a list": in_a_span(field(9, field(2, field(5, empties(b"\x0a"))))),
    "a list in a list": in_a_span(field(9, field(2, field(5, field(1, field(5, empties(b"\x0a"))))))),
    "a map": in_a_span(field(9, field(2, field(6, empties(b"\x0a"))))),
    "attributes beside what is not UTF-8": in_a_span(NOT_UTF8 + empties(b"\x4a")),
    "spans beside what is not UTF-8": in_a_span(NOT_UTF8) + field(1, field(2, empties(b"\x12"))),
}


class Effort(NamedTuple):
    """How many calls of functions it took: what costs time, told without a clock; which readers were called."""

    steps: int
    read_by: list[str]


def effort_of(work: Callable[[], object]) -> Effort:
    steps, read_by = 0, []

    def see(frame: object, event: str, argument: Any) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")
        if event == "c_call" and (argument.__name__ == "FromString" or isinstance(argument.__self__, Decoder)):
            read_by.append(argument.__name__)

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return Effort(steps, read_by)


def peak_bytes() -> int:
    """The most memory that this process had since it was asked to count anew."""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(told["VmHWM"].split()[0]) * 1024


def assert_refused_unread(decode: Callable[[bytes, str], object], body: bytes, media_type: str) -> Effort:
    """A body is refused for what its bytes tell, before any reader of messages or of JSON has seen it."""

    def refused() -> None:
        with pytest.raises(otlp.Malformed, match="more than 250,000 parts"):
            decode(body, media_type)

    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    effort = effort_of(refused)
    assert effort.read_by == []
    # To read one of them takes 400 MB and more.
    assert peak_bytes() - before < 100_000_000
    return effort


def test_whoever_reads_is_seen() -> None:
    in_protobuf, in_json = (partial(otlp.decode, *one) for one in as_both(export(json_span())))
    assert effort_of(in_protobuf).read_by == ["FromString"]
    assert effort_of(in_json).read_by == ["decode"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_body_of_nothing_but_parts_is_refused_before_it_is_read(name: str) -> None:
    assert otlp_wire.is_heavy_protobuf(HOSTILE[name], TRACES)
    # One step for each message that is weighed, up to what is too much.
    assert assert_refused_unread(otlp.decode, HOSTILE[name], otlp.PROTOBUF).steps < HEAVIEST // OF_A_MESSAGE + 1000


@pytest.mark.parametrize("client", clients())
def test_what_real_clients_send_is_light(client: str) -> None:
    for body, content_type, _ in requests(client):
        if content_type != otlp.PROTOBUF:
            assert body.count(b",") < MOST_COMMAS
            continue
        made = ExportTraceServiceRequest.FromString(body)
        assert messages(made) * OF_A_MESSAGE <= weight(body, TRACES)
        assert weight(body, TRACES) <= OF_A_PART * protobuf_parts(made, otlp_parts.TRACES)


@given(st.sampled_from(BODIES), st.data())
def test_whatever_can_be_read_is_weighed_with_all_that_it_makes(body: bytes, data: st.DataObject) -> None:
    broken = bytearray(body)
    for at in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=4)):
        broken[at] = data.draw(st.integers(0, 255))
    try:
        made = ExportTraceServiceRequest.FromString(bytes(broken))
        total = weight(bytes(broken), TRACES)
    except (DecodeError, ValueError):
        return
    assert messages(made) * OF_A_MESSAGE <= total


def messages(one: Message) -> int:
    """How many messages stand in a message."""
    below = 0
    for field, held in one.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            below += sum(1 + messages(inner) for inner in (held if field.is_repeated else [held]))
    return below


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a\x05\x0a",
        b"\x0a",
        b"\x30",
        b"\x30\xff",
        b"\x31\0",
        b"\x35",
        b"\x0a\xff\xff",
        b"\x03",
        b"\x0a" + b"\xff" * 11,
    ],
)
def test_what_is_no_message_has_no_weight(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut short|unknown wire type|a number too long"):
        weight(body, TRACES)


def test_commas_within_text_weigh_nothing() -> None:
    many = b",x" * MOST_COMMAS
    for text, is_heavy in (
        (b'["' + many + b'"]', False),
        (b'["\\"' + many + b'\\\\"]', False),
        (b'["\\\\"' + many + b',"]', True),
        (b'["' + many + b'"' + b"," * MOST_COMMAS + b"]", False),
        (b'["' + many + b'"' + b"," * (MOST_COMMAS + 1) + b"]", True),
        (b'["' + many, False),
    ):
        assert otlp_wire.is_heavy_json(text) is is_heavy, text[:10]


def test_a_large_export_of_plain_text_is_taken() -> None:
    # Of such letters a message could begin with each.
    long = "jz" * (MOST_BYTES // 2 - 1000)
    for body, media_type in as_both(export(json_span(attributes={"input.value": long}))):
        [span], refused = otlp.spans(otlp.decode(body, media_type))
        assert (span.input, refused) == (long, [])


LOGS = {
    "groups": empties(b"\x0a"),
    "records": field(1, field(2, empties(b"\x12"))),
    "attributes of a record": field(1, field(2, field(2, empties(b"\x32")))),
    "a list as a body": field(1, field(2, field(2, field(5, field(5, empties(b"\x0a")))))),
}


@pytest.mark.parametrize("name", LOGS)
def test_logs_of_nothing_but_parts_are_refused_as_well(name: str) -> None:
    assert_refused_unread(otlp_logs.decode, LOGS[name], otlp.PROTOBUF)


def test_and_metrics() -> None:
    metrics = field(1, field(2, empties(b"\x12")))
    assert_refused_unread(otlp_metrics.decode, metrics, otlp.PROTOBUF)


@pytest.mark.parametrize("signal", [("Logs", "logRecords"), ("Metrics", "metrics")])
def test_logs_and_metrics_in_json(signal: tuple[str, str]) -> None:
    name, records = signal
    body = f'{{"resource{name}":[{{"scope{name}":[{{"{records}":[' + "{}," * 100_000 + "{}]}]}]}"
    decode = otlp_logs.decode if name == "Logs" else otlp_metrics.decode
    with pytest.raises(otlp.Malformed, match="more than 250,000 parts"):
        decode(body.encode(), otlp.JSON)


@pytest.mark.parametrize("decode", [otlp.decode, otlp_logs.decode, otlp_metrics.decode])
@pytest.mark.parametrize("spans", [b"{}," * 1_000_000, b"1," * 2_000_000])
def test_the_same_in_json(spans: bytes, decode: Callable[[bytes, str], object]) -> None:
    assert_refused_unread(decode, b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + spans + b"{}]}]}]}", otlp.JSON)


def test_what_means_something_is_not_refused() -> None:
    many = as_protobuf(export(json_span(attributes={f"key-{n}": n for n in range(100_000)})))
    [span], refused = otlp.spans(otlp.decode(many, otlp.PROTOBUF))
    assert (len(span.attributes), refused) == (100_000, [])
    crowd = export(*(json_span(span=n) for n in range(1, 20_001)))
    for body, media_type in as_both(crowd):
        spans, refused = otlp.spans(otlp.decode(body, media_type))
        assert (len(spans), refused) == (20_000, [])


def test_parts_are_counted_to_the_last() -> None:
    padding = json_span(attributes={"text": "x" * otlp.SMALL_BYTES})
    # One group, one scope, one attribute and its span leave room for so many spans.
    room = (MOST_PARTS - 3) // 5 - 1
    fits = export(padding, *(json_span(span=n) for n in range(1, room + 1)))
    otlp.decode(as_protobuf(fits), otlp.PROTOBUF)
    fits["resourceSpans"][0]["scopeSpans"][0]["spans"].append(json_span())
    with pytest.raises(otlp.Malformed, match="250,000 parts"):
        otlp.decode(as_protobuf(fits), otlp.PROTOBUF)
