"""The clock of progress: an attempt that beats, and whose work does not move."""

from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection

from monitor import attempts, changes
from monitor.models import Execution, StateChange, Subject
from monitor.models.executions import OnStall, Status, Verdict
from monitor.tenancy import crossing

ACTOR = "watchdog"
BATCH = 500
MESSAGE_SHOWN = 200

# Whether a beat tells of progress. A condition of BEAT, where the columns still hold what was said before.
MOVES = """(%(progressing)s::bool IS NOT FALSE AND (
            %(progressing)s::bool
            OR (%(progress)s::float8 IS NOT NULL AND %(progress)s::float8 IS DISTINCT FROM progress)
            OR (%(message)s::text IS NOT NULL AND %(message)s::text IS DISTINCT FROM message)) IS TRUE)"""
# Alive and not moving; who is silent as well is the other clock's. `held`: projects whose verdicts wait.
DUE = """
status = 'running' AND stall_due_at <= %(now)s AND deadline_at > %(now)s AND on_stall = '{on_stall}'
AND NOT project_id = ANY(%(held)s)
ORDER BY stall_due_at LIMIT %(batch)s FOR NO KEY UPDATE SKIP LOCKED
"""
MARK = f"""
WITH due AS (SELECT project_id, id FROM monitor_execution WHERE {DUE.format(on_stall=OnStall.WARN.value)})
UPDATE monitor_execution AS work SET stalled_at = %(now)s, stall_due_at = NULL
  FROM due WHERE work.project_id = due.project_id AND work.id = due.id
RETURNING work.project_id, work.id, work.attempt, work.agent, work.run_id, work.message, work.stall_s
"""  # noqa: S608


def judge(*, now: datetime, limit: int, held: list[int], jitter: float | None = None) -> int:
    """Judge up to `limit` running executions that have made no progress in time: a warning, or the next attempt.

    Each exactly once, however many processes watch, and none in the projects that are `held`; returns how many.
    """
    judged = 0
    while judged < limit:
        batch = min(BATCH, limit - judged)
        with crossing():
            marked = _mark(batch, held, now=now)
        judged += marked
        if marked < batch:
            break
    while judged < limit:
        batch = min(BATCH, limit - judged)
        with crossing():
            which = DUE.format(on_stall=OnStall.RETRY.value)
            lost = attempts.give_up(
                which, {"held": held, "batch": batch}, now=now, actor=ACTOR, verdict=Verdict.STALLED, jitter=jitter
            )
        judged += len(lost)
        if len(lost) < batch:
            break
    return judged


def _mark(batch: int, held: list[int], *, now: datetime) -> int:
    with connection.cursor() as cursor:
        cursor.execute(MARK, {"now": now, "held": held, "batch": batch})
        marked = cursor.fetchall()
    changes.record_all(
        [
            StateChange(
                project_id=project_id,
                at=now,
                subject=Subject.EXECUTION,
                subject_id=str(execution_id),
                from_state=Status.RUNNING,
                to_state=Status.RUNNING,
                cause="stalled",
                actor=ACTOR,
                note=f"alive but makes no progress for {attempts.spoken(timedelta(seconds=stall_s))}"
                + last_words(message),
                attempt=attempt,
                data={"agent": agent, "run_id": run_id, "attempt": attempt},
            )
            for project_id, execution_id, attempt, agent, run_id, message, stall_s in marked
        ]
    )
    return len(marked)


def hangs(project_id: int, execution_id: UUID, *, now: datetime, actor: str) -> bool:
    """The agent says itself that its work hangs: mark it at once; True when its attempt was given up for that.

    The caller's beat holds the row.
    """
    seen = Execution.objects.of(project_id).get(id=execution_id)
    said = "alive but says that it makes no progress" + last_words(seen.message)
    if seen.on_stall == OnStall.RETRY:
        which = "project_id = %(project_id)s AND id = %(id)s AND status = 'running' FOR NO KEY UPDATE"
        params = {"project_id": project_id, "id": execution_id}
        return bool(attempts.give_up(which, params, now=now, actor=actor, verdict=Verdict.STALLED, reason=said))
    moving = Execution.objects.of(project_id).filter(id=execution_id, status=Status.RUNNING, stalled_at=None)
    if moving.update(stalled_at=now, stall_due_at=None):
        _tell(seen, "stalled", said, now=now, actor=actor)
    return False


def moves_again(project_id: int, execution_id: UUID, *, now: datetime, actor: str) -> None:
    """Progress after a stall: the clock runs anew. The caller's beat holds the row."""
    seen = Execution.objects.of(project_id).get(id=execution_id)
    due_at = attempts.stall_due_at(seen, now=now)
    hanging = Execution.objects.of(project_id).filter(id=execution_id, status=Status.RUNNING, stalled_at__isnull=False)
    if seen.stalled_at is not None and hanging.update(stalled_at=None, stall_due_at=due_at):
        _tell(seen, "progressing", f"moves again after {attempts.spoken(now - seen.stalled_at)}", now=now, actor=actor)


def _tell(seen: Execution, cause: str, note: str, *, now: datetime, actor: str) -> None:
    changes.record(
        seen.project_id,
        Subject.EXECUTION,
        seen.id,
        from_state=seen.status,
        to_state=seen.status,
        cause=cause,
        actor=actor,
        note=note,
        now=now,
        attempt=seen.attempt,
        data={"agent": seen.agent, "run_id": seen.run_id, "attempt": seen.attempt},
    )


def last_words(message: str) -> str:
    """What an attempt said last, as the end of a sentence about it."""
    return f": last message “{message[:MESSAGE_SHOWN]}”" if message else ""
