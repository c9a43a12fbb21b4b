"""What happens to an execution: it completes, fails, is paused, resumed, retried, cancelled.

Each verb is one guarded update (move in monitor/transitions.py); losing a race means looking again, at what the
winner made of it.
What ends takes its agent and the hour that counts it before its own row; monitor/deadlocks.py lists the order of all
locks.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from monitor import agents, attempts, changes, commands, families, outcomes, transitions
from monitor.commands import Order
from monitor.models import Execution, Subject
from monitor.models.executions import ENDED, MOVES, OPEN, Status, Verdict
from monitor.transitions import IllegalMove, StaleAttempt


def complete(
    project_id: int,
    execution_id: UUID,
    *,
    now: datetime,
    actor: str,
    output: Any = None,
    attempt: int | None = None,
) -> Execution:
    """End it well; saying the same twice is once. Raises Execution.DoesNotExist, Refused."""
    while True:
        seen = transitions.movable(project_id, execution_id)
        if seen.status == Status.COMPLETED and attempt in (None, seen.attempt) and output == seen.output:
            return seen
        _expect_end(seen, heard_at=now, now=now)
        if not _may_report(seen, Status.COMPLETED, attempt, now=now, actor=actor):
            continue
        if transitions.end(
            seen,
            Status.COMPLETED,
            cause="completed",
            now=now,
            actor=actor,
            output=output,
            error="",
            outcome="completed",
        ):
            outcomes.count(project_id, [seen], now=now)
            return seen


def fail(
    project_id: int,
    execution_id: UUID,
    *,
    error: str,
    now: datetime,
    actor: str,
    retryable: bool = True,
    attempt: int | None = None,
    jitter: float | None = None,
) -> Execution:
    """An attempt met an error: the next one, a person when retries are spent, or the end if not retryable.

    What waits for a person ends only if not retryable: then nobody is left who could go on. The same error again,
    without an attempt, is once. `jitter`, 0 to 1, takes up to half off the backoff. Raises Execution.DoesNotExist,
    Refused.
    """
    while True:
        seen = transitions.movable(project_id, execution_id)
        if seen.status == Status.FAILED and attempt in (None, seen.attempt) and error == seen.error:
            return seen
        # Who names no attempt can't have picked the next one up: this tells of the lost one once more.
        told = seen.status == Status.RETRYING and seen.verdict in (Verdict.ERROR, Verdict.TIMED_OUT)
        if told and seen.error == error and retryable and attempt is None:
            return seen
        # A person decides about what waits for one, as long as there is a program to obey.
        if seen.status == Status.HITL_PAUSED and retryable:
            raise IllegalMove(seen, Status.FAILED)
        if not retryable:
            _expect_end(seen, heard_at=now, now=now)
        if not _may_report(seen, Status.FAILED, attempt, now=now, actor=actor):
            continue
        if retryable:
            is_late = seen.status == Status.RUNNING and attempts.timeout_left_ms(seen, now=now) == 0
            lost = attempts.give_up(
                "project_id = %(project_id)s AND id = %(id)s AND status = %(status)s AND attempt = %(attempt)s"
                " FOR NO KEY UPDATE",
                {"project_id": project_id, "id": execution_id, "status": seen.status, "attempt": seen.attempt},
                now=now,
                actor=actor,
                # The watchdog would have said so at its next look.
                verdict=Verdict.TIMED_OUT if is_late else Verdict.ERROR,
                reason=error,
                jitter=jitter,
            )
            if lost:
                return transitions.get(project_id, execution_id)
        elif transitions.end(
            seen,
            Status.FAILED,
            cause="error",
            now=now,
            actor=actor,
            note=error,
            error=error,
            verdict="error",
            outcome="failed",
        ):
            outcomes.count(project_id, [seen], now=now)
            return seen


def pause(project_id: int, execution_id: UUID, *, now: datetime, actor: str, note: str = "") -> Execution:
    """Stop its clocks until a person resumes it; the agent is told. Raises Execution.DoesNotExist, Refused."""
    while True:
        seen = _for_person(project_id, execution_id, Status.PAUSED)
        reason = note or f"paused by {actor}"
        stopped: dict[str, Any] = {
            "deadline_at": None,
            "timeout_left_ms": attempts.timeout_left_ms(seen, now=now),
            "stall_left_ms": attempts.stall_left_ms(seen, now=now),
        }
        if transitions.move(
            seen, Status.PAUSED, cause="paused", now=now, actor=actor, note=note, reason=reason, **stopped
        ):
            _command([seen], "pause", reason, now=now, actor=actor)
            return seen


def resume(project_id: int, execution_id: UUID, *, now: datetime, actor: str, note: str = "") -> Execution:
    """Go on with the same attempt and what was left of its timeout.

    What was paused before its attempt was picked up waits for that again. Raises Execution.DoesNotExist,
    Refused.
    """
    while True:
        seen = transitions.movable(project_id, execution_id)
        if seen.status not in (Status.PAUSED, Status.HITL_PAUSED):
            raise IllegalMove(seen, Status.RUNNING)
        restarted: dict[str, Any] = {"timeout_left_ms": None, "stall_left_ms": None}
        if seen.status == Status.PAUSED and seen.retry_at is not None:
            to, command, retry_at = Status.RETRYING, "retry", max(seen.retry_at, now)
            restarted |= {"retry_at": retry_at, "deadline_at": attempts.pickup_deadline(seen, retry_at)}
        else:
            to, command = Status.RUNNING, "continue"
            # The attempt's clock is put forward by the time that it stood still.
            whole = timedelta(seconds=seen.timeout_s)
            left = whole if seen.timeout_left_ms is None else timedelta(milliseconds=seen.timeout_left_ms)
            started_at = now - (whole - left)
            restarted |= {
                "retry_at": None,
                "attempt_started_at": started_at,
                "deadline_at": attempts.deadline(seen, started_at, now=now),
                "stall_due_at": _moves_again_by(seen, now=now),
            }
        if transitions.move(seen, to, cause="resumed", now=now, actor=actor, note=note, reason=note, **restarted):
            _command([seen], command, note or f"resumed by {actor}", now=now, actor=actor)
            return seen


def retry(project_id: int, execution_id: UUID, *, now: datetime, actor: str, note: str = "") -> Execution:
    """Start the next attempt at once, also beyond the last retry. Raises Execution.DoesNotExist, Refused."""
    while True:
        seen = _for_person(project_id, execution_id, Status.RETRYING)
        reason = note or f"retried by {actor}"
        again: dict[str, Any] = {
            "attempt": seen.attempt + 1,
            "attempt_started_at": None,
            "timeout_left_ms": None,
            "stall_left_ms": None,
            "stalled_at": None,
            "retry_at": now,
            "deadline_at": attempts.pickup_deadline(seen, now),
        }
        if transitions.move(
            seen, Status.RETRYING, cause="retried", now=now, actor=actor, note=note, reason=reason, **again
        ):
            _command([seen], "retry", reason, now=now, actor=actor)
            return seen


def cancel(
    project_id: int, execution_id: UUID, *, now: datetime, actor: str, note: str = "", cause: str = "cancelled"
) -> Execution:
    """Stop it and all open work below it; the agents are told.

    An abort of what waits for a person ends as `failed` after an error and as `timeout` after a verdict of the
    watchdog, else as `cancelled`. Raises Execution.DoesNotExist, Refused.
    """
    reason = note or f"{cause} by {actor}"
    seen = transitions.movable(project_id, execution_id)
    _expect_end(seen, heard_at=seen.last_heartbeat_at, now=now)
    while True:
        seen = transitions.movable(project_id, execution_id)
        if seen.status in ENDED:
            raise IllegalMove(seen, Status.CANCELLED)
        if _stop(seen, cause=cause, now=now, actor=actor, note=note, reason=reason):
            break
    stopped = [seen]
    # Until nothing is left: below a child that was still open others may have been registered meanwhile.
    while below := families.open_below(project_id, execution_id):
        for one in below:
            while (child := transitions.get(project_id, one)).status in OPEN:
                if _stop(child, cause="parent_cancelled", now=now, actor=actor, note=note, reason=reason):
                    stopped.append(child)
    outcomes.count(project_id, stopped, now=now)
    _command(stopped, "cancel", reason, now=now, actor=actor)
    return seen


def _expect_end(seen: Execution, *, heard_at: datetime | None, now: datetime) -> None:
    """Take the locks that come before its row. Its heartbeats count for the agent while it is open; then this does."""
    if heard_at is not None:
        agents.saw(seen.project_id, seen.agent, now=heard_at)
    outcomes.expect(seen.project_id, now=now)


def _moves_again_by(seen: Execution, *, now: datetime) -> datetime | None:
    """Where the clock of progress stood when it was stopped; one that had stalled has been told of already."""
    if seen.stalled_at is not None:
        return None
    if seen.stall_s is None or seen.stall_left_ms is None:
        return attempts.stall_due_at(seen, now=now)
    return now + timedelta(milliseconds=seen.stall_left_ms)


def _for_person(project_id: int, execution_id: UUID, to: Status) -> Execution:
    seen = transitions.movable(project_id, execution_id)
    if seen.status not in MOVES[to]:
        raise IllegalMove(seen, to)
    return seen


def _may_report(seen: Execution, to: Status, attempt: int | None, *, now: datetime, actor: str) -> bool:
    """Whether an agent's report counts now; a pending execution is started first, and looked at again."""
    if seen.status in ENDED:
        raise IllegalMove(seen, to)
    if attempt is not None and attempt != seen.attempt:
        _stale_report(seen, to, attempt, now=now, actor=actor)
        raise StaleAttempt(seen, attempt)
    if seen.status == Status.PENDING:
        transitions.start(seen, now=now, actor=actor)
        return False
    if seen.status not in MOVES[to]:
        raise IllegalMove(seen, to)
    return True


def _stale_report(seen: Execution, to: Status, attempt: int, *, now: datetime, actor: str) -> None:
    """Show the stale writer in the journal; a door that wants it kept must not roll back."""
    changes.record(
        seen.project_id,
        Subject.EXECUTION,
        seen.id,
        from_state=seen.status,
        to_state=seen.status,
        cause="stale_report",
        actor=actor,
        note=f"attempt {attempt} reported {to} after it was given up; refused",
        now=now,
        attempt=attempt,
        concerns_alerts=False,
    )


def _stop(seen: Execution, *, cause: str, now: datetime, actor: str, note: str, reason: str) -> bool:
    to = Status.CANCELLED
    if seen.status == Status.HITL_PAUSED and seen.verdict == Verdict.ERROR:
        to = Status.FAILED
    elif seen.status == Status.HITL_PAUSED and seen.verdict in attempts.LATE_VERDICTS:
        to = Status.TIMEOUT
    return transitions.end(seen, to, cause=cause, now=now, actor=actor, note=note, reason=reason)


def _command(executions: Iterable[Execution], command: str, reason: str, *, now: datetime, actor: str) -> None:
    """Tell the agents; by then everything else is written, for the counter of events is held until commit."""
    told = list(executions)
    orders = [
        Order(one.id, command, reason, one.attempt, conversation_id=one.conversation_id, retry_at=one.retry_at)
        for one in told
    ]
    commands.issue(told[0].project_id, orders, now=now, actor=actor)
