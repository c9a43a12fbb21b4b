"""Orders of people: one command for one execution or for many, each in a transaction of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from monitor import executions, transitions
from monitor.deadlocks import unhindered
from monitor.models import Execution

Verb = Literal["pause", "resume", "retry", "cancel"]
VERBS: dict[Verb, Callable[..., Execution]] = {
    "pause": executions.pause,
    "resume": executions.resume,
    "retry": executions.retry,
    "cancel": executions.cancel,
}
# Of one call; each is a transaction, and somebody waits for the answer.
MOST_AT_ONCE = 200


@dataclass(frozen=True)
class Outcome:
    """What became of one order: the execution as it is now, None when there is none, and why it was refused."""

    id: UUID
    execution: Execution | None
    refusal: transitions.Refused | None = None

    @property
    def done(self) -> bool:
        return self.execution is not None and self.refusal is None


def carry_out(project_id: int, execution_id: UUID, verb: Verb, *, now: datetime, actor: str, note: str = "") -> Outcome:
    """Give one order in a transaction of its own; what its state does not allow is an outcome, too.

    Each stands for itself, because the counter of events is locked last in a transaction: two orders in one
    could wait for each other.
    """
    act = VERBS[verb]
    try:
        moved = unhindered(project_id, lambda: act(project_id, execution_id, now=now, actor=actor, note=note))
    except Execution.DoesNotExist:
        return Outcome(execution_id, None)
    except transitions.Refused as refusal:
        return Outcome(execution_id, refusal.execution, refusal)
    return Outcome(execution_id, moved)
