"""Builders of executions for stories, and threads for races."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID

from django.db import connections

from monitor import executions, heartbeats, registration, transitions, watch
from monitor.heartbeats import Beat
from monitor.models import Execution, Project, StateChange
from monitor.registration import NewExecution
from monitor.tenancy import crossing, tenant

NOW = datetime.now(UTC).replace(microsecond=0)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def a_project(name: str = "north", **settings: Any) -> int:
    with crossing():
        return Project.objects.create(name=name, **settings).pk


def an_execution(project_id: int, *, now: datetime = NOW, agent: str = "planner", **body: Any) -> UUID:
    with tenant(project_id):
        execution, _ = registration.register(project_id, NewExecution(agent=agent, **body), now=now, actor="key:agents")
        return execution.id


def beat(project_id: int, execution_id: UUID, *, now: datetime, **sign: Any) -> Beat:
    with tenant(project_id):
        return heartbeats.beat(project_id, execution_id, now=now, actor="key:agents", **sign)


def act(verb: str, project_id: int, execution_id: UUID, *, now: datetime, **said: Any) -> Execution:
    """One verb of monitor.executions in a transaction of its own."""
    with tenant(project_id):
        return getattr(executions, verb)(project_id, execution_id, now=now, **({"actor": "ann@example.org"} | said))


def look(project_id: int, execution_id: UUID) -> Execution:
    with tenant(project_id):
        return transitions.get(project_id, execution_id)


def tick(*, now: datetime, **options: Any) -> int:
    return watch.overdue(now=now, jitter=0, **options)


def journal(project_id: int, execution_id: UUID) -> list[tuple[str, str, str]]:
    """(from, to, cause) of each move, oldest first."""
    with tenant(project_id):
        rows = StateChange.objects.filter(subject="execution", subject_id=str(execution_id)).order_by("id")
        return list(rows.values_list("from_state", "to_state", "cause"))


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Every call in a thread and on a connection of its own, started together; the results, or the refusals."""
    gate = Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            gate.wait()
            return call()
        except (transitions.Refused, registration.RegistrationError) as refusal:
            return refusal
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
