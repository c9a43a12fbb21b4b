"""Executions over HTTP: register, list, look. What is said of one of them is in execution_verbs.py."""

from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.db.models import Q
from django.urls import path
from msgspec import Meta

from monitor import commands, families, ingest, patience, registration, standstill, transitions
from monitor.api import loops
from monitor.api.door import Answer, Door, Request, endpoint
from monitor.api.loops import LoopOut
from monitor.api.pages import PageQuery, paginate
from monitor.api.problems import Problem, bad_field
from monitor.models import Command, Execution, StateChange, Subject
from monitor.models.executions import ExecutionQuerySet, StatusName
from monitor.registration import Aware, NewExecution
from monitor.standstill import Still, StillName

CommandName = Literal["continue", "cancel", "retry", "pause"]
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
    command: CommandName
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
    still: list[StillName] | None = None
    run_id: str | None = None
    crew_id: str | None = None
    conversation_id: str | None = None
    parent_id: UUID | None = None
    started_after: Aware | None = None
    started_before: Aware | None = None
    search: Annotated[str, Meta(max_length=200)] = ""


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
        if query.still:
            found = found.filter(standstill.chosen([Still(one) for one in query.still], now=request.now))
        since = query.started_after
        if query.search:
            since = since or request.now - SEARCH_BACK
        if since:
            found = found.filter(started_at__gte=since)
        if query.started_before:
            found = found.filter(started_at__lt=query.started_before)
        with patience.searching(query.search):
            if query.search:
                found = _matching(found, query.search)
            rows, following = paginate(found, ("-started_at", "-id"), query, request)
        return ExecutionPage(results=[show(row) for row in rows], next=following)

    @endpoint(scope="ingest", body=NewExecution, answer=ExecutionOut, status=201, also=(200, 409), grows=True)
    def post(self, request: Request, body: NewExecution) -> Answer:
        """Register an execution, or track one that is done. The same id and content again answers 200."""
        caller = request.caller
        body.department = body.department or caller.department
        execution, created = register(caller.project_id, body, now=request.now, actor=caller.actor)
        return Answer(show(execution), status=201 if created else 200)


def _matching(found: ExecutionQuerySet, search: str) -> ExecutionQuerySet:
    """Those of the id, the run or the conversation; where none is, those that hold the words."""
    try:
        if (whole := found.filter(id=UUID(search))).exists():
            return whole
    except ValueError:
        pass
    named = found.named(search)
    if named is not None:
        return named
    return found.filter(reduce(or_, (Q(**{f"{name}__icontains": search}) for name in SEARCHED)))


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
            commands=[show_command(one) for one in ordered],
            children=[Child(**{name: getattr(one, name) for name in Child.__struct_fields__}) for one in below],
            loops=loops.of_execution(project_id, execution_id),
        )


def show_command(command: Command) -> CommandOut:
    """The command as the API answers it."""
    return CommandOut(**{name: getattr(command, name) for name in CommandOut.__struct_fields__})


urlpatterns = [
    path("executions", Executions.as_view()),
    path("executions/<uuid:execution_id>", ExecutionDoor.as_view()),
]
