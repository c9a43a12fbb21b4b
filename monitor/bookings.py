"""What a trace adds to the books: a pure function of its spans, so that any order of arrival ends the same.

Every change books what a span contributes after it less what it contributed before. That covers repeats,
spans that end after they were told of, and a late child that reverses its parent.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

import msgspec

from monitor.agentwork import AgentWork
from monitor.folding import RollupDelta
from monitor.metering import Meter, billed, unmetered
from monitor.prices import booked_usd
from monitor.spanrows import MOST_MS, Known, Row

CALL_KINDS = ("llm", "embedding")
# A span that was booked so often stays as it is: the number of a booking has two bytes, and one change books twice.
MOST_BOOKINGS = 32_000
ZERO = Decimal(0)


class Role(StrEnum):
    """How a span counts: as a model call, as a call of a tool, as one that repeats what others bear, or not at all."""

    NOTHING = ""
    CALL = "llm"
    TOOL = "tool"
    REPEATER = "repeater"


def roles(trace: Iterable[Known | Row], parents: Mapping[int, int]) -> dict[int, Role]:
    """Return how each span of one trace counts, given its parents; spans that count for nothing are left out.

    Leaf calls count, and those that nobody metered too: as unpriced when they succeeded. A tool counts once
    it has ended, and what it bears is its own only where no other span tells of the same.
    """
    found: dict[int, Role] = {}
    metered = []
    for span in trace:
        ended = span.ended_at is not None
        if span.kind == "tool" and ended:
            found[span.span_id] = Role.TOOL
        is_call = ended and span.kind in CALL_KINDS
        # Of what neither bears nor calls only the place between others counts, which `parents` tells.
        if is_call or span.bears_usage:
            metered.append((span, is_call))
    if len(metered) == 1:
        # There is none that it could repeat, or that repeats it.
        found.setdefault(metered[0][0].span_id, Role.CALL)
        return found
    meters = [
        Meter(
            span_id=span.span_id,
            parent_span_id=span.parent_span_id,
            bears=span.bears_usage,
            is_call=is_call,
            response_id=span.response_id or None,
            tokens=span.tokens,
        )
        for span, is_call in metered
    ]
    paid = billed(meters, parents)
    for meter in meters:
        if meter.bears and meter.span_id in found and meter.span_id not in paid:
            found[meter.span_id] = Role.REPEATER
    for span_id in paid | unmetered(meters, parents):
        found.setdefault(span_id, Role.CALL)
    return found


class Line(msgspec.Struct, frozen=True, gc=False):
    """What one span contributes in its role."""

    role: Role
    row: Row
    cost_usd: Decimal
    unpriced: int
    latency_ms: int

    @property
    def has_entry(self) -> bool:
        """Whether it stands in the ledger: every call, and a tool that costs."""
        return self.role is Role.CALL or self.is_paid

    @property
    def is_paid(self) -> bool:
        """Whether what it bears is its own."""
        return _is_paid(self.row, self.role)


def _is_paid(row: Row, role: Role) -> bool:
    return row.bears_usage and role is not Role.REPEATER


def line(row: Row, role: Role) -> Line | None:
    """Return what a row contributes, None when nothing."""
    if role is Role.NOTHING:
        return None
    usd = booked_usd(row.computed_usd, row.reported_usd) if _is_paid(row, role) else None
    silent_failure = row.failed and not row.bears_usage
    lasted = (row.ended_at - row.started_at).total_seconds() if row.ended_at else 0.0
    return Line(
        role,
        row,
        usd or ZERO,
        int(usd is None and role is Role.CALL and not silent_failure),
        min(max(round(lasted * 1000), 0), MOST_MS),
    )


def price_into(row: Row, line: Line | None) -> None:
    """Write into the row what of it is billed."""
    if line is None or not line.has_entry:
        row.cost_usd, row.pricing = ZERO, "none"
        return
    row.cost_usd = line.cost_usd
    row.pricing = "unpriced" if line.unpriced else "priced" if row.bears_usage else "none"


class RunSums(msgspec.Struct, gc=False):
    """What a batch adds to one run, and the moments it reaches."""

    run_id: str
    agent: str
    department: str
    first_at: datetime
    last_at: datetime
    calls: int = 0
    failed_calls: int = 0
    unpriced_calls: int = 0
    tool_calls: int = 0
    latency_ms: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = ZERO
    reported_usd: Decimal = ZERO
    computed_usd: Decimal = ZERO
    spans: int = 0


class WorkSums(msgspec.Struct, gc=False):
    """What a batch adds to one execution; the newest start and the newest end or start of the spans of its own work."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = ZERO
    model: str = ""
    began_at: datetime | None = None
    reached_at: datetime | None = None


class Charge(msgspec.Struct, frozen=True, gc=False):
    """Money and calls to hold against the budgets of a run, an agent and a department, in the windows of `at`."""

    run_id: str
    agent: str
    department: str
    cost_usd: Decimal
    at: datetime
    calls: int = 1


class Books(msgspec.Struct, gc=False):
    """Everything that a batch changes beside the spans themselves."""

    entries: list[tuple[Line, int, int]] = []  # line, +1 or -1, its number among the span's bookings
    rollups: list[RollupDelta] = []
    runs: dict[str, RunSums] = {}
    works: dict[str, WorkSums] = {}
    conversations: dict[str, Decimal] = {}
    charges: list[Charge] = []
    unpriced_models: set[tuple[str, str]] = set()
    told: dict[str, tuple[AgentWork | None, AgentWork]] = {}  # executions as they were told before, and are now
    bereft: set[str] = set()  # of those told, whose parent has left with its span: it stays in their rows
    withdrawn: set[str] = set()

    def tell(self, before: AgentWork | None, after: AgentWork | None, *, parent_left: bool = False) -> None:
        """Note what a span tells of its execution now, and count its outcome anew where that differs."""
        if before == after:
            return
        for work, sign in ((before, -1), (after, 1)):
            if work is not None and (outcome := work.outcome(sign)) is not None:
                self.rollups.append(outcome)
        if after is not None:
            self.told[after.id] = before, after
            if parent_left:
                self.bereft.add(after.id)
        elif before is not None:
            self.withdrawn.add(before.id)

    def saw(self, row: Row | Known) -> None:
        """Note that the row's run reaches from its start to its end."""
        last_at = row.ended_at or row.started_at
        run = self.runs.get(row.run_id)
        if run is None:
            self.runs[row.run_id] = RunSums(row.run_id, row.agent, row.department, row.started_at, last_at)
            return
        run.first_at = min(run.first_at, row.started_at)
        run.last_at = max(run.last_at, last_at)
        run.agent = run.agent or row.agent
        run.department = run.department or row.department

    def joins(self, before: Row | Known | None, after: Row | Known) -> None:
        """Note that a span makes the run of `after`, and no more that of `before`."""
        self.saw(after)
        if before is not None and before.run_id == after.run_id:
            return
        self.runs[after.run_id].spans += 1
        if before is not None:
            self.saw(before)
            self.runs[before.run_id].spans -= 1

    def moves(self, row: Row) -> None:
        """Note that the execution may have made progress: a new span tells of a step, a call or a tool of it."""
        if row.execution_id is None or row.kind == "agent":
            return
        work = self.works.setdefault(row.execution_id, WorkSums())
        began_at, reached_at = row.started_at, row.ended_at or row.started_at
        if work.began_at is None or began_at > work.began_at:
            work.began_at = began_at
        if work.reached_at is None or reached_at > work.reached_at:
            work.reached_at = reached_at

    def move(self, before: Line | None, after: Line | None, bookings: int) -> int:
        """Book the change of one span's contribution; return how often it has now been booked."""
        if before is not None:
            bookings = self._book(before, -1, bookings)
        if after is not None:
            bookings = self._book(after, 1, bookings)
        return bookings

    def _book(self, line: Line, sign: int, bookings: int) -> int:
        row, cost = line.row, line.cost_usd * sign
        if line.has_entry:
            self.entries.append((line, sign, bookings))
            bookings += 1
            self.charges.append(Charge(row.run_id, row.agent, row.department, cost, row.received_at, sign))
            if row.conversation_id and cost:
                self.conversations[row.conversation_id] = self.conversations.get(row.conversation_id, ZERO) + cost
            if line.unpriced and row.model and sign > 0:
                self.unpriced_models.add((row.provider, row.model))
        own = sign if line.is_paid else 0
        taken = row.input_tokens + row.cache_read_tokens + row.cache_write_tokens
        taken = (taken + row.audio_input_tokens + row.image_input_tokens) * own
        made = (row.output_tokens + row.reasoning_tokens + row.audio_output_tokens) * own
        is_call = line.role is Role.CALL
        reported, computed = (row.reported_usd or ZERO) * own, (row.computed_usd or ZERO) * own
        self.rollups.append(
            RollupDelta(
                at=row.started_at,
                kind=Role.CALL if is_call else Role.TOOL,
                agent=row.agent,
                department=row.department,
                provider=row.provider,
                model=row.model if is_call else row.tool,
                count=sign,
                failed=row.failed * sign,
                duration_ms=line.latency_ms * sign,
                input_tokens=taken,
                cache_read_tokens=row.cache_read_tokens * own,
                output_tokens=made,
                cost_usd=cost,
                reported_usd=reported,
                computed_usd=computed,
                unpriced=line.unpriced * sign,
            )
        )
        self.saw(row)
        run = self.runs[row.run_id]
        run.cost_usd += cost
        run.reported_usd += reported
        run.computed_usd += computed
        run.input_tokens += taken
        run.output_tokens += made
        if is_call:
            run.calls += sign
            run.failed_calls += row.failed * sign
            run.unpriced_calls += line.unpriced * sign
            run.latency_ms += line.latency_ms * sign
        else:
            run.tool_calls += sign
        if row.execution_id is not None:
            work = self.works.setdefault(row.execution_id, WorkSums())
            work.calls += sign * is_call
            work.input_tokens += taken
            work.output_tokens += made
            work.cost_usd += cost
            if is_call and sign > 0:
                work.model = row.model
        return bookings
