"""The events `execution.*` of a batch: the bodies of the single calls, and the same verbs."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from monitor import executions, heartbeats, transitions
from monitor.api.execution_verbs import CompleteBody, FailBody, HeartbeatBody, said_in
from monitor.api.executions import conflict, not_found, register
from monitor.api.problems import Problem
from monitor.models import Execution
from monitor.registration import NewExecution


class Heartbeat(HeartbeatBody, kw_only=True):
    execution_id: UUID


class Completed(CompleteBody, kw_only=True):
    execution_id: UUID


class Failed(FailBody, kw_only=True):
    execution_id: UUID


ExecutionEvent = NewExecution | Heartbeat | Completed | Failed
EVENTS: dict[str, type[msgspec.Struct]] = {
    "execution.started": NewExecution,
    "execution.tracked": NewExecution,
    "execution.heartbeat": Heartbeat,
    "execution.completed": Completed,
    "execution.failed": Failed,
}


def from_event(
    project_id: int, type_: str, event: ExecutionEvent, *, now: datetime, actor: str, department: str = ""
) -> bool | Problem:
    """Do what the event says, in the open transaction; False when the same had been said before.

    `event` is decoded as EVENTS[type_]; `department` is that of the key. Raises Problem with what the single call
    would answer; one that is returned leaves a line in the journal, so that the transaction has to stand.
    """
    said: dict[str, Any] = {"now": now, "actor": actor}
    try:
        match event:
            case NewExecution():
                if event.is_done != (type_ == "execution.tracked"):
                    raise Problem(400, "Bad request", f"{type_} does not go with the status {event.status}.")
                event.department = event.department or department
                return register(project_id, event, **said)[1]
            case Heartbeat():
                heartbeats.beat(project_id, event.execution_id, **said, **said_in(event))
                return True
            case Completed():
                done = executions.complete(
                    project_id, event.execution_id, output=event.output, attempt=event.attempt, **said
                )
            case Failed():
                done = executions.fail(
                    project_id,
                    event.execution_id,
                    error=event.error,
                    retryable=event.retryable,
                    attempt=event.attempt,
                    **said,
                )
    except Execution.DoesNotExist as error:
        raise not_found() from error
    except transitions.StaleAttempt as refusal:
        return conflict(refusal)
    except transitions.Refused as refusal:
        raise conflict(refusal) from refusal
    # What had ended before this very moment was said before.
    return done.ended_at in (None, now)
