"""Who is expected to be heard from and was not: accused once, excused when heard, never for our own deafness."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from alerts.judge import judge as judge_alerts
from alerts.models import Alert
from config.schedule import JOBS
from monitor import agents, cadence, listening
from monitor.agents import Edit
from monitor.models import Agent, JobHeartbeat, StateChange
from monitor.reporting import record_call
from monitor.reports import Call
from monitor.tenancy import crossing, tenant
from tests.monitor.fleets import NOW, a_project, act, after, an_execution, at_once, beat, look, tick

HOUR = 3600
ANN = "ann@example.org"


def expect(project: int, name: str = "planner", every_s: int | None = HOUR, *, at: float = 0) -> Agent:
    with tenant(project):
        if Agent.objects.filter(name=name).exists():
            return agents.change(project, name, Edit(expected_every_s=every_s), actor=ANN, now=after(at))
        return agents.enter(project, name, Edit(expected_every_s=every_s), actor=ANN, now=after(at))[0]


def moves(project: int, name: str = "planner") -> list[str]:
    with tenant(project):
        found = StateChange.objects.filter(subject="agent", subject_id=name).order_by("id")
        return [one.to_state for one in found if one.to_state not in ("entered", "changed")]


def row(project: int, name: str = "planner") -> Agent:
    with tenant(project):
        return Agent.objects.get(name=name)


def the_alert(project: int) -> Alert:
    with tenant(project):
        return Alert.objects.get(project_id=project, type="agent_silent")


def test_who_is_late_is_missed_once_and_heard_once(db: None) -> None:
    project = a_project()
    an_execution(project, now=NOW)
    expect(project, at=60)
    assert cadence.judge(now=after(HOUR + 59)) == 0
    assert cadence.judge(now=after(2 * HOUR)) == 1
    assert cadence.judge(now=after(3 * HOUR)) == 0
    assert moves(project) == ["silent"]
    assert row(project).missed_at == after(2 * HOUR)

    an_execution(project, now=after(3 * HOUR + 5))
    assert cadence.judge(now=after(3 * HOUR + 10)) == 1
    assert cadence.judge(now=after(3 * HOUR + 20)) == 0
    assert moves(project) == ["silent", "heard"]
    assert row(project).missed_at is None
    assert cadence.judge(now=after(4 * HOUR + 6)) == 1
    assert moves(project) == ["silent", "heard", "silent"]


def test_what_an_agent_sends_is_kept_as_its_last_sign_to_within_ten_seconds(db: None) -> None:
    project = a_project()
    for at, seen in ((0, 0), (5, 0), (11, 11), (20, 11), (22, 22)):
        with tenant(project):
            record_call(project, Call(model="gpt-4o", agent="planner"), now=after(at))
        assert row(project).last_seen_at == after(seen), at
    assert row(project).first_seen_at == NOW


def test_the_alert_says_how_long_and_ends_when_the_agent_is_heard(db: None) -> None:
    project = a_project()
    an_execution(project, now=NOW)
    expect(project)
    cadence.judge(now=after(2 * HOUR + 300))
    judge_alerts(now=after(2 * HOUR + 300))
    alert = the_alert(project)
    assert alert.title == "We have not heard from planner for 2 h 5 min; it is expected every hour"
    assert (alert.level, alert.status, alert.agent) == ("warning", "firing", "planner")

    with tenant(project):
        record_call(project, Call(model="gpt-4o", agent="planner"), now=after(3 * HOUR))
    cadence.judge(now=after(3 * HOUR + 1))
    judge_alerts(now=after(3 * HOUR + 1))
    assert the_alert(project).status == "resolved"


@pytest.mark.parametrize("every_s", [None, 24 * HOUR])
def test_what_is_expected_anew_ends_the_alert_and_gives_a_whole_interval(db: None, every_s: int | None) -> None:
    project = a_project()
    expect(project)
    cadence.judge(now=after(HOUR))
    judge_alerts(now=after(HOUR))
    assert the_alert(project).title == "We have never heard from planner; it is expected every hour"
    expect(project, every_s=every_s, at=2 * HOUR)
    judge_alerts(now=after(2 * HOUR))
    assert the_alert(project).status == "resolved"
    assert moves(project) == ["silent", "excused"]
    assert cadence.judge(now=after(25 * HOUR)) == 0
    assert cadence.judge(now=after(26 * HOUR)) == (1 if every_s else 0)


def test_an_edit_that_leaves_the_expectation_alone_excuses_nobody(db: None) -> None:
    project = a_project()
    expect(project)
    cadence.judge(now=after(HOUR))
    with tenant(project):
        agents.change(project, "planner", Edit(description="Plans.", expected_every_s=HOUR), actor=ANN, now=after(9e3))
    assert moves(project) == ["silent"]
    assert row(project).missed_at == after(HOUR)


def test_a_beating_execution_is_a_sign_of_its_agent(db: None) -> None:
    project = a_project()
    calm: dict[str, Any] = {"timeout_s": 10 * HOUR, "heartbeat_s": HOUR}
    work = an_execution(project, now=NOW, **calm)
    an_execution(project, now=NOW, agent="other", **calm)
    expect(project)
    beat(project, work, now=after(HOUR - 60), attempt=1)
    assert row(project).last_seen_at == NOW
    assert cadence.judge(now=after(HOUR + 60)) == 0
    assert row(project).last_seen_at == after(HOUR - 60)
    assert cadence.judge(now=after(2 * HOUR - 61)) == 0
    assert cadence.judge(now=after(2 * HOUR - 60)) == 1


def test_a_beat_is_a_sign_after_its_execution_has_ended_too(db: None) -> None:
    project = a_project()
    work = an_execution(project, now=NOW, timeout_s=10 * HOUR, heartbeat_s=HOUR)
    beat(project, work, now=after(HOUR - 60), attempt=1)
    act("cancel", project, work, now=after(HOUR - 30))
    silent = an_execution(project, now=NOW, agent="steady", timeout_s=10 * HOUR, heartbeat_s=HOUR)
    act("complete", project, silent, now=after(HOUR - 20))
    cancelled = an_execution(project, now=NOW, agent="gone", timeout_s=10 * HOUR, heartbeat_s=HOUR)
    act("cancel", project, cancelled, now=after(HOUR - 20))
    for name in ("planner", "steady", "gone"):
        expect(project, name)
    # That a person cancelled its work is no sign of the third.
    assert cadence.judge(now=after(HOUR)) == 1
    assert moves(project, "gone") == ["silent"]
    assert row(project).last_seen_at == after(HOUR - 60)
    assert row(project, "steady").last_seen_at == after(HOUR - 20)


def test_a_missed_agent_is_heard_by_its_beats_alone(db: None) -> None:
    project = a_project()
    work = an_execution(project, now=NOW, timeout_s=20 * HOUR, heartbeat_s=20 * HOUR)
    expect(project)
    assert cadence.judge(now=after(HOUR)) == 1
    beat(project, work, now=after(HOUR + 30), attempt=1)
    assert cadence.judge(now=after(HOUR + 31)) == 1
    assert moves(project) == ["silent", "heard"]
    assert row(project).last_seen_at == after(HOUR + 30)


@pytest.mark.parametrize(("how", "said"), [("complete", {}), ("fail", {"error": "No seats.", "retryable": False})])
def test_a_missed_agent_is_heard_by_work_that_it_ended_between_two_looks(
    db: None, how: str, said: dict[str, Any]
) -> None:
    project = a_project()
    work = an_execution(project, now=NOW, timeout_s=20 * HOUR, heartbeat_s=20 * HOUR)
    other = an_execution(project, now=NOW, agent="other", timeout_s=20 * HOUR, heartbeat_s=20 * HOUR)
    for name in ("planner", "other"):
        expect(project, name)
    assert cadence.judge(now=after(HOUR)) == 2
    act(how, project, work, now=after(HOUR + 5), **said)
    act("cancel", project, other, now=after(HOUR + 5))
    assert cadence.judge(now=after(HOUR + 15)) == 1
    assert moves(project) == ["silent", "heard"]
    assert row(project).last_seen_at == after(HOUR + 5)
    assert moves(project, "other") == ["silent"], "a person ended its work"
    assert cadence.judge(now=after(2 * HOUR + 4)) == 0
    assert cadence.judge(now=after(2 * HOUR + 5)) == 1


def test_that_its_work_failed_is_a_sign_when_the_agent_says_so(db: None) -> None:
    project = a_project()
    for name in ("planner", "given-up"):
        work = an_execution(project, now=NOW, agent=name, max_retries=0, timeout_s=10 * HOUR, heartbeat_s=HOUR)
        expect(project, name)
        retryable = name == "given-up"
        act("fail", project, work, now=after(60 if retryable else HOUR - 20), error="No seats.", retryable=retryable)
    act("cancel", project, work, now=after(HOUR - 20))
    assert look(project, work).status == "failed"
    assert cadence.judge(now=after(HOUR)) == 1
    assert row(project).last_seen_at == after(HOUR - 20)
    assert moves(project, "given-up") == ["silent"]


@pytest.mark.parametrize(("ended_at", "is_heard"), [(HOUR + 301, True), (HOUR + 299, False)])
def test_work_that_ended_long_before_the_last_look_is_not_read_again(db: None, ended_at: float, is_heard: bool) -> None:
    project = a_project()
    assert cadence.JOB in [job.name for job in JOBS]
    work = an_execution(project, now=NOW, timeout_s=20 * HOUR, heartbeat_s=20 * HOUR)
    expect(project)
    assert cadence.judge(now=after(HOUR)) == 1
    act("complete", project, work, now=after(ended_at))
    with crossing():
        # The end is noted on the agent, but not within seconds of another sign: then the execution alone tells of it.
        Agent.objects.filter(project_id=project).update(last_seen_at=NOW)
        JobHeartbeat.objects.create(name=cadence.JOB, every_s=15, last_ok_at=after(HOUR + 600))
    assert cadence.judge(now=after(HOUR + 615)) == is_heard


def test_nobody_is_accused_of_our_own_deafness(db: None) -> None:
    project = a_project()
    expect(project)
    listening.sign(now=NOW)
    assert cadence.judge(now=after(2 * HOUR)) == 0, "nobody listens"
    listening.sign(now=after(2 * HOUR))
    assert cadence.judge(now=after(2 * HOUR)) == 0
    for at in range(2 * HOUR, 3 * HOUR, 5):
        listening.sign(now=after(at))
    assert cadence.judge(now=after(3 * HOUR - 5)) == 0
    listening.sign(now=after(3 * HOUR))
    assert cadence.judge(now=after(3 * HOUR)) == 1


def test_a_web_that_begins_again_more_often_than_the_interval_hides_no_silence(db: None) -> None:
    project = a_project()
    an_execution(project, now=NOW)
    expect(project, every_s=24 * HOUR)
    for hour in range(0, 24, 6):
        listening.sign(now=after(hour * HOUR))
    for at in range(23 * HOUR, 24 * HOUR + 1, 5):
        listening.sign(now=after(at))
    assert cadence.judge(now=after(24 * HOUR)) == 1
    assert moves(project) == ["silent"]


def test_after_our_own_deafness_each_has_an_hour_or_its_shorter_interval(db: None) -> None:
    project = a_project()
    expect(project, "slow", every_s=6 * HOUR)
    expect(project, "fast", every_s=300)
    listening.sign(now=NOW)
    for at in range(7 * HOUR, 7 * HOUR + 300, 5):
        listening.sign(now=after(at))
    assert cadence.judge(now=after(7 * HOUR + 299)) == 0
    listening.sign(now=after(7 * HOUR + 300))
    assert cadence.judge(now=after(7 * HOUR + 300)) == 1
    for at in range(7 * HOUR + 305, 8 * HOUR, 5):
        listening.sign(now=after(at))
    assert cadence.judge(now=after(8 * HOUR - 1)) == 0
    listening.sign(now=after(8 * HOUR))
    assert cadence.judge(now=after(8 * HOUR)) == 1
    assert (moves(project, "fast"), moves(project, "slow")) == (["silent"], ["silent"])


def test_nobody_is_accused_while_the_silence_of_its_fleet_is_looked_into(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    for _ in range(6):
        an_execution(north, now=after(HOUR - 45), agent="crew", timeout_s=600)
    for project in (north, south):
        expect(project)
    assert tick(now=after(HOUR)) == 0, "held"
    assert cadence.judge(now=after(HOUR)) == 1
    assert (moves(north), moves(south)) == ([], ["silent"])
    assert cadence.judge(now=after(HOUR + 119)) == 0
    assert cadence.judge(now=after(HOUR + 120)) == 1
    assert moves(north) == ["silent"]


def test_each_project_has_its_own_agents(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    expect(north)
    an_execution(south, now=after(HOUR - 1))
    expect(south)
    assert cadence.judge(now=after(HOUR)) == 1
    assert (moves(north), moves(south)) == (["silent"], [])


def test_many_are_judged_in_batches_and_all_of_them(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cadence, "BATCH", 3)
    project = a_project()
    for n in range(8):
        expect(project, f"agent-{n}")
    assert cadence.judge(now=after(HOUR), limit=7) == 7
    assert cadence.judge(now=after(HOUR)) == 1
    for n in (1, 4, 7):
        an_execution(project, now=after(HOUR + 5), agent=f"agent-{n}")
    assert cadence.judge(now=after(HOUR + 10)) == 3


def test_however_many_are_silent_the_executions_are_read_once_a_batch(db: None) -> None:
    project = a_project()
    for n in range(8):
        an_execution(project, now=NOW, agent=f"agent-{n}", timeout_s=9 * HOUR, heartbeat_s=9 * HOUR)
        expect(project, f"agent-{n}")
    assert cadence.judge(now=after(HOUR)) == 8
    with CaptureQueriesContext(connection) as queries:
        assert cadence.judge(now=after(HOUR + 15)) == 0
    assert sum("WITH worked" in one["sql"] for one in queries) == 1


def test_any_number_of_workers_accuse_and_excuse_once(committed_db: None) -> None:
    project = a_project()
    names = [f"agent-{n}" for n in range(30)]
    for name in names:
        expect(project, name)
    judged = at_once([lambda: cadence.judge(now=after(HOUR))] * 8)
    assert sum(judged) == 30
    for name in names:
        assert moves(project, name) == ["silent"]
        with tenant(project):
            agents.saw(project, name, now=after(HOUR + 9))
    judged = at_once([lambda: cadence.judge(now=after(HOUR + 10))] * 8)
    assert sum(judged) == 30
    assert {tuple(moves(project, name)) for name in names} == {("silent", "heard")}


def test_an_agent_that_is_just_seen_is_not_waited_for(committed_db: None) -> None:
    project = a_project()
    expect(project)
    with tenant(project):
        agents.saw(project, "planner", now=after(HOUR - 1))
        # Its row is locked here; the watch passes it over, and finds it well the next time.
        assert at_once([lambda: cadence.judge(now=after(HOUR))]) == [0]
    assert cadence.judge(now=after(HOUR)) == 0
    with crossing():
        assert Agent.objects.get().last_seen_at == after(HOUR) - timedelta(seconds=1)
