"""The SQL of the ingest door: what it locks, reads and writes, every statement in the order of its keys."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from django.db import connection
from psycopg import sql

from monitor import pipeline
from monitor.bookings import Known, Line, RunSums, WorkSums
from monitor.pipeline import Statement, array, texts, times
from monitor.prices import PriceOverride, Rates
from monitor.spanrows import BOOKED_COLUMNS, COLUMNS, Row, Work

# Locks of traces fall into so many drawers per project: PostgreSQL's lock table is small.
DRAWERS = 512
DAY_TABLES = ("monitor_span", "monitor_ledgerentry")

MISSING_DAYS = """
SELECT DISTINCT day FROM unnest(%(days)s::date[]) AS day, unnest(%(tables)s::text[]) AS parent
 WHERE to_regclass(parent || '_p' || to_char(day, 'YYYYMMDD')) IS NULL
"""
MAKE_DAYS = """
SELECT handrail_make_partitions(parent::regclass, day, day)
  FROM unnest(%(tables)s::text[]) AS parent, unnest(%(days)s::date[]) AS day ORDER BY parent, day
"""
LOCK = "SELECT pg_advisory_xact_lock(drawer) FROM unnest(%(drawers)s::bigint[]) AS drawer"
TRACES = """
SELECT encode(uuid_send(trace_id), 'hex'), first_at, last_at FROM monitor_trace
 WHERE project_id = %(project_id)s AND trace_id = ANY(%(traces)s::uuid[])
"""
WORKS = """
SELECT id::text, encode(uuid_send(trace_id), 'hex'), run_id, agent, department, conversation_id
  FROM monitor_execution WHERE project_id = %(project_id)s AND id = ANY(%(works)s::uuid[])
UNION
SELECT id::text, encode(uuid_send(trace_id), 'hex'), run_id, agent, department, conversation_id
  FROM monitor_execution WHERE project_id = %(project_id)s AND trace_id = ANY(%(traces)s::uuid[])
ORDER BY 1 DESC
"""
PRICES = """
SELECT id::text, provider, model, starts_at, rates FROM monitor_price
 WHERE project_id = %(project_id)s OR project_id IS NULL ORDER BY project_id NULLS FIRST, id
"""
# A join into a day's fresh partition reads all of it while there are no statistics: hence LATERAL, by trace.
KNOWN = """
SELECT encode(uuid_send(wanted.trace_id), 'hex'), span.* FROM unnest(%(traces)s::uuid[]) AS wanted (trace_id),
LATERAL (
    SELECT span_id, parent_span_id, started_at, ended_at, digest, kind, bears_usage, response_id,
           input_tokens::bigint + cache_read_tokens + cache_write_tokens + audio_input_tokens + image_input_tokens
           + output_tokens + reasoning_tokens + audio_output_tokens, bookings
      FROM monitor_span
     WHERE project_id = %(project_id)s AND trace_id = wanted.trace_id
       AND started_at BETWEEN %(first_at)s AND %(last_at)s
     OFFSET 0
) AS span
"""
_BOOKED = ", ".join(
    {"trace_id": "encode(uuid_send(trace_id), 'hex')", "execution_id": "execution_id::text"}.get(name, name)
    for name in BOOKED_COLUMNS
)
_ONE_SPAN = "project_id = %(project_id)s AND trace_id = %(trace_id)s AND span_id = %(span_id)s AND started_at = %(at)s"
BOOKED = f"SELECT {_BOOKED} FROM monitor_span WHERE {_ONE_SPAN}"  # noqa: S608
FORGET = f"DELETE FROM monitor_span WHERE {_ONE_SPAN}"  # noqa: S608
CORRECT = f"""
UPDATE monitor_span SET cost_usd = %(cost_usd)s, pricing = %(pricing)s, bookings = %(bookings)s WHERE {_ONE_SPAN}
"""  # noqa: S608
RUNS = """
INSERT INTO monitor_run AS run (project_id, run_id, agent, department, first_at, last_at, calls, failed_calls,
    unpriced_calls, tool_calls, latency_ms, input_tokens, output_tokens, cost_usd, reported_usd, computed_usd)
SELECT %(project_id)s, * FROM unnest(%(run_id)s::text[], %(agent)s::text[], %(department)s::text[],
    %(first_at)s::timestamptz[], %(last_at)s::timestamptz[], %(calls)s::int[], %(failed_calls)s::int[],
    %(unpriced_calls)s::int[], %(tool_calls)s::int[], %(latency_ms)s::bigint[], %(input_tokens)s::bigint[],
    %(output_tokens)s::bigint[], %(cost_usd)s::numeric[], %(reported_usd)s::numeric[], %(computed_usd)s::numeric[])
ON CONFLICT (project_id, run_id) DO UPDATE SET
    agent = coalesce(nullif(run.agent, ''), excluded.agent),
    department = coalesce(nullif(run.department, ''), excluded.department),
    first_at = least(run.first_at, excluded.first_at),
    last_at = greatest(run.last_at, excluded.last_at),
    calls = run.calls + excluded.calls,
    failed_calls = run.failed_calls + excluded.failed_calls,
    unpriced_calls = run.unpriced_calls + excluded.unpriced_calls,
    tool_calls = run.tool_calls + excluded.tool_calls,
    latency_ms = run.latency_ms + excluded.latency_ms,
    input_tokens = run.input_tokens + excluded.input_tokens,
    output_tokens = run.output_tokens + excluded.output_tokens,
    cost_usd = run.cost_usd + excluded.cost_usd,
    reported_usd = run.reported_usd + excluded.reported_usd,
    computed_usd = run.computed_usd + excluded.computed_usd
"""
TRACE_UPSERT = """
INSERT INTO monitor_trace AS trace (project_id, trace_id, run_id, first_at, last_at, spans)
SELECT %(project_id)s, * FROM unnest(%(trace_id)s::uuid[], %(run_id)s::text[], %(first_at)s::timestamptz[],
    %(last_at)s::timestamptz[], %(spans)s::int[])
ON CONFLICT (project_id, trace_id) DO UPDATE SET
    run_id = CASE WHEN trace.run_id = encode(uuid_send(trace.trace_id), 'hex') THEN excluded.run_id
                  ELSE trace.run_id END,
    first_at = least(trace.first_at, excluded.first_at),
    last_at = greatest(trace.last_at, excluded.last_at),
    spans = trace.spans + excluded.spans
"""
# Being seen again within a minute changes nothing, so that a busy agent's row is not written all the time.
NEW_AGENTS = """
INSERT INTO monitor_agent (project_id, name, type, description, capabilities, supported_models, default_model,
    cost_tier, first_seen_at, last_seen_at)
SELECT %(project_id)s, seen.name, '', '', '{}', '{}', '', '', %(now)s, %(now)s
  FROM unnest(%(names)s::text[]) AS seen (name)
 WHERE NOT EXISTS (SELECT FROM monitor_agent AS agent
                    WHERE agent.project_id = %(project_id)s AND agent.name = seen.name)
ON CONFLICT (project_id, name) DO NOTHING
"""
SEEN_AGENTS = """
UPDATE monitor_agent SET last_seen_at = %(now)s WHERE id IN (
    SELECT id FROM monitor_agent
     WHERE project_id = %(project_id)s AND name = ANY(%(names)s::text[])
       AND last_seen_at < %(now)s::timestamptz - interval '1 minute'
     ORDER BY id FOR UPDATE SKIP LOCKED)
"""
FIRST_KEYS = """
INSERT INTO monitor_ingestkey (project_id, key, at, digest)
SELECT %(project_id)s, key, %(now)s, '' FROM unnest(%(keys)s::uuid[]) AS key
ON CONFLICT (project_id, key) DO NOTHING RETURNING key
"""
WORK_COST = """
UPDATE monitor_execution SET cost_usd = cost_usd + %(cost_usd)s, api_calls = api_calls + %(calls)s,
    input_tokens = input_tokens + %(input_tokens)s, output_tokens = output_tokens + %(output_tokens)s,
    model = CASE WHEN model = '' THEN %(model)s ELSE model END
 WHERE project_id = %(project_id)s AND id = %(id)s
"""
CONVERSATION_COST = """
UPDATE monitor_conversation SET cost_usd = cost_usd + %(cost_usd)s
 WHERE project_id = %(project_id)s AND conversation_id = %(conversation_id)s
"""
LEDGER_COLUMNS = (
    "project_id",
    "trace_id",
    "span_id",
    "sequence",
    "occurred_at",
    "received_at",
    "kind",
    "run_id",
    "execution_id",
    "conversation_id",
    "agent",
    "department",
    "provider",
    "model",
    "tool",
    "failed",
    "calls",
    "latency_ms",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "audio_input_tokens",
    "image_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_output_tokens",
    "images",
    "cost_usd",
    "reported_usd",
    "computed_usd",
    "unpriced",
    "price_version",
)


class Ground(NamedTuple):
    """What stands before the batch: executions by id and by trace, own prices, the spans of known traces."""

    works: dict[str, Work]
    by_trace: dict[str, Work]
    overrides: tuple[PriceOverride, ...]
    known: dict[str, dict[int, Known]]


def read(project_id: int, traces: Iterable[str], *, works: Iterable[UUID], days: Iterable[date]) -> Ground:
    """Lock the traces until commit and read what the batch builds on; make the days that are missing."""
    ids = sorted(traces)
    wanted = {"project_id": project_id, "traces": array(ids), "works": array(sorted(map(str, works)))}
    named_days = {"days": array(sorted(days)), "tables": array(DAY_TABLES)}
    missing, _, places, found, prices = pipeline.flush(
        [
            Statement(MISSING_DAYS, named_days),
            Statement(LOCK, {"drawers": array(sorted({_drawer(project_id, trace) for trace in ids}))}),
            Statement(TRACES, wanted),
            Statement(WORKS, wanted),
            Statement(PRICES, {"project_id": project_id}),
        ]
    )
    if missing:
        pipeline.flush([Statement(MAKE_DAYS, named_days | {"days": array(day for (day,) in missing)})])
    known: dict[str, dict[int, Known]] = {trace: {} for trace, _, _ in places}
    if places:
        bounds = {"first_at": min(first for _, first, _ in places), "last_at": max(last for _, _, last in places)}
        (spans,) = pipeline.flush([Statement(KNOWN, {**wanted, **bounds, "traces": array(known)})])
        for trace, *fields in spans:
            known[trace][fields[0]] = Known(*fields)
    listed = [Work(*fields) for fields in found]
    return Ground(
        {work.id: work for work in listed},
        {work.trace_id: work for work in listed if work.trace_id},
        tuple(_override(*fields) for fields in prices),
        known,
    )


def _drawer(project_id: int, trace: str) -> int:
    return project_id * DRAWERS + int.from_bytes(blake2b(bytes.fromhex(trace), digest_size=2).digest()) % DRAWERS


def _override(identity: str, provider: str, model: str, starts_at: datetime, rates: Mapping[str, str]) -> PriceOverride:
    known = {name: Decimal(rate) for name, rate in rates.items() if name in Rates.__struct_fields__}
    return PriceOverride(
        model=model, provider=provider or None, starts_at=starts_at, rates=Rates(**known), version=f"own {identity}"
    )


def _one(project_id: int, trace: str, span: Known) -> dict[str, Any]:
    return {"project_id": project_id, "trace_id": trace, "span_id": span.span_id, "at": span.started_at}


def booked_rows(project_id: int, wanted: Sequence[tuple[str, Known]]) -> list[Row]:
    """Read the stored rows whose booking changes, without their texts."""
    answers = pipeline.flush([Statement(BOOKED, _one(project_id, trace, span)) for trace, span in wanted])
    return [Row(**dict(zip(BOOKED_COLUMNS, row, strict=True))) for (row,) in answers]


def replacing(project_id: int, replaced: Iterable[tuple[str, Known]]) -> list[Statement]:
    """The statements that take out versions which newer ones replace."""
    return [Statement(FORGET, _one(project_id, trace, span)) for trace, span in replaced]


def correcting(rows: Iterable[Row]) -> list[Statement]:
    """The statements that write what of stored rows is billed now."""
    return [
        Statement(
            CORRECT,
            {
                "project_id": row.project_id,
                "trace_id": row.trace_id,
                "span_id": row.span_id,
                "at": row.started_at,
                "cost_usd": row.cost_usd,
                "pricing": row.pricing,
                "bookings": row.bookings,
            },
        )
        for row in rows
    ]


def copy_spans(rows: Iterable[Row]) -> None:
    """Write new rows, each straight into the partition of its day (COPY is refused on tables under policy)."""
    by_day: dict[date, list[tuple[Any, ...]]] = {}
    for row in rows:
        by_day.setdefault(row.started_at.date(), []).append(tuple(getattr(row, name) for name in COLUMNS))
    _copy("monitor_span", COLUMNS, by_day)


def copy_ledger(project_id: int, entries: Iterable[tuple[Line, int, int]], *, now: datetime) -> None:
    """Write the bookings, each straight into the partition of its day."""
    by_day: dict[date, list[tuple[Any, ...]]] = {}
    for line, sign, sequence in entries:
        row = line.row
        by_day.setdefault(row.started_at.date(), []).append(
            (
                project_id,
                row.trace_id,
                row.span_id,
                sequence,
                row.started_at,
                now,
                row.kind,
                row.run_id,
                row.execution_id,
                row.conversation_id,
                row.agent,
                row.department,
                row.provider,
                row.model,
                row.tool,
                row.failed,
                sign,
                line.latency_ms * sign,
                row.input_tokens * sign,
                row.cache_read_tokens * sign,
                row.cache_write_tokens * sign,
                row.audio_input_tokens * sign,
                row.image_input_tokens * sign,
                row.output_tokens * sign,
                row.reasoning_tokens * sign,
                row.audio_output_tokens * sign,
                row.images * sign,
                line.cost_usd * sign,
                None if row.reported_usd is None else row.reported_usd * sign,
                None if row.computed_usd is None else row.computed_usd * sign,
                line.unpriced * sign,
                row.price_version,
            )
        )
    _copy("monitor_ledgerentry", LEDGER_COLUMNS, by_day)


def _copy(parent: str, columns: Sequence[str], by_day: Mapping[date, Iterable[tuple[Any, ...]]]) -> None:
    with connection.wrap_database_errors:
        for day, rows in sorted(by_day.items()):
            into = sql.SQL("COPY {} ({}) FROM STDIN").format(
                sql.Identifier(f"{parent}_p{day:%Y%m%d}"), sql.SQL(", ").join(map(sql.Identifier, columns))
            )
            with psycopg.Cursor(connection.connection) as cursor, cursor.copy(into) as copy:
                for row in rows:
                    copy.write_row(row)


class TraceSpan(NamedTuple):
    """The run of a trace, the range of its new spans' starts and how many they are."""

    run_id: str
    first_at: datetime
    last_at: datetime
    spans: int


def upserting(
    project_id: int,
    *,
    runs: Mapping[str, RunSums],
    traces: Mapping[str, TraceSpan],
    agents: Iterable[str],
    first_keys: Iterable[UUID],
    now: datetime,
) -> list[Statement]:
    """The statements for runs, traces and agents, and last the keys, of which the new ones are returned."""
    summed = [runs[run_id] for run_id in sorted(runs)]
    parameters: dict[str, Any] = {"project_id": project_id}
    for name in RunSums.__struct_fields__:
        column = [getattr(run, name) for run in summed]
        kind = texts if name in ("run_id", "agent", "department") else times if name.endswith("_at") else array
        parameters[name] = kind(column)
    placed = sorted(traces.items())
    named = {"project_id": project_id, "names": texts(sorted(agents)), "now": now}
    return [
        Statement(RUNS, parameters),
        Statement(
            TRACE_UPSERT,
            {
                "project_id": project_id,
                "trace_id": array(trace for trace, _ in placed),
                "run_id": texts(place.run_id for _, place in placed),
                "first_at": times(place.first_at for _, place in placed),
                "last_at": times(place.last_at for _, place in placed),
                "spans": array(place.spans for _, place in placed),
            },
        ),
        Statement(NEW_AGENTS, named),
        Statement(SEEN_AGENTS, named),
        Statement(FIRST_KEYS, {"project_id": project_id, "keys": array(sorted(first_keys)), "now": now}),
    ]


def adding_up(project_id: int, works: Mapping[str, WorkSums], conversations: Mapping[str, Decimal]) -> list[Statement]:
    """The statements that add to executions and conversations, one row at a time in the order of their keys."""
    statements = [
        Statement(
            WORK_COST,
            {
                "project_id": project_id,
                "id": work_id,
                "cost_usd": work.cost_usd,
                "calls": work.calls,
                "input_tokens": work.input_tokens,
                "output_tokens": work.output_tokens,
                "model": work.model,
            },
        )
        for work_id, work in sorted(works.items())
    ]
    return statements + [
        Statement(
            CONVERSATION_COST, {"project_id": project_id, "conversation_id": conversation_id, "cost_usd": cost_usd}
        )
        for conversation_id, cost_usd in sorted(conversations.items())
        if cost_usd
    ]
