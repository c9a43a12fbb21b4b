"""The spans of an execution: found within its time, and laid out as waterfall.js draws them."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import F, Q, QuerySet

from dashboard.journal import Try
from monitor.models import Execution, Span, Trace
from monitor.models.spans import Kind, Pricing
from monitor.pipeline import Statement
from monitor.together import Together

MOST_SPANS = 10_000
MOST_BELOW = 1_000
# Clocks of agents are off by some minutes, and spans may end after their execution.
SLACK = timedelta(minutes=10)
NOTE_LENGTH = 90
MASK = (1 << 64) - 1
Milliseconds = Callable[[datetime], int]
KINDS = {
    Kind.LLM: "model",
    Kind.EMBEDDING: "model",
    Kind.TOOL: "tool",
    Kind.RETRIEVAL: "tool",
    Kind.MEMORY: "tool",
    Kind.AGENT: "agent",
    Kind.STEP: "agent",
    Kind.OPERATION: "agent",
}
MODEL_KINDS = (Kind.LLM, Kind.EMBEDDING)
TOOL_KINDS = (Kind.TOOL, Kind.RETRIEVAL, Kind.MEMORY)
BELOW = """
WITH RECURSIVE below (id) AS (
    SELECT id FROM monitor_execution WHERE project_id = %(project_id)s AND parent_id = %(id)s AND from_spans
     UNION
    SELECT one.id FROM monitor_execution AS one JOIN below ON one.parent_id = below.id
     WHERE one.project_id = %(project_id)s AND one.from_spans
)
SELECT id FROM below LIMIT %(most)s
"""
DRAWN = (
    "trace_id",
    "span_id",
    "parent_span_id",
    "started_at",
    "ended_at",
    "kind",
    "name",
    "tool",
    "failed",
    "error",
    "cost_usd",
    "pricing",
    "tokens",
)
# Every bucket of a call, as billed.
TOKENS = (
    F("input_tokens")
    + F("cache_read_tokens")
    + F("cache_write_tokens")
    + F("audio_input_tokens")
    + F("image_input_tokens")
    + F("output_tokens")
    + F("reasoning_tokens")
    + F("audio_output_tokens")
)


@dataclass(frozen=True)
class Drawn:
    """What the waterfall needs of a span."""

    trace_id: UUID
    span_id: int
    parent_span_id: int | None
    started_at: datetime
    ended_at: datetime | None
    kind: str
    name: str
    tool: str
    failed: bool
    error: str
    cost_usd: Decimal
    pricing: str
    tokens: int


def below(asked: Together, execution: Execution) -> list[UUID]:
    """The executions that traces tell of under this one, at most MOST_BELOW; asked with others."""
    named = {"project_id": execution.project_id, "id": execution.id, "most": MOST_BELOW}
    return asked.ask(Statement(BELOW, named), lambda rows: [one for (one,) in rows])


def trace_of(execution: Execution) -> QuerySet[Trace]:
    """The trace that it was registered for, or that tells of it, if any."""
    if execution.trace_id is None:
        return Trace.objects.none()
    return Trace.objects.filter(project_id=execution.project_id, trace_id=execution.trace_id)[:1]


def spans_of(
    execution: Execution, traced: Sequence[Trace], *, now: datetime, also: Iterable[UUID] = ()
) -> QuerySet[Span]:
    """The execution's spans, and those of the executions `also`, bounded by its time and that of its trace.

    Its own are those that name it, and those of the trace it was registered for that name none.
    """
    since = execution.started_at - SLACK
    until = (execution.ended_at or now) + SLACK
    mine = Q(execution_id__in=[execution.id, *also])
    for trace in traced:
        since, until = min(since, trace.first_at), max(until, trace.last_at)
    if execution.trace_id is not None and not execution.from_spans:
        mine |= Q(trace_id=execution.trace_id, execution_id__isnull=True)
    return Span.objects.filter(mine, project_id=execution.project_id, started_at__gte=since, started_at__lte=until)


def count_by_kind(spans: QuerySet[Span]) -> dict[str, int]:
    """How many there are of each kind, of at most MOST_SPANS + 1."""
    counted, params = spans.values("kind")[: MOST_SPANS + 1].query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT kind, count(*) FROM ({counted}) AS counted GROUP BY kind", params)  # noqa: S608
        return dict(cursor.fetchall())


def drawn(spans: QuerySet[Span]) -> list[Drawn]:
    """The first MOST_SPANS + 1 spans in the order of their start."""
    rows = spans.annotate(tokens=TOKENS).order_by("started_at", "span_id").values_list(*DRAWN)
    return [Drawn(*row) for row in rows[: MOST_SPANS + 1]]


def span_key(trace_id: UUID, span_id: int) -> str:
    """How an address names a span: trace and span in hex."""
    return f"{trace_id.hex}-{span_id & MASK:016x}"


def read_key(key: str) -> tuple[UUID, int] | None:
    """The trace and span of an address; None when it is none."""
    trace, _, span = key.partition("-")
    try:
        number = int(span, 16)
        found = UUID(hex=trace)
    except ValueError:
        return None
    if len(trace) != 32 or len(span) != 16:
        return None
    return found, number - (1 << 64) if number >> 63 else number


def waterfall(
    spans: Sequence[Drawn],
    tries: Sequence[Try],
    pauses: Iterable[tuple[datetime, datetime]],
    *,
    now: datetime,
    is_open: bool,
) -> dict[str, Any]:
    """The figure for waterfall.js: spans under the try in which they began, when there was more than one."""
    shown = list(spans[:MOST_SPANS])
    starts = [one.started_at for one in shown] + [one.started_at for one in tries]
    zero = min(starts, default=now)
    known_ends = [one.ended_at for one in shown if one.ended_at] + [one.ended_at for one in tries if one.ended_at]
    end = now if is_open else max(known_ends, default=now)

    def ms(moment: datetime) -> int:
        return round((moment - zero) / timedelta(milliseconds=1))

    heads = list(tries) if len(tries) > 1 or not shown else []
    began = [one.started_at for one in heads]
    # Under the last try that had begun by then; what came before any belongs to the first.
    under_try = [max(0, bisect_right(began, one.started_at) - 1) if began else -1 for one in shown]
    held: list[list[Drawn]] = [[] for _ in heads]
    for one, under in zip(shown, under_try, strict=True):
        if under >= 0:
            held[under].append(one)
    rows: list[list[Any]] = [
        _row_of_try(one, mine, ms, is_open=is_open, end=end) for one, mine in zip(heads, held, strict=True)
    ]
    places = {(one.trace_id, one.span_id): len(heads) + at for at, one in enumerate(shown)}
    parents = [places.get((one.trace_id, one.parent_span_id or 0), -1) for one in shown]
    _cut_circles(parents, len(heads))
    for one, parent, place in zip(shown, parents, under_try, strict=True):
        rows.append(_row_of_span(one, parent if parent >= 0 else place, ms, is_open=is_open, end=end))
    figure: dict[str, Any] = {
        "spans": rows,
        "gaps": [[ms(since), ms(until), "for a person"] for since, until in pauses],
        "ends_ms": ms(end),
    }
    if heads and shown:
        figure["axis_from_ms"] = ms(heads[-1].started_at)
    return figure


def _row_of_try(one: Try, mine: Sequence[Drawn], ms: Milliseconds, *, is_open: bool, end: datetime) -> list[Any]:
    cost = sum((span.cost_usd for span in mine), Decimal(0))
    tokens = sum(span.tokens for span in mine)
    runs = one.ended_at is None and is_open and one.status == "running"
    until = one.ended_at or end
    return [
        f"try-{one.number}",
        -1,
        "agent",
        f"Try {one.number}, {one.word}",
        ms(one.started_at),
        None if runs else max(0, ms(until) - ms(one.started_at)),
        f"{cost:.4f}" if mine else None,
        tokens if mine else None,
        "running" if runs else "error" if one.status == "error" else "ok",
        _short(one.reason) or None,
    ]


def _row_of_span(one: Drawn, parent: int, ms: Milliseconds, *, is_open: bool, end: datetime) -> list[Any]:
    start = ms(one.started_at)
    runs = one.ended_at is None and is_open
    note = _short(one.error)
    took: int | None
    if one.ended_at is not None:
        took = max(0, ms(one.ended_at) - start)
    else:
        took = None if runs else max(0, ms(end) - start)
        note = note or ("" if runs else "its end was never sent")
    unpriced = one.pricing == Pricing.UNPRICED
    return [
        span_key(one.trace_id, one.span_id),
        parent,
        KINDS.get(Kind(one.kind), "other"),
        one.tool or one.name,
        start,
        took,
        "unknown" if unpriced else f"{one.cost_usd:.4f}" if one.cost_usd else None,
        one.tokens or None,
        "error" if one.failed else "running" if runs else "ok",
        note or None,
    ]


def _short(text: str) -> str:
    first = text.strip().partition("\n")[0]
    return first if len(first) <= NOTE_LENGTH else f"{first[: NOTE_LENGTH - 1]}…"


def _cut_circles(parents: list[int], first: int) -> None:
    """Make a root of one span in each circle of parents, so that every span hangs from a root."""
    safe: set[int] = set()
    for start in range(len(parents)):
        path: list[int] = []
        seen: set[int] = set()
        at = start
        while at not in safe and at not in seen and parents[at] >= first:
            seen.add(at)
            path.append(at)
            at = parents[at] - first
        if at in seen:
            parents[at] = -1
        safe.update(path)
        safe.add(at)


def spoken_count(counts: dict[str, int], kinds: Iterable[str]) -> str:
    """A tab's number: `18`, or `10,000+` where counting stopped."""
    number = sum(counts.get(kind, 0) for kind in kinds)
    return f"{min(number, MOST_SPANS):,}{'+' if sum(counts.values()) > MOST_SPANS else ''}"
