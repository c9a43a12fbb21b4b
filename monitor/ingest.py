"""The one door: a batch of spans becomes rows, priced, booked, summed and held against the budgets.

All of it in the running transaction, so that what was accepted is exact and durable once it commits. Locks are
taken in the order that monitor/deadlocks.py lists.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID, uuid5

import msgspec

from monitor import budgets, changes, news, pipeline, registration, rollups, runs, settlement, store
from monitor.budgets import Verdict
from monitor.ground import Ground, read
from monitor.models import Subject
from monitor.records import Span
from monitor.settlement import Settlement
from monitor.spanrows import Known, Row, refusal, row
from monitor.store import TraceSpan

UNPRICED_TODAY = UUID("0f0dbd8e-6b3c-4f5c-9d5e-2f8b1c6f7a10")


class Refused(msgspec.Struct, frozen=True):
    """A span that was not taken, by its place in the batch, and why."""

    index: int
    reason: str


class Accepted(msgspec.Struct, frozen=True):
    """How many spans were new or told something new, how many repeated what was known, which were refused.

    `verdict` is what the budgets say to whoever spent.
    """

    accepted: int
    duplicates: int
    rejected: list[Refused]
    verdict: Verdict


def accept(project_id: int, spans: Sequence[Span], *, now: datetime, department: str = "") -> Accepted:
    """Take the spans into the project; any order, split or repetition of them ends in the same books.

    `department` is what the key stands for, used by spans that name none.
    """
    fitting, rejected = _fitting(spans, now=now)
    newest = _newest(fitting)
    if not newest:
        return Accepted(0, 0, rejected, Verdict())
    ground = _ground(project_id, newest)
    rows = _news(project_id, newest, ground, now=now, department=department)
    by_trace: dict[str, dict[int, Row]] = {}
    for one in rows:
        by_trace.setdefault(one.trace_id, {})[one.span_id] = one
    verdict = _book(project_id, by_trace, ground, now=now)
    if rows:
        news.tell(project_id, "spans")
    return Accepted(len(rows), len(fitting) - len(rows), rejected, verdict)


def look_again(project_id: int, trace: str, *, now: datetime) -> None:
    """Settle the stored spans of a trace (32 hex digits) anew, because an execution that owns it was registered."""
    ground = read(project_id, [trace], works=(), days=())
    if ground.known:
        _book(project_id, {trace: {}}, ground, now=now)


def _book(project_id: int, by_trace: Mapping[str, Mapping[int, Row]], ground: Ground, *, now: datetime) -> Verdict:
    """Settle each trace with its new rows by span, and write them and all that they change."""
    settled = settlement.settle(project_id, by_trace, ground)
    rows = [one for new in by_trace.values() for one in new.values()]
    pipeline.flush(store.replacing(project_id, settled.replaced) + store.correcting(project_id, settled.corrections))
    store.copy_spans(rows)
    store.copy_ledger(project_id, settled.books.entries, now=now)
    return _sum_up(project_id, rows, settled, now=now)


def _fitting(spans: Iterable[Span], *, now: datetime) -> tuple[list[Span], list[Refused]]:
    """The spans that can be kept, and the others by name."""
    fitting: list[Span] = []
    rejected: list[Refused] = []
    for index, span in enumerate(spans):
        reason = refusal(span, now=now)
        if reason is None:
            fitting.append(span)
        else:
            rejected.append(Refused(index, reason))
    return fitting, rejected


def _newest(spans: Iterable[Span]) -> dict[tuple[bytes, int], Span]:
    """Of the versions of a span within the batch, the one that stays."""
    newest: dict[tuple[bytes, int], Span] = {}
    for span in spans:
        key = (span.trace_id, span.span_id)
        held = newest.get(key)
        if held is None or _rank(span) > _rank(held):
            newest[key] = span
    return newest


def _rank(span: Span) -> tuple[bool, datetime, bytes]:
    return span.ended_at is not None, span.ended_at or span.started_at, span.digest


def _ground(project_id: int, newest: dict[tuple[bytes, int], Span]) -> Ground:
    return read(
        project_id,
        {trace_id.hex() for trace_id, _ in newest},
        works={span.execution_id for span in newest.values() if span.execution_id},
        days={span.started_at.date() for span in newest.values()},
    )


def _news(
    project_id: int,
    newest: dict[tuple[bytes, int], Span],
    ground: Ground,
    *,
    now: datetime,
    department: str,
) -> list[Row]:
    """The rows of the spans that are new, or newer than what is stored."""
    rows = []
    for (trace_id, span_id), span in newest.items():
        trace = trace_id.hex()
        stored = ground.known.get(trace, {}).get(span_id)
        if stored is not None and _rank(span) <= stored.rank:
            continue
        work = ground.works.get(str(span.execution_id)) if span.execution_id else None
        said = department
        if work is None and trace in ground.by_trace:
            said = ground.by_trace[trace].department or department
        rows.append(row(project_id, span, now=now, department=said, work=work, overrides=ground.overrides))
    return rows


def _sum_up(project_id: int, rows: Sequence[Row], settled: Settlement, *, now: datetime) -> Verdict:
    """Write the sums; the budgets are locked nearly last and folded, for they are the hottest rows."""
    books = settled.books
    models = {_unpriced_key(provider, model, now): (provider, model) for provider, model in books.unpriced_models}
    sums = store.upserting(
        project_id,
        runs=books.runs,
        traces=_traces(rows, settled.replaced),
        agents=settled.agents,
        first_keys=models,
        now=now,
    )
    folding = rollups.folding(project_id, books.rollups, now=now)
    charging = budgets.charging(project_id, books.charges, now=now)
    answers = pipeline.flush([*sums, *folding, *charging.statements])
    verdict = budgets.judge(charging, answers[len(sums) + len(folding) :])
    pipeline.flush(
        [
            *runs.mending(project_id, settled.left, settled.renamed),
            *registration.telling(project_id, books, now=now),
            *store.adding_up(project_id, books.works, books.conversations, now=now),
        ]
    )
    if books.told or books.withdrawn:
        news.tell(project_id, "executions")
    for (key,) in answers[len(sums) - 1]:
        provider, model = models[key]
        _tell_unpriced(project_id, provider, model, now=now)
    budgets.act(project_id, verdict, now=now)
    return verdict


def _traces(rows: Iterable[Row], replaced: Sequence[tuple[str, Known]]) -> dict[str, TraceSpan]:
    """Where the batch's spans lie, by trace; a replaced version was counted before."""
    traces: dict[str, TraceSpan] = {}
    for one in rows:
        seen = traces.get(one.trace_id)
        if seen is None:
            traces[one.trace_id] = TraceSpan(one.started_at, one.started_at, 1)
            continue
        traces[one.trace_id] = TraceSpan(
            min(seen.first_at, one.started_at),
            max(seen.last_at, one.started_at),
            seen.spans + 1,
        )
    for trace, _ in replaced:
        traces[trace] = traces[trace]._replace(spans=traces[trace].spans - 1)
    return traces


def _unpriced_key(provider: str, model: str, now: datetime) -> UUID:
    """One key a day for a model without a price: whoever inserts it tells."""
    return uuid5(UNPRICED_TODAY, f"{now:%Y-%m-%d}\0{provider}\0{model}")


def _tell_unpriced(project_id: int, provider: str, model: str, *, now: datetime) -> None:
    changes.record(
        project_id,
        Subject.MODEL,
        model,
        to_state="unpriced",
        cause="unpriced",
        now=now,
        data={"provider": provider, "model": model},
    )
