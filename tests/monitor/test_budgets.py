"""Budgets warn once, trip once, and bind the very next call."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext
from msgspec.structs import replace

from monitor import budgets, ingest, retention, trips
from monitor.models import (
    Budget,
    BudgetWindow,
    Execution,
    LedgerEntry,
    Project,
    QueueItem,
    Run,
    Span,
    StateChange,
    Trip,
)
from monitor.models.executions import Status
from monitor.records import Tokens, sealed
from monitor.tenancy import crossing, tenant
from tests.monitor.spending import (
    CALL_USD,
    NOW,
    a_bare_span,
    a_project,
    a_span,
    accept,
    assert_books_balance,
    close_connection,
)
from tests.monitor.test_settlement import await_a_waiter


def a_budget(project: Project | None, scope: str, limit: str, period: str = "day", **fields: Any) -> Budget:
    with crossing():
        return Budget.objects.create(
            project=project,
            scope=scope,
            period="run" if scope == "run" else period,
            limit_usd=Decimal(limit),
            # Older than all that is charged.
            **{"created_at": NOW - timedelta(days=60)} | fields,
        )


def spend(project: Project, usd: str, n: int, **fields: Any) -> budgets.Verdict:
    """One call that costs so much."""
    now = fields.pop("now", NOW)
    span = a_span(
        n, n, reported_usd=Decimal(usd), **{"run_id": "night", "started_at": now - timedelta(seconds=9)} | fields
    )
    return accept(project, [span], now=now).verdict


def changes_of(project: Project, subject: str) -> list[str]:
    with tenant(project.pk):
        return list(StateChange.objects.filter(subject=subject).order_by("id").values_list("to_state", flat=True))


def test_without_a_budget_everything_is_allowed_and_yet_counted(db: None) -> None:
    verdict = spend(a_project(), "100000", 1)
    assert (verdict.allowed, verdict.remaining) == (True, None)
    assert verdict.current_cost["month"] == Decimal(100_000)


def test_a_window_warns_once_and_trips_once(db: None) -> None:
    project = a_project()
    a_budget(project, "project", "10")
    allowed = [
        spend(project, usd, n).allowed for n, usd in enumerate(["7.99", "0.01", "1.99", "0.01", "5", "5"], start=1)
    ]
    assert allowed == [True, True, True, False, False, False]
    assert changes_of(project, "budget") == ["warned"]
    assert changes_of(project, "trip") == ["open"]
    with tenant(project.pk):
        trip = Trip.objects.get()
        assert (trip.total_cost_usd, trip.threshold_usd, trip.call_count) == (10, 10, 4)
        assert {name: Decimal(usd) for name, usd in trip.cost_by_model.items()} == {"gpt-4o": 10}
        assert QueueItem.objects.get().subject_id == str(trip.id)
        window = BudgetWindow.objects.get(scope="project", period="day")
        assert (window.spent_usd, window.calls) == (20, 6)


def test_the_next_window_is_free_again(db: None) -> None:
    project = a_project()
    a_budget(project, "project", "1", "hour")
    assert not spend(project, "2", 1).allowed
    assert spend(project, "0.5", 2, now=NOW + timedelta(hours=1)).allowed


def test_a_lowered_limit_binds_the_next_call(db: None) -> None:
    project = a_project()
    budget = a_budget(project, "agent", "100", target="planner")
    assert spend(project, "5", 1).allowed
    with tenant(project.pk):
        Budget.objects.filter(pk=budget.pk).update(limit_usd=2)
    verdict = spend(project, "0.01", 2)
    assert (verdict.allowed, verdict.scope) == (False, "agent")
    assert "planner" in verdict.reason


def test_a_targets_own_budget_goes_before_the_general_one(db: None) -> None:
    project = a_project()
    a_budget(project, "department", "1")
    a_budget(project, "department", "50", target="Sales")
    assert spend(project, "5", 1, department="Sales").allowed
    assert not spend(project, "5", 2, department="Support").allowed
    assert spend(project, "5", 3, department=None).allowed


def test_a_tripped_run_is_marked_and_its_open_executions_are_cancelled(db: None) -> None:
    project = a_project()
    a_budget(project, "run", "5")
    with tenant(project.pk):
        for n, run in enumerate(["night", "night", "other"], start=1):
            Execution.objects.create(project=project, id=UUID(int=n), agent="a", run_id=run, digest=b"")
    assert not spend(project, "5", 1).allowed
    assert spend(project, "4.9", 2, run_id="other").allowed
    with tenant(project.pk):
        assert Run.objects.get(run_id="night").tripped_at == NOW
        assert Run.objects.get(run_id="other").tripped_at is None
        states = dict(Execution.objects.values_list("run_id", "status"))
        assert states == {"night": Status.CANCELLED, "other": Status.PENDING}
        assert Trip.objects.get().reason == "run night: 5.00 of 5.00 US dollars spent"


def test_a_trip_reads_the_days_of_its_run_alone(db: None) -> None:
    project = a_project()
    a_budget(project, "run", "5")
    with crossing(), connection.cursor() as cursor:
        days = ["monitor_ledgerentry", (NOW - timedelta(days=30)).date(), NOW.date()]
        cursor.execute("SELECT handrail_make_partitions(%s::regclass, %s, %s)", days)
    with CaptureQueriesContext(connection) as asked:
        assert not spend(project, "5", 1).allowed
    (summing,) = [one["sql"] for one in asked if 'SUM("monitor_ledgerentry"' in one["sql"]]
    with tenant(project.pk), connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {summing}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert set(re.findall(r"monitor_ledgerentry_p\d{8}", plan)) == {f"monitor_ledgerentry_p{NOW:%Y%m%d}"}


def test_a_runs_window_goes_with_the_run(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 2)
    north, south = a_project("north"), a_project("south")
    for n in range(5):
        spend(north, "1", n + 1, run_id=f"old-{n}")
    spend(south, "1", 10, run_id="old-3")
    spend(north, "1", 11, run_id="new")
    with crossing():
        Run.objects.filter(project=north, run_id__startswith="old").update(last_at=NOW - timedelta(days=401))
    retention.prune(now=NOW)
    with crossing():
        kept = BudgetWindow.objects.filter(scope="run").values_list("project_id", "target")
        assert set(kept) == {(south.pk, "old-3"), (north.pk, "new")}
        assert BudgetWindow.objects.filter(project_id=north.pk, scope="project").count() == 3


def test_looking_for_what_is_old_never_goes_through_the_windows_of_runs(db: None) -> None:
    project = a_project()
    spend(project, "1", 1, run_id="old")
    with crossing():
        Run.objects.filter(project=project).update(last_at=NOW - timedelta(days=401))
    with CaptureQueriesContext(connection) as asked:
        retention.prune(now=NOW)
    of_windows = [one["sql"] for one in asked if "monitor_budgetwindow" in one["sql"]]
    # With their runs, and all others by their age.
    assert [("monitor_run " in one, "scope <> 'run'" in one) for one in of_windows] == [(True, False), (False, True)]


def test_a_run_that_loses_its_last_span_to_a_named_one_takes_its_window_with_it(db: None) -> None:
    project = a_project()
    accept(project, [a_bare_span(1, 2, 1)])

    def windows() -> dict[str, Decimal]:
        with tenant(project.pk):
            return dict(BudgetWindow.objects.filter(scope="run").values_list("target", "spent_usd"))

    assert windows() == {f"{1:032x}": CALL_USD}
    accept(project, [a_bare_span(1, 1, kind="agent", run_id="night")])
    assert windows() == {"night": CALL_USD}
    assert_books_balance(project)


def test_a_run_that_tripped_keeps_its_window_when_it_loses_its_last_span(db: None) -> None:
    project = a_project()
    a_budget(project, "run", "0.001")
    accept(project, [a_bare_span(1, 2, 1)])
    accept(project, [a_bare_span(1, 1, kind="agent", run_id="night")])
    with tenant(project.pk):
        kept = BudgetWindow.objects.filter(scope="run", tripped_at__isnull=False).values_list("target", "spent_usd")
        assert dict(kept) == {f"{1:032x}": 0, "night": CALL_USD}
        trip = Trip.objects.get(target=f"{1:032x}")
        trips.reset(trip, note="go on", top_up_usd=None, actor="ada", project_id=project.pk, now=NOW)


def test_a_run_that_tripped_stays_until_a_person_resets_it(db: None) -> None:
    project = a_project()
    a_budget(project, "run", "1")
    assert not spend(project, "2", 1).allowed
    later = NOW + timedelta(days=401)
    retention.make_partitions(now=later)
    retention.prune(now=later)
    with tenant(project.pk):
        assert Run.objects.get().tripped_at == NOW
        assert not budgets.standing(project.pk, now=later, run_id="night").allowed
    assert not spend(project, "2", 2, now=later).allowed
    with tenant(project.pk):
        trip = Trip.objects.get()
        trips.reset(trip, note="", top_up_usd=None, actor="ada", project_id=project.pk, now=later)
    assert spend(project, "0.5", 3, now=later).remaining == Decimal("0.5")
    retention.prune(now=later + timedelta(days=401))
    with tenant(project.pk):
        assert (Run.objects.count(), BudgetWindow.objects.filter(scope="run").count()) == (0, 0)


def tripped_and_gone(project: Project) -> None:
    """A run whose trip is open, and whose window is none any more."""
    a_budget(project, "run", "1")
    assert not spend(project, "2", 1).allowed
    with tenant(project.pk):
        BudgetWindow.objects.filter(scope="run").delete()
        Run.objects.all().delete()


def test_a_window_that_begins_again_under_an_open_trip_is_stopped_by_that_one(db: None) -> None:
    project = a_project()
    tripped_and_gone(project)
    with tenant(project.pk):
        trip = Trip.objects.get()
        works = Execution.objects.create(project=project, id=UUID(int=1), agent="a", run_id="night", digest=b"")
    allowed = [spend(project, "0.4", n, now=NOW + timedelta(minutes=n)).allowed for n in range(2, 7)]
    assert allowed == [True, True, False, False, False]
    with tenant(project.pk):
        assert Trip.objects.get() == trip
        assert Run.objects.get().tripped_at == NOW + timedelta(minutes=4)
        assert BudgetWindow.objects.get(scope="run").spent_usd == 2
        assert QueueItem.objects.get().subject_id == str(trip.id)
        works.refresh_from_db()
        assert works.status == Status.CANCELLED
    assert changes_of(project, "trip") == ["open"]


@pytest.mark.parametrize("top_up", [None, Decimal(5)])
def test_a_trip_is_reset_though_its_window_is_gone(db: None, top_up: Decimal | None) -> None:
    project = a_project()
    tripped_and_gone(project)
    with tenant(project.pk):
        trip = Trip.objects.get()
        trips.reset(trip, note="", top_up_usd=top_up, actor="ada", project_id=project.pk, now=NOW)
    assert trip.reset_by == "ada"
    # What it spent before has left with it.
    assert spend(project, "1.5", 2).remaining == 1 + (top_up or 1) - Decimal("1.5")
    assert changes_of(project, "trip") == ["open", "reset"]
    with tenant(project.pk):
        assert Trip.objects.filter(reset_at=None).count() == 0
        BudgetWindow.objects.filter(scope="run").delete()
        with pytest.raises(trips.ResetRefused):
            trips.reset(trip, note="", top_up_usd=top_up, actor="bob", project_id=project.pk, now=NOW)
        assert not BudgetWindow.objects.filter(scope="run").exists()


@pytest.mark.parametrize("is_first", [False, True])
def test_a_reset_beside_a_call_leaves_no_stop_without_a_trip(committed_db: None, is_first: bool) -> None:
    """The window of the trip is gone, so both make it: whoever is second waits."""
    project = a_project()
    tripped_and_gone(project)
    with tenant(project.pk):
        trip = Trip.objects.get()
    call = [a_span(2, 2, reported_usd=Decimal(3), run_id="night", started_at=NOW - timedelta(seconds=9))]

    def reset() -> None:
        trips.reset(trip, note="", top_up_usd=Decimal(4), actor="ada", project_id=project.pk, now=NOW)

    def other() -> None:
        try:
            if is_first:
                accept(project, call)
            else:
                with tenant(project.pk):
                    reset()
        finally:
            close_connection()

    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            if is_first:
                reset()
            else:
                assert not ingest.accept(project.pk, call, now=NOW).verdict.allowed
            late = pool.submit(other)
            await_a_waiter("transactionid")
        late.result(timeout=30)
    with tenant(project.pk):
        assert Trip.objects.get().reset_by == "ada"
        window = BudgetWindow.objects.get(scope="run")
        assert (window.spent_usd, window.tripped_at, Run.objects.get().tripped_at) == (3, None, None)
        # Granted from the limit, or from what is spent where that is more.
        left = budgets.standing(project.pk, now=NOW, run_id="night").remaining
        assert left == (2 if is_first else 4)


def test_a_run_stays_whose_trip_opens_while_old_runs_leave(committed_db: None) -> None:
    project = a_project()
    a_budget(project, "run", "1")
    spend(project, "0.5", 1)

    def prune() -> None:
        try:
            retention.prune(now=NOW + timedelta(days=401))
        finally:
            close_connection()

    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            call = [a_span(2, 2, reported_usd=Decimal(1), run_id="night", started_at=NOW - timedelta(seconds=9))]
            assert not ingest.accept(project.pk, call, now=NOW).verdict.allowed
            # It passes over what somebody holds.
            pool.submit(prune).result(timeout=30)
        pool.submit(prune).result(timeout=30)
    with tenant(project.pk):
        trip = Trip.objects.get(reset_at=None)
        assert Run.objects.get().tripped_at == NOW
        assert BudgetWindow.objects.get(scope="run").tripped_at == NOW
        trips.reset(trip, note="", top_up_usd=None, actor="ada", project_id=project.pk, now=NOW)


def test_an_alert_budget_tells_and_never_stops(db: None) -> None:
    project = a_project()
    a_budget(project, "project", "1", action="alert")
    verdicts = [spend(project, usd, n) for n, usd in enumerate(["0.9", "1", "1"], start=1)]
    assert all(verdict.allowed for verdict in verdicts)
    assert changes_of(project, "budget") == ["warned", "exceeded"]
    assert changes_of(project, "trip") == []


@pytest.mark.parametrize(("top_up", "left"), [(None, Decimal(10)), (Decimal(3), Decimal(3)), (Decimal(0), Decimal(0))])
def test_a_reset_grants_what_it_says_from_what_is_spent_by_now(db: None, top_up: Decimal | None, left: Decimal) -> None:
    project = a_project()
    a_budget(project, "run", "10")
    spend(project, "12", 1)
    spend(project, "5", 2)
    with tenant(project.pk):
        trip = Trip.objects.get()
        trips.reset(trip, note="go on", top_up_usd=top_up, actor="ada", project_id=project.pk, now=NOW)
        verdict = budgets.standing(project.pk, run_id="night", now=NOW)
        assert (verdict.remaining, verdict.allowed) == (left, left > 0)
        assert Run.objects.get().tripped_at is None
        assert QueueItem.objects.get().status == "resolved"
        with pytest.raises(trips.ResetRefused):
            trips.reset(trip, note="again", top_up_usd=None, actor="bob", project_id=project.pk, now=NOW)
    assert changes_of(project, "trip") == ["open", "reset"]
    spend(project, "10", 3)
    assert changes_of(project, "trip") == ["open", "reset", "open"]


def test_a_global_budget_counts_every_project_and_is_told_where_it_tripped(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    a_budget(None, "global", "10")
    assert spend(north, "6", 1).allowed
    assert not spend(south, "6", 2).allowed
    assert not spend(north, "0.01", 3).allowed
    with tenant(north.pk):
        trip = Trip.objects.get()
        assert (trip.project_id, trip.total_cost_usd) == (None, 12)
    assert (changes_of(north, "trip"), changes_of(south, "trip")) == ([], ["open"])


def test_windows_follow_the_projects_time_zone(db: None) -> None:
    project = a_project(time_zone="Asia/Kolkata")
    spend(project, "1", 1)
    with tenant(project.pk):
        day = BudgetWindow.objects.get(scope="project", period="day")
    assert day.starts_at == (NOW - timedelta(days=1)).replace(hour=18, minute=30)


def windows_of(project: Project, scope: str = "project", **fields: Any) -> dict[tuple[str, datetime], tuple[str, int]]:
    """What the windows of a scope hold, by period and start; of months and empty ones nothing."""
    with tenant(project.pk):
        found = BudgetWindow.objects.filter(scope=scope, **fields).exclude(period="month")
        return {(one.period, one.starts_at): (f"{one.spent_usd:.2f}", one.calls) for one in found if one.calls}


HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def test_what_a_newer_version_takes_back_buys_no_room_in_a_later_window(db: None) -> None:
    project = a_project()
    a_budget(project, "project", "1", "hour")
    spend(project, "5", 1, now=NOW - DAY)
    spend(project, "0.5", 2)
    # The same span again, dearer by name of a later end; it claims to have cost next to nothing.
    began = NOW - DAY - timedelta(seconds=9)
    for n, at in enumerate((NOW, NOW + HOUR), start=2):
        verdict = spend(project, "0.10", 1, now=at, started_at=began, ended_at=began + timedelta(seconds=n))
        assert verdict.current_cost["hour"] >= Decimal("0.10")
    midnight = NOW.replace(hour=0)
    assert windows_of(project) == {
        ("day", midnight): ("0.60", 2),
        ("hour", NOW): ("0.50", 1),
        ("hour", NOW + HOUR): ("0.10", 1),
    }
    assert not spend(project, "0.95", 3, now=NOW + HOUR).allowed
    assert_books_balance(project)


def test_a_tool_that_was_logged_meanwhile_is_taken_back_where_it_was_charged(db: None) -> None:
    project = a_project()
    began = NOW - DAY
    spend(project, "5", 1, kind="tool", tool="buy", now=began, started_at=began - timedelta(seconds=9))
    with tenant(project.pk):
        Span.objects.update(received_at=NOW)
    spend(project, "0.10", 1, kind="tool", tool="buy", started_at=began - timedelta(seconds=9), ended_at=began)
    assert windows_of(project)["hour", NOW] == ("0.10", 1)


def test_a_call_that_only_moves_to_another_agent_stays_in_the_windows_of_its_time(db: None) -> None:
    project = a_project()
    for agent in ("shop", "boss"):
        a_budget(project, "agent", "1", "day", target=agent)
    with tenant(project.pk):
        Budget.objects.update(created_at=NOW - 2 * DAY)
    began = NOW - DAY
    accept(project, [a_bare_span(1, 2, 1, reported_usd=Decimal(5), started_at=began)], now=began + HOUR)
    (opened,) = changes_of(project, "trip")
    accept(project, [a_bare_span(1, 1, kind="agent", agent="boss", agent_stated=True, started_at=began)])
    # Twice: the entry of the move carries the time of the charge as well.
    accept(project, [a_bare_span(1, 1, kind="agent", agent="chef", agent_stated=True, started_at=began, name="later")])
    yesterday = NOW.replace(hour=0) - DAY
    assert windows_of(project, "agent", target="shop") == {}
    assert windows_of(project, "project") == {("day", yesterday): ("5.00", 1), ("hour", began + HOUR): ("5.00", 1)}
    # A window that has ended trips nobody.
    assert changes_of(project, "trip") == [opened] == ["open"]
    assert_books_balance(project)


@pytest.mark.parametrize("kind", ["llm", "tool"])
def test_a_call_that_counts_only_now_is_charged_now(db: None, kind: str) -> None:
    project = a_project()
    a_budget(project, "project", "1", "hour")
    began = NOW - DAY
    above = a_span(1, 1, reported_usd=Decimal(5), started_at=began, kind=kind, tool="buy")
    below = a_span(1, 2, 1, reported_usd=Decimal("0.01"), started_at=began)
    accept(project, [above, below], now=began + HOUR)
    silent = sealed(replace(below, reported_usd=None, tokens=Tokens(), kind="step", ended_at=began + 2 * HOUR))
    assert not accept(project, [silent]).verdict.allowed
    assert windows_of(project) == {("day", NOW.replace(hour=0)): ("5.00", 1), ("hour", NOW): ("5.00", 1)}
    assert_books_balance(project)


def test_a_budget_that_is_younger_than_a_call_gives_nothing_back_for_it(db: None) -> None:
    project = a_project()
    began = NOW - timedelta(hours=3)
    first = a_span(1, 1, reported_usd=Decimal(5), started_at=began)
    accept(project, [first], now=began + timedelta(minutes=1))
    a_budget(project, "agent", "1")
    with tenant(project.pk):
        Budget.objects.update(created_at=NOW - HOUR)
    spend(project, "0.5", 2, agent="planner")
    accept(project, [sealed(replace(first, reported_usd=Decimal("0.1"), ended_at=began + HOUR))])
    assert windows_of(project, "agent") == {("day", NOW.replace(hour=0)): ("0.60", 2)}


def test_corrections_of_ended_windows_and_charges_of_present_ones_at_once_are_exact(committed_db: None) -> None:
    project = a_project()
    a_budget(project, "agent", "1000", "hour")
    with tenant(project.pk):
        Budget.objects.update(created_at=NOW - 2 * DAY)
    began = NOW - DAY
    for n in range(1, 41):
        accept(project, [a_bare_span(n, 2, 1, reported_usd=Decimal(1), started_at=began)], now=began + HOUR)

    def work(worker: int) -> None:
        try:
            for n in range(worker + 1, 41, 8):
                parent = a_bare_span(n, 1, kind="agent", agent="boss", agent_stated=True, started_at=began)
                accept(project, [parent, a_span(1000 + n, 1, reported_usd=Decimal(1))])
                child = a_bare_span(n, 2, 1, reported_usd=Decimal("0.5"), started_at=began, ended_at=began + HOUR)
                accept(project, [child])
        finally:
            close_connection()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert windows_of(project) == {("day", NOW.replace(hour=0)): ("60.00", 80), ("hour", NOW): ("60.00", 80)}
    assert windows_of(project, "agent", target="boss") == {("hour", NOW): ("20.00", 40)}
    assert windows_of(project, "agent", target="planner") == {("hour", NOW): ("40.00", 40)}
    assert_books_balance(project)


def test_sixteen_threads_charge_one_run_exactly_and_trip_it_once(committed_db: None) -> None:
    project = a_project()
    a_budget(project, "run", "0.35")
    verdicts = []

    def work(worker: int) -> None:
        try:
            for n in range(10):
                number = worker * 100 + n + 1
                verdicts.append(accept(project, [a_span(number, number, run_id="night")]).verdict)
        finally:
            close_connection()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    with tenant(project.pk):
        window = BudgetWindow.objects.get(scope="run")
        assert (window.spent_usd, window.calls) == (160 * CALL_USD, 160)
        assert Run.objects.get().cost_usd == 160 * CALL_USD
        assert LedgerEntry.objects.aggregate(total=Sum("cost_usd"))["total"] == 160 * CALL_USD
        trip = Trip.objects.get()
        assert trip.total_cost_usd == 100 * CALL_USD
    assert sum(verdict.allowed for verdict in verdicts) == 99
    assert changes_of(project, "trip") == ["open"]
    assert changes_of(project, "budget") == ["warned"]
    assert_books_balance(project)
