"""Executions over HTTP: what a client may rely on."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from django.test import Client

from monitor import ingest
from monitor.api import execution_events
from monitor.api.problems import Problem
from monitor.models import Execution, Project, StateChange
from monitor.tenancy import tenant
from tests.monitor.api.conftest import client_with, make_key, make_project
from tests.monitor.fleets import after, an_execution, tick
from tests.monitor.spending import a_bare_span

PROMISED = {
    "id", "agent", "run_id", "task", "crew_id", "conversation_id", "parent_id", "department", "mode", "status",
    "attempt", "max_retries", "timeout_s", "heartbeat_s", "progress", "message", "inputs", "output", "error",
    "started_at", "last_heartbeat_at", "last_progress_at", "deadline_at", "retry_at", "ended_at", "duration_ms",
    "cost_usd", "input_tokens", "output_tokens", "metadata"
}  # fmt: skip
ROOT = "/api/v1/executions"


@pytest.fixture
def client(project: Project) -> Client:
    return client_with(make_key(project)[1])


def post(client: Client, address: str, body: Any = None, *, status: int = 200) -> dict[str, Any]:
    answer = client.post(f"{ROOT}{address}", body or {}, content_type="application/json")
    assert answer.status_code == status, answer.content
    return answer.json()


def get(client: Client, address: str = "", **query: Any) -> dict[str, Any]:
    answer = client.get(f"{ROOT}{address}", query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_the_life_of_an_execution_over_http(client: Client) -> None:
    made = post(client, "", {"agent": "planner", "run_id": "r-1", "inputs": {"city": "Oslo"}}, status=201)
    assert set(made) >= PROMISED
    assert (made["status"], made["attempt"], made["inputs"], made["cost_usd"]) == (
        "running", 1, {"city": "Oslo"}, "0.0000000000"
    )  # fmt: skip
    assert made["started_at"].endswith("Z")
    told = post(client, f"/{made['id']}/heartbeat", {"progress": 50, "message": "halfway", "attempt": 1})
    assert {name: told[name] for name in ("command", "reason", "status", "attempt", "retry_at")} == {
        "command": "continue", "reason": "", "status": "running", "attempt": 1, "retry_at": None
    }  # fmt: skip
    assert post(client, f"/{made['id']}/pause", {"note": "wait"})["status"] == "paused"
    assert post(client, f"/{made['id']}/heartbeat")["command"] == "pause"
    assert post(client, f"/{made['id']}/resume")["status"] == "running"
    failed = post(client, f"/{made['id']}/fail", {"error": "503", "attempt": 1})
    assert (failed["status"], failed["attempt"], failed["error"]) == ("retrying", 2, "503")
    assert post(client, f"/{made['id']}/heartbeat", {"attempt": 2})["command"] == "continue"
    done = post(client, f"/{made['id']}/complete", {"output": [1, 2], "attempt": 2})
    assert (done["status"], done["output"], done["progress"]) == ("completed", [1, 2], 50)
    detail = get(client, f"/{made['id']}")
    assert [(t["from_state"], t["to_state"], t["cause"]) for t in detail.pop("transitions")] == [
        ("", "running", "registered"),
        ("running", "paused", "paused"),
        ("paused", "running", "resumed"),
        ("running", "retrying", "error"),
        ("retrying", "running", "picked_up"),
        ("running", "completed", "completed"),
    ]
    assert detail.pop("loops") == []
    given = [(c["command"], c["delivered_by"], c["outcome"]) for c in detail.pop("commands")]
    assert given == [
        ("pause", "heartbeat", "superseded by continue"),
        ("continue", "", "superseded by retry"),
        ("retry", "", "attempt 2 was picked up"),
    ]
    assert detail.pop("children") == []
    assert detail == done


def test_the_same_id_and_content_answers_200_and_other_content_409(client: Client) -> None:
    body = {"agent": "planner", "id": str(uuid4())}
    first = post(client, "", body, status=201)
    assert post(client, "", body) == first
    refusal = post(client, "", body | {"task": "another"}, status=409)
    assert (refusal["state"], refusal["detail"]) == (
        "running",
        "another execution of planner has this id; it is running.",
    )


def test_a_start_that_carries_the_new_attempt_picks_it_up(client: Client) -> None:
    body = {"agent": "planner", "id": str(uuid4())}
    post(client, "", body, status=201)
    post(client, f"/{body['id']}/fail", {"error": "x"})
    assert post(client, "", body)["status"] == "retrying"
    assert post(client, "", body | {"attempt": 1})["status"] == "retrying"
    picked_up = post(client, "", body | {"attempt": 2})
    assert (picked_up["status"], picked_up["attempt"], picked_up["retry_at"]) == ("running", 2, None)


def test_a_stale_report_is_a_409_that_names_the_state_and_stays_in_the_journal(
    client: Client, project: Project
) -> None:
    one = post(client, "", {"agent": "planner"}, status=201)["id"]
    post(client, f"/{one}/fail", {"error": "x", "attempt": 1})
    refusal = post(client, f"/{one}/complete", {"attempt": 1, "output": 1}, status=409)
    assert (refusal["state"], refusal["attempt"], refusal["title"]) == ("retrying", 2, "Conflict")
    last = get(client, f"/{one}")["transitions"][-1]
    assert (last["cause"], last["attempt"], last["note"]) == (
        "stale_report",
        1,
        "attempt 1 reported completed after it was given up; refused",
    )


def test_what_has_ended_stays_as_it_is(client: Client) -> None:
    one = post(client, "", {"agent": "planner"}, status=201)["id"]
    done = post(client, f"/{one}/cancel", {"note": "enough"})
    assert done["status"] == "cancelled"
    for verb in ("complete", "fail", "pause", "resume", "retry", "cancel"):
        assert post(client, f"/{one}/{verb}", status=409)["state"] == "cancelled"
    assert post(client, f"/{one}/heartbeat")["command"] == "cancel"
    more = {"transitions": 0, "commands": 0, "children": 0, "loops": 0}
    assert get(client, f"/{one}") | more == done | more


def test_what_only_its_trace_tells_of_is_shown_and_refuses_every_command(client: Client, project: Project) -> None:
    now = datetime.now(UTC)
    agent = a_bare_span(1, 1, kind="agent", agent="triage", agent_stated=True, started_at=now, ended_at=None)
    with tenant(project.pk):
        ingest.accept(project.pk, [agent], now=now)
    [one] = get(client)["results"]
    assert (one["agent"], one["status"], one["from_spans"], one["deadline_at"]) == ("triage", "running", True, None)
    for verb in ("complete", "fail", "pause", "resume", "retry", "cancel"):
        refusal = post(client, f"/{one['id']}/{verb}", status=409)
        assert (refusal["state"], refusal["title"]) == ("running", "Conflict")
        assert refusal["detail"] == "the execution is known from its trace alone, which says how it ends."
    assert post(client, f"/{one['id']}/heartbeat", {"progress": 9})["command"] == "continue"
    detail = get(client, f"/{one['id']}")
    assert [(move["to_state"], move["cause"]) for move in detail.pop("transitions")] == [("running", "traced")]
    assert detail.pop("loops") == []
    assert (detail.pop("commands"), detail.pop("children")) == ([], [])
    assert detail == one


def test_work_already_done_is_one_call(client: Client) -> None:
    ended = datetime.now(UTC) - timedelta(hours=1)
    body = {
        "agent": "planner", "status": "completed", "duration_ms": 1500, "ended_at": ended.isoformat(),
        "cost_usd": "0.0123450", "input_tokens": 7, "api_calls": 2, "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "b7ad6b7169203331",
    }  # fmt: skip
    done = post(client, "", body, status=201)
    assert (done["status"], done["duration_ms"], done["cost_usd"]) == ("completed", 1500, "0.0123450000")
    assert datetime.fromisoformat(done["started_at"]) == ended - timedelta(seconds=1.5)
    assert (done["trace_id"], done["span_id"]) == (body["trace_id"], body["span_id"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "agent"),
        ({"agent": ""}, "agent"),
        ({"agent": "a", "timeout_s": 0}, "timeout_s"),
        ({"agent": "a", "status": "paused"}, "status"),
        ({"agent": "a", "duration_ms": 5}, "status"),
        ({"agent": "a", "started_at": "2026-01-01T00:00:00"}, "started_at"),
        ({"agent": "a", "id": "x"}, "id"),
        ({"agent": "a", "trace_id": "xyz"}, "trace_id"),
        ({"agent": "a", "inputs": {"x": ["\0"]}}, "inputs.x[0]"),
        ({"agent": "a", "status": "completed", "started_at": "9999-12-31T23:59:59Z", "duration_ms": 9}, "started_at"),
        ({"agent": "a", "status": "completed", "started_at": "0001-01-01T00:00:00+14:00"}, "started_at"),
    ],
)
def test_bad_bodies_name_the_field(client: Client, project: Project, body: dict, field: str) -> None:
    refusal = post(client, "", body, status=400)
    assert [error["field"] for error in refusal["errors"]] == [field]
    with tenant(project.pk):
        assert Execution.objects.count() == 0


@pytest.mark.parametrize("body", [{"progress": 101}, {"progress": -1}, {"attempt": 0}, {"attempt": 99_999}])
def test_bad_heartbeats_are_refused(client: Client, body: dict) -> None:
    one = post(client, "", {"agent": "planner"}, status=201)
    post(client, f"/{one['id']}/heartbeat", body, status=400)
    seen = get(client, f"/{one['id']}")
    assert {name: seen[name] for name in one} == one


def test_a_float_beyond_64_bits_comes_back_as_it_was(client: Client) -> None:
    said = {"flops": 1e20, "worst": [-1e308, {"wei": 2.5e19}], "small": 1e-300}
    made = post(client, "", {"agent": "planner", "inputs": said, "metadata": said}, status=201)
    done = post(client, f"/{made['id']}/complete", {"output": 1e20})
    assert (done["inputs"], done["metadata"], done["output"]) == (said, said, 1e20)
    assert get(client, f"/{made['id']}")["inputs"] == said
    assert [one["inputs"] for one in get(client)["results"]] == [said]


def test_money_out_of_range_is_refused(client: Client) -> None:
    for amount in ("-1", "1000001", "NaN", "Infinity"):
        refusal = post(client, "", {"agent": "a", "status": "completed", "cost_usd": amount}, status=400)
        assert [one["field"] for one in refusal["errors"]] == ["cost_usd"]


def test_the_list_is_newest_first_filtered_and_paged(client: Client, project: Project) -> None:
    ids = [
        an_execution(project.pk, now=after(-n), agent=f"a-{n % 2}", run_id=f"r-{n % 3}", task=f"Task {n}")
        for n in range(6)
    ]
    texts = [str(one) for one in ids]
    page = get(client, limit=4)
    assert [row["id"] for row in page["results"]] == texts[:4]
    assert [row["id"] for row in client.get(page["next"]).json()["results"]] == texts[4:]

    def found(**query: Any) -> list[int]:
        return [texts.index(row["id"]) for row in get(client, **query)["results"]]

    assert found(agent="a-1") == [1, 3, 5]
    assert found(run_id="r-0", agent="a-0") == [0]
    assert found(started_after=after(-2).isoformat()) == [0, 1, 2]
    assert found(started_before=after(-2).isoformat()) == [3, 4, 5]
    assert found(search="task 4") == [4]
    assert found(search=texts[3]) == [3]
    assert found(search="R-2") == [2, 5]
    assert found(search="%") == []
    assert tick(now=after(43)) == 4
    assert found(status=["retrying", "paused"]) == [2, 3, 4, 5]
    assert found(status="completed") == []
    assert client.get(ROOT, {"colour": "red"}).status_code == 400
    assert client.get(ROOT, {"status": "odd"}).status_code == 400


def test_another_projects_execution_is_not_found(client: Client, project: Project) -> None:
    foreign = an_execution(make_project("south").pk)
    assert client.get(f"{ROOT}/{foreign}").status_code == 404
    for verb in ("heartbeat", "complete", "fail", "pause", "resume", "retry", "cancel"):
        post(client, f"/{foreign}/{verb}", status=404)
    assert get(client)["results"] == []


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("read", {"GET list", "GET one"}),
        ("ingest", {"POST", "heartbeat", "complete", "fail"}),
        ("operate", {"pause", "resume", "retry", "cancel"}),
    ],
)
def test_each_call_needs_its_scope(project: Project, scope: str, allowed: set[str]) -> None:
    client = client_with(make_key(project, [scope])[1])
    one = an_execution(project.pk)
    calls: dict[str, Callable[[], Any]] = {
        "GET list": lambda: client.get(ROOT),
        "GET one": lambda: client.get(f"{ROOT}/{one}"),
        "POST": lambda: client.post(ROOT, {"agent": "a"}, content_type="application/json"),
    }
    for verb in ("heartbeat", "complete", "fail", "pause", "resume", "retry", "cancel"):
        calls[verb] = lambda verb=verb: client.post(f"{ROOT}/{one}/{verb}", {}, content_type="application/json")
    assert {name for name, call in calls.items() if call().status_code != 403} == allowed


def test_a_keys_department_is_that_of_its_work(project: Project) -> None:
    client = client_with(make_key(project, department="sales")[1])
    assert post(client, "", {"agent": "a"}, status=201)["department"] == "sales"
    assert post(client, "", {"agent": "a", "department": "support"}, status=201)["department"] == "support"


def said(project: Project, type_: str, **body: Any) -> bool:
    event = msgspec.convert(body, execution_events.EVENTS[type_])
    with tenant(project.pk):
        return execution_events.from_event(project.pk, type_, event, now=datetime.now(UTC), actor="key:batch")


def test_events_do_what_the_single_calls_do_and_twice_is_once(project: Project) -> None:
    one, other = str(uuid4()), str(uuid4())
    assert said(project, "execution.started", id=one, agent="planner")
    assert not said(project, "execution.started", id=one, agent="planner")
    assert said(project, "execution.heartbeat", execution_id=one, progress=10)
    assert said(project, "execution.completed", execution_id=one, output=5)
    assert not said(project, "execution.completed", execution_id=one, output=5)
    assert said(project, "execution.tracked", id=other, agent="planner", status="failed", duration_ms=5)
    assert not said(project, "execution.tracked", id=other, agent="planner", status="failed", duration_ms=5)
    with pytest.raises(Problem, match="Conflict"):
        said(project, "execution.failed", execution_id=one, error="x")
    with pytest.raises(Problem, match="Not found"):
        said(project, "execution.failed", execution_id=str(uuid4()), error="x")
    with pytest.raises(Problem, match="Bad request"):
        said(project, "execution.tracked", agent="planner")
    with tenant(project.pk):
        assert StateChange.objects.count() == 3
        assert Execution.objects.count() == 2


def test_a_search_for_a_name_finds_what_has_it_and_not_what_speaks_of_it(client: Client, project: Project) -> None:
    of_run = an_execution(project.pk, now=after(0), run_id="order-7", task="Ship it")
    an_execution(project.pk, now=after(0), run_id="order-70", task="What became of order-7?")
    of_talk = an_execution(project.pk, now=after(0), conversation_id="talk-7")

    def found(search: str) -> set[str]:
        return {row["id"] for row in get(client, search=search)["results"]}

    assert found("order-7") == {str(of_run)}
    assert found("talk-7") == {str(of_talk)}
    assert len(found("ORDER-7")) == 2
