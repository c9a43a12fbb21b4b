"""A filled database, and the plans of what is asked within it."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

import psycopg
import pytest
from django.db import connection
from psycopg import sql

from monitor import pipeline
from monitor.models import Agent, Project
from monitor.pipeline import Statement
from monitor.tenancy import tenant

# Noon, so that all spans are of one day.
NOW = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
EXECUTIONS = 8_000
AGENTS = 10_000
LOOPS = 2_000
SPANS = 12_000
# Spans come twice a second, 60 in a trace, of which one is an operation and every fifth the same call of a tool; every
# other trace is of an execution.
SPANS_A_TRACE = 60
# Of so many executions one is overdue, one has stalled and is told of, one has stalled and begins again, and one, that
# only its trace tells of, is to be looked at.
OF = 400
OVERDUE, WARNED, AGAIN, TRACED = 0, 2, 4, 6
# Smaller tables, and days, are read whole.
SMALL = 1_000
# Whether of so many rows one is found by an index or by looking at each is left to the planner.
FEW = 10

FILL_EXECUTIONS = """
INSERT INTO monitor_execution (project_id, id, agent, run_id, task, crew_id, conversation_id, department, mode, digest,
    status, attempt, max_retries, timeout_s, heartbeat_s, message, verdict, command, command_reason, started_at,
    attempt_started_at, last_heartbeat_at, deadline_at, stall_s, on_stall, stall_due_at, from_spans, trace_id, look_at,
    ended_at, model, cost_usd, input_tokens, output_tokens, api_calls, error, metadata)
SELECT %(project_id)s, lpad(to_hex(n), 32, '0')::uuid, 'agent-' || n %% 500, '', '', '', '', '', '', '',
       CASE WHEN ended THEN 'completed' ELSE 'running' END, 1, 3, 86400, 30, '', '', '', '', begun, begun, begun,
       CASE WHEN beats THEN CASE nth WHEN %(overdue)s THEN %(past)s ELSE %(ahead)s END END, 600,
       CASE nth WHEN %(again)s THEN 'retry' ELSE 'warn' END,
       CASE WHEN beats THEN CASE WHEN nth IN (%(warned)s, %(again)s) THEN %(past)s ELSE %(ahead)s END END,
       traced, CASE WHEN traced THEN lpad(to_hex(n), 32, '0')::uuid END,
       CASE WHEN traced THEN CASE nth WHEN %(traced)s THEN %(past)s ELSE %(ahead)s END END,
       CASE WHEN ended THEN begun + interval '1 minute' END, '', 0, 0, 0, 0, '', '{}'
  FROM (SELECT n, n %% %(of)s AS nth, n %% 2 = 1 AS ended, n %% 10 = 6 AS traced, n %% 2 = 0 AND n %% 10 <> 6 AS beats,
               %(now)s - make_interval(mins => n %% 1000) AS begun
          FROM generate_series(1, %(executions)s) AS n) AS made
"""
FILL_SPANS = """
INSERT INTO monitor_span (project_id, trace_id, span_id, started_at, ended_at, received_at, kind, name, agent,
    execution_id, digest, attributes, tool, input)
SELECT %(project_id)s, trace_id, n, begun, begun + interval '1 s', begun + interval '2 s',
       CASE WHEN n %% 5 = 1 THEN 'tool' WHEN n %% %(spans_a_trace)s = 2 THEN 'operation' ELSE 'llm' END, 'work',
       'planner', CASE WHEN n / %(spans_a_trace)s %% 2 = 0 THEN trace_id END, '', '{}', 'search', '{}'
  FROM (SELECT n, lpad(to_hex(n / %(spans_a_trace)s), 32, '0')::uuid AS trace_id,
               %(now)s - make_interval(secs => (%(spans)s - n) / 2.0) AS begun
          FROM generate_series(%(spans_a_trace)s, %(spans)s) AS n) AS made
"""
FILL_TRACES = """
INSERT INTO monitor_trace (project_id, trace_id, first_at, last_at)
SELECT project_id, trace_id, min(started_at), max(started_at) FROM monitor_span GROUP BY project_id, trace_id
"""
FILL_LOOPS = """
INSERT INTO monitor_loop (project_id, id, place, fingerprint, trace_id, agent, run_id, cycle, rounds, calls,
    answers_differ, first_at, last_at, spans, found_at, moved_at, told_rounds, ended_at, "end")
SELECT %(project_id)s, uuidv7(), 'place-' || n, 'same', uuidv7(), '', '', '[]', 3, 3, false, %(now)s, %(now)s, '{}',
       %(now)s, %(now)s, 3, %(now)s, 'over'
  FROM generate_series(1, %(loops)s) AS n
"""
# What the hot reads read.
HOT = (
    "alerts_alert",
    "monitor_agent",
    "monitor_budgetwindow",
    "monitor_command",
    "monitor_conversation",
    "monitor_execution",
    "monitor_hourrollup",
    "monitor_ingestkey",
    "monitor_ledgerentry",
    "monitor_loop",
    "monitor_message",
    "monitor_minuterollup",
    "monitor_queueitem",
    "monitor_run",
    "monitor_runquarter",
    "monitor_span",
    "monitor_spanlog",
    "monitor_statechange",
    "monitor_trace",
)
FILLS = (FILL_EXECUTIONS, FILL_SPANS, FILL_TRACES, FILL_LOOPS)
FILLED = {
    "executions": EXECUTIONS,
    "of": OF,
    "overdue": OVERDUE,
    "warned": WARNED,
    "again": AGAIN,
    "traced": TRACED,
    "spans": SPANS,
    "spans_a_trace": SPANS_A_TRACE,
    "loops": LOOPS,
    "now": NOW,
    "past": NOW - timedelta(seconds=1),
    "ahead": NOW + timedelta(hours=1),
}
ASKED = r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b.*\bmonitor_|\s*(WITH|SELECT)\b.*\balerts_"
RELATION = """
SELECT coalesce(parent.relname, child.relname), child.reltuples
  FROM pg_class AS child
  LEFT JOIN pg_inherits ON inhrelid = child.oid
  LEFT JOIN pg_class AS parent ON parent.oid = inhparent
 WHERE child.oid = %s::regclass
"""


ROWS = "SELECT reltuples FROM pg_class JOIN pg_index ON indrelid = pg_class.oid WHERE indexrelid = %s::regclass"


class Told(NamedTuple):
    """A statement as it was asked, and its plan: for what was asked, or for whatever may be."""

    sql: str
    plan: str
    is_generic: bool = False

    @property
    def indexes(self) -> set[str]:
        """The indexes by which it finds rows; those of a day by the name that all days have."""
        used = re.findall(r"(?:Scan(?: Backward)? using|Index Scan on) (\w+)", self.plan)
        used += re.findall(r"Conflict Arbiter Indexes: (\w+)", self.plan)
        return {_relation(name)[0] for name in used}

    @property
    def read_whole(self) -> Counter[str]:
        """The larger tables, and days, that it reads from one end to the other, and in how many places."""
        read = [_relation(name) for name in re.findall(r"Seq Scan on (\w+)", self.plan)]
        return Counter(name for name, rows in read if rows > SMALL)


@cache
def _relation(name: str) -> tuple[str, float]:
    """Its own name, or that of the table or index whose part it is, and how many rows it has; as when last analyzed."""
    with connection.cursor() as cursor:
        cursor.execute(RELATION, [name])
        found: tuple[str, float] = cursor.fetchone()
        return found


@contextmanager
def explained() -> Iterator[list[Told]]:
    """The statements that are asked within, each with the plan that whoever asks it gets.

    What is sent in a pipeline is prepared, and PostgreSQL may come to plan it once for all values: both plans are told.
    """
    told: list[Told] = []
    flush = pipeline.flush

    def explain(execute: Any, text: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if not many and re.match(ASKED, text, re.DOTALL):
            execute(f"EXPLAIN {text}", params, many, context)
            told.append(Told(text, "\n".join(line for (line,) in context["cursor"].fetchall())))
        return execute(text, params, many, context)

    def explain_all(statements: Sequence[Statement]) -> list[list[tuple[Any, ...]]]:
        for one in statements:
            if re.match(ASKED, one.sql, re.DOTALL):
                told.extend((Told(one.sql, _plan(one)), Told(one.sql, _plan_for_all(one), is_generic=True)))
        return flush(statements)

    with pytest.MonkeyPatch.context() as patch, connection.execute_wrapper(explain):
        patch.setattr(pipeline, "flush", explain_all)
        yield told


def _plan(one: Statement) -> str:
    cursor = psycopg.Cursor(connection.connection)
    cursor.execute(f"EXPLAIN {one.sql}", one.parameters)
    return "\n".join(line for (line,) in cursor.fetchall())


def _plan_for_all(one: Statement) -> str:
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", one.sql)))
    text = re.sub(r"%\((\w+)\)s", lambda name: f"${names.index(name[1]) + 1}", one.sql).replace("%%", "%")
    values = sql.SQL(", ").join(sql.Literal(one.parameters[name]) for name in names)
    cursor = psycopg.ClientCursor(connection.connection)
    cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    cursor.execute(f"PREPARE asked AS {text}")
    cursor.execute(sql.SQL("EXPLAIN EXECUTE asked ({})").format(values) if names else "EXPLAIN EXECUTE asked")
    plan = "\n".join(line for (line,) in cursor.fetchall())
    cursor.execute("DEALLOCATE asked")
    cursor.execute("SET LOCAL plan_cache_mode = auto")
    return plan


def indexes(told: list[Told], part: str) -> set[str]:
    """The indexes that the statements with this part use; none of them reads a larger table whole."""
    found = [one for one in told if part in one.sql]
    assert found, f"nobody asked {part}"
    assert not [one for one in found if one.read_whole]
    return set().union(*(one.indexes for one in found))


def of_few(index: str) -> set[str]:
    """An index that may be used or not: its table has so few rows that they cost the same with it and without."""
    with connection.cursor() as cursor:
        cursor.execute(ROWS, [index])
        (rows,) = cursor.fetchone()
    # Fewer than none were never counted.
    assert 0 < rows <= FEW, f"{index} finds one of {rows} rows: say whether it has to be used"
    return {index}


def clear() -> None:
    """Make the tables as small as what they will hold: what other tests took back lies between the rows, and makes
    reading a table dearer than it is."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL ROLE none")
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join(map(sql.Identifier, HOT))))
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        cursor.execute("SET LOCAL ROLE handrail_app")


def fill(project: Project) -> None:
    with tenant(project.pk), connection.cursor() as cursor:
        for statement in FILLS:
            cursor.execute(statement, FILLED | {"project_id": project.pk})
        Agent.objects.bulk_create(Agent(project=project, name=f"agent-{n}") for n in range(AGENTS))


def analyze() -> None:
    """Let the planner know what is there."""
    _relation.cache_clear()
    with connection.cursor() as cursor:
        # Only their owner may look at the tables.
        cursor.execute("SET LOCAL ROLE none")
        cursor.execute("ANALYZE")
        cursor.execute("SET LOCAL ROLE handrail_app")
