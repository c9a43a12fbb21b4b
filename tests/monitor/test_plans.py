"""What looks all the time, or at all there is, finds its rows by an index: in a filled database, as it really asks."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from django.db import connection

from monitor import (
    cadence,
    commands,
    fleet,
    loopwatch,
    operations,
    silence,
    stalls,
    toolcalls,
    watch,
)
from monitor.commands import Order
from monitor.models import Agent, Command, Project
from monitor.tenancy import crossing, tenant

# Noon, so that all spans are of one day.
NOW = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
EXECUTIONS = 8_000
AGENTS = 2_000
LOOPS = 2_000
SPANS = 12_000
# Spans come twice a second, 60 in a trace; every fifth is the same call of a tool, and every other trace is of an
# execution.
SPANS_A_TRACE = 60
# Of so many executions one is overdue, one has stalled and is told of, one has stalled and begins again, and one, that
# only its trace tells of, is to be looked at.
OF = 400
OVERDUE, WARNED, AGAIN, TRACED = 0, 2, 4, 6
# Smaller tables, and days, are read whole.
SMALL = 1_000

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
       CASE n %% 5 WHEN 1 THEN 'tool' WHEN 2 THEN 'operation' ELSE 'llm' END, 'work', 'planner',
       CASE WHEN n / %(spans_a_trace)s %% 2 = 0 THEN trace_id END, '', '{}', 'search', '{}'
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
RELATION = """
SELECT coalesce(parent.relname, child.relname), child.reltuples
  FROM pg_class AS child
  LEFT JOIN pg_inherits ON inhrelid = child.oid
  LEFT JOIN pg_class AS parent ON parent.oid = inhparent
 WHERE child.oid = %s::regclass
"""


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


class Told(NamedTuple):
    """A statement as it was asked, and its plan."""

    sql: str
    plan: str

    @property
    def indexes(self) -> set[str]:
        """The indexes by which it finds rows; those of a day by the name that all days have."""
        used = re.findall(r"(?:Scan(?: Backward)? using|Index Scan on) (\w+)", self.plan)
        return {_relation(name)[0] for name in used}

    @property
    def read_whole(self) -> set[str]:
        """The larger tables, and days, that it reads from one end to the other."""
        read = [_relation(name) for name in re.findall(r"Seq Scan on (\w+)", self.plan)]
        return {name for name, rows in read if rows > SMALL}


def _relation(name: str) -> tuple[str, float]:
    with connection.cursor() as cursor:
        cursor.execute(RELATION, [name])
        found: tuple[str, float] = cursor.fetchone()
        return found


@contextmanager
def explained() -> Iterator[list[Told]]:
    """The statements that are asked within, each with the plan that whoever asks it gets."""
    told: list[Told] = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if re.match(r"\s*(WITH|SELECT|UPDATE)\b.*\bmonitor_", sql, re.DOTALL):
            execute(f"EXPLAIN {sql}", params, many, context)
            told.append(Told(sql, "\n".join(line for (line,) in context["cursor"].fetchall())))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        yield told


def indexes(told: list[Told], part: str) -> set[str]:
    """The indexes that the statements with this part use; none of them reads a larger table whole."""
    found = [one for one in told if part in one.sql]
    assert found, f"nobody asked {part}"
    assert not [one for one in found if one.read_whole]
    return set().union(*(one.indexes for one in found))


def fill(project: Project) -> None:
    with tenant(project.pk), connection.cursor() as cursor:
        for statement in FILLS:
            cursor.execute(statement, FILLED | {"project_id": project.pk})
        Agent.objects.bulk_create(Agent(project=project, name=f"agent-{n}") for n in range(AGENTS))


@pytest.fixture
def north(db: None) -> Project:
    """A project with much in it, of which little is due, as the planner knows."""
    with crossing():
        project = Project.objects.create(name="north")
    fill(project)
    with connection.cursor() as cursor:
        # Only their owner may look at the tables.
        cursor.execute("SET LOCAL ROLE none")
        cursor.execute("ANALYZE")
        cursor.execute("SET LOCAL ROLE handrail_app")
    return project


def test_the_watchdog_finds_what_is_due(north: Project) -> None:
    with explained() as told:
        assert watch.overdue(now=NOW, jitter=0) == 3 * EXECUTIONS // OF
    assert indexes(told, fleet.SILENT_NOW) == {"execution_due"}
    assert indexes(told, watch.DUE) == {"execution_due", "monitor_execution_pkey"}
    assert indexes(told, stalls.MARK) == {"execution_stall_due", "monitor_execution_pkey"}
    assert indexes(told, stalls.DUE.format(on_stall="retry")) == {"execution_stall_due", "monitor_execution_pkey"}


def test_the_expected_cadence_finds_who_is_late_and_what_they_did(north: Project) -> None:
    expected = {"expected_every_s": 60, "expected_since": after(-600)}
    with crossing():
        Agent.objects.filter(name__in=["agent-0", "agent-1"]).update(**expected)
        Agent.objects.filter(name="agent-2").update(**expected, missed_at=NOW)
    with explained() as told:
        assert cadence.judge(now=after(120)) == 2
    assert indexes(told, cadence.SILENT) == {"agent_expected"}
    assert indexes(told, cadence.MISSED) == {"agent_expected", "monitor_agent_pkey", "execution_by_agent"}
    assert indexes(told, cadence.HEARD) == {"monitor_agent_pkey", "execution_by_agent", "execution_by_age"}


def test_what_only_traces_tell_of_is_looked_at_by_its_trace(north: Project) -> None:
    with explained() as told:
        assert silence.look(now=NOW) > 0
    assert indexes(told, silence.DUE) == {"execution_looked_at", "monitor_trace_pkey", "monitor_span_pkey"}
    assert indexes(told, silence.SEEN) == {"monitor_execution_pkey"}


def test_loops_are_found_among_what_is_new_and_ended_by_what_came_later(north: Project) -> None:
    with explained() as told:
        assert loopwatch.look(now=NOW) == 2
        loopwatch.settle(now=after(120))
    assert indexes(told, toolcalls.FRESH) == {"span_loops", "monitor_span_pkey"}
    for by, index in (("execution", "span_by_execution"), ("trace", "monitor_span_pkey")):
        for statement in (toolcalls.SIZES[by], toolcalls.AROUND[by], toolcalls.ALL[by]):
            assert indexes(told, statement) == {index}
    assert indexes(told, loopwatch.LATER["execution"]) == {"span_by_execution"}
    assert indexes(told, 'ORDER BY "monitor_loop"."moved_at"') == {"loop_open"}


def test_operations_are_read_by_their_window_or_their_execution(north: Project) -> None:
    with tenant(north.pk), explained() as told:
        assert operations.statistics(north.pk, since=after(-600), until=NOW).results
        assert operations.statistics(north.pk, since=after(-7200), until=NOW, execution_id=UUID(int=100)).results
    assert indexes(told, operations.OF_WINDOW) == {"span_operations"}
    assert indexes(told, operations.OF_EXECUTION) == {"span_by_execution"}


def test_commands_are_not_joined_in_a_project_that_the_planner_does_not_know_yet(north: Project) -> None:
    with crossing():
        south = Project.objects.create(name="south")
    fill(south)
    some = [UUID(int=n) for n in range(1, 200)]
    with tenant(south.pk), explained() as told:
        for command in ("pause", "continue"):
            commands.issue(south.pk, [Order(one, command, "", 1) for one in some], now=NOW, actor="ann@example.org")
        assert commands.deliver_by_events(south.pk, range(1, 400), now=NOW) == 2 * len(some)
        superseded = "superseded by continue"
        assert Command.objects.filter(project=south, command="pause", outcome=superseded).count() == len(some)
    for statement in (commands.PUT_IN_FORCE, commands.DELIVER):
        plans = [one.plan for one in told if one.sql == statement]
        assert plans
        assert not [plan for plan in plans if re.search("Join|Nested Loop", plan)]
