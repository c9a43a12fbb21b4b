"""The registry over HTTP: what is shown of an agent, and how people enter and edit one."""

import json
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client

from monitor import agents, cadence
from monitor.agents import Edit
from monitor.models import Agent, Project, StateChange
from monitor.registration import NewExecution, register
from monitor.tenancy import tenant
from tests.monitor.api.conftest import client_with, make_key, make_project, now
from tests.monitor.fleets import act, an_execution, at_once, beat

AGENTS = "/api/v1/agents"


@pytest.fixture
def north(db: None) -> Project:
    return make_project("north")


@pytest.fixture
def api(north: Project) -> Client:
    return client_with(make_key(north)[1])


def send(api: Client, method: str, name: str, /, **body: Any) -> Any:
    return api.generic(method, f"{AGENTS}/{quote(name)}", json.dumps(body), content_type="application/json")


def work(project: Project, agent: str, *, at: datetime, **body: Any) -> None:
    with tenant(project.pk):
        register(project.pk, NewExecution(agent=agent, **body), now=at, actor="key:agents")


def edits(project: Project, name: str) -> list[tuple[str, str, Any]]:
    with tenant(project.pk):
        found = StateChange.objects.filter(subject="agent", subject_id=name).order_by("id")
        return list(found.values_list("to_state", "actor", "data"))


def test_the_list_tells_defaults_health_and_the_figures_of_a_day(api: Client, north: Project) -> None:
    at = now()
    for _ in range(6):
        work(north, "planner", at=at, status="completed", duration_ms=2000)
    for _ in range(2):
        work(north, "planner", at=at, status="failed", duration_ms=2000)
    work(north, "planner", at=at)
    with tenant(north.pk):
        agents.change(north.pk, "planner", Edit(timeout_s=300, mode="execute"), actor="ann", now=at)
    [found] = api.get(AGENTS).json()["agents"]
    assert {name: found[name] for name in ("timeout_s", "heartbeat_s", "max_retries", "mode")} == {
        "timeout_s": 300,
        "heartbeat_s": None,
        "max_retries": None,
        "mode": "execute",
    }
    assert (found["executions"], found["running"], found["error_rate"]) == (8, 1, 0.25)
    assert (found["health"], found["is_healthy"]) == ("failing", False)
    assert found["avg_latency_ms"] == 2000
    assert 1000 < found["p95_latency_ms"] <= 4000
    assert (found["cost_usd"], found["tokens"], found["version"]) == ("0", 0, 2)
    assert (found["heard_from"], found["expected_every_s"], found["missed_at"]) == ("unwatched", None, None)
    assert "applied" not in found


def test_one_agent_says_which_defaults_apply(api: Client, north: Project) -> None:
    assert send(api, "PUT", "night/auditor", timeout_s=900).status_code == 201
    found = api.get(f"{AGENTS}/night/auditor").json()
    assert found["applied"] == {"timeout_s": 900, "heartbeat_s": 30, "max_retries": 3, "stall_s": None}
    assert send(api, "PATCH", "night/auditor", stall_s=120).json()["applied"]["stall_s"] == 120
    assert send(api, "PATCH", "night/auditor", stall_s=0).json()["applied"]["stall_s"] is None
    assert (found["health"], found["heard_from"], found["last_seen_at"]) == ("never_seen", "never", None)
    assert api.get(f"{AGENTS}/night").status_code == 404
    assert api.get(f"{AGENTS}/night/auditor/performance").json()["total_executions"] == 0


@pytest.mark.parametrize("name", ["crew/writer", "two\nlines", "ünï €", "a?b#c%d", "/led", "x" * 200])
def test_any_name_is_found_by_its_address(api: Client, name: str) -> None:
    assert send(api, "PUT", name, description="here").status_code == 201
    found = api.get(f"{AGENTS}/{quote(name)}").json()
    assert (found["name"], found["description"]) == (name, "here")
    assert api.get(f"{AGENTS}/{quote(name)}/performance").status_code == 200


def test_a_name_that_is_too_long_is_refused(api: Client) -> None:
    assert send(api, "PUT", "x" * 201).json()["errors"][0]["field"] == "name"


def test_what_is_entered_before_it_was_seen_holds_for_its_first_execution(api: Client, north: Project) -> None:
    send(api, "PUT", "planner", max_retries=0, capabilities=["plan"])
    work(north, "planner", at=now())
    found = api.get(f"{AGENTS}/planner").json()
    assert found["first_seen_at"] == found["last_seen_at"]
    assert found["first_seen_at"] is not None
    assert found["capabilities"] == ["plan"]
    with tenant(north.pk):
        assert list(north.execution_set.values_list("max_retries", flat=True)) == [0]


def test_put_says_all_and_patch_what_is_named(api: Client) -> None:
    send(api, "PUT", "planner", description="Plans trips.", timeout_s=300, cost_tier="high")
    changed = send(api, "PATCH", "planner", timeout_s=None, capabilities=["plan", "book", "plan"]).json()
    assert (changed["timeout_s"], changed["cost_tier"], changed["capabilities"]) == (None, "high", ["plan", "book"])
    assert changed["description"] == "Plans trips."
    again = send(api, "PUT", "planner", mode="escalate")
    assert again.status_code == 200
    assert (again.json()["description"], again.json()["capabilities"]) == ("", [])
    assert again.json()["mode"] == "escalate"
    assert send(api, "PATCH", "nobody", mode="").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"name": "other"}, "name"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": 3e6}, "timeout_s"),
        ({"heartbeat_s": "soon"}, "heartbeat_s"),
        ({"max_retries": 101}, "max_retries"),
        ({"mode": "yolo"}, "mode"),
        ({"mode": None}, "mode"),
        ({"expected_every_s": 59}, "expected_every_s"),
        ({"capabilities": ["a", ""]}, "capabilities[1]"),
        ({"capabilities": ["a"] * 51}, "capabilities"),
        ({"description": "a\0b"}, "description"),
    ],
)
def test_a_bad_edit_names_its_field_and_changes_nothing(api: Client, body: dict[str, Any], field: str) -> None:
    send(api, "PUT", "planner", description="Plans.")
    for method in ("PATCH", "PUT"):
        answer = send(api, method, "planner", **body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
    assert api.get(f"{AGENTS}/planner").json()["version"] == 1


def test_the_journal_knows_who_changed_what(api: Client, north: Project) -> None:
    send(api, "PUT", "planner", cost_tier="high")
    send(api, "PATCH", "planner", cost_tier="low", timeout_s=300)
    send(api, "PATCH", "planner", cost_tier="low")
    assert edits(north, "planner") == [
        ("entered", "key:test", {"was": {"cost_tier": ""}, "is": {"cost_tier": "high"}}),
        (
            "changed",
            "key:test",
            {"was": {"cost_tier": "high", "timeout_s": None}, "is": {"cost_tier": "low", "timeout_s": 300}},
        ),
    ]


def test_an_edit_of_an_old_version_is_refused(api: Client) -> None:
    read = send(api, "PUT", "planner").json()
    assert send(api, "PATCH", "planner", cost_tier="low", version=read["version"]).json()["version"] == 2
    for method in ("PATCH", "PUT"):
        late = send(api, method, "planner", cost_tier="high", version=read["version"])
        assert (late.status_code, late.json()["version"]) == (409, 2)
    assert api.get(f"{AGENTS}/planner").json()["cost_tier"] == "low"


def test_of_many_edits_of_one_version_one_is_taken(committed_db: None) -> None:
    north = make_project("north")
    with tenant(north.pk):
        agents.enter(north.pk, "planner", Edit(), actor="ann", now=now())

    def edit(tier: str) -> bool:
        try:
            with tenant(north.pk):
                agents.change(north.pk, "planner", Edit(cost_tier=tier, version=1), actor=tier, now=now())
        except agents.ChangedMeanwhile:
            return False
        return True

    taken = at_once([lambda tier=f"t{n}": edit(tier) for n in range(8)])  # type: ignore[misc]
    assert sorted(taken) == [False] * 7 + [True]
    with tenant(north.pk):
        assert Agent.objects.get().cost_tier == f"t{taken.index(True)}"


def test_entering_and_being_seen_at_once_makes_one_agent(committed_db: None) -> None:
    north = make_project("north")

    def enter() -> None:
        with tenant(north.pk):
            agents.enter(north.pk, "planner", Edit(cost_tier="low"), actor="ann", now=now())

    def see() -> None:
        with tenant(north.pk):
            agents.saw(north.pk, "planner", now=now())

    at_once([enter, see] * 4)
    with tenant(north.pk):
        agent = Agent.objects.get()
    assert agent.cost_tier == "low"
    assert agent.first_seen_at is not None


def test_who_was_missed_is_shown_as_silent(api: Client, north: Project) -> None:
    send(api, "PUT", "planner", expected_every_s=60)
    assert api.get(f"{AGENTS}/planner").json()["heard_from"] == "never"
    cadence.judge(now=now() + timedelta(minutes=2))
    found = api.get(f"{AGENTS}/planner").json()
    assert (found["heard_from"], found["health"]) == ("silent", "silent")
    assert found["missed_at"] is not None
    excused = send(api, "PATCH", "planner", expected_every_s=None).json()
    assert (excused["heard_from"], excused["missed_at"]) == ("never", None)


def test_when_it_was_last_heard_stays_known_after_its_work_ended(api: Client, north: Project) -> None:
    begun = now() - timedelta(minutes=10)
    cancelled = an_execution(north.pk, now=begun, agent="cancelled", timeout_s=3600)
    done = an_execution(north.pk, now=begun, agent="done", timeout_s=3600)
    heard = begun + timedelta(seconds=40)
    beat(north.pk, cancelled, now=heard)
    act("cancel", north.pk, cancelled, now=begun + timedelta(seconds=70))
    act("complete", north.pk, done, now=heard)
    for name in ("cancelled", "done"):
        assert datetime.fromisoformat(api.get(f"{AGENTS}/{name}").json()["last_seen_at"]) == heard


def test_work_that_waits_for_a_person_counts_as_failed(api: Client, north: Project) -> None:
    spent = an_execution(north.pk, now=now(), max_retries=0)
    act("fail", north.pk, spent, now=now(), error="no rooms")
    assert api.get(f"{AGENTS}/planner").json()["health"] == "degraded"
    for _ in range(4):
        one = an_execution(north.pk, now=now(), max_retries=0)
        act("fail", north.pk, one, now=now(), error="no rooms")
    assert api.get(f"{AGENTS}/planner").json()["health"] == "failing"
    act("retry", north.pk, spent, now=now())
    act("complete", north.pk, spent, now=now())
    assert api.get(f"{AGENTS}/planner").json()["health"] == "failing"


def test_what_was_entered_by_mistake_is_forgotten_and_comes_back_when_it_is_heard(api: Client, north: Project) -> None:
    send(api, "put", "planer", description="A typing error", expected_every_s=60)
    cadence.judge(now=now() + timedelta(minutes=2))
    assert send(api, "delete", "planer").status_code == 204
    assert api.get(f"{AGENTS}/planer").status_code == 404
    assert send(api, "delete", "planer").status_code == 404
    assert [to for to, _, _ in edits(north, "planer")] == ["entered", "silent", "forgotten", "excused"]
    assert edits(north, "planer")[2][2] == {"was": {"description": "A typing error", "expected_every_s": 60}}
    work(north, "planer", at=now())
    found = api.get(f"{AGENTS}/planer").json()
    assert (found["description"], found["running"]) == ("", 1)


def test_an_agent_at_work_is_not_forgotten(api: Client, north: Project) -> None:
    one = an_execution(north.pk, now=now())
    refused = send(api, "delete", "planner")
    assert (refused.status_code, refused.json()["detail"]) == (409, "It has open executions: end those first.")
    act("complete", north.pk, one, now=now())
    assert send(api, "delete", "planner").status_code == 204
    assert api.get(f"/api/v1/executions/{one}").status_code == 200


def test_scopes_and_projects_are_kept_apart(api: Client, north: Project) -> None:
    send(api, "PUT", "planner")
    reader = client_with(make_key(north, ["read"], name="reader")[1])
    assert reader.get(f"{AGENTS}/planner").status_code == 200
    assert send(reader, "PATCH", "planner", mode="").status_code == 403
    assert send(reader, "PUT", "other").status_code == 403
    assert send(reader, "DELETE", "planner").status_code == 403
    south = client_with(make_key(make_project("south"))[1])
    assert south.get(f"{AGENTS}/planner").status_code == 404
    assert send(south, "PATCH", "planner", mode="").status_code == 404
    assert send(south, "DELETE", "planner").status_code == 404
    assert [one["name"] for one in api.get(AGENTS).json()["agents"]] == ["planner"]
