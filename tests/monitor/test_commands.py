"""How a command reaches its agent, what comes of it, and that each is told of once."""

from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from monitor import commands, registration
from monitor.models import Command, Execution, StateChange
from monitor.registration import NewExecution
from monitor.tenancy import tenant
from tests.monitor.fleets import a_project, act, after, an_execution, at_once, beat, journal, look, tick


def given(project_id: int, execution_id: UUID) -> list[Command]:
    with tenant(project_id):
        return commands.of(project_id, execution_id)


def newest(project_id: int, execution_id: UUID) -> Command:
    return given(project_id, execution_id)[-1]


def acknowledge(project_id: int, execution_id: UUID, seq: int, *, now: Any, **said: Any) -> Command:
    with tenant(project_id):
        return commands.acknowledge(project_id, execution_id, seq, now=now, **said)


def read_events(project_id: int, *seqs: int, now: Any) -> int:
    with tenant(project_id):
        return commands.deliver_by_events(project_id, seqs, now=now)


def test_whoever_commands_leaves_a_row_and_the_newest_is_in_force(db: None) -> None:
    project = a_project()
    one = an_execution(project, max_retries=1)
    act("pause", project, one, now=after(1), note="look at it first")
    act("resume", project, one, now=after(2))
    tick(now=after(50))
    tick(now=after(500))
    act("cancel", project, one, now=after(501))
    assert [(c.seq, c.command, c.reason, c.actor, c.attempt, c.outcome) for c in given(project, one)] == [
        (1, "pause", "look at it first", "ann@example.org", 1, "superseded by continue"),
        (2, "continue", "resumed by ann@example.org", "ann@example.org", 1, "superseded by retry"),
        (3, "retry", "no heartbeat for 49 s", "watchdog", 2, "superseded by pause"),
        (4, "pause", "attempt 2 was not picked up", "watchdog", 2, "superseded by cancel"),
        (5, "cancel", "cancelled by ann@example.org", "ann@example.org", 2, ""),
    ]
    assert look(project, one).command_seq == 5
    assert [c.outcome_at for c in given(project, one)] == [after(2), after(50), after(500), after(501), None]


def test_a_heartbeat_without_a_command_is_one_statement_and_so_is_one_that_was_told(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    with tenant(project), CaptureQueriesContext(connection) as queries:
        beat(project, one, now=after(1), progress=5, message="halfway")
    assert [query["sql"].split()[0] for query in queries if "monitor_" in query["sql"]] == ["UPDATE"]
    act("pause", project, one, now=after(2))
    act("resume", project, one, now=after(3))
    assert beat(project, one, now=after(4)).command_seq == 2
    with tenant(project), CaptureQueriesContext(connection) as queries:
        # Until the agent has acknowledged it, for this answer may have been lost.
        assert beat(project, one, now=after(5)).command_seq == 2
    assert [query["sql"].split()[0] for query in queries if "monitor_" in query["sql"]] == ["UPDATE"]
    assert beat(project, one, now=after(6), acknowledged=2).command_seq is None
    assert beat(project, one, now=after(7)).command_seq is None


@pytest.mark.parametrize(("verb", "told"), [("pause", "pause"), ("retry", "retry"), ("cancel", "cancel")])
def test_the_first_answer_that_carries_it_is_its_delivery(db: None, verb: str, told: str) -> None:
    project = a_project()
    one = an_execution(project)
    act(verb, project, one, now=after(1))
    assert newest(project, one).delivered_at is None
    answers = [beat(project, one, now=after(at), attempt=1) for at in (2, 3)]
    assert [(answer.command, answer.command_seq) for answer in answers] == [(told, 1)] * 2
    seen = newest(project, one)
    assert (seen.delivered_at, seen.delivered_by) == (after(2), "heartbeat")
    assert read_events(project, 1, now=after(4)) == 0
    assert newest(project, one).delivered_at == after(2)


def test_an_event_that_was_read_first_stays_the_delivery(db: None) -> None:
    project = a_project()
    one, other = an_execution(project), an_execution(project)
    act("pause", project, one, now=after(1))
    act("pause", project, other, now=after(1))
    assert read_events(project, 1, 2, 99, now=after(2)) == 2
    beat(project, one, now=after(3))
    assert [(c.delivered_at, c.delivered_by) for c in given(project, one)] == [(after(2), "agent-events")]


def test_a_stale_attempt_is_not_told_what_is_meant_for_its_successor(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    tick(now=after(45))
    beat(project, one, now=after(50), attempt=2)
    act("pause", project, one, now=after(51))
    told = beat(project, one, now=after(52), attempt=1)
    assert (told.command, told.command_seq) == ("retry", None)
    assert newest(project, one).delivered_at is None
    assert beat(project, one, now=after(53), attempt=2).command_seq == 2


def test_the_effect_is_seen_when_the_ordered_thing_happens(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    act("pause", project, one, now=after(1))
    act("resume", project, one, now=after(2))
    beat(project, one, now=after(3))
    beat(project, one, now=after(4))
    assert (newest(project, one).outcome, newest(project, one).outcome_at) == ("beats again", after(3))
    assert journal(project, one)[-2:] == [("paused", "running", "resumed"), ("running", "running", "goes_on")]
    act("retry", project, one, now=after(5))
    beat(project, one, now=after(6), attempt=2)
    assert (newest(project, one).outcome, newest(project, one).outcome_at) == ("attempt 2 was picked up", after(6))
    assert look(project, one).command_seq is None
    act("pause", project, one, now=after(7))
    act("complete", project, one, now=after(8))
    assert (newest(project, one).outcome, look(project, one).command_seq) == ("completed", None)
    told = beat(project, one, now=after(9))
    assert (told.command, told.command_seq) == ("cancel", None)


def test_a_continue_that_was_acknowledged_before_its_first_beat_is_over_with_that(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    act("pause", project, one, now=after(1))
    act("resume", project, one, now=after(2))
    read_events(project, 2, now=after(3))
    acknowledge(project, one, 2, now=after(3))
    assert look(project, one).command_seq == 2
    told = beat(project, one, now=after(4))
    assert (told.command, told.command_seq, look(project, one).command_seq) == ("continue", None, None)
    seen = newest(project, one)
    assert (seen.delivered_at, seen.delivered_by) == (after(3), "agent-events")
    assert (seen.outcome, seen.outcome_at) == ("beats again", after(4))


def test_acknowledging_twice_is_once_and_an_effect_may_follow(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    act("cancel", project, one, now=after(1))
    first = acknowledge(project, one, 1, now=after(2), attempt=1)
    assert (first.acknowledged_at, first.acknowledged_attempt, first.effect) == (after(2), 1, "")
    again = acknowledge(project, one, 1, now=after(3), effect="stopped its work", attempt=2)
    assert (again.acknowledged_at, again.acknowledged_attempt, again.effect) == (after(2), 1, "stopped its work")
    assert acknowledge(project, one, 1, now=after(4), effect="nothing").effect == "stopped its work"
    with pytest.raises(Command.DoesNotExist):
        acknowledge(project, one, 2, now=after(5))
    assert [(c.seq, c.delivered_at) for c in given(project, one)] == [(1, None)]


def test_of_many_beats_one_delivers_and_the_effect_is_told_once(committed_db: None) -> None:
    project = a_project()
    for n in range(5):
        one = an_execution(project, timeout_s=600)
        act("pause", project, one, now=after(1))
        act("resume", project, one, now=after(2))
        at_once([lambda one=one, at=at: beat(project, one, now=after(3 + at)) for at in range(6)])
        seen = newest(project, one)
        assert (seen.delivered_by, seen.outcome, seen.outcome_at) == ("heartbeat", "beats again", seen.delivered_at), n
        assert journal(project, one).count(("running", "running", "goes_on")) == 1


def test_of_many_beats_while_paused_one_delivers_and_it_stays_the_delivery(committed_db: None) -> None:
    project = a_project()
    one = an_execution(project, timeout_s=600)
    act("pause", project, one, now=after(1))
    told = at_once([lambda at=at: beat(project, one, now=after(2 + at)) for at in range(8)])
    assert [(answer.command, answer.command_seq) for answer in told] == [("pause", 1)] * 8
    first = newest(project, one).delivered_at
    assert first in {after(2 + at) for at in range(8)}
    beat(project, one, now=after(60))
    assert newest(project, one).delivered_at == first


def test_a_beat_and_a_reader_race_and_one_of_them_delivers(committed_db: None) -> None:
    project = a_project()
    for _ in range(5):
        one = an_execution(project, timeout_s=600)
        act("pause", project, one, now=after(1))
        seq = newest(project, one).seq
        at_once(
            [
                lambda one=one: beat(project, one, now=after(2)),
                lambda seq=seq: read_events(project, seq, now=after(3)),
            ]
        )
        seen = newest(project, one)
        assert (seen.delivered_at, seen.delivered_by) in {(after(2), "heartbeat"), (after(3), "agent-events")}


def test_of_many_acknowledgements_the_first_stays(committed_db: None) -> None:
    project = a_project()
    one = an_execution(project)
    act("cancel", project, one, now=after(1))
    heard = at_once(
        [lambda at=at: acknowledge(project, one, 1, now=after(at), effect=f"effect {at}") for at in range(2, 10)]
    )
    last = newest(project, one)
    assert last.acknowledged_at is not None
    assert {(each.acknowledged_at, each.effect) for each in heard} == {(last.acknowledged_at, last.effect)}
    assert last.effect == f"effect {(last.acknowledged_at - after(0)).seconds}"


def test_another_projects_command_is_not_there(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    one = an_execution(north)
    act("pause", north, one, now=after(1))
    with pytest.raises(Command.DoesNotExist):
        acknowledge(south, one, 1, now=after(2))
    with tenant(south):
        assert Command.objects.count() == 0


def test_a_child_of_an_aborted_parent_is_cancelled_and_one_of_a_parent_that_failed_goes_on(db: None) -> None:
    project = a_project()
    aborted, failed = an_execution(project, max_retries=0), an_execution(project)
    act("fail", project, aborted, now=after(1), error="no rooms")
    act("cancel", project, aborted, now=after(2), note="enough")
    act("fail", project, failed, now=after(2), error="no such tool", retryable=False)
    assert (look(project, aborted).status, look(project, failed).status) == ("failed", "failed")
    stopped = an_execution(project, parent_id=aborted, now=after(3))
    going = an_execution(project, parent_id=failed, now=after(3))
    done = an_execution(project, parent_id=aborted, now=after(3), status="completed", duration_ms=5)
    assert [look(project, one).status for one in (stopped, going, done)] == ["cancelled", "running", "completed"]
    assert journal(project, stopped) == [("", "running", "registered"), ("running", "cancelled", "parent_cancelled")]
    assert [(c.command, c.reason, c.outcome) for c in given(project, stopped)] == [("cancel", "enough", "")]


def test_no_child_outlives_a_parent_that_is_cancelled_while_it_is_registered(committed_db: None) -> None:
    project = a_project()
    for n in range(12):
        parent = an_execution(project)
        middle = an_execution(project, parent_id=parent)

        def register(above: UUID) -> Execution:
            with tenant(project):
                body = NewExecution(agent="coder", parent_id=above)
                return registration.register(project, body, now=after(1), actor="key:agents")[0]

        below = at_once(
            [
                lambda parent=parent: register(parent),
                lambda parent=parent: act("cancel", project, parent, now=after(1)),
                lambda middle=middle: register(middle),
                lambda middle=middle: register(middle),
            ]
        )
        ids = [one.id for one in below] + [middle]
        assert {look(project, one).status for one in ids} == {"cancelled"}, n
        with tenant(project):
            told = Command.objects.filter(execution_id__in=ids, command="cancel")
            assert told.count() == len(ids)
            changes = StateChange.objects.filter(subject_id__in=[str(one) for one in ids], cause="parent_cancelled")
            assert changes.count() == 4
