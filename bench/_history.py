"""A long history of a fleet: rows as agents without payloads send them, by COPY, and the sums computed from them."""

from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
from django.db import connection
from psycopg import sql

from monitor import closing
from monitor.tenancy import crossing

DAYS = 89
SPANS_EACH = 5
AGENTS = [f"agent-{n:02d}" for n in range(20)]
MODELS = (("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"))
TOOLS = ("find_order", "refund", "send_mail")
# Writing the lines costs as much as taking them in.
WRITERS = 2
PIECE = 20_000
LOADED = ("monitor_execution", "monitor_run", "monitor_trace", "monitor_span")
EXECUTION_COLUMNS = (
    "project_id, id, agent, run_id, task, crew_id, conversation_id, department, mode, trace_id, digest, status, "
    "attempt, max_retries, timeout_s, heartbeat_s, message, verdict, command, command_reason, started_at, "
    "attempt_started_at, last_heartbeat_at, ended_at, duration_ms, model, cost_usd, input_tokens, output_tokens, "
    "api_calls, error, metadata"
)
RUN_COLUMNS = (
    "project_id, run_id, agent, department, first_at, last_at, calls, tool_calls, latency_ms, input_tokens, "
    "output_tokens, cost_usd, computed_usd"
)
TRACE_COLUMNS = "project_id, trace_id, first_at, last_at, spans"
SPAN_COLUMNS = (
    "project_id, trace_id, span_id, started_at, ended_at, received_at, parent_span_id, kind, name, agent, run_id, "
    "provider, request_model, model, tool, bears_usage, input_tokens, output_tokens, computed_usd, cost_usd, pricing, "
    "price_version, bookings, digest, attributes"
)
BY_TABLE = dict(zip(LOADED, (EXECUTION_COLUMNS, RUN_COLUMNS, TRACE_COLUMNS, SPAN_COLUMNS), strict=True))
INDEXES = """
SELECT i.relname, pg_get_indexdef(i.oid) FROM pg_index AS x
  JOIN pg_class AS i ON i.oid = x.indexrelid JOIN pg_class AS t ON t.oid = x.indrelid
 WHERE t.relname = ANY(%s) AND NOT x.indisunique AND NOT EXISTS (
     SELECT FROM pg_constraint AS c WHERE c.conindid = x.indexrelid)
"""
# What agents' spans would have added up to; the minutes of old days are read by nobody.
SUMS = {
    "monitor_hourrollup": ("hour", "-infinity"),
    "monitor_minuterollup": ("minute", "3 days"),
}
SUM_UP = """
INSERT INTO {table} (project_id, {unit}, agent, department, provider, model, kind, count, failed, duration_ms,
    input_tokens, cache_read_tokens, output_tokens, cost_usd, reported_usd, computed_usd, unpriced, cancelled, latency)
SELECT project_id, at, agent, '', provider, model, kind, sum(n), 0, sum(lasted), sum(taken), 0, sum(made), sum(cost), 0,
       sum(cost), 0, 0, array_agg((n << 10) + bucket)
  FROM (SELECT project_id, date_trunc('{unit}', started_at) AS at, agent, provider,
               CASE WHEN kind = 'llm' THEN model ELSE tool END AS model, kind, count(*) AS n, sum(ms) AS lasted,
               sum(input_tokens) AS taken, sum(output_tokens) AS made, sum(cost_usd) AS cost,
               ceil(ln(greatest(ms, 1)) / ln(1.04))::bigint AS bucket
          FROM (SELECT *, (extract(epoch FROM ended_at - started_at) * 1000)::bigint AS ms FROM monitor_span
                 WHERE started_at >= %(since)s AND kind IN ('llm', 'tool')) AS span
         GROUP BY 1, 2, 3, 4, 5, 6, bucket
        UNION ALL
        SELECT project_id, date_trunc('{unit}', ended_at), agent, '', '', 'execution', count(*), sum(duration_ms), 0, 0,
               0, ceil(ln(greatest(duration_ms, 1)) / ln(1.04))::bigint AS bucket
          FROM monitor_execution WHERE ended_at >= %(since)s GROUP BY 1, 2, 3, bucket) AS counted
 GROUP BY project_id, at, agent, provider, model, kind
"""
OPEN_ALL = """
INSERT INTO monitor_rolledday (project_id, starts_at, ends_at, time_zone)
SELECT DISTINCT project_id, date_trunc('day', hour, 'UTC'), date_trunc('day', hour, 'UTC') + interval '24 hours', 'UTC'
  FROM monitor_hourrollup
    ON CONFLICT (project_id, starts_at) DO UPDATE SET closed_at = NULL
"""
COUNT_EVER = """
INSERT INTO monitor_lifetimetally (kind, agent, model, count, failed, cancelled, duration_ms, input_tokens,
    cache_read_tokens, output_tokens, cost_usd, latency)
SELECT kind, agent, model, sum(count), sum(failed), sum(cancelled), sum(duration_ms), sum(input_tokens),
       sum(cache_read_tokens), sum(output_tokens), sum(cost_usd), '{}'
  FROM monitor_hourrollup GROUP BY kind, agent, model
"""
COUNT_RUNS = """
INSERT INTO monitor_runquarter (project_id, at, begun, ended)
SELECT project_id, date_bin('15 minutes', at, '2000-01-01 00:00Z') AS quarter, sum(begins), sum(ends)
  FROM (SELECT project_id, first_at AS at, 1 AS begins, 0 AS ends FROM monitor_run
        UNION ALL SELECT project_id, last_at, 0, 1 FROM monitor_run) AS turns
 GROUP BY project_id, quarter
"""


def load(owner: psycopg.Connection, project_id: int, first: int, last: int, *, now: datetime) -> None:
    """Executions of these numbers with all that belongs to them; indexes that prove nothing are built afterwards."""
    indexes = owner.execute(INDEXES, [list(LOADED)]).fetchall()
    for name, _ in indexes:
        owner.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
    per_day = (last - first) // DAYS + 1
    days = []
    for day in range(DAYS):
        begin, end = first + day * per_day, min(first + (day + 1) * per_day, last)
        midnight = (now - timedelta(days=DAYS - day)).replace(hour=0, minute=0, second=0, microsecond=0)
        if begin < end:
            days.append((begin, end, midnight))
    with ProcessPoolExecutor(WRITERS) as writers:
        for written in [writers.submit(_write, owner.info.dsn, project_id, *day) for day in days]:
            written.result()
    for _, definition in indexes:
        # Of a partitioned table it tells the index of the parent alone.
        owner.execute(definition.replace(" ON ONLY ", " ON ", 1))
    owner.execute("VACUUM (ANALYZE)")


def _write(dsn: str, project_id: int, begin: int, end: int, midnight: datetime) -> None:
    """The executions of one day, a piece at a time, so that memory holds a piece."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("SELECT set_config('app.project', %s, false)", [str(project_id)])
        for piece in range(begin, end, PIECE):
            rows = _Rows(project_id, midnight)
            for number in range(piece, min(piece + PIECE, end)):
                rows.add(number, (number - begin) / (end - begin))
            for table, lines in rows.lines.items():
                into = f"{table}_p{midnight:%Y%m%d}" if table == "monitor_span" else table
                with session.cursor() as cursor, cursor.copy(f"COPY {into} ({BY_TABLE[table]}) FROM STDIN") as copy:
                    copy.write("".join(lines))


class _Rows:
    """One day's rows as COPY's text."""

    def __init__(self, project_id: int, midnight: datetime) -> None:
        self.lines: dict[str, list[str]] = {table: [] for table in LOADED}
        self._project = project_id
        self._midnight = midnight
        self._ms = int(midnight.timestamp() * 1000)

    def add(self, number: int, place: float) -> None:
        """One execution with its run, its trace and its spans; `place` says when on the day, 0 to 1."""
        rng = (number * 2654435761) & 0xFFFFFFFF
        began = self._midnight + timedelta(seconds=place * 86_000)
        # Version 7: the time comes first.
        ms = self._ms + int(place * 86_000_000)
        identity = UUID(int=(ms << 80) | (7 << 76) | (2 << 62) | (number & (2**62 - 1)))
        trace = UUID(int=((rng << 96) | (number << 32) | rng) & (2**128 - 1))
        agent = AGENTS[rng % len(AGENTS)]
        run = f"run-{number:x}"
        lasted_ms = 2_000 + rng % 20_000
        ended = began + timedelta(milliseconds=lasted_ms)
        failed = rng % 23 == 0
        provider, model = MODELS[rng % 2]
        p = self._project
        self.lines["monitor_execution"].append(
            f"{p}\t{identity}\t{agent}\t{run}\tA task like any other\t\t\t\t\t{trace}\t\\\\x00\t"
            f"{'failed' if failed else 'completed'}\t1\t3\t60\t30\t\t\t\t\t"
            f"{began}\t{began}\t{ended}\t{ended}\t{lasted_ms}\t{model}\t"
            f"0.0084\t2400\t240\t2\t{'overloaded' if failed else ''}\t{{}}\n"
        )
        self.lines["monitor_run"].append(
            f"{p}\t{run}\t{agent}\t\t{began}\t{ended}\t2\t2\t{lasted_ms // 2}\t2400\t240\t0.0084\t0.0084\n"
        )
        self.lines["monitor_trace"].append(f"{p}\t{trace}\t{began}\t{ended}\t{SPANS_EACH}\n")
        digest = f"\\\\x{rng:08x}{number:024x}"
        root = number * 8 + 1
        spans = self.lines["monitor_span"]
        common = f"{p}\t{trace}\t"
        spans.append(
            f"{common}{root}\t{began}\t{ended}\t{ended}\t\\N\tagent\tinvoke_agent\t{agent}\t{run}\t\t\t\t\tf\t0\t0\t\\N\t0\t"
            f"none\t\t0\t{digest}\t{{}}\n"
        )
        for n in range(1, SPANS_EACH):
            at = began + timedelta(milliseconds=n * lasted_ms // 8)
            until = at + timedelta(milliseconds=1 + (rng >> n) % (lasted_ms // 8))
            if n % 2:
                kind = (
                    f"llm\tchat\t{agent}\t{run}\t{provider}\t{model}\t{model}\t\tt\t1200\t120\t0.0042\t0.0042\tpriced"
                )
                kind += "\tlist 2026-11\t1"
            else:
                tool = TOOLS[(rng >> n) % len(TOOLS)]
                kind = f"tool\t{tool}\t{agent}\t{run}\t\t\t\t{tool}\tf\t0\t0\t\\N\t0\tnone\t\t0"
            spans.append(f"{common}{root + n}\t{at}\t{until}\t{until}\t{root}\t{kind}\t{digest}\t{{}}\n")


def sum_up(owner: psycopg.Connection, *, now: datetime) -> None:
    """Every sum that their reports would have made."""
    for table, (unit, back) in SUMS.items():
        since = "-infinity" if back == "-infinity" else (now - timedelta(days=3)).isoformat()
        owner.execute(f"TRUNCATE {table}")
        owner.execute(SUM_UP.format(table=table, unit=unit), {"since": since})
        owner.execute(f"VACUUM (ANALYZE) {table}")
    with crossing(), connection.cursor() as cursor:
        cursor.execute(OPEN_ALL)
    while closing.close_days(now=now):
        pass
    owner.execute("VACUUM (ANALYZE) monitor_dayrollup, monitor_rolledday")
    owner.execute("TRUNCATE monitor_lifetimetally")
    owner.execute(COUNT_EVER)
    owner.execute("TRUNCATE monitor_runquarter")
    owner.execute(COUNT_RUNS)
    owner.execute("VACUUM (ANALYZE) monitor_runquarter")
