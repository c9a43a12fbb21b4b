"""Heartbeats: a sign of life comes in, the command for the agent goes out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from monitor import attempts, changes, commands, stalls, transitions
from monitor.models import Command, Execution, Subject
from monitor.models.executions import ENDED, Status


@dataclass(frozen=True)
class Sign:
    """What a heartbeat says beside "I live"; None is not said."""

    attempt: int | None
    progress: float | None
    message: str | None
    progressing: bool | None


@dataclass(frozen=True)
class Beat:
    """The answer to a heartbeat; `command_seq` is the number of the command in force, None when nobody gave one."""

    command: str
    reason: str
    status: str
    attempt: int
    retry_at: datetime | None
    deadline_at: datetime | None
    command_seq: int | None


# The happy path of a heartbeat: no journal, no event. Because `deadline_at` is indexed the row's new version
# enters every index (no HOT); docs/executions.md says what that costs.
BEAT = f"""
UPDATE monitor_execution SET
       last_heartbeat_at = %(now)s,
       deadline_at = least(%(now)s + make_interval(secs => heartbeat_s * {attempts.ALIVE_INTERVALS}),
                           attempt_started_at + make_interval(secs => timeout_s)),
       last_progress_at = CASE WHEN {stalls.MOVES} THEN %(now)s ELSE last_progress_at END,
       stall_due_at = CASE WHEN stalled_at IS NULL AND {stalls.MOVES}
                           THEN %(now)s + make_interval(secs => stall_s) ELSE stall_due_at END,
       progress = coalesce(%(progress)s, progress),
       message = coalesce(%(message)s, message)
 WHERE project_id = %(project_id)s AND id = %(id)s AND status = 'running' AND NOT from_spans
   AND attempt = coalesce(%(attempt)s, attempt)
RETURNING CASE command WHEN '' THEN 'continue' ELSE command END, command_reason, status, attempt, retry_at,
       deadline_at, command_seq, command_told, stalled_at IS NOT NULL, last_progress_at = %(now)s
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
    progressing: bool | None = None,
    acknowledged: int | None = None,
    effect: str = "",
) -> Beat:
    """A sign of life of `attempt`, or of whichever runs; answers what the agent is to do.

    `progressing` false: the process lives, but its work hangs. `acknowledged` is the number of a command that the
    agent has heard, `effect` what it did with it.

    The first beat of a pending execution starts it, the first that carries a new attempt picks it up. A stale
    attempt changes nothing but the journal; a beat for work that only its trace tells of changes nothing at all.
    Raises Execution.DoesNotExist.
    """
    sign = Sign(attempt, progress, message, progressing)
    answer = _heard(project_id, execution_id, sign, now=now, actor=actor)
    if acknowledged is None:
        return answer
    try:
        commands.acknowledge(project_id, execution_id, acknowledged, effect=effect, attempt=attempt, now=now)
    except Command.DoesNotExist:
        return answer  # a sign of life is one, whatever number it names
    is_done = answer.command == "continue" and answer.command_seq == acknowledged
    return replace(answer, command_seq=None) if is_done else answer


def _heard(project_id: int, execution_id: UUID, sign: Sign, *, now: datetime, actor: str) -> Beat:
    attempt = sign.attempt
    said = {"attempt": attempt, "progress": sign.progress, "message": sign.message, "progressing": sign.progressing}
    while True:
        with connection.cursor() as cursor:
            cursor.execute(BEAT, {"project_id": project_id, "id": execution_id, "now": now, **said})
            row = cursor.fetchone()
        if row is not None:
            *answer, told, is_stalled, has_moved = row
            running = Beat(*answer)
            if is_stalled and has_moved:
                stalls.moves_again(project_id, execution_id, now=now, actor=actor)
            hangs = sign.progressing is False and not is_stalled
            if hangs and stalls.hangs(project_id, execution_id, now=now, actor=actor):
                return _given_up(transitions.get(project_id, execution_id), now=now)
            if running.command_seq is not None and not told:
                return _goes_on(project_id, execution_id, running, running.command_seq, now=now, actor=actor)
            return running
        seen = transitions.get(project_id, execution_id)
        if seen.status in ENDED:
            return _answer(seen, "cancel", seen.command_reason or f"the execution is {seen.status}", now=now)
        if seen.from_spans:
            return _answer(
                seen, "continue", "the execution is known from its trace alone; no beat is waited for", now=now
            )
        if attempt not in (None, seen.attempt) or (attempt is None and seen.status == Status.RETRYING):
            if not _came_back(seen, sign, now=now, actor=actor):
                continue
            return _answer(seen, "retry", seen.command_reason, now=now)
        if seen.status in (Status.PENDING, Status.RETRYING):
            transitions.start(seen, now=now, actor=actor)
        elif seen.status != Status.RUNNING:
            is_late = seen.status == Status.HITL_PAUSED and seen.verdict in attempts.SILENT_VERDICTS
            if is_late and not _came_back(seen, sign, now=now, actor=actor):
                continue
            _still_there(seen, sign, now=now)
            return _answer(seen, "pause", seen.command_reason, now=now)


def _goes_on(project_id: int, execution_id: UUID, beat: Beat, seq: int, *, now: datetime, actor: str) -> Beat:
    """The first beat after an execution was resumed."""
    if not commands.deliver_by_heartbeat(project_id, execution_id, seq, now=now):
        return beat
    commands.happened(project_id, seq, "beats again", now=now)
    changes.record(
        project_id,
        Subject.EXECUTION,
        execution_id,
        from_state=beat.status,
        to_state=beat.status,
        cause="goes_on",
        actor=actor,
        now=now,
        attempt=beat.attempt,
        concerns_alerts=False,
    )
    is_over = commands.withdraw_heard(project_id, execution_id, seq)
    return replace(beat, command_seq=None) if is_over else beat


def _still_there(seen: Execution, sign: Sign, *, now: datetime) -> None:
    """A beat while the clocks stand still: kept, but nothing is due because of it."""
    told: dict[str, Any] = {"last_heartbeat_at": now}
    if sign.progress is not None:
        told["progress"] = sign.progress
    if sign.message is not None:
        told["message"] = sign.message
    Execution.objects.of(seen.project_id).filter(id=seen.id, status=seen.status).update(**told)


def _came_back(seen: Execution, sign: Sign, *, now: datetime, actor: str) -> bool:
    """Tell the journal, once after each move, of a beat that came after its attempt was given up.

    False, and nothing is told, when somebody has moved it meanwhile: then the beat may not be late at all.
    """
    attempt = sign.attempt
    # The same process may send two at once, after it was cut off, and a person may let it go on between them.
    held = Execution.objects.of(seen.project_id).select_for_update(no_key=True).get(id=seen.id)
    if (held.status, held.attempt) != (seen.status, seen.attempt):
        return False
    journal = changes.journal_of(seen)
    last_move = journal.exclude(cause="came_back").order_by("-id").values_list("id", flat=True).first()
    if journal.filter(cause="came_back", attempt=attempt, id__gt=last_move or 0).exists():
        return True
    silent = now - (seen.last_heartbeat_at or seen.started_at)
    data: Mapping[str, Any] = {
        "agent": seen.agent,
        "run_id": seen.run_id,
        "silent_ms": silent // timedelta(milliseconds=1),
        "progress": sign.progress,
        "message": sign.message,
    }
    changes.record(
        seen.project_id,
        Subject.EXECUTION,
        seen.id,
        from_state=seen.status,
        to_state=seen.status,
        cause="came_back",
        actor=actor,
        note=f"came back after {attempts.spoken(silent)}",
        now=now,
        attempt=attempt,
        data=data,
    )
    return True


def _given_up(seen: Execution, *, now: datetime) -> Beat:
    """The answer to the beat that led to the verdict."""
    return _answer(seen, "retry" if seen.status == Status.RETRYING else "pause", seen.command_reason, now=now)


# Which command is in force follows from the state; a stale attempt may be told something else.
IN_FORCE = {Status.RETRYING: "retry", Status.PAUSED: "pause", Status.HITL_PAUSED: "pause"} | dict.fromkeys(
    ENDED, "cancel"
)


def _answer(seen: Execution, command: str, reason: str, *, now: datetime) -> Beat:
    seq = seen.command_seq if IN_FORCE.get(Status(seen.status)) == command else None
    if seq is not None and not seen.command_told:
        commands.deliver_by_heartbeat(seen.project_id, seen.id, seq, now=now)
    return Beat(command, reason, seen.status, seen.attempt, seen.retry_at, seen.deadline_at, seq)
