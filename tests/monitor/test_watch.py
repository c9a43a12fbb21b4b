"""The watchdog: in time, exactly once, and never for a silence of our own."""

from collections import Counter
from datetime import UTC, datetime

import pytest

from config.hearing import Signing
from monitor import listening
from monitor.models import Execution, JobHeartbeat, QueueEvent, QueueItem, StateChange
from monitor.tenancy import crossing, tenant
from tests.launcher.instance import until
from tests.monitor.fleets import NOW, a_project, act, after, an_execution, at_once, beat, journal, look, tick


def test_silence_is_seen_one_tick_after_the_deadline_and_told_with_its_length(db: None) -> None:
    project = a_project()
    one = an_execution(project, run_id="r-1", task="Plan", conversation_id="c-1")
    beat(project, one, now=after(10))
    assert (tick(now=after(54.9)), tick(now=after(55)), tick(now=after(55))) == (0, 1, 0)
    seen = look(project, one)
    assert (seen.status, seen.attempt, seen.verdict, seen.error) == ("retrying", 2, "zombie", "no heartbeat for 45 s")
    assert (seen.retry_at, seen.deadline_at) == (after(57), after(102))
    with tenant(project):
        change = StateChange.objects.get(cause="zombie")
        event = QueueEvent.objects.get()
    assert (change.from_state, change.to_state, change.actor, change.attempt) == ("running", "retrying", "watchdog", 1)
    assert (change.note, change.at, change.judged_at) == ("no heartbeat for 45 s", after(55), None)
    retry_at = change.data.pop("retry_at")
    assert retry_at.startswith(after(57).strftime("%Y-%m-%dT%H:%M:%S"))
    assert change.data == {
        "agent": "planner",
        "run_id": "r-1",
        "task": "Plan",
        "conversation_id": "c-1",
        "silent_ms": 45_000,
        "attempt": 1,
        "max_retries": 3,
        "next": "retrying",
        "next_attempt": 2,
    }
    assert (event.kind, event.execution_id, event.conversation_id) == ("command", one, "c-1")
    assert event.data == {
        "command": "retry",
        "reason": "no heartbeat for 45 s",
        "attempt": 2,
        "retry_at": after(57).isoformat(),
    }


def test_an_attempt_that_nobody_picks_up_is_spent_as_well(db: None) -> None:
    project = a_project()
    one = an_execution(project, max_retries=1)
    assert tick(now=after(45)) == 1
    assert (tick(now=after(91.9)), tick(now=after(92))) == (0, 1)
    seen = look(project, one)
    assert (seen.status, seen.attempt, seen.verdict) == ("hitl_paused", 2, "not_picked_up")
    assert seen.error == "attempt 2 was not picked up"
    assert journal(project, one)[1:] == [
        ("running", "retrying", "zombie"),
        ("retrying", "hitl_paused", "not_picked_up"),
    ]
    with tenant(project):
        assert [item.title for item in QueueItem.objects.all()] == ["planner was not picked up again"]


def test_an_attempt_beyond_the_thousandth_is_given_up_like_any_other(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    often, other = an_execution(north, max_retries=100), an_execution(south)
    with tenant(north):
        Execution.objects.of(north).filter(id=often).update(attempt=1500)
    assert tick(now=after(45)) == 2
    assert (look(north, often).status, look(south, other).status) == ("hitl_paused", "retrying")


def test_every_project_is_watched_and_each_row_stays_in_its_own(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    here, there = an_execution(north, max_retries=0), an_execution(south, max_retries=0)
    assert tick(now=after(45)) == 2
    for project, one in ((north, here), (south, there)):
        with tenant(project):
            assert [item.subject_id for item in QueueItem.objects.all()] == [str(one)]
            assert [event.seq for event in QueueEvent.objects.all()] == [1]
            assert StateChange.objects.get(subject="execution", cause="zombie").subject_id == str(one)


def test_a_tick_judges_no_more_than_its_limit_the_most_overdue_first(db: None) -> None:
    project = a_project()
    late = [an_execution(project, now=after(-n), timeout_s=600) for n in range(4)]
    assert tick(now=after(60), limit=2) == 2
    assert [look(project, one).status for one in late] == ["running", "running", "retrying", "retrying"]


def test_eight_watchers_give_200_verdicts_once_each(committed_db: None) -> None:
    project = a_project()
    with tenant(project):
        Execution.objects.bulk_create(
            Execution(
                project_id=project,
                agent=f"agent-{n % 7}",
                digest=b"",
                status="running",
                max_retries=n % 2,
                started_at=NOW,
                attempt_started_at=NOW,
                # The fleet guard looks at silence only.
                timeout_s=45,
                deadline_at=after(45),
            )
            for n in range(200)
        )
    judged = at_once([lambda: tick(now=after(46)) for _ in range(8)])
    assert sum(judged) == 200
    with tenant(project):
        verdicts = Counter(StateChange.objects.filter(subject="execution").values_list("subject_id", flat=True))
        assert (len(verdicts), set(verdicts.values())) == (200, {1})
        assert sorted(QueueEvent.objects.values_list("seq", flat=True)) == list(range(1, 201))
        assert QueueItem.objects.count() == 100
        assert Counter(Execution.objects.values_list("status", flat=True)) == {"retrying": 100, "hitl_paused": 100}


def test_a_heartbeat_and_the_verdict_race_and_one_of_them_wins(committed_db: None) -> None:
    project = a_project()
    for _ in range(10):
        one = an_execution(project, timeout_s=600)
        told, judged = at_once(
            [lambda one=one: beat(project, one, now=after(45), attempt=1), lambda: tick(now=after(45))]
        )
        assert (told.command, judged) in {("continue", 0), ("retry", 1)}
        assert look(project, one).attempt == 1 + judged
        act("cancel", project, one, now=after(46))


def sign(seconds: float) -> float:
    return listening.sign(now=after(seconds)).total_seconds()


def test_while_nobody_listens_nobody_is_accused_and_afterwards_everybody_has_a_full_interval(db: None) -> None:
    project = a_project()
    assert [sign(0), sign(5), sign(10)] == [0, 0, 0]
    silent, beating = an_execution(project, now=after(8)), an_execution(project, now=after(8))
    with crossing():
        assert (listening.deaf(now=after(20)), listening.deaf(now=after(20.1))) == (False, True)
    assert tick(now=after(7200)) == 0
    assert sign(7210) == 7200
    assert sign(7211) == 0
    assert [look(project, one).deadline_at for one in (silent, beating)] == [after(7255)] * 2
    # Two hours of our own are no part of anybody's timeout.
    assert beat(project, beating, now=after(7215)).deadline_at == after(7260)
    assert beat(project, beating, now=after(7250)).deadline_at == after(7268)
    for seconds in range(7215, 7256, 5):
        sign(seconds)
    assert tick(now=after(7255)) == 1
    assert (look(project, silent).verdict, look(project, beating).status) == ("zombie", "running")


def test_who_was_overdue_before_we_went_deaf_is_judged_when_we_hear_again(db: None) -> None:
    project = a_project()
    one = an_execution(project, now=after(-100))
    sign(0)
    assert sign(60) == 60
    assert tick(now=after(61)) == 1
    assert look(project, one).verdict == "zombie"


def test_a_pick_up_is_put_off_by_our_deafness_too(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    sign(45)
    tick(now=after(45))
    assert look(project, one).deadline_at == after(92)
    sign(200)
    assert (look(project, one).status, look(project, one).deadline_at) == ("retrying", after(245))


def test_of_eight_that_end_the_deaf_time_one_forgives(committed_db: None) -> None:
    project = a_project()
    one = an_execution(project)
    sign(10)
    assert sorted(at_once([lambda: sign(40) for _ in range(8)])) == [0] * 7 + [30]
    assert look(project, one).deadline_at == after(85)
    with crossing():
        ears = JobHeartbeat.objects.get(name=listening.EARS)
    assert (ears.last_started_at, ears.last_ok_at) == (after(40), after(40))


def silences(project: int) -> list[dict]:
    with tenant(project):
        return list(StateChange.objects.filter(cause="fleet_silent").values_list("data", flat=True))


def test_a_fleet_that_falls_silent_is_news_once_and_judged_two_minutes_later(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    fleet = [an_execution(north, timeout_s=600) for _ in range(6)]
    healthy = [an_execution(north, now=after(40), timeout_s=600) for _ in range(9)]
    alone = an_execution(south, timeout_s=600)
    assert tick(now=after(46)) == 1
    assert (look(south, alone).status, look(north, fleet[0]).status) == ("retrying", "running")
    for one in healthy:
        beat(north, one, now=after(60))
    beat(north, fleet[0], now=after(100))
    for one in healthy:
        beat(north, one, now=after(160))
    beat(north, fleet[0], now=after(140))
    # One verdict: nobody has picked up the south's second attempt, and the south is not held.
    assert tick(now=after(165.9)) == 1
    assert silences(north) == [{"silent": 6, "running": 15, "held_until": after(166).isoformat()}]
    assert silences(south) == []
    assert tick(now=after(166)) == 5
    assert [look(north, one).status for one in fleet] == ["running"] + ["retrying"] * 5
    assert len(silences(north)) == 1


@pytest.mark.parametrize(("silent", "running"), [(4, 0), (5, 12), (6, 14)])
def test_a_few_silent_agents_are_judged_at_once(db: None, silent: int, running: int) -> None:
    project = a_project()
    for _ in range(silent):
        an_execution(project, timeout_s=600)
    for _ in range(running):
        an_execution(project, now=after(40), timeout_s=600)
    assert tick(now=after(46)) == silent
    assert silences(project) == []


def test_a_fleet_that_falls_silent_one_by_one_within_two_minutes_is_held_as_well(db: None) -> None:
    project = a_project()
    for n in range(20):
        an_execution(project, now=after(n * 4), timeout_s=600)
    for n in range(20):
        tick(now=after(46 + n * 4))
    # 7 of 20 are more than 30 %.
    with tenant(project):
        assert StateChange.objects.filter(cause="zombie").count() == 6
    assert [told["silent"] for told in silences(project)] == [7]


def test_of_eight_watchers_one_tells_that_the_fleet_is_silent(committed_db: None) -> None:
    project = a_project()
    for _ in range(10):
        an_execution(project, timeout_s=600)
    assert at_once([lambda: tick(now=after(46)) for _ in range(8)]) == [0] * 8
    assert len(silences(project)) == 1


def test_a_web_process_signs_that_it_hears_and_forgives_what_was_missed(committed_db: None) -> None:
    project = a_project()
    one = an_execution(project)
    listening.sign(now=after(-600))
    signing = Signing(every_s=0.01)
    signing.start()
    until(lambda: look(project, one).deadline_at != after(45), "it signs", within_s=10)
    signing.stop()
    forgiven = look(project, one).deadline_at
    assert forgiven is not None
    assert after(45) < forgiven
    with crossing():
        assert not listening.deaf(now=datetime.now(UTC))
