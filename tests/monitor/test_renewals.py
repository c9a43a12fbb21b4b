"""When the window of a trip is over nobody has to decide any more, and nothing is left waiting."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from alerts.judge import judge
from alerts.models import Alert
from monitor import renewals, trips
from monitor.models import Project, QueueItem, Trip
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import signed_in
from tests.monitor.spending import NOW, a_project
from tests.monitor.test_budgets import a_budget, changes_of, spend

HOUR = timedelta(hours=1)


def trips_of(project: Project) -> dict[str, bool]:
    """Whether the trip of each scope is open."""
    with tenant(project.pk):
        return {scope: at is None for scope, at in Trip.objects.values_list("scope", "reset_at")}


def items_of(project: Project) -> list[tuple[Any, ...]]:
    with tenant(project.pk):
        return list(QueueItem.objects.order_by("evidence__scope").values_list("evidence__scope", "status", "outcome"))


def test_a_trip_closes_with_its_window_and_takes_its_item_and_alert_along(db: None) -> None:
    north = a_project()
    for scope, period in (("project", "hour"), ("agent", "day"), ("run", "run")):
        a_budget(north, scope, "10", period)
    a_budget(None, "global", "10", "hour")
    spend(north, "12", 1)
    judge(now=NOW)
    assert renewals.close_over(now=NOW + HOUR - timedelta(seconds=1)) == 0
    assert renewals.close_over(now=NOW + HOUR) == 2
    assert renewals.close_over(now=NOW + HOUR) == 0
    assert trips_of(north) == {"agent": True, "global": False, "project": False, "run": True}
    assert items_of(north) == [
        ("agent", "pending", ""),
        ("global", "cancelled", "its time is over"),
        ("project", "cancelled", "its time is over"),
        ("run", "pending", ""),
    ]
    assert changes_of(north, "trip")[4:] == ["closed", "closed"]
    assert changes_of(north, "queue_item")[4:] == ["cancelled", "cancelled"]
    judge(now=NOW + HOUR)
    with crossing():
        firing = Alert.objects.filter(type="budget_tripped", status="firing").values_list("data__scope", flat=True)
        assert set(firing) == {"agent", "run"}


def test_a_day_is_over_at_the_midnight_of_the_project(db: None) -> None:
    kolkata, utc = a_project("kolkata", time_zone="Asia/Kolkata"), a_project("utc")
    for project in (kolkata, utc):
        a_budget(project, "project", "10")
        spend(project, "12", project.pk)
    midnight = NOW.replace(hour=18, minute=30)
    assert renewals.close_over(now=midnight - timedelta(seconds=1)) == 0
    assert renewals.close_over(now=midnight) == 1
    assert (trips_of(kolkata), trips_of(utc)) == ({"project": False}, {"project": True})


def test_twenty_trips_ask_the_database_as_often_as_one(db: None, django_assert_max_num_queries: Any) -> None:
    north = a_project()
    a_budget(north, "agent", "1", "hour")
    for n in range(1, 21):
        spend(north, "2", n, agent=f"agent-{n}")
    with django_assert_max_num_queries(12):
        assert renewals.close_over(now=NOW + HOUR) == 20
    assert {status for _, status, _ in items_of(north)} == {"cancelled"}


def test_more_than_one_run_takes_are_left_to_the_next(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewals, "AT_ONCE", 2)
    north = a_project()
    a_budget(north, "agent", "1", "hour")
    for n in range(1, 4):
        spend(north, "2", n, agent=f"agent-{n}")
    assert [renewals.close_over(now=NOW + HOUR) for _ in range(3)] == [2, 1, 0]


def test_who_resets_a_trip_that_is_over_is_told_so(db: None) -> None:
    mara = signed_in("north")
    with tenant(mara.project_id):
        north = Project.objects.get()
        a_budget(north, "project", "10", "hour")
        spend(north, "12", 1)
        item, trip = QueueItem.objects.get(), Trip.objects.get()
    renewals.close_over(now=NOW + HOUR)
    with tenant(north.pk), pytest.raises(trips.ResetRefused) as refused:
        trips.reset(trip, note="", top_up_usd=Decimal(1), actor="ada", project_id=north.pk, now=NOW + HOUR)
    assert str(refused.value) == "its hour is over, and calls are allowed again"
    for path, said in (
        (f"/queue/{item.pk}", "its time is over"),
        ("/costs/trips", "its hour is over"),
        (f"/costs/trips/{trip.pk}/reset", "Its hour is over: new calls are allowed."),
    ):
        page = mara.client.get(path).content.decode()
        assert said in page
        assert " by ." not in page
