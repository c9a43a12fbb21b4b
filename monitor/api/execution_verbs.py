"""What is said of one execution over HTTP: its agent beats, acknowledges and ends it, people command it."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from django.http import HttpResponse
from django.urls import path
from msgspec import Meta

from monitor import commands, executions, heartbeats, orders, transitions
from monitor.api import problems
from monitor.api.door import Door, Request, endpoint
from monitor.api.executions import CommandName, CommandOut, ExecutionOut, conflict, not_found, show, show_command
from monitor.api.problems import Problem
from monitor.models import Command, Execution
from monitor.models.executions import StatusName
from monitor.registration import AttemptNumber

Text = Annotated[str, Meta(max_length=100_000)]
Effect = Annotated[str, Meta(max_length=500)]
EventNumber = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class HeartbeatBody(msgspec.Struct, kw_only=True):
    progress: Annotated[float, Meta(ge=0, le=100)] | None = None
    message: Annotated[str, Meta(max_length=10_000)] | None = None
    attempt: AttemptNumber | None = None
    # False: the process is alive, but its work hangs.
    progressing: bool | None = None
    # The number of the command that the agent has heard, and what it did with it.
    acknowledged: EventNumber | None = None
    effect: Effect = ""


class BeatOut(msgspec.Struct, kw_only=True):
    command: CommandName
    reason: str
    status: StatusName
    attempt: int
    retry_at: datetime | None
    deadline_at: datetime | None
    # The number of the command in force, as on agent-events; null when none is.
    command_seq: int | None


class AcknowledgeBody(msgspec.Struct, kw_only=True):
    seq: EventNumber
    effect: Effect = ""
    attempt: AttemptNumber | None = None


class CompleteBody(msgspec.Struct, kw_only=True):
    output: Any = None
    attempt: AttemptNumber | None = None


class FailBody(msgspec.Struct, kw_only=True):
    error: Text = ""
    retryable: bool = True
    attempt: AttemptNumber | None = None


class NoteBody(msgspec.Struct, kw_only=True):
    note: Annotated[str, Meta(max_length=10_000)] = ""


def said_in(body: HeartbeatBody) -> dict[str, Any]:
    """What a heartbeat says, as heartbeats.beat takes it."""
    return {name: getattr(body, name) for name in HeartbeatBody.__struct_fields__}


class HeartbeatDoor(Door):
    @endpoint(scope="ingest", rate="ingest", body=HeartbeatBody, answer=BeatOut)
    def post(self, request: Request, execution_id: UUID, body: HeartbeatBody) -> BeatOut:
        """A sign of life; the answer carries the command for the agent."""
        try:
            beat = heartbeats.beat(
                request.caller.project_id,
                execution_id,
                now=request.now,
                actor=request.caller.actor,
                **said_in(body),
            )
        except Execution.DoesNotExist as error:
            raise not_found() from error
        return BeatOut(**vars(beat))


class AcknowledgeDoor(Door):
    @endpoint(scope="ingest", rate="ingest", body=AcknowledgeBody, answer=CommandOut)
    def post(self, request: Request, execution_id: UUID, body: AcknowledgeBody) -> CommandOut:
        """The agent has heard a command, and says what it did with it; twice is once. Also after the end."""
        try:
            heard = commands.acknowledge(
                request.caller.project_id,
                execution_id,
                body.seq,
                now=request.now,
                effect=body.effect,
                attempt=body.attempt,
            )
        except Command.DoesNotExist as error:
            raise Problem(404, "Not found", "This execution was given no command with this number.") from error
        return show_command(heard)


# Ends are not held to the general rate: an agent that can't report its end would be taken for dead.


class CompleteDoor(Door):
    @endpoint(scope="ingest", rate="ingest", body=CompleteBody, answer=ExecutionOut, also=(409,))
    def post(self, request: Request, execution_id: UUID, body: CompleteBody) -> ExecutionOut | HttpResponse:
        """End it well. 409 when it has ended otherwise or the attempt is stale."""
        return _said(request, "complete", execution_id, output=body.output, attempt=body.attempt)


class FailDoor(Door):
    @endpoint(scope="ingest", rate="ingest", body=FailBody, answer=ExecutionOut, also=(409,))
    def post(self, request: Request, execution_id: UUID, body: FailBody) -> ExecutionOut | HttpResponse:
        """An attempt met an error: `retrying`, `hitl_paused` when retries are spent, `failed` if not retryable."""
        said = {"error": body.error, "retryable": body.retryable, "attempt": body.attempt}
        return _said(request, "fail", execution_id, **said)


class CommandDoor(Door):
    """What a person, or a key with the scope operate, commands."""

    verb: orders.Verb = "pause"

    @endpoint(scope="operate", body=NoteBody, answer=ExecutionOut, also=(409,))
    def post(self, request: Request, execution_id: UUID, body: NoteBody) -> ExecutionOut | HttpResponse:
        """Command the execution. 409 when its state does not allow this."""
        return _said(request, self.verb, execution_id, note=body.note)


def _said(request: Request, verb: str, execution_id: UUID, **said: Any) -> ExecutionOut | HttpResponse:
    caller = request.caller
    try:
        moved = getattr(executions, verb)(caller.project_id, execution_id, now=request.now, actor=caller.actor, **said)
    except Execution.DoesNotExist as error:
        raise not_found() from error
    except transitions.StaleAttempt as refusal:
        # Answered, not raised: the journal keeps what a stale writer tried.
        return problems.render(conflict(refusal))
    except transitions.Refused as refusal:
        raise conflict(refusal) from refusal
    return show(moved)


one = "executions/<uuid:execution_id>"
urlpatterns = [
    path(f"{one}/heartbeat", HeartbeatDoor.as_view()),
    path(f"{one}/acknowledge", AcknowledgeDoor.as_view()),
    path(f"{one}/complete", CompleteDoor.as_view()),
    path(f"{one}/fail", FailDoor.as_view()),
    *(path(f"{one}/{verb}", CommandDoor.as_view(verb=verb)) for verb in orders.VERBS),
]
