"""Every page, and every live part of one, asks the database little, whatever is in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from alerts import lifecycle
from dashboard.traces import span_key
from dashboard.urls import urlpatterns
from dashboard.views import queue_verbs
from monitor import executions, ingest, jobs, pipeline
from monitor.models import Execution, JobHeartbeat, Loop, Person, QueueItem, Trip
from monitor.registration import NewExecution, register
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import SignedIn, signed_in
from tests.dashboard.queue_builders import a_chat
from tests.dashboard.test_alerts_page import an_alert
from tests.dashboard.test_costs_page import limit, spend
from tests.monitor.spending import a_span

MOST = 12
TABS = ("trace", "moves", "calls", "tools", "children", "payloads", "conversation", "raw")
# The addresses of each page by its name, with what they are asked for; {names} are filled in below.
PAGES: dict[str, tuple[str, ...]] = {
    "overview": ("/", *(f"/?part={part}" for part in ("needs", "strip", "chart", "feed", "agents"))),
    "agents": ("/agents", "/agents?part=list"),
    "agent": (
        "/agents/planner",
        "/agents/planner?range=7d",
        *(f"/agents/planner?part={part}" for part in ("state", "figures", "work", "about", "edit")),
    ),
    "alerts": ("/alerts", *(f"/alerts?part={part}" for part in ("list", "counts", "older"))),
    "alert": (
        "/alerts/{alert}",
        *(f"/alerts/{{alert}}?part={part}" for part in ("alert", "head", "story", "timeline")),
        "/alerts/{resolved}",
    ),
    "system": ("/system", "/system?part=health", "/system?part=tables"),
    "growth": ("/system/growth", "/system/growth?part=growth"),
    "keeping": ("/system/keeping",),
    "about": ("/about",),
    "first-arrival": ("/first-run/arrival",),
    "executions": (
        "/executions",
        "/executions?range=7d",
        "/executions?agent=planner&status=failed",
        "/executions?q=planner",
        *(f"/executions?part={part}" for part in ("views", "rows", "foot")),
    ),
    "execution": (
        "/executions/{execution}",
        *(f"/executions/{{execution}}?tab={tab}" for tab in TABS),
        *(f"/executions/{{execution}}?part={part}" for part in ("state", "commands", "loops", "tab")),
        *(f"/executions/{{execution}}?part=tab&tab={tab}" for tab in TABS),
        "/executions/{traced}",
    ),
    "execution-span": ("/executions/{traced}/spans/{span}", "/executions/{execution}/spans/try-1"),
    "search": ("/search?q=planner", "/search?q=run-7"),
    "queue": ("/queue", "/queue?tab=mine", "/queue?tab=all", "/queue?part=list"),
    "queue-item": (
        "/queue/{chat}",
        *(f"/queue/{{chat}}?part={part}" for part in ("centre", "why")),
        "/queue/{paused}",
        "/queue/{tripped}",
    ),
    "frame-counts": ("/frame/counts",),
    "costs": (
        "/costs",
        "/costs?range=30d",
        "/costs?by=agent",
        *(f"/costs?part={p}" for p in ("budgets", "chart", "runs")),
    ),
    "trips": ("/costs/trips", "/costs/trips?part=trips"),
    "reset-trip": ("/costs/trips/{trip}/reset",),
    "unpriced": ("/costs/unpriced",),
    "budgets": ("/costs/budgets",),
    "run-costs": ("/costs/runs/run-7",),
}
# Addresses that show nothing: verbs, the sign-in, and sheets of samples that read no rows.
NO_PAGES = {
    *(f"alert-{verb}" for verb in ("acknowledge", "resolve", "escalate", "snooze", "reopen", "note")),
    *(one.name for one in queue_verbs.urlpatterns),
    *("first-key", "sign-in", "sign-out", "switch-project", "presence", "executions-act", "save-view", "saved-view"),
    *("execution-command", "budget", "kit", "kit-frame", "kit-parts"),
}


@contextmanager
def counted() -> Iterator[list[str]]:
    """The queries of this thread, whichever way they go; several statements in one trip count once.

    Not what begins and ends a transaction, nor what binds it to its project.
    """
    queries: list[str] = []
    flush = pipeline.flush

    def one_trip(statements: Any) -> Any:
        queries.append("; ".join(one.sql for one in statements))
        return flush(statements)

    def around(execute: Any, text: str, parameters: Any, many: bool, context: Any) -> Any:
        if "set_config(" not in text:
            queries.append(text)
        return execute(text, parameters, many, context)

    with pytest.MonkeyPatch.context() as patch, connection.execute_wrapper(around):
        patch.setattr(pipeline, "flush", one_trip)
        yield queries


def filled(mara: SignedIn) -> dict[str, Any]:
    """A project in which every page has something to show, and the names that addresses are filled with."""
    project_id, now = mara.project_id, datetime.now(UTC)
    with crossing():
        Person.objects.filter(pk=mara.person.pk).update(is_instance_admin=True)
        for name in (jobs.CRANK, "process:worker@one", "alerts.deliver"):
            JobHeartbeat.objects.create(name=name, every_s=5, last_started_at=now, last_ok_at=now, runs=7)
    for scope in ("project", "department", "agent", "run"):
        limit(mara, scope, "1")
    limit(mara, "global", "1")
    for n in range(1, 9):
        spend(mara, "2", n, run_id=f"run-{n}", agent=f"agent-{n}", department=f"department-{n}")
    with tenant(project_id):
        spans = [
            a_span(50, 1, kind="agent", started_at=now),
            a_span(50, 2, 1, started_at=now, tool="find", kind="tool"),
        ]
        ingest.accept(project_id, spans, now=now)
        for n in range(12):
            fields: dict[str, Any] = {"duration_ms": 2000, "status": "failed" if n % 3 == 0 else "completed"}
            register(project_id, NewExecution(agent="planner", task=f"Task {n}", **fields), now=now, actor="key:a")
        parent, _ = register(project_id, NewExecution(agent="planner", task="Above"), now=now, actor="key:a")
        execution, _ = register(
            project_id,
            NewExecution(agent="planner", task="Below", parent_id=parent.id, conversation_id="talk", run_id="run-7"),
            now=now,
            actor="key:a",
        )
        register(project_id, NewExecution(agent="critic", parent_id=execution.id), now=now, actor="key:a")
        executions.pause(project_id, execution.id, actor=mara.person.email, now=now)
        traced = Execution.objects.of(project_id).filter(from_spans=True, trace_id=UUID(int=50)).get()
        a_loop(project_id, traced, now=now)
        paused = QueueItem.objects.create(
            project_id=project_id,
            kind="paused_execution",
            subject_id=str(execution.id),
            title="May it go on?",
            requested_at=now,
        )
        trip = Trip.objects.filter(project_id=project_id).order_by("id")[0]
        tripped = QueueItem.objects.filter(project_id=project_id, kind="trip")[0]
    for n in range(3):
        alert = an_alert(project_id, f"cause {n}", agent="planner")
    about = an_alert(project_id, "its work", agent="planner", execution_id=execution.id)
    with tenant(project_id):
        lifecycle.resolve(project_id, alert.pk, actor="jonas@x", now=now)
        lifecycle.acknowledge(project_id, an_alert(project_id, "other").pk, actor="jonas@x", now=now)
    return {
        "alert": about.pk,
        "resolved": alert.pk,
        "execution": execution.id,
        "traced": traced.id,
        "span": span_key(UUID(int=50), 2),
        "chat": a_chat(project_id).pk,
        "paused": paused.pk,
        "tripped": tripped.pk,
        "trip": trip.pk,
    }


def a_loop(project_id: int, execution: Execution, *, now: datetime) -> None:
    Loop.objects.create(
        project_id=project_id,
        place=str(execution.id),
        fingerprint="f" * 32,
        execution_id=execution.id,
        trace_id=execution.trace_id,
        agent=execution.agent,
        cycle=[{"tool": "find", "arguments": "{}"}],
        rounds=5,
        calls=5,
        first_at=now,
        last_at=now,
        spans=[span_key(UUID(int=50), 2)] * 5,
        found_at=now,
        moved_at=now,
        told_rounds=5,
    )


def test_every_page_has_its_figure() -> None:
    names = {one.name for one in urlpatterns}
    assert names == PAGES.keys() | NO_PAGES
    assert not PAGES.keys() & NO_PAGES


def test_no_page_asks_the_database_more_often_than_it_may(committed_db: None) -> None:
    mara = signed_in(role="admin")
    names = filled(mara)
    over = {}
    for address in (one for addresses in PAGES.values() for one in addresses):
        with counted() as queries:
            answer = mara.client.get(address.format(**names))
        assert answer.status_code == 200, address
        if len(queries) > MOST:
            over[address] = len(queries)
    assert over == {}
