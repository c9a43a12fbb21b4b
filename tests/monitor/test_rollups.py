"""Rollups: minutes are exact at commit, hours are recomputed, and reading joins both without a seam."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor import closing, folding, latency, retention, rollups
from monitor.folding import RollupDelta
from monitor.models import DirtyHour, HourRollup, MinuteRollup, Project, Span
from monitor.tenancy import tenant
from tests.monitor.days import days_of
from tests.monitor.spending import NOW, a_project, a_span, accept, close_connection


def a_delta(minutes_ago: int = 0, **fields: object) -> RollupDelta:
    given = {"kind": "llm", "agent": "planner", "duration_ms": 1000, "cost_usd": Decimal("0.1")} | fields
    return RollupDelta(at=NOW - timedelta(minutes=minutes_ago), **given)


def fold(project: Project, *deltas: RollupDelta) -> None:
    with tenant(project.pk):
        folding.fold(project.pk, deltas, now=NOW)


def test_hours_are_set_from_their_minutes_once_they_are_over(db: None) -> None:
    project = a_project()
    fold(project, a_delta(5), a_delta(61), a_delta(90, duration_ms=20_000), a_delta(119))
    assert closing.close_hours(now=NOW) == 2
    assert closing.close_hours(now=NOW) == 0
    with tenant(project.pk):
        hours = dict(HourRollup.objects.values_list("hour", "count"))
        assert hours == {NOW - timedelta(hours=1): 1, NOW - timedelta(hours=2): 3}
    fold(project, a_delta(90, count=-1, duration_ms=-20_000, cost_usd=Decimal("-0.1")), a_delta(119))
    with tenant(project.pk):
        assert DirtyHour.objects.get().hour == NOW - timedelta(hours=2)
    assert closing.close_hours(now=NOW) == 1
    with tenant(project.pk):
        hour = HourRollup.objects.get(hour=NOW - timedelta(hours=2))
        assert (hour.count, hour.cost_usd, hour.duration_ms) == (3, Decimal("0.3"), 3000)


def test_what_cancels_out_leaves_no_trace(db: None) -> None:
    project = a_project()
    fold(project, a_delta(), a_delta(count=-1, duration_ms=-1000, cost_usd=Decimal("-0.1")))
    with tenant(project.pk):
        assert not MinuteRollup.objects.exists()


@given(
    told=st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from(["a", "b"]), st.integers(0, 99)), min_size=1, max_size=30
    ),
    since=st.integers(0, 500),
    lasts=st.integers(1, 500),
    step_s=st.sampled_from([60, 300, 3600, 7200]),
    closes=st.booleans(),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reading_hours_and_minutes_gives_what_was_told(
    db: None, told: list[tuple[int, str, int]], since: int, lasts: int, step_s: int, closes: bool
) -> None:
    project = a_project(uuid4().hex)
    half = len(told) // 2
    fold(project, *(a_delta(ago, agent=agent, cost_usd=Decimal(usd)) for ago, agent, usd in told[:half]))
    if closes:
        closing.close_hours(now=NOW)
    fold(project, *(a_delta(ago, agent=agent, cost_usd=Decimal(usd)) for ago, agent, usd in told[half:]))
    first = NOW - timedelta(minutes=since)
    last = first + timedelta(minutes=lasts)
    within = [(NOW - timedelta(minutes=ago), agent, usd) for ago, agent, usd in told]
    within = [(at, agent, usd) for at, agent, usd in within if first <= at < last]
    expected: dict[tuple[datetime, str], tuple[int, Decimal]] = {}
    for at, agent, usd in within:
        key = datetime.fromtimestamp(at.timestamp() // step_s * step_s, UTC), agent
        count, cost = expected.get(key, (0, Decimal(0)))
        expected[key] = count + 1, cost + usd
    with tenant(project.pk):
        steps = rollups.series(project.pk, since=first, until=last, step_s=step_s, group_by="agent")
        totals = rollups.totals(project.pk, since=first, until=last, with_latency=True)
    assert {(one.at, one.group): (one.count, one.cost_usd) for one in steps} == expected
    assert sum(one.count for one in totals) == len(within)
    assert sum(number >> latency.SHIFT for one in totals for number in one.histogram) == len(within)


def test_days_are_those_of_the_time_zone_also_where_they_begin_at_half_past(db: None) -> None:
    project = a_project()
    at = datetime(2026, 11, 19, 18, 0, tzinfo=UTC)
    with tenant(project.pk):
        for minutes in (29, 30):
            delta = RollupDelta(at=at + timedelta(minutes=minutes), kind="llm")
            folding.fold(project.pk, [delta], now=NOW)
    closing.close_hours(now=NOW)
    with tenant(project.pk):
        days = rollups.series(
            project.pk, since=at, until=at + timedelta(hours=2), calendar="day", time_zone="Asia/Kolkata"
        )
    assert [(day.at.isoformat(), day.count) for day in days] == [
        ("2026-11-18T18:30:00+00:00", 1),
        ("2026-11-19T18:30:00+00:00", 1),
    ]


def test_hours_add_up_the_latency_of_their_minutes(db: None) -> None:
    project = a_project()
    lasted = [17, 17, 900, 1_000, 60_000]
    fold(project, *(a_delta(61 + n, duration_ms=ms) for n, ms in enumerate(lasted)))
    fold(project, a_delta(63, duration_ms=5), a_delta(63, duration_ms=-5, count=-1))
    assert closing.close_hours(now=NOW) == 1
    with tenant(project.pk):
        stored = HourRollup.objects.get().latency
        (read,) = rollups.totals(project.pk, since=NOW - timedelta(days=1), until=NOW, with_latency=True)
        (bare,) = rollups.totals(project.pk, since=NOW - timedelta(days=1), until=NOW)
    once = [latency.bucket(ms) + (1 << latency.SHIFT) for ms in lasted[2:]]
    assert stored == [latency.bucket(17) + (2 << latency.SHIFT), *once]
    assert read.histogram == stored
    assert bare.p95_ms is None


def test_a_busy_minute_adds_up_what_it_was_told_one_by_one(db: None) -> None:
    project = a_project()
    lasted = [1_000 + n % 7 * 500 for n in range(3 * latency.LONGEST_LIST)]
    for ms in lasted:
        fold(project, a_delta(duration_ms=ms))
    with tenant(project.pk):
        stored = MinuteRollup.objects.get().latency
    assert len(stored) <= latency.LONGEST_LIST
    counts = {latency.bucket(ms): lasted.count(ms) for ms in set(lasted)}
    assert latency.joined([stored]) == latency.joined([latency.packed(counts)])


def test_folding_and_closing_at_once_loses_nothing(committed_db: None) -> None:
    project = a_project()

    def tell(worker: int) -> None:
        try:
            for n in range(20):
                fold(project, a_delta(61 + n % 3), a_delta(125))
        finally:
            close_connection()

    def close(worker: int) -> None:
        try:
            for _ in range(20):
                closing.close_hours(now=NOW)
        finally:
            close_connection()

    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(tell, n) for n in range(4)] + [pool.submit(close, n) for n in range(2)]
        for one in done:
            one.result()
    closing.close_hours(now=NOW)
    with tenant(project.pk):
        assert dict(HourRollup.objects.values_list("hour", "count")) == {
            NOW - timedelta(hours=2): 80,
            NOW - timedelta(hours=3): 80,
        }


def test_an_hour_that_is_being_written_is_passed_over(committed_db: None) -> None:
    project = a_project()
    fold(project, a_delta(61))

    def close() -> int:
        try:
            return closing.close_hours(now=NOW)
        finally:
            close_connection()

    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            folding.fold(project.pk, [a_delta(61)], now=NOW)
            assert pool.submit(close).result() == 0
        assert pool.submit(close).result() == 1
    with tenant(project.pk):
        assert HourRollup.objects.get().count == 2


def test_another_project_is_never_summed(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    fold(north, a_delta(61))
    closing.close_hours(now=NOW)
    with tenant(south.pk):
        assert rollups.totals(south.pk, since=NOW - timedelta(days=1), until=NOW) == []
        assert rollups.totals(north.pk, since=NOW - timedelta(days=1), until=NOW) == []


def test_old_days_are_dropped_and_coming_ones_made(db: None) -> None:
    project = a_project()
    accept(project, [a_span(1, 1, started_at=NOW - timedelta(days=80)), a_span(2, 2)])
    later = NOW + timedelta(days=40)
    assert retention.make_partitions(now=later) == 3 * 9
    assert retention.make_partitions(now=later) == 0
    assert retention.drop_partitions(now=later) >= 1
    assert f"monitor_span_p{NOW - timedelta(days=80):%Y%m%d}" not in days_of("monitor_span")
    assert f"monitor_span_p{later + timedelta(days=7):%Y%m%d}" in days_of("monitor_span")
    with tenant(project.pk):
        assert [span.span_id for span in Span.objects.all()] == [2]


def test_small_tables_are_pruned_by_age(db: None) -> None:
    project = a_project()
    fold(project, a_delta(), a_delta(60 * 24 * 91))
    closing.close_hours(now=NOW)
    assert retention.prune(now=NOW) == 0
    assert retention.prune(now=NOW + timedelta(days=2)) == 1
    with tenant(project.pk):
        assert MinuteRollup.objects.get().minute == NOW
