"""The doors of costs and volume: OTLP, calls, batch, budgets, trips, summaries."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.core.cache import cache
from django.test import Client
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from monitor.models import Execution, LedgerEntry, Message, Project, Run, Span, StateChange
from monitor.tenancy import tenant
from tests.monitor.api.conftest import client_with, make_key
from tests.monitor.spending import a_project, assert_books_balance
from tests.monitor.test_budgets import a_budget

CALL = {"model": "gpt-4o", "input_tokens": 1000, "output_tokens": 100, "run_id": "night", "agent": "planner"}


@pytest.fixture
def north(db: None) -> Project:
    cache.clear()
    return a_project("north")


@pytest.fixture
def client(north: Project) -> Client:
    return client_with(make_key(north, department="Sales")[1])


def post(client: Client, path: str, body: Any, **options: Any) -> Any:
    return client.post(path, json.dumps(body), content_type="application/json", **options)


def export(spans: int, *, bad: int = 0, trace: int = 1) -> ExportTraceServiceRequest:
    """Model calls that ended just now; the last ones lack their ids."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    now_ns = int((datetime.now(UTC) - timedelta(seconds=30)).timestamp() * 1e9)
    for n in range(1, spans + bad + 1):
        span = scope.spans.add(name="chat", start_time_unix_nano=now_ns, end_time_unix_nano=now_ns + 10**9)
        if n <= spans:
            span.trace_id, span.span_id = trace.to_bytes(16, "big"), n.to_bytes(8, "big")
        for key, value in (("gen_ai.operation.name", "chat"), ("gen_ai.request.model", "gpt-4o")):
            span.attributes.add(key=key).value.string_value = value
        for key, count in (("gen_ai.usage.input_tokens", 1000), ("gen_ai.usage.output_tokens", 100)):
            span.attributes.add(key=key).value.int_value = count
    return request


def test_an_export_in_protobuf_is_kept_and_its_bad_spans_are_named(north: Project, client: Client) -> None:
    body = gzip.compress(export(3, bad=1).SerializeToString())
    answer = client.post(
        "/v1/traces", body, content_type="application/x-protobuf", headers={"content-encoding": "gzip"}
    )
    assert (answer.status_code, answer["content-type"]) == (200, "application/x-protobuf")
    told = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert told.rejected_spans == 1
    assert "trace id" in told.error_message
    with tenant(north.pk):
        assert set(Span.objects.values_list("cost_usd", "department")) == {(Decimal("0.0035"), "Sales")}
    assert_books_balance(north)


def test_an_export_in_json_is_answered_in_json_and_counted_once(north: Project, client: Client) -> None:
    now_ns = int(datetime.now(UTC).timestamp() * 1e9)
    span = {
        "traceId": "0" * 31 + "1",
        "spanId": "0" * 15 + "1",
        "name": "chat",
        "startTimeUnixNano": str(now_ns - 10**9),
        "endTimeUnixNano": str(now_ns),
        "attributes": [
            {"key": "gen_ai.request.model", "value": {"stringValue": "gpt-4o"}},
            {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "1000"}},
        ],
    }
    old = span | {"spanId": "0" * 15 + "2", "startTimeUnixNano": str(now_ns - 200 * 86_400 * 10**9)}
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span, old]}]}]}
    for _ in range(2):
        answer = post(client, "/v1/traces", body)
        assert answer.status_code == 200
        partial = answer.json()["partialSuccess"]
        assert partial["rejectedSpans"] == "1"
        assert "days ago" in partial["errorMessage"]
    with tenant(north.pk):
        assert Span.objects.count() == LedgerEntry.objects.count() == 1


# Every door at which a client names a moment, with the field for it and what else it must say.
MOMENTS = [
    ("/api/v1/calls", "occurred_at", CALL),
    ("/api/v1/executions", "ended_at", {"agent": "planner", "status": "completed"}),
    ("/api/v1/conversations/talk/messages", "occurred_at", {"role": "user", "content": "Hello"}),
]


@pytest.mark.parametrize(("path", "field", "body"), MOMENTS, ids=[path for path, _, _ in MOMENTS])
def test_every_door_takes_the_same_moments_and_refuses_others_alike(
    north: Project, client: Client, path: str, field: str, body: dict[str, Any]
) -> None:
    def answered(**away: float) -> tuple[int, str]:
        at = datetime.now(UTC) + timedelta(**away)
        answer = post(client, path, body | {field: at.isoformat()})
        return answer.status_code, "" if answer.status_code < 300 else answer.json()["errors"][0]["message"]

    post(client, "/api/v1/conversations", {"conversation_id": "talk"})
    assert answered(days=-7, seconds=-1) == (400, "lies more than 7 days back")
    assert answered(minutes=5, seconds=30) == (400, "lies more than 5 minutes ahead")
    assert answered(days=-7, minutes=2) == (201, "")
    assert answered(minutes=4, seconds=30) == (201, "")


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        ("/api/v1/calls", "cost_usd", CALL),
        ("/api/v1/executions", "cost_usd", {"agent": "planner", "status": "completed"}),
        ("/api/v1/budgets", "limit_usd", {"scope": "project", "period": "day"}),
    ],
)
def test_every_door_takes_a_million_dollars_and_no_more(
    north: Project, client: Client, path: str, field: str, body: dict[str, Any]
) -> None:
    assert post(client, path, body | {field: "1000000.01"}).status_code == 400
    assert post(client, path, body | {field: "-0.01"}).status_code == 400
    assert post(client, path, body | {field: "1000000"}).status_code in (200, 201)


def test_tokens_of_images_that_a_model_made_are_among_all_others(north: Project, client: Client) -> None:
    request = export(1)
    (span,) = request.resource_spans[0].scope_spans[0].spans
    del span.attributes[1:]
    for kind, count in (("input", 10), ("output", 1005), ("image.output", 1000)):
        span.attributes.add(key=f"gen_ai.usage.{kind}_tokens").value.int_value = count
    span.attributes.add(key="gen_ai.request.model").value.string_value = "gpt-image-1"
    assert client.post("/v1/traces", request.SerializeToString(), content_type="application/x-protobuf").content == b""
    costs = client.get("/api/v1/costs/summary").json()
    assert (costs["summary"]["output_tokens"], costs["summary"]["total_tokens"]) == (1005, 1015)
    run = client.get(f"/api/v1/runs/{span.trace_id.hex()}/costs").json()
    assert (run["input_tokens"], run["output_tokens"]) == (10, 1005)
    with tenant(north.pk):
        stored = Span.objects.get()
        assert (stored.output_tokens, stored.attributes["image_output_tokens"]) == (1005, 1000)
        assert LedgerEntry.objects.get().output_tokens == 1005
        assert stored.computed_usd
    assert_books_balance(north)


@pytest.mark.parametrize(
    ("body", "media_type", "encoding", "status"),
    [
        (b"\xff\xff", "application/x-protobuf", "", 400),
        (b"{", "application/json", "", 400),
        (b"", "text/plain", "", 415),
        (b"", "application/x-protobuf", "zstd", 415),
        (b"no gzip", "application/x-protobuf", "gzip", 400),
        (gzip.compress(bytes(20_000_000), mtime=0), "application/x-protobuf", "gzip", 413),
    ],
)
def test_what_is_no_export_is_refused(client: Client, body: bytes, media_type: str, encoding: str, status: int) -> None:
    headers = {"content-encoding": encoding} if encoding else {}
    assert client.post("/v1/traces", body, content_type=media_type, headers=headers).status_code == status


def test_a_call_answers_what_it_cost_and_where_the_budgets_stand(north: Project, client: Client) -> None:
    a_budget(north, "run", "5")
    answer = post(client, "/api/v1/calls", CALL | {"cost_usd": "0.5", "latency_ms": 1200})
    assert answer.status_code == 201
    told = answer.json()
    assert told.pop("id")
    assert {name: Decimal(usd) for name, usd in told.pop("current_cost").items()} == dict.fromkeys(
        ["run", "hour", "day", "month"], Decimal("0.5")
    )
    assert told == {
        "allowed": True,
        "reason": "",
        "cost_usd": "0.5000000000",
        "computed_cost_usd": "0.0035000000",
        "reported_cost_usd": "0.5000000000",
        "priced": True,
        "remaining": "4.5000000000",
    }
    over = post(client, "/api/v1/calls", CALL | {"cost_usd": "4.5"}).json()
    assert (over["allowed"], Decimal(over["remaining"])) == (False, 0)
    later = post(client, "/api/v1/calls", CALL).json()
    assert later["allowed"] is False
    assert later["reason"].startswith("The budget of run night is spent")
    with tenant(north.pk):
        assert LedgerEntry.objects.count() == 3


def test_a_call_that_was_billed_by_a_fuller_report_is_refused_as_any_other(north: Project, client: Client) -> None:
    a_budget(north, "project", "0.01")
    told = CALL | {"trace_id": "0" * 31 + "7", "response_id": "r-1"}
    fuller = post(client, "/api/v1/calls", told | {"input_tokens": 10_000}).json()
    twin = post(client, "/api/v1/calls", told).json()
    assert (fuller["allowed"], twin["allowed"]) == (False, False)
    for name in ("reason", "current_cost", "remaining"):
        assert twin[name] == fuller[name]


def test_calls_of_one_trace_have_ids_of_their_own(north: Project, client: Client) -> None:
    trace = str(uuid4())
    told = [post(client, "/api/v1/calls", CALL | {"trace_id": trace}).json()["id"] for _ in range(3)]
    assert len({*told, trace}) == 4
    mine = str(uuid4())
    assert post(client, "/api/v1/calls", CALL | {"trace_id": trace, "id": mine}).json()["id"] == mine


def test_an_id_is_one_call_whatever_the_clock_says(north: Project, client: Client) -> None:
    body = CALL | {"id": str(uuid4())}
    first, again = post(client, "/api/v1/calls", body), post(client, "/api/v1/calls", body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = post(client, "/api/v1/calls", body | {"output_tokens": 101})
    assert other.status_code == 409
    with tenant(north.pk):
        assert LedgerEntry.objects.count() == Span.objects.count() == 1
    south = client_with(make_key(a_project("south"))[1])
    assert post(south, "/api/v1/calls", body).status_code == 201


def test_a_call_that_an_instrumentation_told_as_well_is_counted_once(north: Project, client: Client) -> None:
    shared = {"trace_id": "0" * 31 + "7", "response_id": "r-1"}
    request = export(1, trace=7)
    request.resource_spans[0].scope_spans[0].spans[0].attributes.add(
        key="gen_ai.response.id"
    ).value.string_value = "r-1"
    for _ in range(2):
        assert (
            client.post("/v1/traces", request.SerializeToString(), content_type="application/x-protobuf").status_code
            == 200
        )
        assert post(client, "/api/v1/calls", CALL | shared | {"id": str(uuid4())}).status_code == 201
    with tenant(north.pk):
        assert sum(Run.objects.values_list("calls", flat=True)) == 1
    assert_books_balance(north)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": ""}, "model"),
        ({"cache_read_tokens": 900, "cache_write_tokens": 101}, "input_tokens"),
        ({"reasoning_tokens": 101}, "output_tokens"),
        ({"input_tokens": -1}, "input_tokens"),
        ({"input_tokens": 2**40}, "input_tokens"),
        ({"cost_usd": "-0.01"}, "cost_usd"),
        ({"cost_usd": "1000001"}, "cost_usd"),
        ({"cost_usd": "NaN"}, "cost_usd"),
        ({"occurred_at": "2020-01-01T00:00:00Z"}, "occurred_at"),
        ({"occurred_at": "2099-01-01T00:00:00Z"}, "occurred_at"),
        ({"occurred_at": "2026-01-01T00:00:00"}, "occurred_at"),
        ({"trace_id": "0" * 32}, "trace_id"),
        ({"agent": "nul\x00"}, "agent"),
        ({"run_id": "x" * 201}, "run_id"),
    ],
)
def test_a_bad_call_names_its_field_and_stores_nothing(
    north: Project, client: Client, change: dict[str, Any], field: str
) -> None:
    answer = post(client, "/api/v1/calls", CALL | change)
    assert answer.status_code == 400
    assert field in json.dumps(answer.json())
    with tenant(north.pk):
        assert not Span.objects.exists()


def test_unknown_prices_are_said_and_a_tool_may_cost(north: Project, client: Client) -> None:
    unknown = post(client, "/api/v1/calls", CALL | {"model": "nobody-knows-me", "cost_usd": 0}).json()
    assert (unknown["priced"], unknown["cost_usd"], unknown["reported_cost_usd"]) == (False, "0", None)
    tool = post(client, "/api/v1/calls", {"tool": "maps", "cost_usd": "0.02", "run_id": "night"}).json()
    assert (tool["priced"], Decimal(tool["cost_usd"])) == (True, Decimal("0.02"))
    costs = client.get("/api/v1/runs/night/costs").json()
    assert (costs["total_calls"], costs["tool_calls"], costs["unpriced_calls"]) == (1, 1, 1)
    assert {name: Decimal(usd) for name, usd in costs["cost_by_model"].items()} == {
        "maps": Decimal("0.02"),
        "nobody-knows-me": 0,
    }


def test_a_batch_keeps_its_good_part_and_names_the_rest(north: Project, client: Client) -> None:
    identity, work = str(uuid4()), str(uuid4())
    events = [
        {"type": "call", **CALL, "id": identity, "execution_id": work},
        {"type": "call", **CALL, "id": identity, "execution_id": work},
        {"type": "call", **CALL, "id": identity, "output_tokens": 7},
        {"type": "call", "model": "gpt-4o", "input_tokens": "many"},
        {"type": "dance"},
        {"tool": "search"},
        {"type": "execution.started", "agent": "planner", "id": work, "run_id": "night"},
        {"type": "execution.completed", "execution_id": str(uuid4())},
        {"type": "tool_call", "tool": "search", "arguments": {"q": [1, None]}, "duration_ms": 20, "run_id": "night"},
        {"type": "operation", "agent": "planner", "operation": "index", "duration_ms": 5, "metadata": {"a": 1}},
        {"type": "step", "agent": "planner", "success": False, "required_human": True},
        {"type": "message", "conversation_id": "talk", "role": "user", "content": "hello", "client_id": "m1"},
        {"type": "message", "conversation_id": "talk", "role": "user", "content": "hello", "client_id": "m1"},
        17,
    ]
    answer = post(client, "/api/v1/batch", {"events": events})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["accepted"], told["duplicates"]) == (6, 2)
    assert {one["index"]: one["errors"][0]["field"] for one in told["rejected"]} == {
        2: "id",
        3: "input_tokens",
        4: "type",
        5: "type",
        7: "event",
        13: "body",
    }
    with tenant(north.pk):
        assert set(Span.objects.values_list("kind", "failed")) == {
            ("llm", False),
            ("tool", False),
            ("operation", False),
            ("step", True),
        }
        assert Message.objects.count() == 1
        # The call was told before the execution was, and yet it is the execution's.
        assert Execution.objects.get().cost_usd == Decimal("0.0035")
    assert_books_balance(north)


def test_a_batch_has_a_limit(client: Client) -> None:
    assert post(client, "/api/v1/batch", {"events": [1] * 10_001}).status_code == 400
    assert post(client, "/api/v1/batch", {"events": []}).json() == {"accepted": 0, "duplicates": 0, "rejected": []}


def test_summaries_and_days_add_up(north: Project, client: Client) -> None:
    for n in range(3):
        post(client, "/api/v1/calls", CALL | {"run_id": f"r{n % 2}", "success": n > 0, "latency_ms": 100})
    post(client, "/api/v1/calls", CALL | {"model": "gpt-4o-mini", "agent": "critic", "department": "Legal"})
    post(client, "/api/v1/calls", {"tool": "maps", "cost_usd": "1"})
    told = client.get("/api/v1/costs/summary?period=daily&group_by=department").json()
    total = Decimal("1") + 3 * Decimal("0.0035") + Decimal("0.00021")
    assert Decimal(told["summary"]["total_cost_usd"]) == total
    assert (told["summary"]["total_calls"], told["summary"]["success_rate"]) == (4, 0.75)
    assert [(one["model"], one["calls"]) for one in told["by_model"]] == [
        ("maps", 1),
        ("gpt-4o", 3),
        ("gpt-4o-mini", 1),
    ]
    assert {one["group"]: one["calls"] for one in told["groups"]} == {"Sales": 3, "Legal": 1}
    assert sum(Decimal(one["cost_usd"]) for one in told["series"]) == total
    runs = client.get("/api/v1/costs/summary?group_by=run&period=hourly").json()["groups"]
    assert {one["group"]: one["calls"] for one in runs}.items() >= {"r0": 2, "r1": 1}.items()
    (day,) = client.get("/api/v1/costs/daily").json()
    assert (Decimal(day["total_cost_usd"]), day["total_calls"], day["unique_runs"]) == (total, 4, 4)
    assert client.get("/api/v1/costs/summary?period=yearly").status_code == 400
    for ends in ("to=0001-01-01T00:00:00Z", "from=0001-01-01T00:00:00%2B23:59", "to=9999-12-31T23:59:59-23:59"):
        answer = client.get(f"/api/v1/costs/daily?{ends}")
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, ends.partition("=")[0])
    assert client.get("/api/v1/costs/daily?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z").status_code == 400
    assert client.get("/api/v1/runs/unknown/costs").status_code == 404


def test_budgets_are_made_changed_and_taken_away(north: Project, client: Client) -> None:
    made = post(client, "/api/v1/budgets", {"scope": "agent", "target": "planner", "period": "day", "limit_usd": "2"})
    assert made.status_code == 201
    path = f"/api/v1/budgets/{made.json()['id']}"
    post(client, "/api/v1/calls", CALL | {"cost_usd": "1.5"})
    seen = client.get(path).json()
    assert (Decimal(seen["spent_usd"]), seen["tripped"], seen["warn_at"]) == (Decimal("1.5"), False, 0.8)
    changed = client.patch(path, json.dumps({"limit_usd": "1"}), content_type="application/json").json()
    assert Decimal(changed["limit_usd"]) == 1
    assert post(client, "/api/v1/calls", CALL).json()["allowed"] is False
    twice = post(client, "/api/v1/budgets", {"scope": "agent", "target": "planner", "period": "day", "limit_usd": "2"})
    assert twice.status_code == 409
    assert client.delete(path).status_code == 204
    assert client.get("/api/v1/budgets").json()["results"] == []
    with tenant(north.pk):
        journal = StateChange.objects.filter(subject="budget", cause="edited").order_by("id")
        told = [(one.to_state, one.actor, Decimal(one.data["limit_usd"]), one.data["was"]) for one in journal]
    assert told == [
        ("made", "key:test", 2, {}),
        ("changed", "key:test", 1, {"limit_usd": "2.0000000000"}),
        ("removed", "key:test", 1, {}),
    ]
    assert post(client, "/api/v1/calls", CALL).json()["allowed"] is True


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"scope": "run", "period": "day", "limit_usd": "1"}, 400),
        ({"scope": "project", "period": "day", "target": "x", "limit_usd": "1"}, 400),
        ({"scope": "project", "period": "day", "limit_usd": "-1"}, 400),
        ({"scope": "project", "period": "day", "limit_usd": "1", "warn_at": 0}, 400),
        ({"scope": "global", "period": "day", "limit_usd": "1"}, 403),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(client: Client, body: dict[str, Any], status: int) -> None:
    assert post(client, "/api/v1/budgets", body).status_code == status


def test_trips_are_listed_dearest_first_and_reset_once(north: Project, client: Client) -> None:
    a_budget(north, "run", "1")
    for run, usd in (("cheap", "2"), ("dear", "9")):
        post(client, "/api/v1/calls", CALL | {"run_id": run, "cost_usd": usd})
    listed = client.get("/api/v1/trips?status=open").json()["results"]
    assert [(one["target"], Decimal(one["total_cost_usd"]), one["call_count"]) for one in listed] == [
        ("dear", 9, 1),
        ("cheap", 2, 1),
    ]
    reset = f"/api/v1/trips/{listed[0]['id']}/reset"
    assert post(client, reset, {"note": "carry on", "top_up_usd": "3"}).json()["reset_by"] == "key:test"
    assert post(client, reset, {}).status_code == 409
    answer = post(client, "/api/v1/calls", CALL | {"run_id": "dear", "cost_usd": "1"}).json()
    assert (answer["allowed"], Decimal(answer["remaining"])) == (True, 2)
    south = client_with(make_key(a_project("south"))[1])
    assert post(south, reset, {}).status_code == 404
    assert south.get("/api/v1/trips").json()["results"] == []


def test_scopes_are_asked_for(north: Project) -> None:
    reader = client_with(make_key(north, ["read"])[1])
    assert post(reader, "/api/v1/calls", CALL).status_code == 403
    assert post(reader, "/api/v1/batch", {"events": []}).status_code == 403
    assert reader.post("/v1/traces", b"", content_type="application/x-protobuf").status_code == 403
    assert post(reader, "/api/v1/budgets", {"scope": "run", "period": "run", "limit_usd": "1"}).status_code == 403
    assert Client().post("/v1/traces", b"", content_type="application/x-protobuf").status_code == 401
