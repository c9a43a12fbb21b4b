"""The journal: every move is recorded in the transaction that makes it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet

from monitor import news
from monitor.models import Execution, StateChange, Subject

# A pending execution counts as started when it first beats, so its journal may begin earlier.
BEFORE_START = timedelta(days=7)
TOPICS = {
    Subject.EXECUTION: "executions",
    Subject.CONVERSATION: "conversations",
    Subject.QUEUE_ITEM: "queue",
    Subject.TRIP: "costs",
    Subject.BUDGET: "costs",
    Subject.MODEL: "costs",
    Subject.JOB: "jobs",
    Subject.LOOP: "executions",
    Subject.AGENT: "agents",
    Subject.KEY: "keys",
    Subject.KEEPING: "keeping",
    Subject.ROOM: "jobs",
}


def journal_of(execution: Execution) -> QuerySet[StateChange]:
    """The journal of one execution, of no day before its own: the journal has a table for each of 400 days."""
    return StateChange.objects.filter(
        project_id=execution.project_id,
        subject=Subject.EXECUTION,
        subject_id=str(execution.id),
        at__gte=execution.started_at - BEFORE_START,
    )


def record(
    project_id: int,
    subject: Subject,
    subject_id: object,
    *,
    to_state: str,
    cause: str,
    now: datetime,
    from_state: str = "",
    actor: str = "",
    note: str = "",
    attempt: int | None = None,
    data: Mapping[str, Any] | None = None,
    concerns_alerts: bool = True,
) -> StateChange:
    """Write one move. With `concerns_alerts` false nobody will judge it: it is history only."""
    change = StateChange.objects.create(
        project_id=project_id,
        at=now,
        subject=subject,
        subject_id=str(subject_id),
        from_state=from_state,
        to_state=to_state,
        cause=cause,
        actor=actor,
        note=note,
        attempt=attempt,
        data=dict(data or {}),
        judged_at=None if concerns_alerts else now,
    )
    news.tell(project_id, TOPICS[subject], str(subject_id))
    return change


def record_all(moves: Sequence[StateChange]) -> None:
    """Write many moves at once, of any projects."""
    StateChange.objects.bulk_create(moves)
    for move in moves:
        news.tell(move.project_id, TOPICS[Subject(move.subject)], move.subject_id)
