"""The one door: a batch of spans becomes rows, priced, booked, summed and held against the budgets.

All of it in the running transaction, so that what was accepted is exact and durable once it commits. Locks are
taken in the order that monitor/deadlocks.py lists.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import NamedTuple
from uuid import UUID, uuid5

import msgspec

from monitor import (
    budgets,
    changes,
    folding,
    keeping,
    news,
    pipeline,
    registration,
    rundays,
    runs,
    settlement,
    silence,
    spanlogs,
    store,
)
from monitor.bookings import MOST_BOOKINGS
from monitor.budgets import Verdict
from monitor.ground import Ground, read
from monitor.keeping import Late
from monitor.models import Subject
from monitor.records import Span, rank
from monitor.settlement import Settlement
from monitor.spanrows import EXECUTION, Known, Row, refusal, row
from monitor.store import TraceSpan

UNPRICED_TODAY = UUID("0f0dbd8e-6b3c-4f5c-9d5e-2f8b1c6f7a10")


class Refused(msgspec.Struct, frozen=True):
    """A span that was not taken, by its place in the batch, and why."""

    index: int
    reason: str


class Accepted(msgspec.Struct, frozen=True):
    """How many spans were new or told something new, how many repeated what was known, which were refused."""

    accepted: int
    duplicates: int
    rejected: list[Refused]


class Judged(Accepted, frozen=True):
    """What became of a batch that came alone; `verdict` is what the budgets say to whoever spent."""

    verdict: Verdict


class Taken(NamedTuple):
    """What became of each batch; `verdict` is what the budgets say of all that they spent together."""

    batches: list[Accepted]
    verdict: Verdict


class Batch(NamedTuple):
    """Spans that came together; `department` is what their key stands for, used by spans that name none."""

    spans: Sequence[Span]
    department: str = ""


class _Told(NamedTuple):
    """A span, the number of the batch that told it, and its place there."""

    span: Span
    batch: int
    place: int


def accept(project_id: int, spans: Sequence[Span], *, now: datetime, department: str = "") -> Judged:
    """Take one batch into the project; see `accept_all`."""
    (done,), verdict = accept_all(project_id, [Batch(spans, department)], now=now)
    return Judged(done.accepted, done.duplicates, done.rejected, verdict)


def accept_all(project_id: int, batches: Sequence[Batch], *, now: datetime) -> Taken:
    """Take the batches into the project; any order, split or repetition of their spans ends in the same books.

    What is masked is masked before: here the locks of the traces are held.

    Where several could be named, a run has the agent and the department, and an execution the model, of whoever came
    first; and a run that somebody named reaches to wherever a span of it was told to be.

    What came twice in them counts for the batch that told the newer version, and as a duplicate for the other.
    """
    late = keeping.late(project_id, now=now)
    fitting, rejected = zip(*(_fitting(batch.spans, late, now=now) for batch in batches), strict=True)
    fit = [len(one) for one in fitting]
    newest = _newest(fitting)
    if not newest:
        return Taken([Accepted(0, 0, refused) for refused in rejected], Verdict())
    ground = _ground(project_id, newest)
    taken = [0] * len(batches)
    by_trace: dict[str, dict[int, Row]] = {}
    unbookable: list[tuple[_Told, str]] = []
    for one, number in _news(project_id, newest, batches, ground, unbookable, late, now=now):
        by_trace.setdefault(one.trace_id, {})[one.span_id] = one
        taken[number] += 1
    for told, reason in unbookable:
        fit[told.batch] -= 1
        rejected[told.batch].append(Refused(told.place, reason))
    spanlogs.complete(project_id, (one for rows in by_trace.values() for one in rows.values()), ground)
    verdict = _book(project_id, by_trace, ground, late, now=now)
    if by_trace:
        news.tell(project_id, "spans")
    done = [Accepted(taken[number], fit[number] - taken[number], rejected[number]) for number in range(len(batches))]
    return Taken(done, verdict)


def look_again(project_id: int, trace: str, *, now: datetime) -> None:
    """Settle the stored spans of a trace (32 hex digits) anew, because an execution that owns it was registered."""
    late = keeping.late(project_id, now=now)
    ground = read(project_id, [trace], works=(), days=())
    if ground.known:
        _book(project_id, {trace: {}}, ground, late, now=now)


def _book(
    project_id: int, by_trace: Mapping[str, Mapping[int, Row]], ground: Ground, late: Late, *, now: datetime
) -> Verdict:
    """Settle each trace with its new rows by span, and write them and all that they change."""
    oldest = late.oldest(now=now)
    settled = settlement.settle(project_id, by_trace, ground, oldest=oldest, now=now)
    books = settled.books
    rows = [one for new in by_trace.values() for one in new.values()]
    written = store.replacing(project_id, settled.replaced) + store.correcting(project_id, settled.corrections)
    lost = silence.lost(project_id, books.told.keys() | books.withdrawn)
    answers = pipeline.flush([*written, *lost])
    books.rollups += silence.taking_back(chain.from_iterable(answers[len(written) :]), oldest=oldest)
    store.copy_spans(rows)
    store.copy_ledger(project_id, books.entries)
    named = {one.execution_id for one in rows if one.execution_id and not one.inherits & EXECUTION}
    early = named - ground.works.keys()
    return _sum_up(project_id, rows, settled, early, now=now)


def _fitting(spans: Iterable[Span], late: Late, *, now: datetime) -> tuple[dict[int, Span], list[Refused]]:
    """The spans that can be kept by their places, and the others by name."""
    fitting: dict[int, Span] = {}
    rejected: list[Refused] = []
    for index, span in enumerate(spans):
        reason = refusal(span, late, now=now)
        if reason is None:
            fitting[index] = span
        else:
            rejected.append(Refused(index, reason))
    return fitting, rejected


def _newest(batches: Iterable[Mapping[int, Span]]) -> dict[tuple[bytes, int], _Told]:
    """Of the versions of a span within the batches, the one that stays."""
    newest: dict[tuple[bytes, int], _Told] = {}
    for number, spans in enumerate(batches):
        for index, span in spans.items():
            key = (span.trace_id, span.span_id)
            held = newest.get(key)
            if held is None or rank(span) > rank(held.span):
                newest[key] = _Told(span, number, index)
    return newest


def _ground(project_id: int, newest: Mapping[tuple[bytes, int], _Told]) -> Ground:
    return read(
        project_id,
        {trace_id.hex() for trace_id, _ in newest},
        works={told.span.execution_id for told in newest.values() if told.span.execution_id},
        days={told.span.started_at.date() for told in newest.values()},
        told=[told.span for told in newest.values()],
    )


def _news(
    project_id: int,
    newest: Mapping[tuple[bytes, int], _Told],
    batches: Sequence[Batch],
    ground: Ground,
    unbookable: list[tuple[_Told, str]],
    late: Late,
    *,
    now: datetime,
) -> Iterator[tuple[Row, int]]:
    """The rows of the spans that are new, or newer than what is stored, with the numbers of their batches.

    Newer versions of spans that can't be booked anew are added to `unbookable` instead, with the reason.
    """
    oldest = late.oldest(now=now)
    for told in newest.values():
        span, number = told.span, told.batch
        trace, span_id = span.trace_id.hex(), span.span_id
        stored = ground.known.get(trace, {}).get(span_id)
        if stored is not None and rank(span) <= rank(stored):
            continue
        if stored is not None and stored.started_at < oldest:
            unbookable.append((told, f"what is stored of it started {late.reason(now=now)}"))
            continue
        if stored is not None and stored.bookings >= MOST_BOOKINGS:
            unbookable.append((told, f"it was booked {MOST_BOOKINGS:,} times already"))
            continue
        work = ground.works.get(str(span.execution_id)) if span.execution_id else None
        department = batches[number].department
        if work is None and trace in ground.by_trace:
            department = ground.by_trace[trace].department or department
        yield row(project_id, span, now=now, department=department, work=work, overrides=ground.overrides), number


def _sum_up(
    project_id: int, rows: Sequence[Row], settled: Settlement, early: Iterable[str], *, now: datetime
) -> Verdict:
    """Write the sums; the budgets are locked late and folded, the quarters last, for they are the hottest rows.

    `early` are executions that spans name and that are not there yet.
    """
    books = settled.books
    models = {_unpriced_key(provider, model, now): (provider, model) for provider, model in books.unpriced_models}
    of_runs = [
        runs.summing(project_id, books.runs),
        *runs.mending(project_id, books.runs, settled.left, settled.renamed),
    ]
    sums = of_runs + store.upserting(
        project_id,
        traces=_traces(rows, settled.replaced),
        agents=settled.agents,
        first_keys=[*models, *map(registration.named_early, early)],
        now=now,
    )
    minutes = folding.statements(project_id, books.rollups, now=now)
    charging = budgets.charging(project_id, books.charges, now=now)
    spending, clearing = charging.statements, runs.clearing(project_id, books.runs, settled.left)
    answers = pipeline.flush([*sums, *minutes, *spending, *clearing])
    begin = len(sums) + len(minutes)
    verdict = budgets.judge(charging, answers[begin : begin + len(spending)])
    quarters = rundays.counting(project_id, chain.from_iterable(answers[: len(of_runs)]))
    new_models = [models[key] for (key,) in answers[len(sums) - 1] if key in models]
    # What people are told of takes more locks; without it the quarters go along with the rest.
    tells = bool(new_models or verdict.warned or verdict.tripped)
    pipeline.flush(
        [
            *registration.telling(project_id, books, now=now),
            *store.adding_up(project_id, books.works, books.conversations, now=now),
            *([] if tells else quarters),
        ]
    )
    if books.told or books.withdrawn:
        news.tell(project_id, "executions")
    for provider, model in new_models:
        _tell_unpriced(project_id, provider, model, now=now)
    budgets.act(project_id, verdict, now=now)
    if tells:
        pipeline.flush(quarters)
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
