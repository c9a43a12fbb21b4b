"""The addresses of the seed documents, over what agents reported through the API."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from monitor import closing, jobs
from monitor.models import Agent, Project
from monitor.tenancy import crossing, tenant
from tests.monitor.api.conftest import client_with, make_key, make_project, now

JSON = "application/json"


@pytest.fixture
def north(db: None) -> Project:
    cache.clear()
    return make_project("north")


@pytest.fixture
def api(north: Project) -> Client:
    return client_with(make_key(north, general_per_minute=0)[1])


def post(api: Client, path: str, **body: Any) -> dict[str, Any]:
    answer = api.post(f"/api/v1/{path}", body, content_type=JSON)
    assert answer.status_code in (200, 201), answer.content
    return answer.json()


def track(api: Client, agent: str, **fields: Any) -> dict[str, Any]:
    """Work that is done already, as its client tells it."""
    ended = {"status": "completed", "duration_ms": 2000} | fields
    return post(api, "executions", agent=agent, **ended)


# Tasks


def test_tasks_are_executions_newest_first_in_four_states(api: Client) -> None:
    running = post(api, "executions", agent="a", crew_id="crew", inputs={"topic": "ships"}, timeout_s=600)
    done = track(api, "a", crew_id="crew", started_at=(now() - timedelta(hours=1)).isoformat())
    failed = track(
        api,
        "a",
        crew_id="other",
        status="failed",
        error="x" * 500,
        started_at=(now() - timedelta(hours=2)).isoformat(),
    )
    page = api.get("/api/v1/monitoring/tasks").json()
    assert (page["total"], page["limit"], page["offset"]) == (3, 20, 0)
    assert [(task["task_id"], task["status"]) for task in page["tasks"]] == [
        (running["id"], page["tasks"][0]["status"]),
        (done["id"], "COMPLETED"),
        (failed["id"], "FAILED"),
    ]
    assert page["tasks"][0]["status"] in ("PENDING", "RUNNING")
    assert page["tasks"][0]["input_summary"] == '{"topic":"ships"}'
    assert page["tasks"][2]["error_preview"] == "x" * 200


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("crew_id=crew", ["COMPLETED"]),
        ("status=FAILED", ["FAILED"]),
        ("status=RUNNING", []),
        ("limit=1", ["COMPLETED"]),
        ("limit=1&offset=1", ["FAILED"]),
        ("offset=2", []),
        ("start_date_from={an_hour_ago}", ["COMPLETED"]),
        ("start_date_to={an_hour_ago}", ["FAILED"]),
    ],
)
def test_tasks_are_filtered(api: Client, query: str, found: list[str]) -> None:
    track(api, "a", crew_id="crew")
    track(api, "a", crew_id="other", status="failed", started_at=(now() - timedelta(hours=2)).isoformat())
    query = query.format(an_hour_ago=(now() - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ"))
    page = api.get(f"/api/v1/monitoring/tasks?{query}").json()
    assert [task["status"] for task in page["tasks"]] == found


def test_every_page_of_tasks_tells_how_many_there_are_and_the_last_one_counts_by_itself(api: Client) -> None:
    for n in range(5):
        track(api, "a", status="failed" if n > 3 else "completed")

    def told(query: str) -> tuple[int, int, bool]:
        with CaptureQueriesContext(connection) as asked:
            page = api.get(f"/api/v1/monitoring/tasks?{query}").json()
        return len(page["tasks"]), page["total"], any("COUNT(*)" in one["sql"] for one in asked)

    assert told("limit=2") == (2, 5, True)
    assert told("limit=2&offset=2") == (2, 5, True)
    assert told("limit=2&offset=4") == (1, 5, False)
    assert told("limit=5") == (5, 5, True)
    assert told("limit=2&offset=5") == (0, 5, True)
    assert told("limit=2&offset=100000") == (0, 5, True)
    assert told("status=COMPLETED&limit=1") == (1, 4, True)
    assert told("status=FAILED&limit=1") == (1, 1, True)
    assert told("status=RUNNING") == (0, 0, False)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "offset=-1", "status=running", "start_date_from=2026-01-01"])
def test_a_bad_filter_of_tasks_is_a_400(api: Client, query: str) -> None:
    assert api.get(f"/api/v1/monitoring/tasks?{query}").status_code == 400


def test_a_task_tells_its_steps_and_tool_calls_in_order(api: Client) -> None:
    execution = post(api, "executions", agent="a", task="write", inputs={"n": 1}, timeout_s=600)
    post(api, f"executions/{execution['id']}/heartbeat", attempt=1)
    started = now()
    events = [
        {"type": "step", "agent": "a", "success": True, "name": "plan"},
        {"type": "tool_call", "tool": "search", "success": False, "error": "no net", "duration_ms": 30, "agent": "a"},
        {"type": "step", "agent": "a", "success": True, "name": "answer"},
    ]
    for n, event in enumerate(events):
        event |= {
            "execution_id": execution["id"],
            "occurred_at": (started + timedelta(milliseconds=100 * n - 500)).isoformat(),
        }
    assert post(api, "batch", events=events)["accepted"] == 3
    post(api, f"executions/{execution['id']}/fail", error="gave up", retryable=False, attempt=1)
    task = api.get(f"/api/v1/monitoring/tasks/{execution['id']}").json()
    assert (task["status"], task["inputs"], task["error_message"]) == ("FAILED", {"n": 1}, "gave up")
    told = [
        (line["kind"], line["name"], line["success"]) for line in task["logs_summary"] if line["kind"] != "transition"
    ]
    assert told == [("step", "plan", True), ("tool", "search", False), ("step", "answer", True)]
    assert task["logs_summary"] == sorted(task["logs_summary"], key=lambda line: line["at"])
    assert task["logs_summary"][-1]["name"].endswith("failed")


def test_a_task_of_another_project_is_a_404(api: Client) -> None:
    other = client_with(make_key(make_project("south"))[1])
    task = track(other, "a")
    assert other.get(f"/api/v1/monitoring/tasks/{task['id']}").status_code == 200
    assert api.get(f"/api/v1/monitoring/tasks/{task['id']}").status_code == 404
    assert api.get(f"/api/v1/monitoring/tasks/{uuid4()}").status_code == 404


# Agents


def test_agents_are_listed_with_what_they_did_today(api: Client, north: Project) -> None:
    for status in ("completed", "completed", "failed", "failed"):
        track(api, "shaky", status=status, duration_ms=3000)
    track(api, "steady")
    with tenant(north.pk):
        Agent.objects.filter(name="steady").update(capabilities=["search"], cost_tier="low")
    found = {agent["name"]: agent for agent in api.get("/api/v1/agents").json()["agents"]}
    assert (found["shaky"]["error_rate"], found["shaky"]["is_healthy"]) == (0.5, False)
    assert (found["shaky"]["avg_latency_ms"], found["steady"]["avg_latency_ms"]) == (3000, 2000)
    assert (found["steady"]["error_rate"], found["steady"]["is_healthy"]) == (0.0, True)
    for query in ("capability=search", "cost_tier=low", "capability=search&cost_tier=low"):
        assert [agent["name"] for agent in api.get(f"/api/v1/agents?{query}").json()["agents"]] == ["steady"]


def test_the_performance_of_an_agent_counts_its_days(api: Client) -> None:
    for status in ("completed", "completed", "completed", "failed"):
        track(api, "crew/writer", status=status, duration_ms=1000)
    track(api, "crew/writer", started_at=(now() - timedelta(days=3)).isoformat(), duration_ms=6000)
    answer = api.get("/api/v1/agents/crew/writer/performance?days=1").json()
    assert answer == {"total_executions": 4, "success_rate": 0.75, "avg_duration_ms": 1000}
    assert api.get("/api/v1/agents/crew/writer/performance").json() == {
        "total_executions": 5,
        "success_rate": 0.8,
        "avg_duration_ms": 2000,
    }
    assert api.get("/api/v1/agents/nobody/performance").status_code == 404


def test_an_agent_without_memories_has_none(api: Client) -> None:
    assert api.get("/api/v1/monitoring/agents/a/memory/stats").json() == {
        "app_agent_id": "a",
        "letta_agent_id": "",
        "memories_stored_count": 0,
        "memories_recalled_count": 0,
        "last_activity_timestamp": None,
    }


# System


def statuses(api: Client) -> tuple[str, dict[str, str]]:
    answer = api.get("/api/v1/monitoring/system/health").json()
    return answer["overall_status"], {one["name"]: one["status"] for one in answer["service_statuses"]}


def test_the_health_of_the_system_names_every_part(api: Client) -> None:
    overall, services = statuses(api)
    assert overall == "unhealthy"
    assert services == {
        "database": "connected",
        "redis": "connected",
        "worker": "unhealthy",
        "beat": "unhealthy",
        "crank": "unhealthy",
        "backup.write": "not_configured",
    }
    with crossing():
        jobs.turning(now=now())
        jobs.sign_of_life("process:beat", 5, now=now())
        jobs.sign_of_life("process:worker@one", 5, now=now())
        jobs.sign_of_life("process:worker@two", 5, now=now() - timedelta(minutes=1))
        with jobs.ran("executions.watch", 5, now=now()):
            pass
    assert statuses(api) == (
        "healthy",
        dict.fromkeys(services, "healthy") | services_connected() | {"executions.watch": "healthy"},
    )
    with crossing(), pytest.raises(ZeroDivisionError), jobs.ran("executions.watch", 5, now=now()):
        raise ZeroDivisionError
    overall, services = statuses(api)
    assert (overall, services["executions.watch"]) == ("degraded", "unhealthy")


def services_connected() -> dict[str, str]:
    return {"database": "connected", "redis": "connected", "backup.write": "not_configured"}


# Metrics


def test_metrics_tell_agents_system_costs_and_alerts(api: Client) -> None:
    for status in ("completed", "completed", "completed", "failed"):
        track(api, "a", status=status, duration_ms=1000, cpu_ms=5, memory_delta_bytes=64, api_calls=3)
    post(
        api, "calls", agent="a", department="Sales", model="gpt-4o", input_tokens=100, output_tokens=50, cost_usd="0.25"
    )
    post(api, "alerts", level="warning", type="x", title="careful")
    found = api.get("/api/metrics").json()
    hour = found["agents"]["a"]["1h"]
    assert (hour["executions"], hour["errors"], hour["error_rate"], hour["avg_duration_ms"]) == (4, 1, 0.25, 1000)
    assert (hour["tokens"], hour["cost_usd"]) == (150, "0.2500000000")
    assert (hour["cpu_ms"], hour["memory_delta_bytes"], hour["api_calls"]) == (20, 64, 12)
    assert 800 < hour["p95_ms"] < 1300
    assert set(found["agents"]["a"]) == {"1h", "24h", "7d"}
    assert found["system"]["1h"]["executions_per_hour"] == 4
    assert found["system"]["7d"]["total_cost_usd"] == "0.2500000000"
    assert set(found["system"]["health"]) == {"cpu_percent", "memory_percent", "uptime_s"}
    assert float(found["costs"]["today"]) == float(found["costs"]["month"]) == 0.25
    assert found["costs"]["by_department"] == {"Sales": "0.2500000000"}
    assert found["alerts"]["by_level"]["warning"] >= 1
    assert "careful" in [alert["title"] for alert in found["alerts"]["recent"]]


@pytest.mark.parametrize(
    ("kind", "part"), [("agent", "agents"), ("system", "system"), ("costs", "costs"), ("alerts", "alerts")]
)
def test_a_type_answers_its_part_alone(api: Client, kind: str, part: str) -> None:
    assert set(api.get(f"/api/metrics?type={kind}").json()) == {part, "generated_at"}
    assert api.get("/api/metrics?type=weather").status_code == 400


def test_metrics_are_kept_for_a_minute_per_project_and_dropped_by_an_acknowledgement(
    api: Client, django_capture_on_commit_callbacks: Any
) -> None:
    alert = post(api, "alerts", level="critical", type="x", title="fire")
    first = api.get("/api/metrics").json()
    track(api, "late")
    assert api.get("/api/metrics").json() == first
    south = client_with(make_key(make_project("south"))[1])
    assert south.get("/api/metrics").json()["alerts"]["open"] == 0
    with django_capture_on_commit_callbacks(execute=True):
        answer = api.post("/api/metrics/acknowledge", {"alertId": alert["id"]}, content_type=JSON)
    assert answer.json() == {"success": True}
    second = api.get("/api/metrics").json()
    assert second["generated_at"] > first["generated_at"]
    assert "late" in second["agents"]
    assert [a["status"] for a in second["alerts"]["recent"] if a["id"] == alert["id"]] == ["acknowledged"]


def test_metrics_read_closed_hours_as_well(api: Client, north: Project) -> None:
    track(api, "a", started_at=(now() - timedelta(hours=5)).isoformat(), duration_ms=1000)
    before = api.get("/api/metrics?type=agent").json()["agents"]
    with crossing():
        closing.close_hours(now=now())
    cache.clear()
    assert api.get("/api/metrics?type=agent").json()["agents"] == before
    assert [(window, before["a"][window]["executions"]) for window in before["a"]] == [("1h", 0), ("24h", 1), ("7d", 1)]
