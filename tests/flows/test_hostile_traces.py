"""Traces through the door of a running Handrail: the same ones from eight sides at once, and such as mean harm."""

import gzip
import random
import re
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.flows.running import address, ask, make_key
from tests.launcher.instance import Instance
from tests.monitor.otlp_builders import as_json, as_protobuf, export, json_span
from tests.monitor.test_otlp_parts import HOSTILE, field

OF_PROJECT = "project_id = (SELECT id FROM monitor_project WHERE name = %(project)s)"
PROTOBUF = {"content-type": "application/x-protobuf"}
CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.usage.input_tokens": 1000,
    "gen_ai.usage.output_tokens": 100,
}
MOST_GROWTH = 300 * 2**20


def client(handrail: Instance, project: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {make_key(handrail, project)}"} | PROTOBUF
    return httpx.Client(base_url=address(handrail), headers=headers, timeout=120)


def post(sender: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    """Sent until it is taken or refused for good."""
    while True:
        answer = sender.post("/v1/traces", content=body, headers=headers)
        if answer.status_code not in (429, 503):
            return answer
        time.sleep(float(answer.headers["retry-after"]))


def test_the_same_traces_from_eight_connections_are_one_row_and_one_cost(handrail: Instance) -> None:
    traces = [uuid4().hex for _ in range(4)]
    spans = []
    for trace in traces:
        spans.append(json_span(trace=trace, span=1, attributes=CALL | {"gen_ai.operation.name": "invoke_agent"}))
        for number in range(2, 12):
            said = CALL | {"gen_ai.response.id": f"{trace}-{number}"}
            spans.append(json_span(trace=trace, span=number, parent=1, attributes=said))
            spans.append(json_span(trace=trace, span=number, parent=1, lasted_ms=None))
            # A second instrumentation tells of the same call, below a parent that never comes.
            spans.append(json_span(trace=trace, span=100 + number, parent=900, attributes=said))

    def tell(seed: int) -> None:
        mine, rng = list(spans), random.Random(seed)
        rng.shuffle(mine)
        with httpx.Client(base_url=address(handrail), headers=dict(sender.headers), timeout=120) as own:
            for n in range(0, len(mine), 9):
                assert post(own, as_protobuf(export(*mine[n : n + 9]))).status_code == 200

    with client(handrail, "eight") as sender, ThreadPoolExecutor(8) as pool:
        list(pool.map(tell, range(8)))
    rows = ask(
        handrail,
        f"SELECT count(*), count(DISTINCT (trace_id, span_id)) FROM monitor_span WHERE {OF_PROJECT}",
        project="eight",
    )
    assert rows == [(4 * 21, 4 * 21)]
    sums = "sum(calls)::int, sum(input_tokens)::int, sum(cost_usd)::float"
    [booked] = ask(handrail, f"SELECT {sums} FROM monitor_ledgerentry WHERE {OF_PROJECT}", project="eight")
    assert booked == (40, 40_000, 0.14)


def peak_bytes(pid: int | None) -> int:
    """The most memory that a process has held."""
    said = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert said is not None
    return int(said[1]) * 1024


def test_what_means_harm_is_refused_and_harms_nobody(handrail: Instance) -> None:
    good = as_protobuf(export(json_span(trace=uuid4().hex)))
    web = handrail.pid_of("web")
    # From here on the peak counts anew.
    Path(f"/proc/{web}/clear_refs").write_text("5")
    before = peak_bytes(web)
    with client(handrail, "hostile") as sender:
        for body, headers in (
            *((body, {}) for body in HOSTILE.values()),
            *((gzip.compress(body), {"content-encoding": "gzip"}) for body in list(HOSTILE.values())[:3]),
            (gzip.compress(bytes(200 * 2**20)), {"content-encoding": "gzip"}),
            (gzip.compress(gzip.compress(bytes(200 * 2**20))), {"content-encoding": "gzip"}),
            (zlib.compress(bytes(200 * 2**20)), {"content-encoding": "deflate"}),
            (gzip.compress(good)[:-5], {"content-encoding": "gzip"}),
            (gzip.compress(good) + b"garbage", {"content-encoding": "gzip"}),
            (as_json(export(json_span()))[:-3], {"content-type": "application/json"}),
            (b"[" * 5_000_000, {"content-type": "application/json"}),
        ):
            answer = post(sender, body, **headers)
            assert 400 <= answer.status_code < 500, (answer.status_code, body[:20], headers)
            assert answer.headers["content-type"] == "application/problem+json"
            assert httpx.get(f"{address(handrail)}/health", timeout=20).status_code == 200
        members = b"".join(gzip.compress(piece) for piece in (good[:9], good[9:50], good[50:]))
        assert post(sender, members, **{"content-encoding": "gzip"}).status_code == 200
    assert handrail.pid_of("web") == web
    assert peak_bytes(web) - before < MOST_GROWTH
    assert ask(handrail, f"SELECT name FROM monitor_span WHERE {OF_PROJECT}", project="hostile") == [("work",)]


def test_what_is_strange_is_stored_whole_or_refused_by_name(handrail: Instance) -> None:
    def at(seconds: float) -> dict[str, str]:
        start_ns = time.time_ns() + int(seconds * 10**9)
        return {"startTimeUnixNano": str(start_ns), "endTimeUnixNano": str(start_ns)}

    def a_span(number: int, **attributes: object) -> dict:
        return json_span(trace=uuid4().hex, span=number, attributes=attributes)

    strange = export(
        a_span(1, long="x" * 2**20, nul="a\0b"),
        a_span(2, **{f"key-{n}": n for n in range(100_000)}),
        a_span(3) | {"startTimeUnixNano": "1", "endTimeUnixNano": "2"},
        a_span(4) | {"endTimeUnixNano": "9000000000000000000"},
        a_span(5) | at(-200 * 86_400),
        a_span(6) | at(600),
        a_span(7) | at(-60) | {"endTimeUnixNano": "2"},
    )
    with client(handrail, "strange") as sender:
        answer = post(sender, as_protobuf(strange))
    assert answer.status_code == 200
    told = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert told.rejected_spans == 4
    assert told.error_message.split("; ") == [
        "0000000000000003: the start time is missing or lies outside the years 2000 to 2099",
        "0000000000000004: the end time lies after the year 2099",
        "0000000000000005: it started more than 89 days ago, which is longer than spans are kept",
        "0000000000000006: it lies more than 5 minutes in the future",
    ]
    assert ask(
        handrail,
        "SELECT span_id, length(attributes ->> 'long'), attributes ->> 'nul', ended_at - started_at < interval '2 s',"
        " attributes ? 'handrail.ended_before_start_ms' FROM monitor_span"
        f" WHERE {OF_PROJECT} ORDER BY span_id",
        project="strange",
    ) == [(1, 2**20, "a\ufffdb", True, False), (2, None, None, True, False), (7, None, None, True, True)]
    assert ask(
        handrail,
        "SELECT count(*)::int, sum(value::int)::bigint FROM monitor_span, jsonb_each_text(attributes)"
        f" WHERE {OF_PROJECT} AND span_id = 2 AND key = 'key-' || value",
        project="strange",
    ) == [(100_000, sum(range(100_000)))]


def deep_in_protobuf(depth: int) -> bytes:
    """An export of a good span and one whose attribute nests; built by hand, for nobody's builder goes as deep."""
    value = field(1, b"the ground")
    for _ in range(depth):
        value = field(5, field(1, value))
    good = as_protobuf(export(json_span(trace=uuid4().hex, name="good")))
    deep = as_protobuf(export(json_span(trace=uuid4().hex, name="deep")))
    span = ExportTraceServiceRequest.FromString(deep).resource_spans[0].scope_spans[0].spans[0].SerializeToString()
    return good + field(1, field(2, field(2, span + field(9, field(1, b"k") + field(2, value)))))


def test_what_nests_without_end_costs_no_other_span(handrail: Instance) -> None:
    def stored() -> list[tuple[str, str | None]]:
        return ask(
            handrail,
            f"SELECT name, attributes #>> '{{k}}' FROM monitor_span WHERE {OF_PROJECT} ORDER BY name, 2",
            project="nested",
        )

    with client(handrail, "nested") as sender:
        # As deep as protobuf goes it is kept as it came.
        answer = post(sender, deep_in_protobuf(40))
        assert (answer.status_code, answer.content) == (200, b"")
        deep = "[" * 40 + '"the ground"' + "]" * 40
        assert stored() == [("deep", deep), ("good", None)]
        answer = post(sender, deep_in_protobuf(200))
        assert (answer.status_code, answer.content) == (200, b"")
        cut = "[" * 43 + '"(nested too deep)"' + "]" * 43
        assert {said for name, said in stored() if name == "deep"} == {deep, cut}
        for depth, said in ((40, deep), (5000, cut)):
            good, nests = (json_span(trace=uuid4().hex, name=name) for name in ("good", f"json {depth}"))
            nests["attributes"] = [{"key": "k", "value": "~"}]
            before, after = as_json(export(good, nests)).split(b'"~"')
            value = b'{"arrayValue":{"values":[' * depth + b'{"stringValue":"the ground"}' + b"]}}" * depth
            answer = post(sender, before + value + after, **{"content-type": "application/json"})
            assert (answer.status_code, answer.json()) == (200, {})
            assert (f"json {depth}", said) in stored()
    assert [name for name, _ in stored()] == ["deep", "deep", "good", "good", "good", "good", "json 40", "json 5000"]


def test_text_that_is_not_utf8_is_stored_with_marks(handrail: Instance) -> None:
    told = export(json_span(trace=uuid4().hex, name="cut~", attributes={"label~": "mid~dle", "input.value": "~"}))
    with client(handrail, "utf8") as sender:
        answer = post(sender, as_protobuf(told).replace(b"~", b"\xff"))
        assert (answer.status_code, answer.content) == (200, b"")
        answer = post(sender, as_json(told).replace(b"~", b"\xe4"), **{"content-type": "application/json"})
        assert (answer.status_code, answer.json()) == (200, {})
    assert ask(
        handrail,
        f"SELECT name, attributes::text, input FROM monitor_span WHERE {OF_PROJECT}",
        project="utf8",
    ) == [("cut\ufffd", '{"label\ufffd": "mid\ufffddle", "otel.scope.name": "tests"}', "\ufffd")]
