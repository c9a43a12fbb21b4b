"""How an execution comes to be: registered before it works, or tracked when its work is done."""

import hashlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID, uuid5

import msgspec
from django.db import IntegrityError, connection, transaction
from msgspec import Meta

from monitor import agents, attempts, changes, executions, families, ground, outcomes, pipeline, transitions
from monitor.agentwork import AgentWork
from monitor.bookings import Books, WorkSums
from monitor.ids import uuid7
from monitor.models import Execution, Subject
from monitor.models.executions import ENDED, WATCHED, Status
from monitor.moments import ahead, misplaced
from monitor.pipeline import Statement, array, texts, times
from monitor.values import MOST_USD, is_usd

LONGEST = timedelta(days=3650)
FINEST_USD = Decimal("1E-10")
NOTHING_ADDED = WorkSums()
# The columns of AgentWork that hold what senders wrote.
AGENT_WORDS = ("agent", "task", "run_id", "conversation_id", "department", "error")

Name = Annotated[str, Meta(max_length=200)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
AttemptNumber = Annotated[int, Meta(ge=1, le=32_767)]
BigCount = Annotated[int, Meta(ge=0, le=2**53)]
Aware = Annotated[datetime, Meta(tz=True)]
HexTrace = Annotated[str, Meta(pattern=r"\A[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\Z")]
HexSpan = Annotated[str, Meta(pattern=r"\A[0-9a-fA-F]{16}\Z")]


class NewExecution(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a client says of an execution. The clocks that it leaves out are the agent's or the project's."""

    agent: Annotated[str, Meta(min_length=1, max_length=200)]
    id: UUID | None = None
    # A start that carries the attempt of a retrying execution picks it up, as its first heartbeat would.
    attempt: AttemptNumber | None = None
    run_id: Name = ""
    task: Annotated[str, Meta(max_length=500)] = ""
    crew_id: Name = ""
    conversation_id: Name = ""
    parent_id: UUID | None = None
    department: Annotated[str, Meta(max_length=100)] = ""
    mode: Annotated[str, Meta(max_length=20)] = ""
    timeout_s: Annotated[int, Meta(ge=1, le=30 * 86_400)] | None = None
    heartbeat_s: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    max_retries: Annotated[int, Meta(ge=0, le=100)] | None = None
    # 0 is no clock of progress, whatever the agent or the project have.
    stall_s: Annotated[int, Meta(ge=0, le=30 * 86_400)] | None = None
    on_stall: Literal["warn", "retry"] = "warn"
    inputs: Any = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    trace_id: HexTrace | None = None
    span_id: HexSpan | None = None
    status: Literal["pending", "running", "completed", "failed", "timeout", "cancelled"] = "running"
    started_at: Aware | None = None
    ended_at: Aware | None = None
    duration_ms: Annotated[int, Meta(ge=0, le=LONGEST // timedelta(milliseconds=1))] | None = None
    output: Any = None
    error: Annotated[str, Meta(max_length=100_000)] = ""
    model: Name = ""
    input_tokens: BigCount = 0
    output_tokens: BigCount = 0
    cost_usd: Decimal = Decimal(0)
    cpu_ms: BigCount | None = None
    memory_delta_bytes: Annotated[int, Meta(ge=-(2**53), le=2**53)] | None = None
    api_calls: Count = 0

    def __post_init__(self) -> None:
        if not is_usd(self.cost_usd):
            raise ValueError(f"cost_usd must lie between 0 and {MOST_USD:,}")

    @property
    def is_done(self) -> bool:
        return self.status in ENDED

    def digest(self) -> bytes:
        """SHA-256 of the content: neither the id nor the attempt is part of it."""
        content = msgspec.structs.replace(self, id=None, attempt=None)
        return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).digest()


class RegistrationError(Exception):
    """The execution is not registered; nothing has changed."""


class IdTaken(RegistrationError):
    """The id belongs to an execution with other content."""

    def __init__(self, present: Execution) -> None:
        super().__init__(f"another execution of {present.agent} has this id; it is {present.status}")
        self.present = present


class BadTimes(RegistrationError):
    """The times of work already done do not fit together; `field` names the culprit."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class Defaults(NamedTuple):
    timeout_s: int
    heartbeat_s: int
    max_retries: int
    stall_s: int | None
    agent_seen_at: datetime | None


DEFAULTS = """
SELECT coalesce(a.timeout_s, p.timeout_s), coalesce(a.heartbeat_s, p.heartbeat_s),
       coalesce(a.max_retries, p.max_retries), coalesce(a.stall_s, p.stall_s), a.last_seen_at
  FROM monitor_project p LEFT JOIN monitor_agent a ON a.project_id = p.id AND a.name = %(agent)s
 WHERE p.id = %(project_id)s
"""


NAMED_EARLY = UUID("3b5f2c9e-7a41-4d0e-9c26-8e1d5a60b7f4")
# Spans may have named the execution before it was there. One key tells, for they may lie on any day.
IS_NAMED = "SELECT true FROM monitor_ingestkey WHERE project_id = %(project_id)s AND key = %(key)s"
NAMED = """
SELECT DISTINCT encode(uuid_send(trace_id), 'hex') FROM monitor_span
 WHERE project_id = %(project_id)s AND execution_id = %(id)s
"""
# Each that stands in the ledger has an odd count of bookings.
NAMED_SUMS = """
SELECT count(*) FILTER (WHERE is_call),
       coalesce(sum(input_tokens::bigint + cache_read_tokens + cache_write_tokens + audio_input_tokens
                    + image_input_tokens), 0)::bigint,
       coalesce(sum(output_tokens::bigint + reasoning_tokens + audio_output_tokens), 0)::bigint,
       coalesce(sum(cost_usd), 0),
       coalesce((array_agg(model ORDER BY received_at, started_at) FILTER (WHERE is_call AND model <> ''))[1], '')
  FROM monitor_span, LATERAL (SELECT kind <> 'tool' OR ended_at IS NULL) AS counted (is_call)
 WHERE project_id = %(project_id)s AND execution_id = %(id)s AND bookings %% 2 = 1
"""

# Of an execution that traces tell of, the spans alone decide: a later version of them may say otherwise, also of one
# that was lost. What has no end, or was taken for silent, is looked at next (monitor/silence.py).
TOLD = """
INSERT INTO monitor_execution AS work (project_id, id, from_spans, agent, run_id, task, crew_id, conversation_id,
    parent_id, department, mode, trace_id, span_id, digest, status, attempt, max_retries, timeout_s, heartbeat_s,
    message, verdict, command, command_reason, started_at, ended_at, duration_ms, error, metadata, look_at,
    model, cost_usd, input_tokens, output_tokens, api_calls)
SELECT %(project_id)s, id, true, agent, run_id, task, '', conversation_id,
    parent_id, department, '', trace_id, span_id, '', status, 1, 0, 0, 0,
    '', '', '', '', started_at, ended_at, duration_ms, error, '{}', CASE WHEN ended_at IS NULL THEN started_at END,
    model, cost_usd, input_tokens, output_tokens, calls
  FROM unnest(%(id)s::uuid[], %(parent_id)s::uuid[], %(agent)s::text[], %(task)s::text[], %(run_id)s::text[],
    %(conversation_id)s::text[], %(department)s::text[], %(trace_id)s::uuid[], %(span_id)s::bigint[],
    %(status)s::text[], %(error)s::text[], %(started_at)s::timestamptz[], %(ended_at)s::timestamptz[],
    %(duration_ms)s::bigint[], %(calls)s::int[], %(input_tokens)s::bigint[], %(output_tokens)s::bigint[],
    %(cost_usd)s::numeric[], %(model)s::text[])
    AS told (id, parent_id, agent, task, run_id, conversation_id, department, trace_id, span_id, status, error,
    started_at, ended_at, duration_ms, calls, input_tokens, output_tokens, cost_usd, model)
ON CONFLICT (project_id, id) DO UPDATE SET
    agent = excluded.agent, run_id = excluded.run_id, task = excluded.task,
    conversation_id = excluded.conversation_id, department = excluded.department,
    parent_id = CASE WHEN work.id = ANY(%(bereft)s::uuid[]) THEN work.parent_id ELSE excluded.parent_id END,
    status = excluded.status, started_at = excluded.started_at, ended_at = excluded.ended_at,
    duration_ms = excluded.duration_ms, error = excluded.error,
    look_at = CASE WHEN excluded.ended_at IS NULL OR work.silent_at IS NOT NULL THEN excluded.started_at END,
    lost_at = NULL,
    model = CASE WHEN work.model = '' THEN excluded.model ELSE work.model END,
    cost_usd = work.cost_usd + excluded.cost_usd, api_calls = work.api_calls + excluded.api_calls,
    input_tokens = work.input_tokens + excluded.input_tokens,
    output_tokens = work.output_tokens + excluded.output_tokens
 WHERE work.from_spans
"""
TOLD_JOURNAL = """
INSERT INTO monitor_statechange
       (project_id, at, subject, subject_id, from_state, to_state, cause, actor, note, attempt, data, judged_at)
SELECT %(project_id)s, %(now)s, 'execution', id, from_state, to_state, 'traced', '', note, 1,
       jsonb_build_object('agent', agent, 'run_id', run_id), %(now)s
  FROM unnest(%(id)s::text[], %(from_state)s::text[], %(to_state)s::text[], %(note)s::text[], %(agent)s::text[],
       %(run_id)s::text[]) AS told (id, from_state, to_state, note, agent, run_id)
"""
WITHDRAW = """
DELETE FROM monitor_execution WHERE project_id = %(project_id)s AND id = ANY(%(ids)s::uuid[]) AND from_spans
"""


def register(project_id: int, body: NewExecution, *, now: datetime, actor: str) -> tuple[Execution, bool]:
    """Make the execution, running at once unless told otherwise; False when the same one was there already.

    Its first attempt is 1, whatever `attempt` says. Below a cancelled parent it is cancelled at once. Raises
    IdTaken, and BadTimes for work already done.
    """
    named = _named(project_id, body)
    with connection.cursor() as cursor:
        cursor.execute(DEFAULTS, {"project_id": project_id, "agent": body.agent})
        defaults = Defaults(*cursor.fetchone())
    execution = _new(project_id, body, defaults, named, now=now)
    if body.id is not None and (present := _present(project_id, body.id, body.digest())) is not None:
        if present.status == Status.RETRYING and body.attempt == present.attempt:
            transitions.start(present, now=now, actor=actor)
        return present, False
    try:
        with transaction.atomic():
            execution.save(force_insert=True)
    except IntegrityError as error:
        # Another connection was first.
        if body.id is None or (present := _present(project_id, body.id, body.digest())) is None:
            raise error
        return present, False
    if defaults.agent_seen_at is None or now - defaults.agent_seen_at > timedelta(seconds=agents.SEEN_EVERY_S):
        agents.saw(project_id, body.agent, now=now)
    changes.record(
        project_id,
        Subject.EXECUTION,
        execution.id,
        to_state=execution.status,
        cause="tracked" if body.is_done else "registered",
        actor=actor,
        note=execution.error,
        now=now,
        attempt=1,
        data={"agent": execution.agent, "run_id": execution.run_id},
        concerns_alerts=False,
    )
    if body.is_done:
        outcomes.count(project_id, [execution], now=now)
    elif (why := families.stopped_above(project_id, execution)) is not None:
        said: dict[str, Any] = {"actor": actor, "note": why, "cause": "parent_cancelled"}
        execution = executions.cancel(project_id, execution.id, now=now, **said)
    return execution, True


def telling(project_id: int, books: Books, *, now: datetime) -> list[Statement]:
    """The statements for executions that traces tell of, in the order of their ids; none when no agent spoke.

    As with what the API tracks, the journal has a line for every state and nobody is alerted. What the batch
    adds to their sums is written here too and taken out of `books.works`.
    """
    statements = []
    if books.withdrawn:
        withdrawn = sorted(books.withdrawn)
        statements.append(Statement(WITHDRAW, {"project_id": project_id, "ids": array(withdrawn)}))
        for one in withdrawn:
            books.works.pop(one, None)
    if not books.told:
        return statements
    told = [books.told[one] for one in sorted(books.told)]
    columns: dict[str, Any] = {"project_id": project_id, "bereft": array(sorted(books.bereft))}
    for name in AgentWork.__struct_fields__:
        kind = times if name.endswith("_at") else texts if name in AGENT_WORDS else array
        columns[name] = kind(getattr(after, name) for _, after in told)
    sums = [books.works.pop(after.id, NOTHING_ADDED) for _, after in told]
    for name in WorkSums.__struct_fields__:
        kind = times if name.endswith("_at") else texts if name == "model" else array
        columns[name] = kind(getattr(one, name) for one in sums)
    statements.append(Statement(TOLD, columns))
    moved = [(before, after) for before, after in told if before is None or before.status != after.status]
    if moved:
        lines = {
            "id": texts(after.id for _, after in moved),
            "from_state": texts(before.status if before else "" for before, _ in moved),
            "to_state": texts(after.status for _, after in moved),
            "note": texts(after.error for _, after in moved),
            "agent": texts(after.agent for _, after in moved),
            "run_id": texts(after.run_id for _, after in moved),
        }
        statements.append(Statement(TOLD_JOURNAL, {"project_id": project_id, "now": now, **lines}))
    return statements


def named_early(execution_id: str) -> UUID:
    """The key that is kept of an execution which spans named while it was not there."""
    return uuid5(NAMED_EARLY, execution_id)


def _named(project_id: int, body: NewExecution) -> WorkSums:
    """What the stored spans add up to that name the execution; locks it and the traces that it may be in until commit.

    Before all other locks, as ingest does: its batches then see this execution, or we see their spans.
    """
    own = [UUID(body.trace_id).hex] if body.trace_id is not None else []
    if body.id is None:
        if own:
            ground.lock(project_id, *own)
        return NOTHING_ADDED
    wanted = {"project_id": project_id, "id": body.id}
    key = {"project_id": project_id, "key": named_early(str(body.id))}
    # Who looks has the lock: no batch that names it is under way, and others come to it by way of a stored span.
    _, is_named = pipeline.flush([ground.claiming(project_id, body.id), Statement(IS_NAMED, key)])
    found = pipeline.flush([Statement(NAMED, wanted)])[0] if is_named else []
    traces = {*own, *(trace for (trace,) in found)}
    if traces:
        ground.lock(project_id, *traces)
    if not found:
        return NOTHING_ADDED
    ((sums,),) = pipeline.flush([Statement(NAMED_SUMS, wanted)])
    return WorkSums(*sums)


def _present(project_id: int, execution_id: UUID, digest: bytes) -> Execution | None:
    present = Execution.objects.of(project_id).filter(id=execution_id).first()
    if present is not None and bytes(present.digest) != digest:
        raise IdTaken(present)
    return present


def _new(project_id: int, body: NewExecution, defaults: Defaults, named: WorkSums, *, now: datetime) -> Execution:
    execution = Execution(
        project_id=project_id,
        id=body.id or uuid7(),
        agent=body.agent,
        run_id=body.run_id,
        task=body.task,
        crew_id=body.crew_id,
        conversation_id=body.conversation_id,
        parent_id=body.parent_id,
        department=body.department,
        mode=body.mode,
        trace_id=UUID(body.trace_id) if body.trace_id else None,
        span_id=_signed(body.span_id) if body.span_id else None,
        digest=body.digest(),
        status=body.status,
        timeout_s=body.timeout_s or defaults.timeout_s,
        heartbeat_s=body.heartbeat_s or defaults.heartbeat_s,
        max_retries=defaults.max_retries if body.max_retries is None else body.max_retries,
        stall_s=(defaults.stall_s if body.stall_s is None else body.stall_s) or None,
        on_stall=body.on_stall,
        inputs=body.inputs,
        metadata=body.metadata,
        output=body.output,
        error=body.error,
        model=body.model or named.model,
        input_tokens=body.input_tokens + named.input_tokens,
        output_tokens=body.output_tokens + named.output_tokens,
        cost_usd=body.cost_usd.quantize(FINEST_USD) + named.cost_usd,
        cpu_ms=body.cpu_ms,
        memory_delta_bytes=body.memory_delta_bytes,
        api_calls=body.api_calls + named.calls,
        started_at=now,
    )
    if body.is_done:
        execution.started_at, execution.ended_at, execution.duration_ms = _times(body, now=now)
    elif body.ended_at or body.duration_ms is not None:
        raise BadTimes("status", "work that has an end needs a status that has ended")
    elif body.started_at:
        raise BadTimes("started_at", "only work already done tells when it started")
    if execution.status in WATCHED:
        execution.attempt_started_at = now
        execution.deadline_at = attempts.deadline(execution, now, now=now)
        execution.stall_due_at = attempts.stall_due_at(execution, now=now)
    return execution


def _times(body: NewExecution, *, now: datetime) -> tuple[datetime, datetime, int]:
    """Start and end, in UTC, and duration from any two of them.

    Work without an end ended now, without a start it took no time.
    """
    for field, at in (("started_at", body.started_at), ("ended_at", body.ended_at)):
        if at is not None and (wrong := ahead(at, now=now)):
            raise BadTimes(field, wrong)
        if at is not None and at < now - LONGEST:
            raise BadTimes(field, "lies more than ten years back")
    known_ms = None if body.duration_ms is None else timedelta(milliseconds=body.duration_ms)
    if body.started_at and body.ended_at:
        started_at, ended_at = body.started_at, body.ended_at
    elif body.started_at and known_ms is not None:
        started_at, ended_at = body.started_at, body.started_at + known_ms
    elif body.started_at:
        started_at, ended_at = body.started_at, now
    else:
        ended_at = body.ended_at or now
        started_at = ended_at - (known_ms or timedelta())
    if ended_at < started_at:
        raise BadTimes("ended_at", "lies before the start")
    if wrong := misplaced(ended_at, now=now):
        raise BadTimes("ended_at", wrong)
    started_at, ended_at = started_at.astimezone(UTC), ended_at.astimezone(UTC)
    duration_ms = body.duration_ms
    if duration_ms is None:
        duration_ms = (ended_at - started_at) // timedelta(milliseconds=1)
    return started_at, ended_at, duration_ms


def _signed(span_id: str) -> int:
    """A span id in hex as PostgreSQL's signed 64 bits."""
    return int.from_bytes(bytes.fromhex(span_id), "big", signed=True)
