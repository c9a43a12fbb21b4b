"""The moves of an execution: each one guarded update with its line in the journal, or a refusal.

Refused
├── IllegalMove     its state does not allow this
├── KnownFromSpans  its trace alone tells of it, so nobody else moves it
└── StaleAttempt    the caller speaks for an attempt that was given up
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from monitor import attempts, changes, commands, queue
from monitor.models import Execution, Subject
from monitor.models.executions import ENDED, Status
from monitor.models.queue import ItemKind, ItemStatus


class Refused(Exception):
    """The execution stays as it is; `execution` is that state."""

    def __init__(self, execution: Execution, message: str) -> None:
        super().__init__(message)
        self.execution = execution


class IllegalMove(Refused):
    """MOVES does not list this move from the present state."""

    def __init__(self, execution: Execution, wanted: str) -> None:
        super().__init__(execution, f"the execution is {execution.status}; it can't become {wanted}")


class KnownFromSpans(Refused):
    """Only its trace tells of it: no process listens to commands, and its spans alone say how it ends."""

    def __init__(self, execution: Execution) -> None:
        super().__init__(execution, "the execution is known from its trace alone, which says how it ends")


class StaleAttempt(Refused):
    """The caller's attempt was given up."""

    def __init__(self, execution: Execution, attempt: int) -> None:
        super().__init__(
            execution, f"attempt {attempt} is stale: the execution is {execution.status} at attempt {execution.attempt}"
        )


def get(project_id: int, execution_id: UUID) -> Execution:
    """The execution as it is now. Raises Execution.DoesNotExist."""
    return Execution.objects.of(project_id).get(id=execution_id)


def movable(project_id: int, execution_id: UUID) -> Execution:
    """The execution as it is now, if it is moved by what agents and people say. Raises KnownFromSpans."""
    seen = get(project_id, execution_id)
    if seen.from_spans:
        raise KnownFromSpans(seen)
    return seen


def start(seen: Execution, *, now: datetime, actor: str) -> bool:
    """The first sign of a pending execution or of a new attempt."""
    pending = seen.status == Status.PENDING
    first: dict[str, Any] = {"started_at": now} if pending else {}
    return move(
        seen,
        Status.RUNNING,
        cause="started" if pending else "picked_up",
        now=now,
        actor=actor,
        attempt_started_at=now,
        retry_at=None,
        deadline_at=attempts.deadline(seen, now, now=now),
        stalled_at=None,
        stall_due_at=attempts.stall_due_at(seen, now=now),
        outcome=f"attempt {seen.attempt} was picked up",
        **first,
    )


def end(seen: Execution, to: Status, *, now: datetime, **fields: Any) -> bool:
    """Move it to a state that has ended: no clock of it runs on."""
    return move(
        seen,
        to,
        now=now,
        ended_at=now,
        duration_ms=max(0, (now - seen.started_at) // timedelta(milliseconds=1)),
        deadline_at=None,
        retry_at=None,
        timeout_left_ms=None,
        stalled_at=None,
        stall_left_ms=None,
        **fields,
    )


def move(
    seen: Execution,
    to: Status,
    *,
    cause: str,
    now: datetime,
    actor: str,
    note: str = "",
    reason: str = "",
    outcome: str = "",
    **fields: Any,
) -> bool:
    """Move what is still as it was seen, and journal it; False when somebody else moved it meanwhile.

    A move of the agent's own is the `outcome` of the command in force, and ends that.
    """
    fields = {"stall_due_at": None} | fields | {"status": to, "command": "", "command_reason": reason}
    obeyed = seen.command_seq if outcome else None
    if outcome:
        fields["command_seq"] = None
    as_seen = Execution.objects.of(seen.project_id).filter(
        id=seen.id, status=seen.status, attempt=seen.attempt, attempt_started_at=seen.attempt_started_at
    )
    if as_seen.update(**fields) == 0:
        return False
    before = seen.status
    for name, value in fields.items():
        setattr(seen, name, value)
    changes.record(
        seen.project_id,
        Subject.EXECUTION,
        seen.id,
        from_state=before,
        to_state=to,
        cause=cause,
        actor=actor,
        note=note,
        now=now,
        attempt=seen.attempt,
        data={
            "agent": seen.agent,
            "run_id": seen.run_id,
            "task": seen.task,
            "conversation_id": seen.conversation_id,
            "attempt": seen.attempt,
            "max_retries": seen.max_retries,
            "verdict": seen.verdict,
        },
    )
    if before == Status.HITL_PAUSED:
        closed = ItemStatus.CANCELLED if to in ENDED else ItemStatus.RESOLVED
        queue.close_for(
            seen.project_id,
            ItemKind.PAUSED_EXECUTION,
            seen.id,
            status=closed,
            outcome=cause,
            note=note,
            now=now,
            actor=actor,
        )
    if obeyed is not None:
        commands.happened(seen.project_id, obeyed, outcome, now=now)
    return True
