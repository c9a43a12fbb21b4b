"""Days are summed from their hours and read in their place, and nobody can tell but by the time it takes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor import closing, folding, retention, rollups
from monitor.calendars import Calendar
from monitor.folding import RollupDelta
from monitor.models import DayRollup, HourRollup, Project, RolledDay
from monitor.rollups import Totals
from monitor.tenancy import crossing, tenant
from tests.monitor.spending import NOW, a_project, close_connection

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def fold(project: Project, *times: datetime, agent: str = "planner", usd: int = 1) -> None:
    told = [RollupDelta(at=at, kind="llm", agent=agent, duration_ms=900, cost_usd=Decimal(usd)) for at in times]
    with tenant(project.pk):
        folding.fold(project.pk, told, now=NOW)


def total(project: Project, since: datetime, until: datetime) -> list[Totals]:
    with tenant(project.pk):
        return rollups.totals(project.pk, since=since, until=until, with_latency=True)


def days(project: Project) -> dict[datetime, int]:
    with tenant(project.pk):
        return dict(DayRollup.objects.values_list("day", "count"))


def test_a_day_that_is_over_is_summed_and_read_in_the_place_of_its_hours(db: None) -> None:
    project = a_project()
    today = NOW.replace(hour=0)
    fold(project, today - 2 * DAY, today - HOUR, today - HOUR, today)
    before = total(project, NOW - 4 * DAY, NOW)
    # Three hours; two days, for the third has not ended.
    assert closing.close(now=NOW) == 3 + 2
    assert closing.close(now=NOW) == 0
    assert days(project) == {today - 2 * DAY: 1, today - DAY: 2}
    with tenant(project.pk):
        HourRollup.objects.filter(hour__lt=today).delete()
    assert total(project, NOW - 4 * DAY, NOW) == before
    assert before[0].count == 4


def test_of_a_day_that_begins_at_half_past_the_whole_hours_are_summed(db: None) -> None:
    project = a_project(time_zone="Asia/Kolkata")
    midnight = NOW.replace(hour=18, minute=30) - 3 * DAY
    minutes = (-40, -20, 10, 40, 24 * 60 - 31, 24 * 60 - 29, 24 * 60 - 10)
    fold(project, *(midnight + timedelta(minutes=after) for after in minutes))

    def by_day() -> list[tuple[datetime, int]]:
        with tenant(project.pk):
            found = rollups.series(
                project.pk, since=midnight - 2 * DAY, until=NOW, calendar="day", time_zone=project.time_zone
            )
        return [(one.at, one.count) for one in found]

    expected = [(midnight - DAY, 2), (midnight, 5)]
    assert by_day() == expected
    closing.close(now=NOW)
    assert days(project) == {midnight - DAY + HOUR / 2: 1, midnight + HOUR / 2: 2}
    assert by_day() == expected
    with tenant(project.pk):
        divided = [midnight - HOUR / 2, midnight + DAY - HOUR / 2]
        # All but the hours that a midnight divides: now their day stands for them.
        assert HourRollup.objects.exclude(hour__in=divided).delete()[0] == 3
    assert by_day() == expected


def test_what_comes_late_counts_at_once_and_opens_its_day_again(db: None) -> None:
    project = a_project()
    began = NOW.replace(hour=0) - DAY
    fold(project, began, began + 5 * HOUR)
    closing.close(now=NOW)
    fold(project, began + 5 * HOUR, began + 7 * HOUR)
    assert [one.count for one in total(project, began, NOW)] == [4]
    assert closing.close_days(now=NOW) == 0
    assert closing.close_hours(now=NOW) == 2
    assert [one.count for one in total(project, began, NOW)] == [4]
    assert closing.close_days(now=NOW) == 1
    assert days(project) == {began: 4}
    assert [one.count for one in total(project, began, NOW)] == [4]


def test_a_project_that_moves_has_its_days_cut_anew(db: None) -> None:
    project = a_project()
    began = NOW.replace(hour=0) - 3 * DAY
    fold(project, *(began + n * HOUR for n in range(48)))
    closing.close(now=NOW)
    with crossing():
        Project.objects.filter(pk=project.pk).update(time_zone="America/Panama")

    def by_day() -> list[tuple[datetime, int]]:
        with tenant(project.pk):
            found = rollups.series(project.pk, since=began - DAY, until=NOW, calendar="day", time_zone="America/Panama")
        return [(one.at, one.count) for one in found]

    expected = [(began - 19 * HOUR, 5), (began + 5 * HOUR, 24), (began + 29 * HOUR, 19)]
    assert by_day() == expected
    closing.close(now=NOW)
    assert days(project) == dict(expected)
    assert by_day() == expected


def test_a_day_of_another_calendar_is_never_taken_whole(db: None) -> None:
    project = a_project()
    began = NOW.replace(hour=0) - 3 * DAY
    fold(project, *(began + n * HOUR for n in range(24)))
    closing.close(now=NOW)
    with tenant(project.pk):
        found = rollups.series(project.pk, since=began - DAY, until=NOW, calendar="day", time_zone="Asia/Tokyo")
    assert [(one.at, one.count) for one in found] == [(began - 9 * HOUR, 15), (began + 15 * HOUR, 9)]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Auckland"])
@given(
    told=st.lists(st.tuples(st.integers(0, 9 * 1440), st.sampled_from(["a", "b"])), min_size=1, max_size=30),
    ago=st.integers(0, 10 * 1440),
    lasts=st.integers(1, 9 * 1440),
    calendar=st.sampled_from(["day", "week"]),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reading_days_hours_and_minutes_gives_what_was_told(
    db: None, zone: str, told: list[tuple[int, str]], ago: int, lasts: int, calendar: Calendar
) -> None:
    # Clocks went back in Europe within these days.
    end = datetime(2026, 10, 29, 14, 20, tzinfo=UTC)
    project = a_project(uuid4().hex)
    here = ZoneInfo(zone)
    with crossing():
        Project.objects.filter(pk=project.pk).update(time_zone=zone)
    times = [(end - timedelta(minutes=minutes), agent) for minutes, agent in told]
    half = len(times) // 2
    for at, agent in times[:half]:
        fold(project, at, agent=agent)
    closing.close(now=end)
    for at, agent in times[half:]:
        fold(project, at, agent=agent)
    since = end - timedelta(minutes=ago)
    until = since + timedelta(minutes=lasts)
    expected: dict[tuple[datetime, str], int] = {}
    for at, agent in times:
        if since <= at < until:
            local = at.astimezone(here).replace(hour=0, minute=0, fold=0)
            if calendar == "week":
                local -= timedelta(days=local.weekday())
            key = local.astimezone(UTC), agent
            expected[key] = expected.get(key, 0) + 1
    with tenant(project.pk):
        found = rollups.series(
            project.pk, since=since, until=until, calendar=calendar, time_zone=zone, group_by="agent"
        )
    assert {(one.at, one.group): one.count for one in found} == expected
    assert sum(one.count for one in total(project, since, until)) == sum(expected.values())


def test_days_are_pruned_with_their_hours(db: None) -> None:
    project = a_project()
    began = NOW.replace(hour=0) - 2 * DAY
    fold(project, began, began + DAY)
    closing.close(now=NOW)
    retention.prune(now=began + timedelta(days=1000))
    with tenant(project.pk):
        assert not DayRollup.objects.exists()
        assert not RolledDay.objects.exists()


def test_telling_and_closing_at_once_loses_nothing(committed_db: None) -> None:
    project = a_project()
    began = NOW.replace(hour=0) - 2 * DAY

    def tell(worker: int) -> None:
        try:
            for n in range(20):
                fold(project, began + worker * HOUR, began + DAY + n % 3 * HOUR)
        finally:
            close_connection()

    def close(worker: int) -> None:
        try:
            for _ in range(30):
                closing.close(now=NOW)
        finally:
            close_connection()

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(tell, n) for n in range(4)] + [pool.submit(close, n) for n in range(2)]
        for one in running:
            one.result()
    closing.close(now=NOW)
    assert days(project) == {began: 80, began + DAY: 80}
    assert [one.count for one in total(project, began, NOW)] == [160]


def test_a_day_whose_hour_is_being_closed_is_passed_over(committed_db: None) -> None:
    project = a_project()
    began = NOW.replace(hour=0) - DAY
    fold(project, began)
    closing.close_hours(now=NOW)
    fold(project, began + HOUR)

    def close() -> int:
        try:
            return closing.close_days(now=NOW)
        finally:
            close_connection()

    with ThreadPoolExecutor(1) as pool:
        with crossing():
            closing.close_hours(now=NOW)
            # The hour is closed for nobody else yet, so its day may not be summed without it.
            assert pool.submit(close).result() == 0
        assert pool.submit(close).result() == 1
    assert days(project) == {began: 2}
