"""Executions over HTTP: register, list, look, beat, end; and what people command."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.db.models import Q
from django.http import HttpResponse
from django.urls import path
from msgspec import Meta

from monitor import commands, executions, families, heartbeats, ingest, registration, transitions
from monitor.api import loops, problems
from monitor.api.door import Answer, Door, Request, endpoint
from monitor.api.loops import LoopOut
from monitor.api.pages import PageQuery, paginate
from monitor.api.problems import Problem, bad_field
from monitor.models import Command as CommandRow
from monitor.models import Execution, StateChange, Subject
from monitor.models.executions import StatusName
from monitor.orders import Verb
from monitor.registration import AttemptNumber, Aware, NewExecution

Command = Literal["continue", "cancel", "retry", "pause"]
Text = Annotated[str, Meta(max_length=100_000)]
Effect = Annotated[str, Meta(max_length=500)]
EventNumber = Annotated[int, Meta(ge=1, le=2**63 - 1)]
# A search without `started_after` looks this far back.
SEARCH_BACK = timedelta(days=7)
SEARCHED = ("agent", "run_id", "task", "message", "error")
MOST_TRANSITIONS = 1000
MOST_COMMANDS = 1000
MOST_CHILDREN = 1000
# A pending execution counts as started when it first beats, so its journal may begin earlier.
JOURNAL_BEFORE_START = timedelta(days=7)


class ExecutionOut(msgspec.Struct, kw_only=True):
    id: UUID
    agent: str
    run_id: str
    task: str
    crew_id: str
    conversation_id: str
    parent_id: UUID | None
    department: str
    mode: str
    status: StatusName
    attempt: int
    max_retries: int
    timeout_s: int
    heartbeat_s: int
    # The longest time without progress, null for no such clock; what follows; and since when it has stalled.
    stall_s: int | None
    on_stall: Literal["warn", "retry"]
    stalled_at: datetime | None
    progress: float | None
    message: str
    verdict: Literal["", "zombie", "timed_out", "not_picked_up", "stalled", "error"]
    inputs: Any
    output: Any
    error: str
    started_at: datetime
    last_heartbeat_at: datetime | None
    last_progress_at: datetime | None
    deadline_at: datetime | None
    retry_at: datetime | None
    ended_at: datetime | None
    duration_ms: int | None
    model: str
    cost_usd: Decimal
    input_tokens: int
    output_tokens: int
    api_calls: int
    cpu_ms: int | None
    memory_delta_bytes: int | None
    trace_id: str | None
    span_id: str | None
    metadata: dict[str, Any]
    # Only its trace tells of it: no clock runs and it takes no commands.
    from_spans: bool
    # Since when it is known that nothing comes of its trace any more.
    silent_at: datetime | None


class Transition(msgspec.Struct, kw_only=True):
    at: datetime
    from_state: str
    to_state: str
    cause: str
    actor: str
    note: str
    attempt: int | None


class CommandOut(msgspec.Struct, kw_only=True):
    """A command for the agent. `effect` is what the agent says it did, `outcome` what was seen to come of it."""

    seq: int
    command: Command
    reason: str
    actor: str
    attempt: int
    issued_at: datetime
    delivered_at: datetime | None
    delivered_by: Literal["", "heartbeat", "agent-events"]
    acknowledged_at: datetime | None
    effect: str
    outcome: str
    outcome_at: datetime | None


class Child(msgspec.Struct, kw_only=True):
    id: UUID
    agent: str
    status: StatusName


class ExecutionDetail(ExecutionOut, kw_only=True):
    transitions: list[Transition]
    loops: list[LoopOut]
    commands: list[CommandOut]
    children: list[Child]


class ExecutionPage(msgspec.Struct, kw_only=True):
    results: list[ExecutionOut]
    next: str | None


class ExecutionQuery(PageQuery, kw_only=True):
    agent: str | None = None
    status: list[StatusName] | None = None
    run_id: str | None = None
    crew_id: str | None = None
    conversation_id: str | None = None
    parent_id: UUID | None = None
    started_after: Aware | None = None
    started_before: Aware | None = None
    search: Annotated[str, Meta(max_length=200)] = ""


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
    command: Command
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


def show(execution: Execution) -> ExecutionOut:
    """The execution as the API answers it."""
    return ExecutionOut(**_fields(execution))


def _fields(execution: Execution) -> dict[str, Any]:
    fields = {name: getattr(execution, name) for name in ExecutionOut.__struct_fields__}
    fields["trace_id"] = execution.trace_id.hex if execution.trace_id else None
    if execution.span_id is not None:
        fields["span_id"] = execution.span_id.to_bytes(8, "big", signed=True).hex()
    return fields


def conflict(refusal: transitions.Refused) -> Problem:
    """The 409 that says the present state."""
    execution = refusal.execution
    return Problem(409, "Conflict", f"{refusal}.", state=execution.status, attempt=execution.attempt)


def not_found() -> Problem:
    return Problem(404, "Not found", "There is no execution with this id.")


def register(project_id: int, body: NewExecution, *, now: datetime, actor: str) -> tuple[Execution, bool]:
    """Register, refusing as the API does; what its trace told already is its own from now on."""
    try:
        execution, created = registration.register(project_id, body, now=now, actor=actor)
    except registration.IdTaken as taken:
        raise Problem(409, "Conflict", f"{taken}.", state=taken.present.status) from taken
    except registration.BadTimes as bad:
        raise bad_field(bad.field, bad.message) from bad
    if created and execution.trace_id is not None:
        ingest.look_again(project_id, execution.trace_id.hex, now=now)
        execution = transitions.get(project_id, execution.id)
    return execution, created


class Executions(Door):
    @endpoint(scope="read", query=ExecutionQuery, answer=ExecutionPage)
    def get(self, request: Request, query: ExecutionQuery) -> ExecutionPage:
        """Executions, newest first. A search without `started_after` covers the last 7 days."""
        found = Execution.objects.of(request.caller.project_id)
        for name in ("agent", "run_id", "crew_id", "conversation_id", "parent_id"):
            if (wanted := getattr(query, name)) is not None:
                found = found.filter(**{name: wanted})
        if query.status:
            found = found.filter(status__in=query.status)
        since = query.started_after
        if query.search:
            since = since or request.now - SEARCH_BACK
            found = found.filter(_matches(query.search))
        if since:
            found = found.filter(started_at__gte=since)
        if query.started_before:
            found = found.filter(started_at__lt=query.started_before)
        rows, following = paginate(found, ("-started_at", "-id"), query, request)
        return ExecutionPage(results=[show(row) for row in rows], next=following)

    @endpoint(scope="ingest", body=NewExecution, answer=ExecutionOut, status=201, also=(200, 409))
    def post(self, request: Request, body: NewExecution) -> Answer:
        """Register an execution, or track one that is done. The same id and content again answers 200."""
        caller = request.caller
        body.department = body.department or caller.department
        execution, created = register(caller.project_id, body, now=request.now, actor=caller.actor)
        return Answer(show(execution), status=201 if created else 200)


def _matches(search: str) -> Q:
    matches = Q()
    for name in SEARCHED:
        matches |= Q(**{f"{name}__icontains": search})
    try:
        return matches | Q(id=UUID(search))
    except ValueError:
        return matches


class ExecutionDoor(Door):
    @endpoint(scope="read", answer=ExecutionDetail)
    def get(self, request: Request, execution_id: UUID) -> ExecutionDetail:
        """One execution with its transitions, commands, children and loops, oldest first."""
        project_id = request.caller.project_id
        try:
            execution = transitions.get(project_id, execution_id)
        except Execution.DoesNotExist as error:
            raise not_found() from error
        journal = StateChange.objects.filter(
            project_id=project_id,
            subject=Subject.EXECUTION,
            subject_id=str(execution_id),
            at__gte=execution.started_at - JOURNAL_BEFORE_START,
        ).order_by("id")[:MOST_TRANSITIONS]
        told = [
            Transition(**{name: getattr(change, name) for name in Transition.__struct_fields__}) for change in journal
        ]
        ordered = commands.of(project_id, execution_id, most=MOST_COMMANDS)
        below = families.children(project_id, execution_id, most=MOST_CHILDREN)
        return ExecutionDetail(
            **_fields(execution),
            transitions=told,
            commands=[_command(one) for one in ordered],
            children=[Child(**{name: getattr(one, name) for name in Child.__struct_fields__}) for one in below],
            loops=loops.of_execution(project_id, execution_id),
        )


def _command(command: CommandRow) -> CommandOut:
    return CommandOut(**{name: getattr(command, name) for name in CommandOut.__struct_fields__})


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
        except CommandRow.DoesNotExist as error:
            raise Problem(404, "Not found", "This execution was given no command with this number.") from error
        return _command(heard)


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

    verb: Verb = "pause"

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
    path("executions", Executions.as_view()),
    path(one, ExecutionDoor.as_view()),
    path(f"{one}/heartbeat", HeartbeatDoor.as_view()),
    path(f"{one}/acknowledge", AcknowledgeDoor.as_view()),
    path(f"{one}/complete", CompleteDoor.as_view()),
    path(f"{one}/fail", FailDoor.as_view()),
    *(path(f"{one}/{verb}", CommandDoor.as_view(verb=verb)) for verb in ("pause", "resume", "retry", "cancel")),
]
