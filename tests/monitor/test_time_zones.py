"""A day's sums are those of its spans in every time zone, also where clocks change and where minutes have left."""

import random
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from django.db import connection

from monitor import calendars, closing, ledger, rollups
from monitor.calendars import Calendar
from monitor.models import DayRollup, MinuteRollup, Project, RolledDay, Span
from monitor.tenancy import crossing, tenant
from tests.monitor.spending import a_project, a_span, accept

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SIZES: tuple[Calendar, ...] = ("day", "week", "month")
# Each with a day on which its clocks change, where they do. Havana has one midnight twice and one never, and so has
# Beirut, where 23:00 comes twice instead; Lord Howe moves by half an hour, and so between two kinds of midnight.
PLACES = [
    ("UTC", date(2026, 6, 1)),
    ("Asia/Kolkata", date(2026, 6, 1)),
    ("Asia/Kathmandu", date(2026, 6, 1)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("America/Havana", date(2026, 3, 8)),
    ("America/Havana", date(2026, 11, 1)),
    ("Asia/Beirut", date(2026, 3, 29)),
    ("Asia/Beirut", date(2026, 10, 25)),
]
Placed = Callable[[datetime], datetime]


def tell(project: Project, count: int, *, first: int, around: datetime, now: datetime, seed: str) -> None:
    """Spans within two days of a moment, most of them near its midnights."""
    rng = random.Random(seed)
    times = [
        around + timedelta(days=rng.randrange(-2, 3), minutes=rng.choice((rng.randrange(-90, 91), rng.randrange(1440))))
        for _ in range(count)
    ]
    told = [
        a_span(first + n, 1, agent=rng.choice("ab"), started_at=at, reported_usd=Decimal(rng.randrange(1, 99)))
        for n, at in enumerate(times)
    ]
    assert accept(project, told, now=now).accepted == count


def label(day: date, size: Calendar) -> date:
    if size == "day":
        return day
    return day.replace(day=1) if size == "month" else day - timedelta(days=day.weekday())


def one_by_one(
    project: Project, since: datetime, until: datetime, size: Calendar, placed: Placed
) -> dict[tuple[date, str], tuple[int, Decimal]]:
    """What the spans themselves add up to by local day, week or month and agent; each where `placed` says."""
    here = ZoneInfo(project.time_zone)
    sums: dict[tuple[date, str], tuple[int, Decimal]] = defaultdict(lambda: (0, Decimal(0)))
    with tenant(project.pk):
        for at, agent, usd in Span.objects.values_list("started_at", "agent", "cost_usd"):
            at = placed(at)
            if since <= at < until:
                key = label(at.astimezone(here).date(), size), agent
                sums[key] = sums[key][0] + 1, sums[key][1] + usd
    return dict(sums)


def assert_read_as_told(project: Project, around: datetime, placed: Placed = lambda at: at) -> None:
    here = ZoneInfo(project.time_zone)
    day = around.astimezone(here).date()
    periods = [
        (calendars.midnight(day - timedelta(days=before), here), calendars.midnight(day + timedelta(days=after), here))
        for before, after in ((40, 40), (2, 3), (0, 1), (1, 1))
    ]
    periods.append((around - timedelta(hours=31, minutes=13), around + timedelta(hours=26, minutes=41)))
    periods.append((around - timedelta(hours=25, minutes=40), around + timedelta(minutes=10)))
    for since, until in periods:
        for size in SIZES:
            expected = one_by_one(project, since, until, size, placed)
            with tenant(project.pk):
                found = rollups.series(
                    project.pk,
                    since=since,
                    until=until,
                    calendar=size,
                    time_zone=project.time_zone,
                    group_by="agent",
                    with_latency=True,
                )
                whole = rollups.totals(project.pk, since=since, until=until, group_by="agent", with_latency=True)
            got = {(one.at.astimezone(here).date(), one.group): (one.count, one.cost_usd) for one in found}
            assert got == expected, (since, until, size)
            for one in found:
                before = one.at - timedelta(minutes=1)
                assert label(before.astimezone(here).date(), size) != label(one.at.astimezone(here).date(), size)
                assert [sum(n >> 10 for n in one.histogram), min(one.histogram) > 0] == [one.count, True]
            if until - since >= DAY:
                by_agent: dict[str, int] = defaultdict(int)
                for (_, agent), (count, _) in expected.items():
                    by_agent[agent] += count
                assert {one.group: one.count for one in whole} == by_agent
                assert {one.group: sum(n >> 10 for n in one.histogram) for one in whole} == by_agent


@pytest.mark.parametrize(("zone", "day"), PLACES)
def test_a_day_is_what_its_spans_add_up_to(db: None, zone: str, day: date) -> None:
    project = a_project(time_zone=zone)
    around = calendars.midnight(day, ZoneInfo(zone))
    now = around + 5 * DAY
    tell(project, 60, first=1, around=around, now=now, seed=zone)
    assert_read_as_told(project, around)
    closing.close(now=now)
    assert_read_as_told(project, around)
    tell(project, 40, first=100, around=around, now=now, seed=f"{zone}, late")
    assert_read_as_told(project, around)
    while closing.close(now=now):
        assert_read_as_told(project, around)
    # Now the minutes leave, up to one within an hour that a midnight may divide, then all.
    gone = around + DAY + timedelta(minutes=7)

    def placed(at: datetime) -> datetime:
        return at if at >= gone else at.replace(minute=30, second=0, microsecond=0)

    with tenant(project.pk):
        MinuteRollup.objects.filter(minute__lt=gone).delete()
    assert_read_as_told(project, around, placed)
    gone = now
    with tenant(project.pk):
        MinuteRollup.objects.all().delete()
    assert_read_as_told(project, around, placed)


def test_a_month_beyond_the_minutes_has_its_series_where_days_begin_at_half_past(db: None) -> None:
    project = a_project(time_zone="Asia/Kolkata")
    began = datetime(2026, 6, 1, 7, 10, tzinfo=UTC)
    accept(project, [a_span(1, 1, started_at=began), a_span(2, 1, started_at=began + DAY)], now=began + DAY)
    closing.close(now=began + 3 * DAY)
    with tenant(project.pk):
        MinuteRollup.objects.all().delete()
        found = ledger.summary(project.pk, "monthly", now=began + 120 * DAY)
    assert found.summary.total_calls == 2
    assert [(one.at, one.calls) for one in found.series] == [(datetime(2026, 5, 31, 18, 30, tzinfo=UTC), 2)]


def test_minutes_that_outlive_their_hours_make_no_day_negative(db: None) -> None:
    project = a_project(time_zone="Asia/Kolkata")
    midnight = datetime(2026, 6, 1, 18, 30, tzinfo=UTC)
    accept(project, [a_span(1, 1, started_at=midnight - timedelta(minutes=5))], now=midnight)
    closing.close(now=midnight + DAY)
    with tenant(project.pk):
        for since in (midnight - 2 * DAY, midnight - timedelta(hours=12)):
            found = rollups.series(
                project.pk, since=since, until=midnight + DAY, calendar="day", time_zone=project.time_zone
            )
            assert [(one.at, one.count) for one in found] == [(midnight - DAY, 1)]
        project.hourrollup_set.all().delete()
        assert not rollups.series(
            project.pk, since=midnight - 2 * DAY, until=midnight + DAY, calendar="day", time_zone=project.time_zone
        )


def test_a_late_span_in_a_midnight_that_comes_twice_opens_the_day_that_holds_it(db: None) -> None:
    project = a_project(time_zone="America/Havana")
    first = datetime(2026, 11, 1, 4, tzinfo=UTC)
    accept(project, [a_span(1, 1, started_at=first + HOUR / 2)], now=first + DAY)
    closing.close(now=first + 3 * DAY)
    accept(project, [a_span(2, 1, started_at=first + HOUR / 2)], now=first + 3 * DAY)
    closing.close(now=first + 3 * DAY)
    with tenant(project.pk):
        assert [(one.starts_at, one.ends_at) for one in RolledDay.objects.all()] == [(first, first + 25 * HOUR)]
        assert list(DayRollup.objects.values_list("day", "count")) == [(first, 2)]


def test_days_of_rules_that_hold_no_more_give_way(db: None) -> None:
    project = a_project(time_zone="America/Havana")
    first = datetime(2026, 11, 1, 4, tzinfo=UTC)
    accept(project, [a_span(1, 1, started_at=first), a_span(2, 1, started_at=first + 2 * HOUR)], now=first + DAY)
    closing.close(now=first + 3 * DAY)
    with crossing():
        # As if the day had been cut by another rule, and its first hour belonged to the day before.
        RolledDay.objects.all().delete()
        for starts_at, ends_at in ((first - DAY, first + HOUR), (first + HOUR, first + 25 * HOUR)):
            RolledDay.objects.create(project=project, starts_at=starts_at, ends_at=ends_at, time_zone=project.time_zone)
    closing.close(now=first + 3 * DAY)
    accept(project, [a_span(3, 1, started_at=first)], now=first + 3 * DAY)
    closing.close(now=first + 3 * DAY)
    with tenant(project.pk):
        assert list(DayRollup.objects.values_list("day", "count")) == [(first, 3)]
        assert [one.count for one in rollups.totals(project.pk, since=first - 2 * DAY, until=first + 3 * DAY)] == [3]


def test_days_that_were_cut_at_a_second_midnight_are_cut_anew(db: None) -> None:
    project = a_project(time_zone="America/Havana")
    first = datetime(2026, 11, 1, 4, tzinfo=UTC)
    accept(project, [a_span(1, 1, started_at=first), a_span(2, 1, started_at=first - DAY)], now=first + DAY)
    closing.close(now=first + 3 * DAY)
    second = first + HOUR
    with crossing(), connection.cursor() as cursor:
        RolledDay.objects.all().delete()
        DayRollup.objects.all().delete()
        cuts = [first - 2 * DAY, first - DAY, second, second + DAY, second + 2 * DAY]
        for starts_at, ends_at in pairwise(cuts):
            RolledDay.objects.create(project=project, starts_at=starts_at, ends_at=ends_at, time_zone=project.time_zone)
        closing.close(now=first + 5 * DAY)
        assert dict(DayRollup.objects.values_list("day", "count")) == {first - DAY: 2}
        for statement in import_module("monitor.migrations.0024_first_midnights").CUT_ANEW:
            cursor.execute(statement)
    closing.close(now=first + 5 * DAY)
    with tenant(project.pk):
        assert dict(DayRollup.objects.values_list("day", "count")) == {first - DAY: 1, first: 1}
        found = RolledDay.objects.order_by("starts_at").values_list("starts_at", "ends_at")
        assert list(found) == list(pairwise([first - 2 * DAY, first - DAY, first, second + DAY, second + 2 * DAY]))


def test_days_that_begin_at_half_past_are_opened_as_closing_does(db: None) -> None:
    for zone in ("Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "UTC"):
        project = a_project(zone, time_zone=zone)
        around = datetime(2026, 4, 4, 17, tzinfo=UTC)
        accept(project, [a_span(n, 1, started_at=around + n * 7 * HOUR) for n in range(8)], now=around + 3 * DAY)
    closing.close(now=around + 9 * DAY)
    with crossing(), connection.cursor() as cursor:

        def opened() -> set[tuple[str, datetime, datetime]]:
            return set(RolledDay.objects.exclude(time_zone="UTC").values_list("time_zone", "starts_at", "ends_at"))

        divided = {one for one in opened() if any(at.minute for at in calendars.bounds(one[1], ZoneInfo(one[0])))}
        assert {ends_at - starts_at for _, starts_at, ends_at in divided} == {23 * HOUR, DAY}
        RolledDay.objects.all().delete()
        cursor.execute(import_module("monitor.migrations.0024_first_midnights").OPEN_DIVIDED)
        found = opened()
    assert divided <= found
    for zone, starts_at, ends_at in found:
        began, ended = calendars.bounds(starts_at, ZoneInfo(zone))
        assert timedelta() <= starts_at - began < HOUR
        assert timedelta() <= ended - ends_at < HOUR


# St. John's put its clocks back from one past midnight, and showed the end of the day before once more.
@pytest.mark.parametrize(
    ("zone", "year"),
    [(zone, day.year) for zone, day in PLACES]
    + [("Atlantic/Azores", 2026), ("America/Nuuk", 2026), ("America/Sao_Paulo", 2018), ("America/St_Johns", 2010)],
)
def test_every_moment_is_in_one_day(zone: str, year: int) -> None:
    here = ZoneInfo(zone)
    first, last = datetime(year, 1, 1, 5, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    days = list(calendars.starts("day", first, last, here))
    assert 365 <= len(days) <= 367
    for starts_at, ends_at in pairwise(days):
        at = starts_at
        day = calendars.day_of(at, here)
        while at < ends_at:
            assert calendars.bounds(at, here) == (starts_at, ends_at)
            shown = at.astimezone(here)
            assert shown.date() == day or (zone == "America/St_Johns" and shown.date() == day - DAY)
            at += timedelta(minutes=30)
