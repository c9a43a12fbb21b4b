"""What looks all the time, or at all there is, finds its rows by an index: in a filled database, as it really asks."""

import re
from datetime import datetime, timedelta
from uuid import UUID

import pytest

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
from tests.monitor.plans import EXECUTIONS, NOW, OF, analyze, clear, explained, fill, indexes, of_few


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def north(db: None) -> Project:
    """A project with much in it, of which little is due, as the planner knows."""
    with crossing():
        project = Project.objects.create(name="north")
    clear()
    fill(project)
    analyze()
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
    needed = {"execution_looked_at", "monitor_trace_pkey", "monitor_span_pkey"}
    assert indexes(told, silence.DUE) in (needed, needed | of_few("monitor_project_pkey"))
    assert indexes(told, silence.SEEN) == {"monitor_execution_pkey"}


def test_loops_are_found_among_what_is_new_and_ended_by_what_came_later(north: Project) -> None:
    with explained() as told:
        assert loopwatch.look(now=NOW) == 2
        loopwatch.settle(now=after(120))
    assert indexes(told, toolcalls.FRESH) == {"span_loops", "monitor_span_pkey"}
    for by, index in (("execution", "span_by_execution"), ("trace", "monitor_span_pkey")):
        for statement in (toolcalls.SIZES[by], toolcalls.AROUND[by], toolcalls.ALL[by]):
            # Which of an execution's spans are calls of tools may be found beside them, or among them.
            assert indexes(told, statement) in ({index}, {index, "span_loops"})
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
