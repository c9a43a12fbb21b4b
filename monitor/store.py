"""What a batch of spans writes: rows copied straight into their days, and sums added in the order of their keys."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from django.db import connection
from msgspec.structs import astuple
from psycopg import sql
from psycopg.types.json import Jsonb

from monitor.agents import SEEN, sighting
from monitor.bookings import Line, WorkSums
from monitor.ground import ONE_SPAN, at_place, sharing_talks
from monitor.pipeline import Statement, array, texts, times
from monitor.spanrows import COLUMNS, Known, Row

FORGET = f"DELETE FROM monitor_span WHERE {ONE_SPAN}"  # noqa: S608
CORRECT = f"""
UPDATE monitor_span SET cost_usd = %(cost_usd)s, pricing = %(pricing)s, bookings = %(bookings)s, agent = %(agent)s,
    conversation_id = %(conversation_id)s, run_id = %(run_id)s, execution_id = %(execution_id)s WHERE {ONE_SPAN}
"""  # noqa: S608
TRACE_UPSERT = """
INSERT INTO monitor_trace AS trace (project_id, trace_id, first_at, last_at, spans)
SELECT %(project_id)s, * FROM unnest(%(trace_id)s::uuid[], %(first_at)s::timestamptz[], %(last_at)s::timestamptz[],
    %(spans)s::int[])
ON CONFLICT (project_id, trace_id) DO UPDATE SET
    first_at = least(trace.first_at, excluded.first_at),
    last_at = greatest(trace.last_at, excluded.last_at),
    spans = trace.spans + excluded.spans
"""
FIRST_KEYS = """
INSERT INTO monitor_ingestkey (project_id, key, at, digest)
SELECT %(project_id)s, key, %(now)s, '' FROM unnest(%(keys)s::uuid[]) AS key
ON CONFLICT (project_id, key) DO NOTHING RETURNING key
"""
# A span of the attempt's work is progress; where that had stalled, one that reaches beyond the stall, and the journal
# says so. What began before the attempt is of one that was given up.
WORK_COSTS = """
WITH held AS MATERIALIZED (
    SELECT id, attempt, agent, run_id, stalled_at,
           CASE WHEN status = 'running' AND NOT from_spans THEN attempt_started_at END AS runs_since
      FROM monitor_execution
     WHERE project_id = %(project_id)s AND id = ANY(%(ids)s::uuid[]) ORDER BY id FOR NO KEY UPDATE
), delta AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(cost_usd)s::numeric[], %(calls)s::int[], %(input_tokens)s::bigint[],
        %(output_tokens)s::bigint[], %(model)s::text[], %(began_at)s::timestamptz[], %(reached_at)s::timestamptz[])
        AS delta (id, cost_usd, calls, input_tokens, output_tokens, model, began_at, reached_at)
), added AS (
    SELECT *, began_at >= runs_since AND (stalled_at IS NULL OR reached_at > stalled_at) AS moves
      FROM held JOIN delta USING (id)
), journal AS (
    INSERT INTO monitor_statechange
           (project_id, at, subject, subject_id, from_state, to_state, cause, actor, note, attempt, data)
    SELECT %(project_id)s, %(now)s, 'execution', id::text, 'running', 'running', 'progressing', '',
           'moves again, as its spans tell', attempt,
           jsonb_build_object('agent', agent, 'run_id', run_id, 'attempt', attempt)
      FROM added WHERE moves AND stalled_at IS NOT NULL
)
UPDATE monitor_execution AS work SET cost_usd = work.cost_usd + added.cost_usd,
    api_calls = work.api_calls + added.calls, input_tokens = work.input_tokens + added.input_tokens,
    output_tokens = work.output_tokens + added.output_tokens,
    model = CASE WHEN work.model = '' THEN added.model ELSE work.model END,
    last_progress_at = CASE WHEN moves THEN %(now)s ELSE work.last_progress_at END,
    stalled_at = CASE WHEN moves THEN NULL ELSE work.stalled_at END,
    stall_due_at = CASE WHEN moves THEN %(now)s::timestamptz + make_interval(secs => work.stall_s)
                        ELSE work.stall_due_at END
  FROM added
 WHERE work.project_id = %(project_id)s AND work.id = added.id
"""
CONVERSATION_COSTS = """
WITH held AS MATERIALIZED (
    SELECT id, conversation_id FROM monitor_conversation
     WHERE project_id = %(project_id)s AND conversation_id = ANY(%(ids)s::text[])
     ORDER BY conversation_id FOR NO KEY UPDATE
)
UPDATE monitor_conversation AS talk SET cost_usd = talk.cost_usd + delta.cost_usd
  FROM held JOIN unnest(%(ids)s::text[], %(cost_usd)s::numeric[]) AS delta (conversation_id, cost_usd)
    USING (conversation_id)
 WHERE talk.id = held.id
"""
# What binary COPY must know of the columns that are no text.
TYPES = {
    **dict.fromkeys(("project_id", "first_token_ms", "latency_ms", "images"), "int4"),
    **dict.fromkeys((name for name in COLUMNS if name.endswith("_tokens")), "int4"),
    **dict.fromkeys(("span_id", "parent_span_id"), "int8"),
    **dict.fromkeys(("bookings", "sequence", "calls", "unpriced", "inherits"), "int2"),
    **dict.fromkeys(("trace_id", "execution_id"), "uuid"),
    **dict.fromkeys(("started_at", "ended_at", "received_at", "occurred_at"), "timestamptz"),
    **dict.fromkeys(("reported_usd", "computed_usd", "cost_usd"), "numeric"),
    **dict.fromkeys(("failed", "bears_usage"), "bool"),
    "digest": "bytea",
    "attributes": "jsonb",
}
# The same few ids stand in many rows of a batch, and reading one costs more than finding it again.
_uuid = lru_cache(maxsize=4096)(UUID)
_TRACE, _EXECUTION, _ATTRIBUTES = (COLUMNS.index(name) for name in ("trace_id", "execution_id", "attributes"))
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


def replacing(project_id: int, replaced: Iterable[tuple[str, Known]]) -> list[Statement]:
    """The statements that take out versions which newer ones replace."""
    return [Statement(FORGET, at_place(project_id, trace, span)) for trace, span in replaced]


class Correction(NamedTuple):
    """What of a stored span is written anew: what of it is billed, and to whom."""

    trace_id: str
    span_id: int
    at: datetime
    cost_usd: Decimal
    pricing: str
    bookings: int
    agent: str
    conversation_id: str
    run_id: str
    execution_id: str | None


def correcting(project_id: int, corrections: Iterable[Correction]) -> list[Statement]:
    """The statements that write corrections."""
    return [Statement(CORRECT, {"project_id": project_id, **one._asdict()}) for one in corrections]


def copy_spans(rows: Iterable[Row]) -> None:
    """Write new rows, each straight into the partition of its day (COPY is refused on tables under policy)."""
    by_day: dict[date, list[Sequence[Any]]] = {}
    for row in rows:
        values: list[Any] = list(astuple(row))
        values[_TRACE] = _uuid(row.trace_id)
        values[_EXECUTION] = _uuid(row.execution_id) if row.execution_id else None
        values[_ATTRIBUTES] = Jsonb(row.attributes, str.encode)
        by_day.setdefault(row.started_at.date(), []).append(values)
    _copy("monitor_span", COLUMNS, by_day)


def copy_ledger(project_id: int, entries: Iterable[tuple[Line, int, int]]) -> None:
    """Write the bookings, each straight into the partition of its day."""
    by_day: dict[date, list[Sequence[Any]]] = {}
    for line, sign, sequence in entries:
        row = line.row
        by_day.setdefault(row.started_at.date(), []).append(
            (
                project_id,
                _uuid(row.trace_id),
                row.span_id,
                sequence,
                row.started_at,
                row.received_at,
                row.kind,
                row.run_id,
                _uuid(row.execution_id) if row.execution_id else None,
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


def _copy(parent: str, columns: tuple[str, ...], by_day: Mapping[date, Iterable[Sequence[Any]]]) -> None:
    with connection.wrap_database_errors:
        types = _types(columns)
        for day, rows in sorted(by_day.items()):
            into = _into(parent, day, columns)
            with psycopg.Cursor(connection.connection) as cursor, cursor.copy(into) as copy:
                copy.set_types(types)
                for row in rows:
                    copy.write_row(row)


@lru_cache(maxsize=8)
def _types(columns: tuple[str, ...]) -> list[str]:
    return [TYPES.get(name, "text") for name in columns]


@lru_cache(maxsize=256)
def _into(parent: str, day: date, columns: tuple[str, ...]) -> bytes:
    """The statement that copies into the partition of a day; composing it costs as much as writing four rows."""
    into = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(f"{parent}_p{day:%Y%m%d}"), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    return into.as_bytes()


class TraceSpan(NamedTuple):
    """The range of the starts of a trace's new spans and how many they are."""

    first_at: datetime
    last_at: datetime
    spans: int


def upserting(
    project_id: int,
    *,
    traces: Mapping[str, TraceSpan],
    agents: Iterable[str],
    first_keys: Iterable[UUID],
    now: datetime,
) -> list[Statement]:
    """The statements for traces and agents, and last the keys, of which the new ones are returned."""
    placed = sorted(traces.items())
    return [
        Statement(
            TRACE_UPSERT,
            {
                "project_id": project_id,
                "trace_id": array(trace for trace, _ in placed),
                "first_at": times(place.first_at for _, place in placed),
                "last_at": times(place.last_at for _, place in placed),
                "spans": array(place.spans for _, place in placed),
            },
        ),
        Statement(SEEN, sighting(project_id, agents, now=now)),
        Statement(FIRST_KEYS, {"project_id": project_id, "keys": array(sorted(first_keys)), "now": now}),
    ]


def adding_up(
    project_id: int, works: Mapping[str, WorkSums], conversations: Mapping[str, Decimal], *, now: datetime
) -> list[Statement]:
    """The statements that add to executions and conversations, locked in the order of their keys."""
    statements = []
    if works:
        ids = sorted(works)
        sums = [works[work_id] for work_id in ids]
        statements.append(
            Statement(
                WORK_COSTS,
                {
                    "project_id": project_id,
                    "ids": array(ids),
                    "cost_usd": array(one.cost_usd for one in sums),
                    "calls": array(one.calls for one in sums),
                    "input_tokens": array(one.input_tokens for one in sums),
                    "output_tokens": array(one.output_tokens for one in sums),
                    "model": texts(one.model for one in sums),
                    "began_at": times(one.began_at for one in sums),
                    "reached_at": times(one.reached_at for one in sums),
                    "now": now,
                },
            )
        )
    if conversations:
        named = sorted(conversations)
        costs = array(conversations[name] for name in named)
        # Whoever opens one of them now sees either these spans, or is there to be charged.
        statements.append(sharing_talks(project_id, named))
        statements.append(
            Statement(CONVERSATION_COSTS, {"project_id": project_id, "ids": texts(named), "cost_usd": costs})
        )
    return statements
