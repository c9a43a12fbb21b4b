"""What stands before a batch: locked until commit, and read by whoever writes on top of it."""

import json
from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

from monitor import nearby, pipeline
from monitor.days import Missing, looking
from monitor.nearby import Part
from monitor.pipeline import Statement, array
from monitor.prices import PriceOverride, Rates
from monitor.records import Span
from monitor.spanrows import BOOKED_COLUMNS, Known, Row, Work

# Locks of traces, executions and conversations fall into so many drawers per project: PostgreSQL's lock table is small.
# Who wants a few traces shares their drawers and locks each of them for itself, for two batches of 64 traces nearly
# always meet in some drawer.
DRAWERS = 512
MOST_SINGLE = 128
TALKS = 2**40
LOCK = "SELECT pg_advisory_xact_lock(drawer) FROM unnest(%(drawers)s::bigint[]) AS drawer"
SHARE = "SELECT pg_advisory_xact_lock_shared(drawer) FROM unnest(%(drawers)s::bigint[]) AS drawer"
LOCK_EACH = """
SELECT pg_advisory_xact_lock(%(project_id)s::int, number) FROM unnest(%(numbers)s::int[]) AS number
"""
TRACES = """
SELECT encode(uuid_send(trace_id), 'hex'), first_at, last_at, spans FROM monitor_trace
 WHERE project_id = %(project_id)s AND trace_id = ANY(%(traces)s::uuid[])
"""
# An execution that spans tell of lies in a trace and owns none.
WORKS = """
SELECT id::text, CASE WHEN NOT from_spans THEN encode(uuid_send(trace_id), 'hex') END, run_id, agent, department,
       conversation_id
  FROM monitor_execution WHERE project_id = %(project_id)s AND id = ANY(%(works)s::uuid[])
UNION
SELECT id::text, encode(uuid_send(trace_id), 'hex'), run_id, agent, department, conversation_id
  FROM monitor_execution WHERE project_id = %(project_id)s AND trace_id = ANY(%(traces)s::uuid[]) AND NOT from_spans
ORDER BY 1 DESC
"""
PRICES = """
SELECT id::text, provider, model, starts_at, rates::text FROM monitor_price
 WHERE project_id = %(project_id)s OR project_id IS NULL ORDER BY project_id NULLS FIRST, id
"""
# Without an order PostgreSQL may read all rows of others to find none of this project's.
HAS_LOGS = """
SELECT true FROM monitor_spanlog WHERE project_id = %(project_id)s ORDER BY trace_id, span_id, digest LIMIT 1
"""
# Asked only where somebody sends logs.
LOGGED = """
SELECT encode(uuid_send(trace_id), 'hex') FROM unnest(%(traces)s::uuid[]) AS wanted (trace_id)
 WHERE EXISTS (SELECT FROM monitor_spanlog AS log
                WHERE log.project_id = %(project_id)s AND log.trace_id = wanted.trace_id)
"""
# A join into a day's fresh partition reads all of it while there are no statistics: hence LATERAL, by trace.
KNOWN = f"""
SELECT encode(uuid_send(wanted.trace_id), 'hex'), span.* FROM unnest(%(traces)s::uuid[]) AS wanted (trace_id),
LATERAL (
    SELECT {nearby.COLUMNS}
      FROM monitor_span
     WHERE project_id = %(project_id)s AND trace_id = wanted.trace_id
       AND started_at BETWEEN %(first_at)s AND %(last_at)s
     OFFSET 0
) AS span
"""  # noqa: S608
# When the money of a span was charged stands in its last entry; its own row may have been touched since.
_CHARGED_AT = """coalesce((
    SELECT entry.received_at FROM monitor_ledgerentry AS entry
     WHERE entry.project_id = %(project_id)s AND entry.trace_id = %(trace_id)s AND entry.span_id = %(span_id)s
       AND entry.occurred_at = %(at)s AND entry.sequence = monitor_span.bookings - 1
), received_at)"""
_READ = {
    "trace_id": "encode(uuid_send(trace_id), 'hex')",
    "execution_id": "execution_id::text",
    "received_at": _CHARGED_AT,
}
_BOOKED = ", ".join(_READ.get(name, name) for name in BOOKED_COLUMNS)
ONE_SPAN = "project_id = %(project_id)s AND trace_id = %(trace_id)s AND span_id = %(span_id)s AND started_at = %(at)s"
BOOKED = f"SELECT {_BOOKED} FROM monitor_span WHERE {ONE_SPAN}"  # noqa: S608


class Ground(NamedTuple):
    """What stands before the batch: executions by id and by trace, own prices, the spans of known traces.

    Of the traces in `parts`, which are long, `known` holds what the batch touches and what that depends on. `began` is
    when the first span of each known trace started, also of those that have left. `torn` are the traces that spans have
    left, and all long ones: of them nobody counts. `logged` are the traces of which there are messages in log records.
    """

    works: dict[str, Work]
    by_trace: dict[str, Work]
    overrides: tuple[PriceOverride, ...]
    known: dict[str, dict[int, Known]]
    parts: dict[str, Part]
    began: dict[str, datetime] = {}
    torn: frozenset[str] = frozenset()
    logged: frozenset[str] = frozenset()


def read(
    project_id: int,
    traces: Iterable[str],
    *,
    works: Iterable[UUID],
    days: Iterable[date],
    told: Iterable[Span] | None = None,
) -> Ground:
    """Lock the traces until commit and read what the batch builds on. Raises Missing where a day has no partition.

    `told` are the spans of the batch; without them traces are read whole, however long they are.
    """
    ids, named = sorted(traces), list(works)
    wanted = {"project_id": project_id, "traces": array(ids), "works": array(sorted(map(str, named)))}
    missing, *_, places, found, prices, has_logs = pipeline.flush(
        [
            looking(days),
            *_sharing(project_id, named),
            *locking(project_id, ids),
            Statement(TRACES, wanted),
            Statement(WORKS, wanted),
            Statement(PRICES, {"project_id": project_id}),
            Statement(HAS_LOGS, {"project_id": project_id}),
        ]
    )
    if missing:
        raise Missing([day for (day,) in missing])
    short, long = nearby.parted(places) if told else ({trace: (first, last) for trace, first, last, _ in places}, {})
    known: dict[str, dict[int, Known]] = {trace: {} for trace in short}
    parts: dict[str, Part] = {}
    if short:
        bounds = {
            "first_at": min(first for first, _ in short.values()),
            "last_at": max(last for _, last in short.values()),
        }
        (spans,) = pipeline.flush([Statement(KNOWN, {**wanted, **bounds, "traces": array(short)})])
        for trace, *fields in spans:
            known[trace][fields[0]] = Known(*fields)
    if long and told:
        near, parts = nearby.read(project_id, told, long)
        known |= near
    listed = [Work(*fields) for fields in found]
    logged = pipeline.flush([Statement(LOGGED, wanted)])[0] if has_logs else ()
    return Ground(
        {work.id: work for work in listed},
        {work.trace_id: work for work in listed if work.trace_id},
        tuple(_override(*fields) for fields in prices),
        known,
        parts,
        {trace: first for trace, first, *_ in places},
        frozenset(trace for trace, _, _, came in places if trace in parts or len(known[trace]) != came),
        frozenset(trace for (trace,) in logged),
    )


def lock(project_id: int, *traces: str) -> None:
    """Keep batches that touch the traces waiting until commit."""
    pipeline.flush(locking(project_id, traces))


def lock_all(project_id: int) -> None:
    """Keep every batch of the project waiting until commit, and wait for those under way; takes no lock before."""
    drawers = range(project_id * DRAWERS, (project_id + 1) * DRAWERS)
    pipeline.flush([Statement(LOCK, {"drawers": array(drawers)})])


def locking(project_id: int, traces: Iterable[str]) -> list[Statement]:
    """The statements that lock the traces, in the order of their drawers and then of their numbers."""
    ids = {bytes.fromhex(one) for one in traces}
    drawers = array(sorted({_drawer(project_id, one) for one in ids}))
    if len(ids) > MOST_SINGLE:
        return [Statement(LOCK, {"drawers": drawers})]
    numbers = sorted({int.from_bytes(blake2b(one, digest_size=4).digest(), signed=True) for one in ids})
    return [
        Statement(SHARE, {"drawers": drawers}),
        Statement(LOCK_EACH, {"project_id": project_id, "numbers": array(numbers)}),
    ]


def claiming(project_id: int, work: UUID) -> Statement:
    """The statement that keeps batches waiting whose spans name the execution; before the locks of traces."""
    return Statement(LOCK, {"drawers": array([_drawer_of_work(project_id, work)])})


def _sharing(project_id: int, works: Collection[UUID]) -> list[Statement]:
    """The statement that keeps whoever registers these executions waiting, and no other batch."""
    drawers = sorted({_drawer_of_work(project_id, work) for work in works})
    return [Statement(SHARE, {"drawers": array(drawers)})] if drawers else []


def claiming_talk(project_id: int, conversation_id: str) -> Statement:
    """The statement that keeps batches waiting that charge the conversation, and waits for those under way."""
    return Statement(LOCK, {"drawers": array([_drawer_of_talk(project_id, conversation_id)])})


def sharing_talks(project_id: int, conversation_ids: Iterable[str]) -> Statement:
    """The statement that keeps whoever opens one of these conversations waiting, and no other batch."""
    drawers = {_drawer_of_talk(project_id, one) for one in conversation_ids}
    return Statement(SHARE, {"drawers": array(sorted(drawers))})


def _drawer_of_talk(project_id: int, conversation_id: str) -> int:
    return TALKS + _drawer(project_id, conversation_id.encode())


def _drawer_of_work(project_id: int, work: UUID) -> int:
    return -_drawer(project_id, work.bytes)


def _drawer(project_id: int, identity: bytes) -> int:
    return project_id * DRAWERS + int.from_bytes(blake2b(identity, digest_size=2).digest()) % DRAWERS


def _override(identity: str, provider: str, model: str, starts_at: datetime, rates: str) -> PriceOverride:
    listed: dict[str, str] = json.loads(rates)
    known = {name: Decimal(rate) for name, rate in listed.items() if name in Rates.__struct_fields__}
    return PriceOverride(
        model=model, provider=provider or None, starts_at=starts_at, rates=Rates(**known), version=f"own {identity}"
    )


def at_place(project_id: int, trace: str, span: Known) -> dict[str, Any]:
    """The parameters that name one stored span."""
    return {"project_id": project_id, "trace_id": trace, "span_id": span.span_id, "at": span.started_at}


def booked_rows(project_id: int, wanted: Sequence[tuple[str, Known]]) -> list[Row]:
    """Read the stored rows whose booking changes, without their texts; `received_at` is when each was charged."""
    answers = pipeline.flush([Statement(BOOKED, at_place(project_id, trace, span)) for trace, span in wanted])
    return [Row(**dict(zip(BOOKED_COLUMNS, row, strict=True))) for (row,) in answers]
