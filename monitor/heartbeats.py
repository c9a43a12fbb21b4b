"""Heartbeats: a sign of life comes in, the command for the agent goes out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from monitor import attempts, changes, executions
from monitor.models import Execution, Subject
from monitor.models.executions import ENDED, Status


@dataclass(frozen=True)
class Beat:
    """The answer to a heartbeat."""

    command: str
    reason: str
    status: str
    attempt: int
    retry_at: datetime | None
    deadline_at: datetime | None


# The happy path of a heartbeat: no journal, no event. Because `deadline_at` is indexed the row's new version
# enters every index (no HOT); docs/executions.md says what that costs.
BEAT = f"""
UPDATE monitor_execution SET
       last_heartbeat_at = %(now)s,
       deadline_at = least(%(now)s + make_interval(secs => heartbeat_s * {attempts.ALIVE_INTERVALS}),
                           attempt_started_at + make_interval(secs => timeout_s)),
       last_progress_at = CASE WHEN %(progress)s::float8 IS DISTINCT FROM progress AND %(progress)s IS NOT NULL
                               THEN %(now)s ELSE last_progress_at END,
       progress = coalesce(%(progress)s, progress),
       message = coalesce(%(message)s, message)
 WHERE project_id = %(project_id)s AND id = %(id)s AND status = 'running' AND NOT from_spans
   AND attempt = coalesce(%(attempt)s, attempt)
RETURNING CASE command WHEN '' THEN 'continue' ELSE command END, command_reason, status, attempt, retry_at, deadline_at
"""  # noqa: S608


def beat(
    project_id: int,
    execution_id: UUID,
    *,
    now: datetime,
    actor: str,
    attempt: int | None = None,
    progress: float | None = None,
    message: str | None = None,
) -> Beat:
    """A sign of life of `attempt`, or of whichever runs; answers what the agent is to do.

    The first beat of a pending execution starts it, the first that carries a new attempt picks it up. A stale
    attempt changes nothing but the journal; a beat for work that only its trace tells of changes nothing at all.
    Raises Execution.DoesNotExist.
    """
    sign = {"now": now, "attempt": attempt, "progress": progress, "message": message}
    while True:
        with connection.cursor() as cursor:
            cursor.execute(BEAT, {"project_id": project_id, "id": execution_id, **sign})
            if (row := cursor.fetchone()) is not None:
                return Beat(*row)
        seen = executions.get(project_id, execution_id)
        if seen.status in ENDED:
            return _answer(seen, "cancel", seen.command_reason or f"the execution is {seen.status}")
        if seen.from_spans:
            return _answer(seen, "continue", "the execution is known from its trace alone; no beat is waited for")
        if attempt not in (None, seen.attempt) or (attempt is None and seen.status == Status.RETRYING):
            _came_back(seen, attempt, progress=progress, message=message, now=now, actor=actor)
            return _answer(seen, "retry", seen.command_reason)
        if seen.status in (Status.PENDING, Status.RETRYING):
            executions.start(seen, now=now, actor=actor)
        elif seen.status != Status.RUNNING:
            if seen.status == Status.HITL_PAUSED and seen.verdict in attempts.SILENT_VERDICTS:
                _came_back(seen, attempt, progress=progress, message=message, now=now, actor=actor)
            _still_there(seen, progress=progress, message=message, now=now)
            return _answer(seen, "pause", seen.command_reason)


def _still_there(seen: Execution, *, progress: float | None, message: str | None, now: datetime) -> None:
    """A beat while the clocks stand still: kept, but nothing is due because of it."""
    told: dict[str, Any] = {"last_heartbeat_at": now}
    if progress is not None:
        told["progress"] = progress
    if message is not None:
        told["message"] = message
    Execution.objects.of(seen.project_id).filter(id=seen.id, status=seen.status).update(**told)


def _came_back(
    seen: Execution, attempt: int | None, *, progress: float | None, message: str | None, now: datetime, actor: str
) -> None:
    """Tell the journal, once after each move, of a beat that came after its attempt was given up."""
    journal = changes.journal_of(seen)
    last_move = journal.exclude(cause="came_back").order_by("-id").values_list("id", flat=True).first()
    if journal.filter(cause="came_back", attempt=attempt, id__gt=last_move or 0).exists():
        return
    silent = now - (seen.last_heartbeat_at or seen.started_at)
    data: Mapping[str, Any] = {
        "agent": seen.agent,
        "run_id": seen.run_id,
        "silent_ms": silent // timedelta(milliseconds=1),
        "progress": progress,
        "message": message,
    }
    changes.record(
        seen.project_id,
        Subject.EXECUTION,
        seen.id,
        from_state=seen.status,
        to_state=seen.status,
        cause="came_back",
        actor=actor,
        note=f"came back after {spoken(silent)}",
        now=now,
        attempt=attempt,
        data=data,
    )


def spoken(time: timedelta) -> str:
    """A length of time as people say it: `48 s`, `12 min`, `3 h`."""
    seconds = int(time.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def _answer(seen: Execution, command: str, reason: str) -> Beat:
    return Beat(command, reason, seen.status, seen.attempt, seen.retry_at, seen.deadline_at)
