"""A project changes its time zone: its budgets stay spent, and stay exact."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import call_command
from msgspec.structs import replace

from monitor import budgets, ingest, renewals, trips, zones
from monitor.models import Budget, BudgetWindow, Project, Trip
from monitor.records import Tokens, sealed
from monitor.tenancy import tenant
from tests.monitor.spending import (
    NOW,
    a_project,
    a_span,
    accept,
    assert_books_balance,
    close_connection,
)
from tests.monitor.test_budgets import a_budget, spend
from tests.monitor.test_settlement import await_a_waiter

KOLKATA = "Asia/Kolkata"
HOUR = timedelta(hours=1)
# Of this day in Kolkata, which begins at 18:30 UTC, and of the day before in UTC.
LAST_NIGHT = NOW - 16 * HOUR
MIDNIGHT = NOW.replace(hour=0)


def move(project: Project, zone: str, now: datetime = NOW) -> None:
    with tenant(project.pk):
        assert zones.move(project.pk, zone, now=now)
        project.refresh_from_db()


def held(project: Project, scope: str, period: str, starts_at: datetime) -> dict[str, tuple[Decimal, int]]:
    with tenant(project.pk):
        found = BudgetWindow.objects.filter(scope=scope, period=period, starts_at=starts_at)
        return {one.target: (one.spent_usd, one.calls) for one in found}


def test_a_spent_budget_stays_spent_by_another_calendar(db: None) -> None:
    project = a_project(time_zone=KOLKATA)
    for period in ("hour", "day", "week", "month"):
        a_budget(project, "project", "1", period)
    spend(project, "0.25", 1, now=LAST_NIGHT)
    spend(project, "1.5", 2, now=NOW - HOUR / 12)
    move(project, "UTC")
    assert held(project, "project", "hour", NOW) == {}
    assert held(project, "project", "day", MIDNIGHT) == {"": (Decimal("1.5"), 1)}
    with tenant(project.pk):
        standing = budgets.standing(project.pk, now=NOW)
    assert (standing.allowed, standing.remaining) == (False, 0)
    assert not spend(project, "0.01", 3).allowed
    assert_books_balance(project, since=NOW)
    # And back again: nothing is counted twice, and what came meanwhile is there.
    move(project, KOLKATA)
    assert held(project, "project", "day", MIDNIGHT - 5.5 * HOUR) == {"": (Decimal("1.76"), 3)}
    assert held(project, "project", "hour", NOW - HOUR / 2) == {"": (Decimal("1.51"), 2)}
    assert_books_balance(project, since=NOW)


def test_what_a_later_version_takes_back_leaves_the_new_windows_exact(db: None) -> None:
    project = a_project(time_zone=KOLKATA)
    spans = [a_span(1, n, reported_usd=Decimal(5), started_at=NOW - HOUR) for n in (1, 2)]
    accept(project, spans, now=NOW - HOUR / 2)
    move(project, "UTC")
    dearer = [sealed(replace(one, reported_usd=None, tokens=Tokens(), ended_at=NOW, kind="step")) for one in spans]
    accept(project, dearer[:1])
    assert held(project, "project", "day", MIDNIGHT) == {"": (Decimal(5), 1)}
    accept(project, dearer[1:])
    assert held(project, "project", "day", MIDNIGHT) == {"": (Decimal(0), 0)}
    assert_books_balance(project, since=NOW)


def test_agents_and_departments_keep_what_they_spent_since_they_have_a_budget(db: None) -> None:
    project = a_project(time_zone=KOLKATA)
    a_budget(project, "agent", "9")
    a_budget(project, "agent", "3", target="boss")
    a_budget(project, "department", "5", target="Sales")
    with tenant(project.pk):
        Budget.objects.filter(target="boss").update(created_at=NOW - 9 * HOUR)
        Budget.objects.filter(target="").update(created_at=NOW - 4 * HOUR)
        Budget.objects.filter(target="Sales").update(created_at=NOW - 9 * HOUR)
    for n, (agent, department, ago) in enumerate(
        [("boss", "Sales", 5), ("boss", "", 1), ("chef", "Sales", 5), ("chef", "Support", 1), ("", "", 1)], start=1
    ):
        said = {"agent": agent, "agent_stated": bool(agent), "department": department}
        spend(project, "1", n, now=NOW - ago * HOUR, **said)
    before = {scope: held(project, scope, "day", MIDNIGHT - 5.5 * HOUR) for scope in ("agent", "department")}
    assert before["agent"]["boss"] == (Decimal(2), 2)
    move(project, "UTC")
    assert held(project, "agent", "day", MIDNIGHT) == {"boss": (Decimal(2), 2), "chef": (Decimal(1), 1)}
    assert held(project, "department", "day", MIDNIGHT) == {"Sales": (Decimal(2), 2)}


def test_a_stop_of_the_new_day_stands_until_it_is_reset(db: None) -> None:
    project = a_project(time_zone=KOLKATA)
    a_budget(project, "project", "1")
    assert not spend(project, "2", 1, now=NOW - HOUR).allowed
    move(project, "UTC")
    assert renewals.close_over(now=NOW) == 0
    assert not spend(project, "0", 2).allowed
    with tenant(project.pk):
        trip = Trip.objects.get()
        assert (trip.window_starts_at, trip.reset_at) == (MIDNIGHT, None)
        trips.reset(trip, note="", top_up_usd=Decimal(1), actor="ada", project_id=project.pk, now=NOW)
    assert spend(project, "0.4", 3).allowed
    # What was granted is there by either calendar.
    move(project, KOLKATA)
    assert spend(project, "0.4", 4).remaining == Decimal("0.2")


def test_a_stop_stands_when_the_zone_is_set_and_set_back(db: None) -> None:
    project = a_project(time_zone="UTC")
    a_budget(project, "project", "1")
    # Before the day of Los Angeles begins: there it stops nothing.
    stopped_at = MIDNIGHT + HOUR
    assert not spend(project, "2", 1, now=stopped_at).allowed
    move(project, "America/Los_Angeles")
    with tenant(project.pk):
        assert budgets.standing(project.pk, now=NOW).allowed
    move(project, "UTC")
    with tenant(project.pk):
        assert BudgetWindow.objects.get(scope="project", period="day", starts_at=MIDNIGHT).tripped_at == stopped_at
    assert not spend(project, "0.1", 2).allowed
    with tenant(project.pk):
        trips.reset(Trip.objects.get(), note="", top_up_usd=Decimal(1), actor="ada", project_id=project.pk, now=NOW)
    assert spend(project, "0.1", 3).remaining == Decimal("0.9")


def test_a_stop_and_a_top_up_of_the_day_before_stay_there(db: None) -> None:
    project = a_project(time_zone=KOLKATA)
    a_budget(project, "project", "1")
    spend(project, "5", 1, now=LAST_NIGHT)
    with tenant(project.pk):
        trips.reset(Trip.objects.get(), note="", top_up_usd=Decimal(2), actor="ada", project_id=project.pk, now=NOW)
    assert not spend(project, "3", 2, now=LAST_NIGHT + HOUR).allowed
    move(project, "UTC")
    assert renewals.close_over(now=NOW) == 1
    verdict = spend(project, "0.25", 3)
    assert (verdict.allowed, verdict.remaining) == (True, Decimal("0.75"))
    with tenant(project.pk):
        assert BudgetWindow.objects.get(scope="project", period="day", starts_at=MIDNIGHT).top_up_usd == 0


@pytest.mark.parametrize("is_first", [False, True])
def test_a_reset_at_the_same_moment_grants_from_what_the_new_window_holds(committed_db: None, is_first: bool) -> None:
    project = a_project(time_zone=KOLKATA)
    a_budget(project, "project", "2")
    spend(project, "1", 1, now=LAST_NIGHT)
    assert not spend(project, "2", 2).allowed
    with tenant(project.pk):
        trip = Trip.objects.get()

    def reset() -> None:
        trips.reset(trip, note="", top_up_usd=Decimal(1), actor="ada", project_id=project.pk, now=NOW)

    def other() -> None:
        try:
            if is_first:
                with tenant(project.pk):
                    reset()
            else:
                move(project, "UTC")
        finally:
            close_connection()

    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            if is_first:
                assert zones.move(project.pk, "UTC", now=NOW)
            else:
                reset()
            late = pool.submit(other)
            await_a_waiter("transactionid")
        late.result(timeout=30)
    with tenant(project.pk):
        project.refresh_from_db()
        assert project.time_zone == "UTC"
        assert Trip.objects.get().reset_by == "ada"
        standing = budgets.standing(project.pk, now=NOW)
        assert (standing.allowed, standing.remaining) == (True, 1)


@pytest.mark.parametrize("is_first", [False, True])
def test_a_batch_at_the_same_moment_is_in_the_windows_that_run(committed_db: None, is_first: bool) -> None:
    project = a_project(time_zone=KOLKATA)
    spend(project, "1", 1)
    batch = [a_span(2, 1, reported_usd=Decimal(2))]

    def other() -> None:
        try:
            if is_first:
                accept(project, batch)
            else:
                move(project, "UTC")
        finally:
            close_connection()

    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            if is_first:
                assert zones.move(project.pk, "UTC", now=NOW)
            else:
                ingest.accept(project.pk, batch, now=NOW)
            late = pool.submit(other)
            await_a_waiter()
        late.result(timeout=30)
    with tenant(project.pk):
        project.refresh_from_db()
    assert held(project, "project", "day", MIDNIGHT) == {"": (Decimal(3), 2)}
    assert held(project, "project", "hour", NOW) == {"": (Decimal(3), 2)}
    assert_books_balance(project, since=NOW)


def test_the_command_sets_the_windows_with_the_zone(db: None) -> None:
    project = a_project(time_zone=KOLKATA)
    now = datetime.now(NOW.tzinfo)
    spend(project, "1", 1, now=now)
    call_command("project", project.name, "--time-zone", "UTC", stdout=StringIO())
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert held(project, "project", "month", month) == {"": (Decimal(1), 1)}
