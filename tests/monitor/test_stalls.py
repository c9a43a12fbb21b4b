"""The clock of progress: what beats and does not move is told of in time, once, and takes it back when it moves."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from monitor import ingest, listening
from monitor.models import Agent, Execution, QueueEvent, QueueItem, StateChange
from monitor.records import Span
from monitor.tenancy import tenant
from tests.monitor.fleets import NOW, a_project, act, after, an_execution, at_once, beat, journal, look, tick
from tests.monitor.spending import a_bare_span

DAY = 86_400


def hanging(project_id: int, **body: Any) -> UUID:
    """An execution that is alive for as long as a test goes on, and may stand still for a minute."""
    return an_execution(project_id, **({"stall_s": 60, "timeout_s": 86_400, "heartbeat_s": 3600} | body))


def notes(project_id: int, cause: str) -> list[str]:
    with tenant(project_id):
        return list(StateChange.objects.filter(cause=cause).order_by("id").values_list("note", flat=True))


def test_what_beats_and_does_not_move_is_told_of_once_and_goes_on(db: None) -> None:
    project = a_project()
    one = hanging(project, stall_s=300)
    beat(project, one, now=after(10), progress=40, message="waits for the lock")
    beat(project, one, now=after(200), progress=40, message="waits for the lock")
    assert (tick(now=after(309.9)), tick(now=after(310)), tick(now=after(311))) == (0, 1, 0)
    seen = look(project, one)
    assert (seen.status, seen.attempt, seen.stalled_at, seen.stall_due_at) == ("running", 1, after(310), None)
    assert journal(project, one)[1:] == [("running", "running", "stalled")]
    assert notes(project, "stalled") == ["alive but makes no progress for 5 min: last message “waits for the lock”"]
    assert beat(project, one, now=after(320)).command == "continue"
    assert look(project, one).stalled_at == after(310)
    with tenant(project):
        assert (QueueEvent.objects.count(), QueueItem.objects.count()) == (0, 0)


@pytest.mark.parametrize(
    ("sign", "moves"),
    [
        ({"progress": 41}, True),
        ({"message": "has the lock"}, True),
        ({"progressing": True}, True),
        ({"progress": 40, "message": "waits"}, False),
        ({"progress": 90, "progressing": False}, False),
        ({}, False),
    ],
)
def test_progress_is_what_changes_or_what_the_agent_says_it_is(db: None, sign: dict, moves: bool) -> None:
    project = a_project()
    one = hanging(project)
    beat(project, one, now=after(10), progress=40, message="waits")
    tick(now=after(70))
    beat(project, one, now=after(100), **sign)
    seen = look(project, one)
    if not moves:
        assert (seen.stalled_at, seen.stall_due_at, seen.last_progress_at) == (after(70), None, after(10))
        return
    assert (seen.stalled_at, seen.stall_due_at, seen.last_progress_at) == (None, after(160), after(100))
    assert journal(project, one)[-1] == ("running", "running", "progressing")
    assert notes(project, "progressing") == ["moves again after 30 s"]
    # The next stall is news again.
    assert (tick(now=after(159.9)), tick(now=after(160))) == (0, 1)


def test_progress_puts_the_clock_off_and_without_one_there_is_none(db: None) -> None:
    project = a_project()
    one, free = hanging(project), hanging(project, stall_s=None)
    beat(project, one, now=after(50), progress=1)
    assert look(project, one).stall_due_at == after(110)
    assert (tick(now=after(109.9)), tick(now=after(110))) == (0, 1)
    assert (look(project, free).stall_due_at, look(project, free).stalled_at) == (None, None)


def test_the_clock_comes_from_the_client_then_the_agent_then_the_project(db: None) -> None:
    project = a_project(stall_s=600)
    with tenant(project):
        Agent.objects.create(project_id=project, name="planner", stall_s=300, first_seen_at=NOW, last_seen_at=NOW)
    said = [
        look(project, an_execution(project, **body))
        for body in ({"stall_s": 60}, {}, {"agent": "coder"}, {"stall_s": 0})
    ]
    assert [one.stall_s for one in said] == [60, 300, 600, None]
    assert [one.stall_due_at for one in said] == [after(60), after(300), after(600), None]


def test_an_agent_that_says_so_itself_has_stalled_at_once(db: None) -> None:
    project = a_project()
    one = hanging(project, stall_s=None)
    beat(project, one, now=after(5), message="no free connection", progressing=False)
    beat(project, one, now=after(6), progressing=False)
    assert look(project, one).stalled_at == after(5)
    assert notes(project, "stalled") == ["alive but says that it makes no progress: last message “no free connection”"]
    beat(project, one, now=after(9), progressing=True)
    assert (look(project, one).stalled_at, look(project, one).stall_due_at) == (None, None)


def test_where_it_is_to_be_retried_the_next_attempt_begins(db: None) -> None:
    project = a_project()
    one = hanging(project, on_stall="retry", max_retries=1)
    beat(project, one, now=after(10), message="waits", attempt=1)
    assert tick(now=after(70)) == 1
    seen = look(project, one)
    assert (seen.status, seen.attempt, seen.verdict) == ("retrying", 2, "stalled")
    assert seen.error == "alive, but no progress for 60 s: waits"
    assert (seen.stalled_at, seen.stall_due_at) == (None, None)
    told = beat(project, one, now=after(75), attempt=1)
    assert (told.command, told.attempt) == ("retry", 2)
    beat(project, one, now=after(80), attempt=2)
    assert look(project, one).stall_due_at == after(140)
    # The last attempt asks a person; a resume gives it the whole time again.
    told = beat(project, one, now=after(90), attempt=2, progressing=False)
    assert (told.command, told.status) == ("pause", "hitl_paused")
    with tenant(project):
        assert [item.title for item in QueueItem.objects.all()] == ["planner makes no progress"]
    act("resume", project, one, now=after(500))
    assert look(project, one).stall_due_at == after(560)
    act("cancel", project, one, now=after(501))


def test_an_abort_after_a_stall_ends_as_a_time_out(db: None) -> None:
    project = a_project()
    one = hanging(project, on_stall="retry", max_retries=0)
    tick(now=after(60))
    assert act("cancel", project, one, now=after(70)).status == "timeout"


def test_the_clock_stands_still_while_paused(db: None) -> None:
    project = a_project()
    one = hanging(project)
    act("pause", project, one, now=after(20))
    assert (look(project, one).stall_due_at, look(project, one).stall_left_ms) == (None, 40_000)
    assert tick(now=after(1000)) == 0
    act("resume", project, one, now=after(1000))
    assert (tick(now=after(1039.9)), tick(now=after(1040))) == (0, 1)
    # What has stalled is not told of again because somebody paused it meanwhile.
    act("pause", project, one, now=after(1050))
    act("resume", project, one, now=after(1060))
    assert look(project, one).stalled_at == after(1040)
    assert tick(now=after(2000)) == 0
    beat(project, one, now=after(2010), progress=7)
    assert look(project, one).stall_due_at == after(2070)


def test_who_is_silent_as_well_is_a_zombie_and_no_more(db: None) -> None:
    project = a_project()
    silent = [an_execution(project, stall_s=30, heartbeat_s=20, on_stall=on) for on in ("warn", "retry")]
    assert (tick(now=after(30)), tick(now=after(30.1))) == (2, 0)
    assert [(look(project, one).verdict, look(project, one).stalled_at) for one in silent] == [("zombie", None)] * 2


def test_while_nobody_listens_nobody_has_stalled_and_afterwards_the_time_is_given_back(db: None) -> None:
    project = a_project()
    listening.sign(now=NOW)
    one, late = hanging(project), hanging(project, now=after(-55))
    assert tick(now=after(70)) == 0
    assert listening.sign(now=after(1000)).total_seconds() == 1000
    # Nobody gets more than a whole clock.
    assert (look(project, one).stall_due_at, look(project, late).stall_due_at) == (after(1060), after(1005))
    listening.sign(now=after(1004))
    assert tick(now=after(1005)) == 1
    assert (look(project, one).stalled_at, look(project, late).stalled_at) == (None, after(1005))


def spans(project: int, *told: Span, now: datetime) -> None:
    with tenant(project), connection.cursor() as cursor:
        days = [(NOW - timedelta(days=1)).date(), after(DAY).date()]
        cursor.execute("SELECT handrail_make_partitions('monitor_span', %s, %s)", days)
        ingest.accept(project, told, now=now)


def a_span_of(execution: UUID, number: int, began: float, ended: float | None = None, *, kind: str = "tool") -> Span:
    ended_at = after(began if ended is None else ended)
    return a_bare_span(1, number, kind=kind, execution_id=execution, started_at=after(began), ended_at=ended_at)


def test_a_step_a_call_or_a_tool_is_progress_and_a_late_version_of_one_is_not(db: None) -> None:
    project = a_project()
    one, beside = hanging(project), hanging(project)

    def span(at: float, number: int, kind: str, began: float) -> None:
        spans(project, a_span_of(one, number, began, kind=kind), now=after(at))

    span(20, 1, "step", 0)
    assert look(project, one).stall_due_at == after(80)
    span(30, 2, "tool", 29)
    span(40, 2, "tool", 29)
    assert (look(project, one).stall_due_at, look(project, one).last_progress_at) == (after(90), after(30))
    assert tick(now=after(95)) == 2
    span(100, 3, "llm", 99)
    assert (look(project, one).stalled_at, look(project, one).stall_due_at) == (None, after(160))
    assert look(project, beside).stalled_at == after(95)
    assert journal(project, one)[-2:] == [("running", "running", "stalled"), ("running", "running", "progressing")]
    assert notes(project, "progressing") == ["moves again, as its spans tell"]
    act("pause", project, one, now=after(110))
    span(120, 4, "llm", 119)
    assert (look(project, one).stall_due_at, look(project, one).stall_left_ms) == (None, 50_000)


def test_a_span_of_an_attempt_that_was_given_up_moves_nothing(db: None) -> None:
    project = a_project()
    one = hanging(project, on_stall="retry")
    spans(project, a_span_of(one, 1, 10), now=after(12))
    assert tick(now=after(72)) == 1
    beat(project, one, now=after(80), attempt=2)
    spans(project, a_span_of(one, 2, 60, 90), now=after(95))
    seen = look(project, one)
    assert (seen.stall_due_at, seen.last_progress_at) == (after(140), after(12))
    spans(project, a_span_of(one, 3, 80), now=after(96))
    assert look(project, one).stall_due_at == after(156)


def test_what_began_and_ended_before_the_stall_does_not_take_it_back(db: None) -> None:
    project = a_project()
    one = hanging(project)
    assert tick(now=after(60)) == 1
    spans(project, a_span_of(one, 1, 20, 30), a_span_of(one, 2, 40, 60), now=after(90))
    assert (look(project, one).stalled_at, look(project, one).stall_due_at) == (after(60), None)
    assert notes(project, "progressing") == []
    # What began before it and went on after it does.
    spans(project, a_span_of(one, 3, 40, 91), now=after(92))
    assert (look(project, one).stalled_at, look(project, one).stall_due_at) == (None, after(152))
    assert notes(project, "progressing") == ["moves again, as its spans tell"]


def test_while_a_fleets_silence_is_looked_into_nobody_of_it_has_stalled(db: None) -> None:
    north, south = a_project(), a_project("south")
    # Of eight six fall silent; two beat on and stand still, and so does one in the south.
    for _ in range(6):
        an_execution(north)
    warned, retried, elsewhere = hanging(north), hanging(north, on_stall="retry"), hanging(south)
    assert tick(now=after(61)) == 1
    assert [look(project, one).stalled_at for project, one in ((south, elsewhere), (north, warned))] == [
        after(61),
        None,
    ]
    assert look(north, retried).attempt == 1
    assert (tick(now=after(180.9)), tick(now=after(181))) == (0, 8)
    assert (look(north, warned).stalled_at, look(north, retried).verdict) == (after(181), "stalled")


def test_eight_watchers_tell_of_200_stalls_once_each(committed_db: None) -> None:
    project = a_project()
    with tenant(project):
        Execution.objects.bulk_create(
            Execution(
                project_id=project,
                agent=f"agent-{n % 7}",
                digest=b"",
                status="running",
                started_at=NOW,
                attempt_started_at=NOW,
                timeout_s=600,
                deadline_at=after(600),
                stall_s=60,
                stall_due_at=after(60),
                on_stall="retry" if n % 2 else "warn",
            )
            for n in range(200)
        )
    assert sum(at_once([lambda: tick(now=after(61)) for _ in range(8)])) == 200
    with tenant(project):
        told = Counter(StateChange.objects.filter(cause="stalled").values_list("subject_id", flat=True))
        assert (len(told), set(told.values())) == (200, {1})
        assert Counter(Execution.objects.values_list("status", flat=True)) == {"running": 100, "retrying": 100}
        assert QueueEvent.objects.count() == 100


def test_a_beat_that_moves_and_the_watchdog_race_and_the_end_is_one_of_two(committed_db: None) -> None:
    project = a_project()
    for _ in range(10):
        one = hanging(project)
        at_once([lambda one=one: beat(project, one, now=after(60), progress=5), lambda: tick(now=after(60))])
        seen = look(project, one)
        assert (seen.stalled_at, seen.stall_due_at) == (None, after(120))
        moves = [cause for _, _, cause in journal(project, one)[1:]]
        assert moves in ([], ["stalled", "progressing"])
        act("cancel", project, one, now=after(61))
