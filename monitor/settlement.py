"""What a batch changes in its traces: every span's place and role is settled anew, and each difference is booked."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from monitor import agentwork, lineage, metering, nearby
from monitor.bookings import MOST_BOOKINGS, ZERO, Books, Role, line, price_into, roles
from monitor.ground import Ground, booked_rows
from monitor.lineage import NOBODY, Place
from monitor.nearby import Part
from monitor.runs import Rest
from monitor.spanrows import Known, Row
from monitor.store import Correction

# By trace and span.
Key = tuple[str, int]


class Settlement(msgspec.Struct):
    """What is to be written beside the new rows.

    `left` are runs named after their trace that lost spans to a run that somebody named, or whose spans reach less far
    by newer versions: what stays of them, None when nothing does. `renamed` are the agents of runs: as they were, as
    they are now.
    """

    books: Books
    corrections: list[Correction] = []
    replaced: list[tuple[str, Known]] = []
    agents: set[str] = set()
    left: dict[str, Rest | None] = {}
    renamed: dict[str, tuple[str, str]] = {}


class _Turn(NamedTuple):
    """How one span counts and under which execution it hangs, before the batch and after it."""

    was: Role
    becomes: Role
    place: Place
    parent_before: str | None


def settle(
    project_id: int, by_trace: Mapping[str, Mapping[int, Row]], ground: Ground, *, oldest: datetime, now: datetime
) -> Settlement:
    """Settle each trace with its new rows by span, which get their places here.

    Stored spans that started before `oldest` keep their place and their role: of what they were booked in something
    may have left. So do those that were booked MOST_BOOKINGS times. What is new below is placed by them, and counts by
    itself. Of a trace that began before, younger spans stand as if what has left above them were there.
    """
    done = Settlement(Books())
    turns: dict[Key, _Turn] = {}
    turned: list[tuple[str, Known]] = []
    for trace, new in by_trace.items():
        turned += _look(project_id, trace, new, ground, oldest, turns, done)
    held = {(one.trace_id, one.span_id): one for one in booked_rows(project_id, done.replaced + turned)}
    for (trace, span_id), turn in turns.items():
        old, fresh = held.get((trace, span_id)), by_trace[trace].get(span_id)
        _book(old, fresh, turn, done, now=now)
    return done


def _look(
    project_id: int,
    trace: str,
    new: Mapping[int, Row],
    ground: Ground,
    oldest: datetime,
    turns: dict[Key, _Turn],
    done: Settlement,
) -> list[tuple[str, Known]]:
    """Place the spans of one trace; note the turns, and return the stored spans that must be read for theirs."""
    stored, part = ground.known.get(trace, {}), ground.parts.get(trace)
    spans: dict[int, Known | Row] = {**stored, **new}
    parents = metering.parents(spans)
    counted = roles(spans.values(), parents)
    work = ground.by_trace.get(trace)
    stood = stored if stored and ground.began[trace] < oldest else NOBODY
    placed = lineage.places(project_id, trace, spans, parents, work, stood, has_left=trace in ground.torn)
    above = metering.parents(stored) if stored else {}
    before = roles(stored.values(), above) if stored else {}
    for span_id, held in stored.items():
        if held.started_at < oldest or held.bookings >= MOST_BOOKINGS:
            placed[span_id] = _standing(held, trace)
            counted[span_id] = before.get(span_id, Role.NOTHING)
    turned = []
    for span_id, span in _looked_at(spans, part):
        place = placed[span_id]
        if name := place.agent or (span.service if place.is_rooted else ""):
            done.agents.add(name)
        fresh, known = new.get(span_id), stored.get(span_id)
        turn = _Turn(
            before.get(span_id, Role.NOTHING),
            counted.get(span_id, Role.NOTHING),
            place,
            stored[above[span_id]].execution_id if span_id in above else None,
        )
        if fresh is not None:
            _put(fresh, place)
            turns[trace, span_id] = turn
            if known is not None:
                done.replaced.append((trace, known))
        elif known is not None and _is_touched(known, trace, turn):
            if turn.was is turn.becomes is Role.NOTHING and known.kind != "agent":
                _rename(known, trace, place, done)
            else:
                turns[trace, span_id] = turn
                turned.append((trace, known))
    if any(
        one.run_id == trace
        and ((placed[span_id].run_id or trace) != trace or (span_id in new and _shrinks(one, new[span_id])))
        for span_id, one in stored.items()
    ):
        done.left[trace] = _rest(project_id, trace, spans, placed, part)
    return turned


def _looked_at(spans: Mapping[int, Known | Row], part: Part | None) -> Iterator[tuple[int, Known | Row]]:
    """The spans that the batch may change: all of a trace that was read whole."""
    return ((span_id, one) for span_id, one in spans.items() if part is None or span_id in part.touched)


def _standing(known: Known, trace: str) -> Place:
    """Where a stored span stands already."""
    return Place(
        "" if known.agent == known.service else known.agent,
        known.conversation_id,
        "" if known.run_id == trace else known.run_id,
        known.execution_id,
        is_own=False,
        parent_id=None,
        awaits_agent=False,
        is_rooted=False,
    )


def _shrinks(held: Known, fresh: Row) -> bool:
    """Whether the newer version reaches less far than the one that it replaces."""
    reached_at = fresh.ended_at or fresh.started_at
    return held.started_at < fresh.started_at or (held.ended_at or held.started_at) > reached_at


def _is_touched(known: Known, trace: str, turn: _Turn) -> bool:
    place = turn.place
    return (
        turn.was is not turn.becomes
        or place.execution_id != known.execution_id
        or (place.agent or known.service) != known.agent
        or place.conversation_id != known.conversation_id
        or (place.run_id or trace) != known.run_id
        or (place.is_own and place.parent_id != turn.parent_before)
    )


def _put(row: Row, place: Place) -> Row:
    """Write into the row what it takes from above."""
    row.agent = place.agent or row.service
    row.conversation_id = place.conversation_id
    row.run_id = place.run_id or row.trace_id
    row.execution_id = place.execution_id
    return row


def _rename(known: Known, trace: str, place: Place, done: Settlement) -> None:
    """Correct a stored span that bears nothing, unread."""
    moved = replace(
        known,
        agent=place.agent or known.service,
        conversation_id=place.conversation_id,
        run_id=place.run_id or trace,
        execution_id=place.execution_id,
    )
    done.corrections.append(_correction(trace, moved, ZERO, "none"))
    _see(known, moved, done)


def _book(old: Row | None, fresh: Row | None, turn: _Turn, done: Settlement, *, now: datetime) -> None:
    """Book what one span contributes after the batch less what it contributed before.

    What it contributed before is taken back from the budgets' windows that were charged with it, and what only
    moves to another agent or run stays in the windows of that time; new money is charged now.
    """
    before_line = line(old, turn.was) if old else None
    stays = fresh
    if stays is None:
        assert old is not None
        stays = _put(replace(old), turn.place)
        if before_line is None or not before_line.has_entry:
            stays.received_at = now
    books = done.books
    books.tell(
        agentwork.of(old, turn.parent_before) if old is not None and lineage.is_own(old) else None,
        agentwork.of(stays, turn.place.parent_id) if turn.place.is_own else None,
        parent_left=turn.place.parent_left,
    )
    after_line = line(stays, turn.becomes)
    stays.bookings = books.move(before_line, after_line, old.bookings if old else 0)
    price_into(stays, after_line)
    if fresh is not None:
        books.moves(fresh)
    if fresh is not None or old is None:
        books.joins(old, stays)
        return
    done.corrections.append(_correction(stays.trace_id, stays, stays.cost_usd, stays.pricing))
    _see(old, stays, done)


def _correction(trace: str, span: Known | Row, cost_usd: Decimal, pricing: str) -> Correction:
    return Correction(
        trace,
        span.span_id,
        span.started_at,
        cost_usd,
        pricing,
        span.bookings,
        span.agent,
        span.conversation_id,
        span.run_id,
        span.execution_id,
    )


def _see(before: Known | Row, after: Known | Row, done: Settlement) -> None:
    done.books.joins(before, after)
    if before.run_id == after.run_id and before.agent != after.agent:
        done.renamed[after.run_id] = before.agent, after.agent


def _rest(
    project_id: int, trace: str, spans: Mapping[int, Known | Row], placed: Mapping[int, Place], part: Part | None
) -> Rest | None:
    """The spans of the trace that still make the run named after it."""
    staying = [
        Rest(one.started_at, one.ended_at or one.started_at, 1)
        for span_id, one in _looked_at(spans, part)
        if (placed[span_id].run_id or trace) == trace
    ]
    if part is not None and (others := nearby.reach(project_id, trace, part)):
        staying.append(Rest(*others))
    if not staying:
        return None
    return Rest(
        min(one.first_at for one in staying),
        max(one.last_at for one in staying),
        sum(one.spans for one in staying),
    )
