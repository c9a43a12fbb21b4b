"""Loops and named operations over HTTP."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.test import Client

from monitor import loopwatch, operations
from monitor.models import Project, Span
from monitor.tenancy import tenant
from tests.monitor.api.conftest import client_with, make_key, make_project
from tests.monitor.fleets import an_execution

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def client(project: Project) -> Client:
    return client_with(make_key(project)[1])


def send(client: Client, *events: dict[str, Any]) -> None:
    answer = client.post("/api/v1/batch", {"events": list(events)}, content_type="application/json")
    assert (answer.status_code, answer.json()["rejected"]) == (200, []), answer.content


def get(client: Client, address: str, **query: Any) -> Any:
    answer = client.get(f"/api/v1/{address}", query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


def loop_of(client: Client, project: Project, agent: str, count: int = 3) -> str:
    work = an_execution(project.pk, agent=agent, now=NOW - timedelta(minutes=1), heartbeat_s=600, timeout_s=600)
    call = {"type": "tool_call", "tool": "search", "execution_id": str(work), "arguments": {"city": "Oslo"}}
    send(client, *(call | {"occurred_at": at(n - 30)} for n in range(count)))
    return str(work)


def test_a_loop_is_listed_and_stands_in_its_execution(client: Client, project: Project) -> None:
    work = loop_of(client, project, "planner", 4)
    other = loop_of(client, project, "clerk")
    loopwatch.look(now=NOW)
    listed = get(client, "loops")
    assert {one["execution_id"] for one in listed["results"]} == {work, other}
    [loop] = get(client, "loops", agent="planner")["results"]
    assert (loop["rounds"], loop["calls"], loop["ended_at"], loop["end"]) == (4, 4, None, "")
    assert loop["cycle"] == [{"tool": "search", "arguments": '{"city":"Oslo"}'}]
    assert len(loop["spans"]) == 4
    assert get(client, f"executions/{work}")["loops"] == [loop]
    asked = {"run_id": "none", "status": "over", "found_after": at(60), "found_before": at(-60)}
    for name, value in asked.items():
        assert get(client, "loops", **{name: value})["results"] == [], name
    assert get(client, "loops", status="open", execution_id=work, trace_id=loop["trace_id"])["results"] == [loop]


def test_loops_come_page_by_page_and_of_the_own_project_alone(client: Client, project: Project) -> None:
    for n in range(3):
        loop_of(client, project, f"a{n}")
    loopwatch.look(now=NOW)
    first = get(client, "loops", limit=2)
    rest = client.get(first["next"]).json()
    assert [len(one["results"]) for one in (first, rest)] == [2, 1]
    assert rest["next"] is None
    south = make_project("south")
    assert get(client_with(make_key(south)[1]), "loops")["results"] == []


def operation(n: int, took_ms: int, **fields: Any) -> dict[str, Any]:
    usual = {"type": "operation", "agent": "planner", "operation": "embed", "duration_ms": took_ms}
    return usual | {"occurred_at": at(-n - 10)} | fields


def test_an_operation_is_kept_whole(client: Client, project: Project) -> None:
    told = {"batch": 7, "nested": {"källa": ["a", None, 1.5]}}
    send(client, operation(0, 1500, success=False, metadata=told))
    with tenant(project.pk):
        span = Span.objects.get()
    assert (span.kind, span.name, span.agent, span.failed) == ("operation", "embed", "planner", True)
    assert span.attributes["metadata"] == told
    assert span.ended_at is not None
    assert (span.ended_at - span.started_at) == timedelta(milliseconds=1500)


def test_operations_are_summed_up_per_agent_and_name(client: Client, project: Project) -> None:
    work = an_execution(project.pk, now=NOW - timedelta(minutes=1))
    send(
        client,
        *(operation(n, 100 * (n + 1), success=n != 0) for n in range(20)),
        operation(1, 50, operation="store", execution_id=str(work)),
        operation(1, 70, agent="clerk"),
    )
    answer = get(client, "operations")
    assert answer["truncated"] is False
    assert [(one["agent"], one["operation"], one["count"]) for one in answer["results"]] == [
        ("planner", "embed", 20),
        ("clerk", "embed", 1),
        ("planner", "store", 1),
    ]
    embed = answer["results"][0]
    assert (embed["failed"], embed["success_rate"]) == (1, 0.95)
    assert (embed["average_ms"], embed["p50_ms"], embed["p95_ms"], embed["longest_ms"]) == (1050, 1000, 1900, 2000)
    assert [one["operation"] for one in get(client, "operations", execution_id=str(work))["results"]] == ["store"]
    assert [one["agent"] for one in get(client, "operations", agent="clerk")["results"]] == ["clerk"]
    assert len(get(client, "operations", operation="embed")["results"]) == 2
    assert get(client, "operations", to=at(-3600))["results"] == []
    refusal = client.get("/api/v1/operations", {"from": at(-40 * 86_400)})
    assert (refusal.status_code, refusal.json()["errors"][0]["field"]) == (400, "from")
    assert get(client_with(make_key(make_project("south"))[1]), "operations")["results"] == []


def test_no_more_than_the_newest_operations_of_the_window_are_read(client: Client, project: Project) -> None:
    work = an_execution(project.pk, now=NOW - timedelta(minutes=1))
    send(
        client,
        operation(20, 50, operation="rare", execution_id=str(work)),
        operation(20, 50, agent="clerk"),
        *(operation(n, 100) for n in range(10)),
    )
    window = {"since": NOW - timedelta(days=1), "until": NOW}
    with tenant(project.pk):
        ask = partial(operations.statistics, project.pk, **window)
        assert [ask(operation="rare", most=most).truncated for most in (10, 12, 13)] == [True, True, False]
        assert [len(ask(operation="rare", most=most).results) for most in (10, 12)] == [0, 1]
        assert [len(ask(agent="clerk", most=most).results) for most in (10, 12)] == [0, 1]
        # Those of an execution are found by themselves.
        assert [(one.operation, one.count) for one in ask(execution_id=work, most=10).results] == [("rare", 1)]
