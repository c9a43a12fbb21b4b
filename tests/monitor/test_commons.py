"""What all projects share: whom a global budget refuses learns that, and no sum of others."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from alerts.judge import judge
from alerts.models import Alert
from monitor import budgets, figures, trips
from monitor.models import Budget, Person, Project, QueueItem, Trip
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import SignedIn, signed_in
from tests.monitor.api.conftest import client_with, make_key
from tests.monitor.spending import NOW, a_project
from tests.monitor.test_budgets import a_budget, changes_of, spend

SPENT = "1234.56"


@pytest.fixture
def south(db: None) -> Client:
    """A key of a project that has spent nothing, while another has spent the budget of all."""
    cache.clear()
    a_budget(None, "global", "1000")
    spend(a_project("north"), SPENT, 1, now=datetime.now(UTC))
    return client_with(make_key(a_project("south"))[1])


def get(client: Client, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.json()


def in_project(person: SignedIn, name: str) -> Client:
    """The person of a session through the API."""
    client = Client(headers={"X-Handrail-Project": name})
    client.force_login(person.person)
    return client


def test_a_key_sees_neither_global_budgets_nor_their_trips(south: Client) -> None:
    assert get(south, "/api/v1/budgets")["results"] == []
    assert get(south, "/api/v1/trips")["results"] == []
    assert get(south, "/api/metrics?type=costs")["costs"]["budgets"] == []
    with crossing():
        trip, budget = Trip.objects.get().pk, Budget.objects.get().pk
    for path in (f"/api/v1/trips/{trip}", f"/api/v1/budgets/{budget}"):
        assert south.get(path).status_code == 404
    assert south.post(f"/api/v1/trips/{trip}/reset", {}, content_type="application/json").status_code == 404
    assert south.delete(f"/api/v1/budgets/{budget}").status_code == 404


def test_whom_a_global_budget_refuses_learns_that_and_no_sum(south: Client) -> None:
    call = {"model": "gpt-4o", "input_tokens": 1}
    told = south.post("/api/v1/calls", call, content_type="application/json").json()
    assert (told["allowed"], told["reason"]) == (False, "The budget of all projects for this day is spent.")
    assert Decimal(told["remaining"]) == 0


def test_what_a_global_budget_has_left_is_nobodys_business(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    a_budget(None, "global", "1000")
    a_budget(south, "project", "5000")
    assert spend(north, "900", 1).remaining is None
    assert spend(south, "1", 2).remaining == 4999


def test_the_item_of_a_global_trip_tells_the_projects_own_part(south: Client) -> None:
    with crossing():
        north = Project.objects.get(name="north")
    spender = client_with(make_key(north)[1])
    (item,) = get(spender, "/api/v1/queue")["results"]
    assert item["title"] == "Budget tripped: all projects, this day"
    assert SPENT in str(item["evidence"].pop("cost_by_model"))
    assert "1234" not in str(item)
    assert "1000" not in str(item)


def test_an_admin_of_the_instance_sees_them_through_the_api(south: Client) -> None:
    ada = signed_in("east", role="admin")
    mine = in_project(ada, "east")
    assert get(mine, "/api/v1/budgets")["results"] == []
    Person.objects.filter(pk=ada.person.pk).update(is_instance_admin=True)
    (budget,) = get(mine, "/api/v1/budgets")["results"]
    assert (budget["is_global"], budget["tripped"], Decimal(budget["spent_usd"])) == (True, True, Decimal(SPENT))
    (trip,) = get(mine, "/api/v1/trips")["results"]
    assert (trip["is_global"], Decimal(trip["total_cost_usd"])) == (True, Decimal(SPENT))


def test_the_page_of_a_global_trips_item_says_who_resets_it(db: None) -> None:
    mara = signed_in("north", role="admin")
    a_budget(None, "global", "1000")
    with tenant(mara.project_id):
        spend(Project.objects.get(), SPENT, 1, now=datetime.now(UTC))
        item = QueueItem.objects.get()
    page = mara.client.get(f"/queue/{item.pk}").content.decode()
    assert "Budget tripped: all projects, this day" in page
    assert "Trips of global budgets are reset by the admins of the instance." in page
    assert "1,234" not in page
    assert "1234" not in page
    assert mara.client.post(f"/queue/{item.pk}/reset", {}).status_code == 404
    Person.objects.filter(pk=mara.person.pk).update(is_instance_admin=True)
    page = mara.client.get(f"/queue/{item.pk}").content.decode()
    assert "1234.56 of 1000.00 US dollars spent" in page
    assert "Top-up" in page


def test_figures_ask_as_often_for_twenty_budgets_as_for_one(
    db: None, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    north = a_project()
    a_budget(a_project("south"), "project", "7")
    for n in range(20):
        a_budget(north, "agent", "10", target=f"agent-{n}")
    now = datetime.now(UTC)
    spend(north, "3", 1, now=now, agent="agent-3")
    with tenant(north.pk), django_assert_max_num_queries(10):
        told = figures.of_costs(north.pk, now=now)["budgets"]
    spent = {one["target"]: one["spent_usd"] for one in told}
    assert spent == {f"agent-{n}": Decimal(3 if n == 3 else 0) for n in range(20)}


def test_a_global_trip_is_settled_where_it_tripped_wherever_it_is_reset(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    a_budget(None, "global", "10")
    spend(north, "12", 1)
    judge(now=NOW)
    with tenant(south.pk):
        trip = Trip.objects.get()
        trips.reset(trip, note="go on", top_up_usd=Decimal(5), actor="ada", project_id=south.pk, now=NOW)
        assert budgets.standing(south.pk, now=NOW).allowed
    judge(now=NOW)
    with crossing():
        items = QueueItem.objects.values_list("project__name", "status", "outcome", "note")
        assert list(items) == [("north", "resolved", "reset", "go on")]
        told = Alert.objects.filter(type="budget_tripped").values_list("project__name", "status")
        assert list(told) == [("north", "resolved")]
    assert (changes_of(north, "trip"), changes_of(south, "trip")) == (["open", "reset"], [])


def test_a_trips_item_is_closed_by_its_reset_and_not_in_the_queue(db: None) -> None:
    mara = signed_in("north")
    with tenant(mara.project_id):
        a_budget(Project.objects.get(), "run", "10")
        spend(Project.objects.get(), "12", 1)
        item = QueueItem.objects.get()
    answer = in_project(mara, "north").post(f"/api/v1/queue/{item.pk}/resolve", {}, content_type="application/json")
    assert (answer.status_code, answer.json()["reason"]) == (409, "decided_elsewhere")
    assert answer.json()["detail"] == "Reset the trip, or wait until its hour, day, week or month is over."
    with tenant(mara.project_id):
        item.refresh_from_db()
        assert item.status == "pending"
