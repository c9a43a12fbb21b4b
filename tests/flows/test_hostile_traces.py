"""Traces through the door of a running Handrail: the same ones from eight sides at once, and such as mean harm."""

import gzip
import random
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import psutil

from tests.flows.running import address, ask, make_key
from tests.launcher.instance import Instance
from tests.monitor.otlp_builders import as_json, as_protobuf, export, json_span
from tests.monitor.test_otlp_parts import HOSTILE

OF_PROJECT = "project_id = (SELECT id FROM monitor_project WHERE name = %(project)s)"
PROTOBUF = {"content-type": "application/x-protobuf"}
CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.usage.input_tokens": 1000,
    "gen_ai.usage.output_tokens": 100,
}
MOST_GROWTH = 1500 * 2**20


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


def test_what_means_harm_is_refused_and_harms_nobody(handrail: Instance) -> None:
    good = as_protobuf(export(json_span(trace=uuid4().hex)))
    web = psutil.Process(handrail.pid_of("web"))
    before = web.memory_info().rss
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
        strange = export(
            json_span(trace=uuid4().hex, span=1, attributes={"long": "x" * 2**20, "nul": "a\0b"}),
            json_span(trace=uuid4().hex, span=2, attributes={f"key-{n}": n for n in range(100_000)}),
            {**json_span(trace=uuid4().hex, span=3), "startTimeUnixNano": "1", "endTimeUnixNano": "2"},
            {**json_span(trace=uuid4().hex, span=4), "endTimeUnixNano": "9000000000000000000"},
        )
        assert post(sender, as_protobuf(strange)).status_code == 200
        members = b"".join(gzip.compress(piece) for piece in (good[:9], good[9:50], good[50:]))
        assert post(sender, members, **{"content-encoding": "gzip"}).status_code == 200
    assert handrail.pid_of("web") == web.pid
    assert web.memory_info().rss - before < MOST_GROWTH
    rows = ask(handrail, f"SELECT span_id FROM monitor_span WHERE {OF_PROJECT} ORDER BY 1", project="hostile")
    assert {1, 2} <= {number for (number,) in rows}
    assert len(rows) in (3, 4)
