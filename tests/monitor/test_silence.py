"""Executions known from their traces alone: silent once, heard again, lost after a day and found again."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from msgspec.structs import replace

from alerts.judge import judge
from alerts.models import Alert
from monitor import ground, ingest, listening, retention, silence
from monitor.models import Execution, JobHeartbeat, Project, StateChange
from monitor.records import Span as Record
from monitor.records import sealed
from monitor.tenancy import crossing, tenant
from tests.contract.recordings import mapped
from tests.monitor.fleets import at_once
from tests.monitor.spending import REPORTED, a_bare_span, a_project, accept, assert_books_balance, minutes_of, pending
from tests.monitor.test_deadlocks import meanwhile, wait_for_somebody_waiting

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=30)
DAY = 86_400


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def an_agent(**fields: object) -> Record:
    given = {"kind": "agent", "name": "plan", "agent": "planner", "agent_stated": True, "started_at": NOW}
    return a_bare_span(1, 1, **given | {"ended_at": after(40)} | fields)


def a_step(n: int) -> Record:
    return a_bare_span(1, 10 + n, 1, kind="step", name="think", started_at=after(n), ended_at=after(n + 1))


def work_of(project: Project) -> Execution:
    with tenant(project.pk):
        return Execution.objects.get()


def causes(project: Project) -> list[tuple[str, str, str]]:
    with tenant(project.pk):
        moves = StateChange.objects.filter(subject="execution").order_by("id")
        return list(moves.values_list("from_state", "to_state", "cause"))


def an_open_one(**settings: object) -> Project:
    project = a_project(**settings)
    accept(project, [pending(an_agent())], now=NOW)
    return project


def look(seconds: float) -> int:
    return silence.look(now=after(seconds))


def test_an_open_span_without_news_is_told_of_once_and_taken_back_by_news(db: None) -> None:
    project = an_open_one()
    accept(project, [a_step(100)], now=after(101))
    assert (look(600), look(700), look(701), look(702)) == (0, 0, 1, 0)
    assert work_of(project).silent_at == after(701)
    assert work_of(project).last_heartbeat_at == after(101)
    judge(now=after(702))
    with crossing():
        alert = Alert.objects.get()
    assert (alert.level, alert.type, alert.execution_id, alert.status) == (
        "warning",
        "trace_silent",
        work_of(project).id,
        "firing",
    )
    assert alert.title == (f"planner: its span has been open for 11 min and nothing has come since {after(101):%H:%M}")
    accept(project, [a_step(800)], now=after(801))
    assert (look(802), look(803)) == (1, 0)
    judge(now=after(803))
    with crossing():
        alert = Alert.objects.get()
    assert (alert.status, work_of(project).silent_at) == ("resolved", None)
    assert causes(project) == [
        ("", "running", "traced"),
        ("running", "running", "trace_silent"),
        ("running", "running", "trace_heard"),
    ]
    assert (look(1400), look(1401)) == (0, 1)


def test_its_end_takes_it_back_too_and_it_is_looked_at_no_more(db: None) -> None:
    project = an_open_one()
    assert look(601) == 1
    accept(project, [an_agent(ended_at=after(700))], now=after(700))
    assert (look(701), look(702)) == (1, 0)
    seen = work_of(project)
    assert (seen.status, seen.silent_at, seen.look_at, seen.duration_ms) == ("completed", None, None, 700_000)
    with tenant(project.pk):
        assert StateChange.objects.get(cause="trace_heard").note == "its end has come"


def test_who_ended_at_once_is_never_looked_at(db: None) -> None:
    project = a_project()
    accept(project, [an_agent()], now=after(50))
    assert work_of(project).look_at is None
    assert look(DAY * 2) == 0


def test_after_a_day_it_ends_as_lost_and_is_counted_as_a_failure_when_it_was_last_heard_of(db: None) -> None:
    project = an_open_one()
    accept(project, [a_step(100)], now=after(101))
    assert look(701) == 1
    assert (look(DAY + 100), look(DAY + 701)) == (0, 1)
    seen = work_of(project)
    assert (seen.status, seen.error, seen.ended_at) == ("timeout", "its end was never sent", after(101))
    assert (seen.duration_ms, seen.silent_at, seen.look_at) == (101_000, None, None)
    assert causes(project)[-1] == ("running", "timeout", "end_never_sent")
    with tenant(project.pk):
        [sums] = [sums for key, sums in minutes_of().items() if key[5] == "execution"]
        assert (sums[0], sums[1]) == (1, 1)
    judge(now=after(DAY + 702))
    with crossing():
        assert [alert.status for alert in Alert.objects.all()] == ["resolved"]
    assert look(DAY * 2) == 0


def test_nobody_is_told_of_a_silence_that_is_over_at_once(db: None) -> None:
    project = an_open_one()
    assert look(DAY * 3) == 1
    assert [cause for *_, cause in causes(project)] == ["traced", "end_never_sent"]


def test_an_end_that_comes_after_all_corrects_state_and_count(db: None) -> None:
    project = an_open_one()
    look(601)
    assert look(DAY + 601) >= 1
    assert work_of(project).status == "timeout"
    accept(project, [an_agent(ended_at=after(300))], now=after(DAY + 700))
    assert_counted(project, executions=1, failed=0)
    seen = work_of(project)
    assert (seen.status, seen.lost_at, seen.look_at, seen.error, seen.duration_ms) == (
        "completed",
        None,
        None,
        "",
        300_000,
    )
    assert causes(project)[-1][2] == "traced"
    assert look(DAY * 2) == 0
    assert_books_balance(project)


def test_an_end_that_names_a_much_later_start_corrects_the_count_too(db: None) -> None:
    project = a_project()
    began = NOW - timedelta(days=20)
    retention.make_partitions(now=began)
    accept(project, [pending(an_agent(started_at=began))], now=began)
    assert silence.look(now=began + timedelta(days=2)) == 1
    assert_counted(project, executions=1, failed=1)
    accept(project, [an_agent()], now=after(50))
    assert_counted(project, executions=1, failed=0)
    assert (work_of(project).status, work_of(project).lost_at, look(60)) == ("completed", None, 0)
    assert_books_balance(project)


def a_reported_end(**fields: object) -> Record:
    """The agent's span ends, and says that its work is an execution of the API."""
    return an_agent(**{"ended_at": after(300), "execution_id": REPORTED} | fields)


@pytest.mark.parametrize("ends_first", [False, True])
def test_a_lost_one_that_was_none_of_its_own_after_all_is_not_counted(db: None, ends_first: bool) -> None:
    project = an_open_one()
    look(601)
    assert look(DAY + 601) >= 1
    if ends_first:
        accept(project, [an_agent(ended_at=after(299))], now=after(DAY + 699))
    accept(project, [a_reported_end()], now=after(DAY + 700))
    assert (look(DAY + 701), look(DAY * 2)) == (0, 0)
    with tenant(project.pk):
        assert not Execution.objects.exists()
        assert minutes_of() == {}
    assert_books_balance(project)


def test_who_is_about_to_be_lost_waits_for_what_its_trace_is_telling(committed_db: None) -> None:
    project = an_open_one()
    look(601)
    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            ground.lock(project.pk, a_reported_end().trace_id.hex())
            losing = meanwhile(pool, lambda: look(DAY + 601))
            wait_for_somebody_waiting()
            assert ingest.accept(project.pk, [a_reported_end()], now=after(DAY + 601)).accepted == 1
        assert losing.result(timeout=20) == 0
    with tenant(project.pk):
        assert minutes_of() == {}
    assert_books_balance(project)


def test_who_is_lost_counts_for_the_agent_that_its_trace_names_meanwhile(committed_db: None) -> None:
    project = an_open_one(trace_silent_s=None, trace_lost_s=3600)
    said = pending(an_agent()).digest
    # Of two open versions the one with the greater digest stays.
    anew = next(one for n in range(999) if (one := pending(an_agent(agent=f"planner {n}"))).digest > said)
    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            ground.lock(project.pk, anew.trace_id.hex())
            losing = meanwhile(pool, lambda: look(3601))
            wait_for_somebody_waiting()
            assert ingest.accept(project.pk, [anew], now=after(3601)).accepted == 1
        assert losing.result(timeout=20) == 1
    assert (work_of(project).status, work_of(project).agent) == ("timeout", anew.agent)
    accept(project, [an_agent(agent=anew.agent, ended_at=after(300))], now=after(3700))
    assert_counted(project, executions=1, failed=0)
    assert_books_balance(project)


def test_a_lost_one_whose_open_span_is_told_anew_is_watched_again(db: None) -> None:
    project = an_open_one(trace_silent_s=None, trace_lost_s=3600)
    assert look(3601) >= 1
    assert work_of(project).status == "timeout"
    said = pending(an_agent()).digest
    # Of two open versions the one with the greater digest stays.
    anew = next(one for n in range(999) if (one := pending(an_agent(name=f"plan {n}"))).digest > said)
    accept(project, [anew], now=after(4000))
    assert work_of(project).status == "running"
    look(4001)
    assert_books_balance(project)
    assert (work_of(project).lost_at, look(7590), look(7602)) == (None, 0, 1)
    assert work_of(project).status == "timeout"


@pytest.mark.parametrize("settings", [{"trace_silent_s": None}, {"trace_silent_s": None, "trace_lost_s": None}])
def test_clocks_that_are_off_say_nothing(db: None, settings: dict[str, None]) -> None:
    project = an_open_one(**settings)
    assert [look(seconds) for seconds in (601, 5000, DAY - 1)] == [0, 0, 0]
    assert look(DAY + 3700) == ("trace_lost_s" not in settings)
    assert work_of(project).status == ("timeout" if "trace_lost_s" not in settings else "running")


def test_nobody_is_accused_of_a_silence_that_was_ours(db: None) -> None:
    project = an_open_one()
    listening.sign(now=NOW)
    # Nobody listens: no verdict.
    assert look(700) == 0
    listening.sign(now=after(900))
    listening.sign(now=after(905))
    with crossing():
        assert JobHeartbeat.objects.get(name=listening.EARS).last_started_at == after(900)
    assert look(906) == 0
    for seconds in range(910, 1510, 5):
        listening.sign(now=after(seconds))
    assert (look(1499), look(1501)) == (0, 1)
    assert work_of(project).silent_at == after(1501)


def hear_until(seconds: float) -> None:
    with crossing():
        JobHeartbeat.objects.filter(name=listening.EARS).update(last_ok_at=after(seconds))


def test_nothing_is_lost_while_we_were_away(db: None) -> None:
    project = an_open_one()
    listening.sign(now=NOW)
    hear_until(100)
    # A day without us, and a start that takes two goes.
    listening.sign(now=after(DAY + 200))
    hear_until(DAY + 210)
    listening.sign(now=after(DAY + 300))
    hear_until(DAY + 1000)
    assert (look(DAY + 899), look(DAY + 901)) == (0, 1)
    assert (work_of(project).status, work_of(project).silent_at) == ("running", after(DAY + 901))
    missed = DAY + 200
    hear_until(missed + DAY + 700)
    assert look(missed + DAY - 700) == 0
    assert look(missed + DAY - 50) == 0
    assert look(missed + DAY + 600) == 1
    assert (work_of(project).status, work_of(project).ended_at) == ("timeout", NOW)


def test_who_restarts_every_day_loses_them_all_the_same(db: None) -> None:
    project = an_open_one()
    listening.sign(now=NOW)
    for restart in (40_000, 80_000):
        hear_until(restart)
        listening.sign(now=after(restart + 30))
    hear_until(DAY + 700)
    assert look(DAY + 20) == 1
    assert look(DAY + 700) == 1
    assert work_of(project).status == "timeout"


def test_registered_work_is_left_to_its_own_watchdog(db: None) -> None:
    project = a_project()
    with tenant(project.pk):
        Execution.objects.create(
            project=project, agent="owner", digest=b"", status="running", started_at=NOW, deadline_at=after(45)
        )
    assert look(DAY * 3) == 0
    assert work_of(project).status == "running"


@pytest.mark.parametrize("client", ["logfire_sdk", "pydantic_ai_native", "oi_openai_agents"])
def test_what_real_clients_sent_of_agents_that_never_ended(db: None, client: str) -> None:
    """Their requests as recorded, but that the ends of the agents' spans never came."""
    spans = list(mapped(client)[0])
    cut = [sealed(replace(one, ended_at=None, status="unset")) if one.kind == "agent" else one for one in spans]
    sent_at = max(span.ended_at or span.started_at for span in spans) + timedelta(minutes=1)
    project = a_project()
    random.Random(5).shuffle(cut)
    accept(project, cut, now=sent_at)
    with tenant(project.pk):
        count = Execution.objects.filter(from_spans=True).count()
        assert Execution.objects.filter(status="running").count() == count
    assert silence.look(now=sent_at + timedelta(seconds=599)) == 0
    assert silence.look(now=sent_at + timedelta(seconds=601)) == count
    assert silence.look(now=sent_at + timedelta(days=1, seconds=601)) == count
    with tenant(project.pk):
        assert Execution.objects.filter(status="timeout").count() == count
    later = sent_at + timedelta(days=1, seconds=700)
    accept(project, spans, now=later)
    assert silence.look(now=later) == 0
    with tenant(project.pk):
        assert not Execution.objects.filter(status__in=["running", "timeout"]).exists()
    assert_books_balance(project)


def test_of_many_who_look_at_once_one_tells_and_an_end_that_comes_meanwhile_is_counted_once(committed_db: None) -> None:
    project = an_open_one()
    at_once([partial(look, 601)] * 4)
    assert [cause for *_, cause in causes(project)] == ["traced", "trace_silent"]
    end = partial(accept, project, [an_agent(ended_at=after(300))], now=after(DAY + 601))
    at_once([*([partial(look, DAY + 700)] * 4), end])
    for seconds in (DAY + 800, DAY + 900):
        look(seconds)
    seen = work_of(project)
    assert (seen.status, seen.lost_at, seen.silent_at, seen.look_at) == ("completed", None, None, None)
    assert_books_balance(project)


def test_what_is_lost_and_found_is_counted_and_taken_back_once(committed_db: None) -> None:
    project = an_open_one(trace_silent_s=None)
    look(1)
    work = work_of(project)
    sign_at = work.last_heartbeat_at
    assert sign_at is not None
    give_up = partial(silence._give_up, project.pk, work.id, sign_at, now=after(DAY + 1))
    assert sorted(at_once([give_up] * 4)) == [False, False, False, True]
    assert_counted(project, executions=1, failed=1)
    told = at_once([partial(accept, project, [an_agent()], now=after(DAY + 2))] * 4)
    assert sorted(one.accepted for one in told) == [0, 0, 0, 1]
    assert_counted(project, executions=1, failed=0)
    assert_books_balance(project)


def assert_counted(project: Project, *, executions: int, failed: int) -> None:
    with tenant(project.pk):
        counted = [sums for key, sums in minutes_of().items() if key[5] == "execution"]
    assert (sum(sums[0] for sums in counted), sum(sums[1] for sums in counted)) == (executions, failed)
