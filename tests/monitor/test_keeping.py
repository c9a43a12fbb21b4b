"""How long things are kept: by everybody, by one project, and what that means for what comes late."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection

from monitor import changes, closing, ingest, keeping, leaving, retention
from monitor.keeping import BadDays, Change, Kept
from monitor.models import (
    HourRollup,
    Keeping,
    LedgerEntry,
    MinuteRollup,
    Project,
    Run,
    Span,
    StateChange,
    Subject,
    Trace,
)
from monitor.tenancy import crossing, tenant
from tests.monitor import fleets
from tests.monitor.days import days_of
from tests.monitor.spending import CALL_USD, NOW, a_project, a_span, accept, assert_books_balance, close_connection

DAY = timedelta(days=1)
ADA = "ada@example.org"


def keep(project: Project, **days: int | None) -> list[Change]:
    """Change the days, so long ago that what is shortened may leave."""
    with tenant(project.pk):
        return keeping.change(project.pk, days, actor=ADA, now=NOW - keeping.SHORTENED_AFTER)


def kept(project: Project, kind: str) -> Kept:
    with tenant(project.pk):
        return keeping.of_project(project.pk)[kind]


def spans_of(project: Project) -> list[int]:
    with tenant(project.pk):
        return sorted(Span.objects.values_list("span_id", flat=True))


def fill(project: Project, *days_ago: int) -> None:
    """A call so many days ago each, whose span is numbered so."""
    told = [a_span(ago, ago, started_at=NOW - ago * DAY) for ago in days_ago]
    assert accept(project, told).rejected == []


def test_a_project_keeps_what_the_instance_keeps_until_it_says_otherwise(db: None) -> None:
    project, other = a_project(), a_project("south")
    assert kept(project, "spans") == Kept("spans", 90, None, 90)
    keeping.change_for_all({"spans": 60}, actor=ADA, now=NOW)
    assert keep(project, spans=30, ledger=500) == [Change("spans", 60, 30, 30), Change("ledger", 400, 500, 500)]
    assert kept(project, "spans") == Kept("spans", 30, 30, 60)
    assert kept(other, "spans") == Kept("spans", 60, None, 60)
    assert kept(other, "ledger").days == 400
    assert keep(project, spans=None) == [Change("spans", 30, 60, None)]
    assert keep(project, spans=None) == []
    assert keeping.of_instance()["spans"] == Kept("spans", 60, 60, 90)


@pytest.mark.parametrize(
    ("days", "said"),
    [
        ({"spans": 2}, "spans must be kept for 3 to 400 days"),
        ({"journal": 801}, "journal must be kept for 35 to 800 days"),
        ({"secrets": 30}, "secrets is no kind that is kept"),
    ],
)
def test_days_out_of_bounds_change_nothing(db: None, days: dict[str, int], said: str) -> None:
    project = a_project()
    with pytest.raises(BadDays, match=said):
        keep(project, messages=30, **days)
    with pytest.raises(BadDays, match=said):
        keeping.change_for_all(days, actor=ADA, now=NOW)
    with crossing():
        assert not Keeping.objects.exists()


@pytest.mark.parametrize(
    ("held", "days", "kind", "said"),
    [
        ({}, {"spans": 91}, "spans", "can be kept for 90 days at most, with minute sums kept for 92"),
        (
            {},
            {"spans": 150, "minutes": 151},
            "spans",
            "can be kept for 149 days at most, with minute sums kept for 151",
        ),
        ({}, {"minutes": 91}, "minutes", "must be kept for 92 days at least, with spans kept for 90"),
        ({}, {"minutes": 20, "spans": 30}, "minutes", "must be kept for 32 days at least, with spans kept for 30"),
        ({}, {"ledger": 35}, "ledger", "must be kept for 90 days at least, with spans kept for 90"),
        ({}, {"runs": 89}, "runs", "must be kept for 90 days at least, with spans kept for 90"),
        ({}, {"hours": 89}, "hours", "must be kept for 90 days at least, with spans kept for 90"),
        ({}, {"executions": 8}, "executions", "must be kept for 90 days at least, with spans kept for 90"),
        ({"spans": 8, "executions": 8}, {"spans": None}, "spans", "can be kept for 8 days at most, with executions"),
    ],
)
def test_no_span_is_kept_for_longer_than_what_it_changes(
    db: None, held: dict[str, int], days: dict[str, int | None], kind: str, said: str
) -> None:
    project = a_project()
    keep(project, **held)
    with pytest.raises(BadDays, match=said) as refused:
        keep(project, **days)
    assert refused.value.kind == kind
    if not held:
        with pytest.raises(BadDays, match=said):
            keeping.change_for_all(days, actor=ADA, now=NOW)
    assert {one: kept(project, one).own for one in days} == {one: held.get(one) for one in days}


def test_days_that_do_not_fit_from_before_may_become_better_and_nothing_else_is_held_up(db: None) -> None:
    project = a_project()
    with crossing():
        Keeping.objects.create(project=project, kind="spans", days=400)
    assert keep(project, messages=30) == [Change("messages", 90, 30, 30)]
    assert keep(project, minutes=200) == [Change("minutes", 92, 200, 200)]
    assert keep(project, spans=300) == [Change("spans", 400, 300, 300)]
    with pytest.raises(BadDays):
        keep(project, minutes=199)
    with pytest.raises(BadDays):
        keep(project, spans=301)
    assert keep(project, spans=198) == [Change("spans", 300, 198, 198)]


def test_every_change_is_in_the_journal_with_who_made_it(db: None) -> None:
    first, project = a_project("first"), a_project()
    keep(project, spans=30)
    keep(project, spans=None)
    keeping.change_for_all({"spans": 80}, actor="root@example.org", now=NOW)

    def told(whose: Project) -> list[tuple[Any, ...]]:
        with tenant(whose.pk):
            found = StateChange.objects.filter(subject=Subject.KEEPING).order_by("id")
            return list(found.values_list("actor", "data__of", "data__was", "data__days", "data__own"))

    assert told(project) == [(ADA, "project", 90, 30, 30), (ADA, "project", 30, 90, None)]
    assert told(first) == [("root@example.org", "instance", 90, 80, 80)]


def test_no_project_sees_or_sets_the_days_of_another(db: None) -> None:
    project, other = a_project(), a_project("south")
    keep(project, spans=30)
    keeping.change_for_all({"messages": 40}, actor=ADA, now=NOW)
    with tenant(other.pk):
        assert list(Keeping.objects.values_list("kind", flat=True)) == ["messages"]
        assert Keeping.objects.filter(kind="messages").update(days=9) == 0
        assert Keeping.objects.filter(kind="spans").delete()[0] == 0


def test_days_are_dropped_when_nobody_keeps_them_any_more(db: None) -> None:
    long, short = a_project("long"), a_project("short")
    keep(long, spans=200, minutes=300, executions=200)
    keep(short, spans=30)
    for ago in (20, 40, 100):
        retention.make_partitions(now=NOW - ago * DAY)
    fill(long, 20, 40, 100)
    fill(short, 20)
    later = NOW + 60 * DAY
    retention.drop_partitions(now=later)
    retention.prune(now=later)
    assert spans_of(long) == [20, 40, 100]
    assert spans_of(short) == []
    assert f"monitor_span_p{NOW - 100 * DAY:%Y%m%d}" in days_of("monitor_span")
    retention.drop_partitions(now=NOW + 101 * DAY)
    assert spans_of(long) == [20, 40]
    assert f"monitor_span_p{NOW - 100 * DAY:%Y%m%d}" not in days_of("monitor_span")
    # Whose days nobody needs go at once, however long the instance keeps them.
    keep(long, spans=50)
    retention.drop_partitions(now=NOW + 31 * DAY)
    assert spans_of(long) == []


def test_one_who_keeps_less_loses_rows_and_nobody_else_does_and_all_sums_stand(db: None) -> None:
    long, short = a_project("long"), a_project("short")
    for project in (long, short):
        fill(project, *range(1, 12))
    keep(short, spans=5)
    # A trace tells where its spans are for two days more.
    assert retention.prune(now=NOW) == 6 + 4
    assert spans_of(long) == list(range(1, 12))
    assert spans_of(short) == [1, 2, 3, 4, 5]
    assert_books_balance(long)
    with tenant(short.pk):
        booked = LedgerEntry.objects.values_list("cost_usd", flat=True)
        assert (len(booked), sum(booked)) == (11, 11 * CALL_USD)
        assert sum(MinuteRollup.objects.values_list("cost_usd", flat=True)) == 11 * CALL_USD
        assert sum(Run.objects.values_list("cost_usd", flat=True)) == 11 * CALL_USD
        assert Trace.objects.count() == 7
    retention.prune(now=NOW + 10 * DAY)
    with tenant(short.pk):
        assert not Span.objects.exists()
        assert not Trace.objects.exists()
    keep(short, ledger=35)
    retention.prune(now=NOW + 30 * DAY)
    with tenant(short.pk):
        assert list(LedgerEntry.objects.values_list("cost_usd", flat=True)) == [CALL_USD] * 5
    with tenant(long.pk):
        assert LedgerEntry.objects.count() == 11


def test_the_journal_leaves_by_the_days_of_its_project(db: None) -> None:
    long, short = a_project("long"), a_project("short")
    retention.make_partitions(now=NOW - 40 * DAY)
    for project in (long, short):
        with tenant(project.pk):
            for ago in (40, 1):
                changes.record(project.pk, Subject.MODEL, f"{ago}", to_state="x", cause="x", now=NOW - ago * DAY)
    keep(short, journal=35)
    retention.prune(now=NOW)

    def told(project: Project) -> list[str]:
        with tenant(project.pk):
            return sorted(StateChange.objects.filter(subject=Subject.MODEL).values_list("subject_id", flat=True))

    assert (told(long), told(short)) == (["1", "40"], ["1"])


def test_small_tables_follow_the_days_of_each_project(db: None) -> None:
    projects = {name: a_project(name) for name in ("plain", "long", "short")}
    keep(projects["long"], executions=400)
    keep(projects["short"], executions=8, spans=8)
    for project in projects.values():
        work = fleets.an_execution(project.pk, now=NOW)
        fleets.act("cancel", project.pk, work, now=NOW)

    def left() -> list[str]:
        return [name for name, one in projects.items() if one_left(one)]

    def one_left(project: Project) -> bool:
        with tenant(project.pk):
            from_execution = project.execution_set
            return from_execution.exists()

    retention.prune(now=NOW + 7 * DAY)
    assert left() == ["plain", "long", "short"]
    retention.prune(now=NOW + 9 * DAY)
    assert left() == ["plain", "long"]
    retention.prune(now=NOW + 181 * DAY)
    assert left() == ["long"]
    retention.prune(now=NOW + 401 * DAY)
    assert left() == []


def test_batches_end_and_the_next_run_goes_on(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    project, _ = a_project(), a_project("other")
    fill(project, *range(6, 12))
    accept(project, [a_span(6, n, started_at=NOW - 6 * DAY) for n in range(100, 110)])
    keep(project, spans=5)
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(retention, "BATCHES_OF_DAYS", 3)
    before = len(spans_of(project))
    gone = retention.prune(now=NOW)
    assert 0 < gone < before == 16
    for _ in range(10):
        retention.prune(now=NOW)
    assert spans_of(project) == []


def test_rows_of_one_project_are_found_without_reading_those_of_others(db: None) -> None:
    project, other = a_project(), a_project("other")
    fill(other, *range(1, 12))
    with crossing(), connection.cursor() as cursor:
        cursor.execute(retention.BY_INDEX)
        for table, one in retention.PARTITIONED.items():
            cursor.execute(
                f"EXPLAIN SELECT ctid FROM {table} WHERE project_id = ANY(%s) AND {one.column} >= %s"
                f" AND {one.column} < %s LIMIT 5000",
                [[project.pk], NOW.replace(hour=0), NOW.replace(hour=0) + DAY],
            )
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "Index" in plan, plan
            assert "Seq Scan" not in plan, plan


def test_a_span_that_would_be_dropped_before_anybody_saw_it_is_refused(db: None) -> None:
    project, other = a_project(), a_project("south")
    keep(project, spans=7)

    def why(whose: Project, days_ago: float) -> list[str]:
        told = accept(whose, [a_span(1, 1, started_at=NOW - days_ago * DAY)])
        return [one.reason for one in told.rejected]

    assert why(project, 6.5) == ["it started more than 6 days ago, which is longer than spans are kept"]
    assert why(project, 5.9) == []
    assert why(other, 80) == []
    assert why(other, 89.5) == ["it started more than 89 days ago, which is longer than spans are kept"]
    assert spans_of(project) == [1]


def test_a_span_that_would_change_sums_that_are_gone_is_refused_for_them(db: None) -> None:
    project = a_project()
    with crossing():
        # As it could be set once.
        Keeping.objects.create(project=project, kind="spans", days=300)
    told = accept(project, [a_span(1, 1, started_at=NOW - 100 * DAY)])
    assert [one.reason for one in told.rejected] == [
        "it started more than 89 days ago, which is longer than minute sums are kept"
    ]
    keep(project, minutes=302)
    assert accept(project, [a_span(1, 1, started_at=NOW - 100 * DAY)]).rejected == []


def test_hours_stand_whatever_comes_late_and_however_short_things_are_kept(db: None) -> None:
    """The oldest minute that a span may change has its hour summed from minutes that are all there."""
    project = a_project()
    keep(project, minutes=10, spans=8)
    oldest = keeping.lateness(_all(project)).most
    assert oldest == 7 * DAY
    first = (NOW - oldest).replace(minute=0) + timedelta(hours=1)
    accept(project, [a_span(1, 1, started_at=first)])
    closing.close_hours(now=NOW)
    retention.prune(now=NOW)
    accept(project, [a_span(2, 2, started_at=first + timedelta(minutes=30))])
    closing.close_hours(now=NOW)
    with tenant(project.pk):
        sums = HourRollup.objects.filter(hour=first, kind="llm").values_list("count", "cost_usd")
        assert list(sums) == [(2, 2 * CALL_USD)]


def _all(project: Project) -> dict[str, Kept]:
    with tenant(project.pk):
        return keeping.of_project(project.pk)


def test_what_a_process_remembers_of_the_days_is_soon_read_anew(db: None) -> None:
    project = a_project()
    with tenant(project.pk):
        assert keeping.late(project.pk, now=NOW).most == 89 * DAY
        Keeping.objects.create(project=project, kind="spans", days=7)
        assert keeping.late(project.pk, now=NOW + 9 * timedelta(seconds=1)).most == 89 * DAY
        assert keeping.late(project.pk, now=NOW + timedelta(seconds=10)).most == 6 * DAY
        assert keeping.late(project.pk, now=NOW).most == 6 * DAY


def test_what_would_leave_is_told_before(db: None) -> None:
    project, other = a_project(), a_project("south")
    fill(project, *range(1, 12))
    fill(other, *range(1, 12))
    with tenant(project.pk):
        plan = keeping.planned({"spans": 5, "messages": 90, "ledger": 500}, keeping.of_project(project.pk))
        told = leaving.of_project(plan, project.pk, now=NOW)
    # Six spans; their traces stay for two days more.
    assert [(one.kind, one.rows, one.is_exact) for one in told] == [("spans", 6 + 4, True)]
    everybody = leaving.of_all(keeping.planned({"spans": 5}, keeping.of_instance()), now=NOW)
    assert [one.rows for one in everybody] == [2 * (6 + 4)]
    keep(project, spans=60)
    assert [one.rows for one in leaving.of_all([Change("spans", 90, 5, 5)], now=NOW)] == [6 + 4]
    keep(project, spans=5)
    assert retention.prune(now=NOW) == 6 + 4


def test_two_who_change_at_once_leave_a_journal_without_a_gap(committed_db: None) -> None:
    project = a_project()

    def set_days(days: int) -> None:
        try:
            keep(project, spans=days)
        finally:
            close_connection()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(set_days, range(30, 46)))
    with tenant(project.pk):
        found = StateChange.objects.filter(subject=Subject.KEEPING).order_by("id")
        steps = list(found.values_list("data__was", "data__days"))
        own = Keeping.objects.get(kind="spans").days
    assert steps[0][0] == 90
    assert steps[-1][1] == own
    assert [was for was, _ in steps[1:]] == [days for _, days in steps[:-1]]


def test_rows_that_somebody_holds_are_passed_over(committed_db: None, owner_dsn: str) -> None:
    project, _ = a_project(), a_project("other")
    fill(project, 8, 9)
    keep(project, spans=5)
    with psycopg.connect(owner_dsn) as held:
        held.execute("SELECT FROM monitor_span WHERE span_id = 8 FOR UPDATE")
        retention.prune(now=NOW)
        assert spans_of(project) == [8]
    retention.prune(now=NOW)
    assert spans_of(project) == []


def test_the_door_names_the_reason(db: None) -> None:
    project = a_project()
    keep(project, spans=7)
    with tenant(project.pk):
        done = ingest.accept(project.pk, [a_span(1, 1, started_at=NOW - 8 * DAY), a_span(2, 2)], now=NOW)
    assert (done.accepted, [one.index for one in done.rejected]) == (1, [0])
