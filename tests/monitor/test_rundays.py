"""A day's runs are those that were active on it, whatever came late, went over to another run or was folded."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from monitor import closing, ingest, ledger, pipeline, retention, rundays
from monitor.deadlocks import unhindered
from monitor.models import Project, Run, RunQuarter
from monitor.retention import EACH_PROJECT
from monitor.tenancy import tenant
from tests.monitor import spending
from tests.monitor.spending import a_bare_span, a_span, accept, assert_books_balance

NOW = spending.NOW
DAY = timedelta(days=1)
# Their offsets have quarters and halves of an hour, one puts its clocks back at midnight within the days looked at, and
# one has a day that does not begin at midnight.
ZONES = ("UTC", "Asia/Kathmandu", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Beirut", "America/Havana")


def one_by_one(project: Project, days: list[date], zone: str) -> dict[date, int]:
    """The runs of each day, looked at one after the other."""
    here = ZoneInfo(zone)
    with tenant(project.pk):
        held = [
            (run.first_at.astimezone(here).date(), run.last_at.astimezone(here).date()) for run in Run.objects.all()
        ]
    return {day: sum(first <= day <= last for first, last in held) for day in days}


def quarter(at: datetime) -> int:
    """The number of the quarter of an hour since the epoch."""
    return int(at.timestamp()) // 900


@pytest.mark.parametrize("zone", ZONES)
def test_each_day_counts_the_runs_that_were_active_on_it(db: None, zone: str) -> None:
    project = spending.a_project()
    rng = random.Random(zone)
    with tenant(project.pk):
        for n in range(300):
            began = datetime(2018, 2, 15, tzinfo=UTC) + timedelta(minutes=rng.randrange(40 * 24 * 60))
            ended = began + timedelta(minutes=rng.choice((0, 3, 90, 1_500, 9_000)))
            Run.objects.create(project=project, run_id=f"run-{n}", first_at=began, last_at=ended)
            pipeline.flush(rundays.counting(project.pk, [(None, None, quarter(began), quarter(ended))]))
        days = [date(2018, 2, 10) + n * DAY for n in range(50)]
        for first, last in ((0, 49), (17, 17), (20, 31)):
            found = rundays.active(project.pk, days[first], days[last], time_zone=zone)
            assert found == one_by_one(project, days[first : last + 1], zone)
        rundays.fold(EACH_PROJECT, {}, before=datetime(2018, 3, 5, 17, tzinfo=UTC))
    with tenant(project.pk):
        kept = days[days.index(date(2018, 3, 6)) :]
        assert rundays.active(project.pk, kept[0], kept[-1], time_zone=zone) == one_by_one(project, kept, zone)
        assert RunQuarter.objects.order_by("at")[0].at == datetime(2018, 3, 5, tzinfo=UTC)


def runs_by_day(project: Project) -> dict[str, int]:
    with tenant(project.pk):
        found = ledger.daily(project.pk, since=NOW - 6 * DAY, until=NOW + 2 * DAY)
    return {f"{(one.date - NOW.date()).days:+d}": one.unique_runs for one in found}


def test_what_comes_late_moves_its_run_to_the_days_it_reached(db: None) -> None:
    project = spending.a_project()
    accept(project, [a_span(1, 1, started_at=NOW), a_span(2, 1, started_at=NOW)])
    assert runs_by_day(project) == {"+0": 2}
    accept(project, [a_span(1, 2, started_at=NOW - 2 * DAY)])
    assert runs_by_day(project) == {"-2": 1, "-1": 1, "+0": 2}
    accept(project, [a_span(3, 1, started_at=NOW - DAY), a_span(1, 1, started_at=NOW)])
    assert runs_by_day(project) == {"-2": 1, "-1": 2, "+0": 2}
    assert_books_balance(project)


def test_a_run_that_is_named_late_is_counted_once(db: None) -> None:
    project = spending.a_project()
    yesterday, today = NOW - DAY, NOW
    accept(project, [a_bare_span(1, 2, 1, started_at=yesterday), a_bare_span(1, 3, 1, started_at=today)])
    assert runs_by_day(project) == {"-1": 1, "+0": 1}
    accept(project, [a_bare_span(1, 1, kind="agent", started_at=yesterday, run_id="order-7")])
    assert runs_by_day(project) == {"-1": 1, "+0": 1}
    with tenant(project.pk):
        assert [run.run_id for run in Run.objects.all()] == ["order-7"]
    assert_books_balance(project)


def test_a_run_that_keeps_a_part_is_counted_where_that_part_is(db: None) -> None:
    project = spending.a_project()
    accept(project, [a_bare_span(1, 1, started_at=NOW - 2 * DAY), a_bare_span(1, 3, 2, started_at=NOW)])
    assert runs_by_day(project) == {"-2": 1, "-1": 1, "+0": 1}
    accept(project, [a_bare_span(1, 2, kind="agent", started_at=NOW, run_id="order-7")])
    assert runs_by_day(project) == {"-2": 1, "+0": 1}
    assert_books_balance(project)


def test_the_days_of_a_run_stay_when_its_row_leaves(db: None) -> None:
    project = spending.a_project()
    accept(project, [a_span(1, 1, started_at=NOW)])
    with tenant(project.pk):
        Run.objects.all().delete()
    assert runs_by_day(project) == {"+0": 1}
    closing.close(now=NOW + DAY)
    retention.prune(now=NOW + 400 * DAY)
    assert runs_by_day(project) == {"+0": 1}
    retention.prune(now=NOW + 401 * DAY)
    assert runs_by_day(project) == {}


def test_many_that_come_at_once_are_all_counted(committed_db: None) -> None:
    project = spending.a_project()

    def send(sender: int) -> None:
        for n in range(8):
            one = a_span(sender * 100 + n, 1, started_at=NOW - (n + sender) % 3 * DAY)
            unhindered(project.pk, lambda one=one: ingest.accept(project.pk, [one], now=NOW))
        spending.close_connection()

    with ThreadPoolExecutor(4) as senders:
        list(senders.map(send, range(1, 5)))
    assert sum(runs_by_day(project).values()) == 32
    assert_books_balance(project)


@pytest.mark.parametrize("before_us", [0, 1, -1])
def test_a_quarter_begins_at_its_first_microsecond(db: None, before_us: int) -> None:
    project = spending.a_project()
    began = NOW.replace(minute=15, second=0, microsecond=0) - timedelta(hours=2, microseconds=before_us)
    accept(project, [a_span(1, 1, started_at=began, ended_at=began)])
    with tenant(project.pk):
        ((at, begun),) = RunQuarter.objects.values_list("at", "begun")
    assert (at, begun) == (began.replace(minute=began.minute // 15 * 15, second=0, microsecond=0), 1)
