"""Plain builders for stories about alerts."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django.db import connections

from alerts import lifecycle
from alerts.models import Alert, AlertEvent, Channel, ChannelKind, Delivery, Level
from monitor import changes
from monitor.models import Execution, Project, StateChange, Subject
from monitor.tenancy import crossing, tenant

NOW = datetime.now(UTC).replace(microsecond=0)
T = TypeVar("T")


def a_project(name: str = "north") -> int:
    with crossing():
        return Project.objects.create(name=name).pk


def a_channel(
    project_id: int, kind: str = ChannelKind.IN_APP, *, target: str = "", levels: tuple[str, ...] = tuple(Level.values)
) -> Channel:
    with tenant(project_id):
        return Channel.objects.create(
            project_id=project_id, kind=kind, name=kind, target=target, levels=list(levels), created_at=NOW
        )


def an_execution(project_id: int, **fields: Any) -> Execution:
    values = {
        "agent": "support-bot",
        "run_id": "run-17",
        "task": "Answer the ticket",
        "digest": b"x" * 32,
        "status": "pending",
        "started_at": NOW,
    }
    with tenant(project_id):
        return Execution.objects.create(project_id=project_id, id=uuid4(), **(values | fields))


def a_change(
    project_id: int,
    subject: str,
    subject_id: object,
    to: str,
    cause: str = "",
    *,
    was: str = "",
    actor: str = "",
    data: Mapping[str, Any] | None = None,
    at: datetime = NOW,
) -> StateChange:
    with tenant(project_id):
        return changes.record(
            project_id,
            Subject(subject),
            subject_id,
            from_state=was,
            to_state=to,
            cause=cause,
            actor=actor,
            data=data,
            now=at,
        )


def an_alert(
    project_id: int, *, fingerprint: str = "disk", level: str = Level.WARNING, now: datetime = NOW, **said: Any
) -> Alert:
    with tenant(project_id):
        alert, _ = lifecycle.raise_alert(
            project_id,
            fingerprint=fingerprint,
            level=level,
            type="disk_full",
            title=said.pop("title", "The disk is nearly full"),
            now=now,
            **said,
        )
    return alert


def the_alert(alert_id: UUID) -> Alert:
    with crossing():
        return Alert.objects.get(pk=alert_id)


def timeline(alert_id: UUID) -> list[str]:
    with crossing():
        return list(AlertEvent.objects.filter(alert_id=alert_id).order_by("id").values_list("kind", flat=True))


def deliveries(alert_id: UUID) -> list[tuple[str, str]]:
    """(status, subject) of each delivery, oldest first."""
    with crossing():
        rows = Delivery.objects.filter(alert_id=alert_id).order_by("created_at", "id")
        return list(rows.values_list("status", "subject"))


def at_once(calls: list[Callable[[], T]]) -> list[T]:
    """Every call in its own thread, started together; what they returned."""
    gate = Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        try:
            gate.wait()
            return call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
