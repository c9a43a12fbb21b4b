"""Saved views over HTTP: a person's own, what others share, and what a key sees."""

import json
from functools import partial
from typing import Any

import pytest
from django.test import Client

from monitor import savedviews
from monitor.models import Membership, Person, Project, SavedView
from monitor.savedviews import Query
from monitor.tenancy import crossing, tenant
from tests.monitor.api.conftest import client_with, make_key, make_project, now
from tests.monitor.fleets import at_once

VIEWS = "/api/v1/views"


@pytest.fixture
def north(db: None) -> Project:
    return make_project("north")


def join(project: Project, name: str = "ann", role: str = "operator") -> Client:
    with crossing():
        person = Person.objects.create_user(f"{name}@example.org", "correct horse", name=name.title())
        Membership.objects.create(project=project, person=person, role=role)
    browser = Client(raise_request_exception=False)
    browser.force_login(person)
    return browser


def send(browser: Client, method: str, address: str = VIEWS, /, **body: Any) -> Any:
    return browser.generic(method, address, json.dumps(body), content_type="application/json")


def names(browser: Client) -> list[str]:
    return [one["name"] for one in browser.get(VIEWS).json()["views"]]


def test_a_view_is_saved_shared_renamed_and_taken_away(north: Project) -> None:
    ann, bob = join(north), join(north, "bob")
    query = {"status": ["failed", "timeout"], "agent": "planner", "range": "7d"}
    made = send(ann, "POST", name="Planner fails", query=query)
    assert made.status_code == 201
    view = made.json()
    assert (view["query"], view["is_shared"], view["is_own"], view["owner"]) == (query, False, True, "Ann")
    assert (names(ann), names(bob)) == (["Planner fails"], [])

    where = f"{VIEWS}/{view['id']}"
    assert send(bob, "PATCH", where, is_shared=True).status_code == 404
    assert send(ann, "PATCH", where, is_shared=True, name="Fails").json()["name"] == "Fails"
    assert names(bob) == ["Fails"]
    assert not bob.get(VIEWS).json()["views"][0]["is_own"]
    assert send(bob, "PATCH", where, name="Mine").status_code == 404
    assert send(bob, "DELETE", where).status_code == 404
    assert send(ann, "PATCH", where, query={"q": "late"}).json()["query"] == {"q": "late"}
    assert send(ann, "DELETE", where).status_code == 204
    assert (names(ann), names(bob)) == ([], [])
    assert send(ann, "DELETE", where).status_code == 404


def test_one_view_of_a_person_is_their_default(north: Project) -> None:
    ann, bob = join(north), join(north, "bob")
    first, second = (send(ann, "POST", name=name, is_shared=True).json()["id"] for name in ("First", "Second"))

    def defaults(browser: Client) -> list[str]:
        return [one["name"] for one in browser.get(VIEWS).json()["views"] if one["is_default"]]

    assert defaults(ann) == []
    for view, name in ((first, "First"), (second, "Second"), (second, "Second")):
        assert send(ann, "PATCH", f"{VIEWS}/{view}", is_default=True).json()["is_default"] is True
        assert (defaults(ann), defaults(bob)) == ([name], [])
    assert send(bob, "PATCH", f"{VIEWS}/{first}", is_default=True).status_code == 404
    assert defaults(ann) == ["Second"]
    assert send(ann, "PATCH", f"{VIEWS}/{second}", is_default=False).json()["is_default"] is False
    assert defaults(ann) == []


def test_an_admin_takes_away_what_is_shared_and_nothing_else(north: Project) -> None:
    ann, boss = join(north), join(north, "boss", "admin")
    shared = send(ann, "POST", name="Shared", is_shared=True).json()["id"]
    own = send(ann, "POST", name="Own").json()["id"]
    assert send(boss, "DELETE", f"{VIEWS}/{own}").status_code == 404
    assert send(boss, "DELETE", f"{VIEWS}/{shared}").status_code == 204
    assert names(ann) == ["Own"]


def test_a_key_sees_what_is_shared_and_keeps_none(north: Project) -> None:
    ann = join(north)
    send(ann, "POST", name="Shared", is_shared=True)
    send(ann, "POST", name="Own")
    key = client_with(make_key(north)[1])
    assert names(key) == ["Shared"]
    assert send(key, "POST", name="Mine").status_code == 403
    viewer = join(north, "vera", "viewer")
    assert names(viewer) == ["Shared"]
    assert send(viewer, "POST", name="Mine").status_code == 403


def test_another_project_sees_none_of_it(north: Project) -> None:
    ann = join(north)
    view = send(ann, "POST", name="Shared", is_shared=True).json()["id"]
    south = make_project("south")
    carl = join(south, "carl", "admin")
    assert names(carl) == []
    assert names(client_with(make_key(south)[1])) == []
    assert send(carl, "DELETE", f"{VIEWS}/{view}").status_code == 404
    assert send(carl, "PATCH", f"{VIEWS}/{view}", name="Taken").status_code == 404
    with tenant(south.pk):
        assert SavedView.objects.count() == 0
        assert SavedView.objects.filter(pk=view).update(name="Taken") == 0
    assert names(ann) == ["Shared"]


def test_a_name_is_a_persons_own(north: Project) -> None:
    ann, bob = join(north), join(north, "bob")
    assert send(ann, "POST", name=" Late  ones ", is_shared=True).json()["name"] == "Late ones"
    assert send(ann, "POST", name="Late ones").status_code == 409
    assert send(bob, "POST", name="Late ones").status_code == 201
    other = send(ann, "POST", name="Others").json()["id"]
    assert send(ann, "PATCH", f"{VIEWS}/{other}", name="Late ones").status_code == 409
    assert names(ann) == ["Late ones", "Others"]
    assert send(ann, "POST", name="   ").json()["errors"][0]["field"] == "name"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"colour": "red"}, "query.colour"),
        ({"status": ["lost"]}, "query.status[0]"),
        ({"range": "2d"}, "query.range"),
        ({"still": ["asleep"]}, "query.still[0]"),
        ({"range": "custom"}, "query"),
        ({"from": "2026-11-01T00:00:00Z", "to": "2026-11-02T00:00:00Z"}, "query"),
        ({"range": "custom", "from": "2026-11-02T00:00:00Z", "to": "2026-11-01T00:00:00Z"}, "query.from"),
        ({"range": "custom", "from": "2026-11-02T00:00:00", "to": "2026-11-03T00:00:00Z"}, "query.from"),
        ({"agent": "x" * 201}, "query.agent"),
        ({"order": "cost"}, "query.order"),
    ],
)
def test_a_query_that_no_list_knows_is_refused(north: Project, query: dict[str, Any], field: str) -> None:
    ann = join(north)
    answer = send(ann, "POST", name="Odd", query=query)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
    assert names(ann) == []


def test_twenty_are_enough_and_a_place_is_used_again(north: Project) -> None:
    ann, bob = join(north), join(north, "bob")
    made = [send(ann, "POST", name=f"View {n}").json()["id"] for n in range(20)]
    assert send(ann, "POST", name="One more").status_code == 409
    assert send(bob, "POST", name="One more").status_code == 201
    send(ann, "DELETE", f"{VIEWS}/{made[3]}")
    assert send(ann, "POST", name="One more").status_code == 201
    assert names(ann)[3] == "One more"
    assert len(names(ann)) == 20


def test_windows_that_save_at_once_get_a_place_each_and_never_more_than_twenty(committed_db: None) -> None:
    north = make_project("north")
    with crossing():
        ann = Person.objects.create_user("ann@example.org", "correct horse")

    def save(n: int) -> bool:
        try:
            with tenant(north.pk):
                savedviews.save(north.pk, ann.pk, name=f"View {n}", query=Query(), now=now())
        except savedviews.TooManyViews:
            return False
        return True

    for n in range(16):
        save(n)
    saved = at_once([lambda n=n: save(n) for n in range(16, 24)])  # type: ignore[misc]
    assert sorted(saved) == [False] * 4 + [True] * 4
    with tenant(north.pk):
        assert sorted(SavedView.objects.values_list("position", flat=True)) == list(range(20))


def test_of_windows_that_choose_a_default_at_once_one_is_last(committed_db: None) -> None:
    north = make_project("north")
    with crossing():
        ann = Person.objects.create_user("ann@example.org", "correct horse")
    with tenant(north.pk):
        views = [savedviews.save(north.pk, ann.pk, name=f"View {n}", query=Query(), now=now()) for n in range(6)]

    def choose(view: SavedView) -> bool:
        with tenant(north.pk):
            return savedviews.change(north.pk, ann.pk, view.pk, is_default=True)

    assert at_once([partial(choose, one) for one in views]) == [True] * 6
    with tenant(north.pk):
        assert SavedView.objects.filter(is_default=True).count() == 1


def test_of_two_saves_of_one_name_one_is_taken(committed_db: None) -> None:
    north = make_project("north")
    with crossing():
        ann = Person.objects.create_user("ann@example.org", "correct horse")

    def save() -> bool:
        try:
            with tenant(north.pk):
                savedviews.save(north.pk, ann.pk, name="Late", query=Query(), now=now())
        except savedviews.NameTaken:
            return False
        return True

    assert sorted(at_once([save] * 6)) == [False] * 5 + [True]
