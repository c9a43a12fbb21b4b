"""Saved views among the tabs of the executions list, as signed-in people use them."""

import re
from html import unescape
from typing import Any

import pytest

from dashboard import savedtabs
from monitor.models import SavedView
from monitor.tenancy import tenant
from tests.dashboard.builders import SignedIn, an_execution, signed_in

LIST = "/executions"
FAILED = "status=failed&agent=planner&range=7d"
TAB = re.compile(r'<a href="\?([^"]*)"( aria-current="page")?(?: title="([^"]*)")?><span class="cut tab-word">([^<]*)')


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every story needs the database."""


@pytest.fixture
def mara() -> SignedIn:
    return signed_in()


def text(who: SignedIn, query: str = "") -> str:
    answer = who.client.get(f"{LIST}?{query}")
    assert answer.status_code == 200
    return answer.content.decode()


def tabs(who: SignedIn, query: str = "") -> dict[str, tuple[str, bool]]:
    """{word: (address, is current)} of the saved tabs."""
    found = TAB.findall(text(who, query).partition('id="views"')[2].partition("</nav>")[0])
    return {unescape(word): (unescape(address), bool(current)) for address, current, title, word in found if title}


def save(who: SignedIn, name: str, query: str = FAILED, **more: str) -> Any:
    return who.client.post(f"{LIST}/views", {"name": name, "query": query, **more})


def change(who: SignedIn, view: SavedView, do: str, **more: str) -> int:
    return who.client.post(f"{LIST}/views/{view.pk}", {"do": do, "query": FAILED} | more).status_code


def only(who: SignedIn) -> SavedView:
    with tenant(who.project_id):
        return SavedView.objects.get()


def test_a_list_is_saved_as_it_is_filtered_and_stands_among_the_tabs(mara: SignedIn) -> None:
    an_execution(mara.project_id, agent="planner", status="completed", ended_at="2026-01-01T00:00Z")
    assert "Save view" in text(mara, FAILED)
    answer = save(mara, "  Planner <b>fails</b> ", FAILED + "&after=nonsense&colour=red")
    assert answer.headers["Location"] == f"{LIST}?{FAILED}"
    name = "Planner <b>fails</b>"
    assert tabs(mara) == {name: (FAILED, False)}
    assert tabs(mara, FAILED) == {name: (FAILED, True)}
    page = text(mara, FAILED)
    assert page.count('aria-current="page"') - page.partition("</nav>")[0].count('aria-current="page"') == 1
    assert "Save view" not in page
    assert "Delete this view" in page
    assert tabs(mara, "agent=planner")[name] == (FAILED, False)
    assert only(mara).query == {"status": ["failed"], "agent": "planner", "range": "7d"}


def test_a_custom_range_and_every_filter_come_back(mara: SignedIn) -> None:
    whole = (
        "view=needs&status=failed&status=timeout&agent=a%2Fb&run_id=r+1&q=late%26old&order=started"
        "&range=custom&from=2026-11-01T00%3A00%3A00%2B00%3A00&to=2026-11-02T00%3A00%3A00%2B00%3A00"
    )
    save(mara, "All of it", whole)
    assert tabs(mara, whole) == {"All of it": (whole, True)}
    hanging = "view=still&still=stalled&still=silent&range=24h"
    save(mara, "What hangs", hanging)
    assert tabs(mara, hanging)["What hangs"] == (hanging, True)


def test_a_view_is_shared_and_taken_back(mara: SignedIn) -> None:
    bob = signed_in(email="bob@north.example")
    save(mara, "Fails")
    assert tabs(bob) == {}
    assert change(mara, only(mara), "share") == 302
    assert list(tabs(bob)) == ["Fails"]
    assert "Delete this view" not in text(bob, FAILED)
    assert [change(bob, only(mara), do, name="Mine") for do in ("rename", "share", "unshare", "delete")] == [404] * 4
    assert change(mara, only(mara), "rename", name="Fails of planner") == 302
    assert change(mara, only(mara), "unshare") == 302
    assert tabs(bob) == {}
    assert list(tabs(mara)) == ["Fails of planner"]
    assert change(mara, only(mara), "explode") == 404
    assert change(mara, only(mara), "delete") == 302
    assert tabs(mara) == {}


def test_the_list_opens_with_ones_default_view_until_it_is_taken_back(mara: SignedIn) -> None:
    bob = signed_in(email="bob@north.example")
    save(mara, "Fails", shared="on")
    view = only(mara)
    assert change(bob, view, "default") == 404
    assert mara.client.get(LIST).status_code == 200
    assert change(mara, view, "default") == 302
    opened = mara.client.get(LIST)
    assert (opened.status_code, opened.headers["Location"]) == (302, f"{LIST}?{FAILED}")
    assert "Open with all executions again" in text(mara, FAILED)
    assert "your list opens with it" in text(mara, FAILED)
    # All is a list like every other, and nobody else's list opens like that.
    assert mara.client.get(f"{LIST}?range=24h").status_code == 200
    assert bob.client.get(LIST).status_code == 200
    assert "your list opens with it" not in text(bob, FAILED)

    save(mara, "Late", "q=late")
    with tenant(mara.project_id):
        other = SavedView.objects.get(name="Late")
    assert change(mara, other, "default") == 302
    assert mara.client.get(LIST).headers["Location"] == f"{LIST}?q=late&range=24h"
    with tenant(mara.project_id):
        assert list(SavedView.objects.filter(is_default=True)) == [other]
    assert change(mara, other, "no-default") == 302
    assert mara.client.get(LIST).status_code == 200


def test_an_admin_takes_a_shared_view_away(mara: SignedIn) -> None:
    boss = signed_in(role="admin")
    save(mara, "Fails")
    assert change(boss, only(mara), "delete") == 404
    change(mara, only(mara), "share")
    page = text(boss, FAILED)
    assert "Delete this view" in page
    assert "Rename" not in page
    assert change(boss, only(mara), "delete") == 302
    assert tabs(mara) == {}


def test_a_viewer_sees_what_is_shared_and_may_save_nothing(mara: SignedIn) -> None:
    vera = signed_in(role="viewer")
    save(mara, "Fails", shared="on")
    assert list(tabs(vera)) == ["Fails"]
    page = text(vera, FAILED)
    assert "Save view" not in page
    assert "This view" not in page
    assert save(vera, "Mine").status_code == 404
    assert change(vera, only(mara), "delete") == 404


def test_another_projects_views_are_not_there(mara: SignedIn) -> None:
    save(mara, "Fails", shared="on")
    south = signed_in("south", role="admin")
    assert tabs(south) == {}
    assert change(south, only(mara), "delete") == 404
    assert list(tabs(mara)) == ["Fails"]


@pytest.mark.parametrize("name", ["", "   ", "x" * 61])
def test_a_name_that_cannot_be_is_said(mara: SignedIn, name: str) -> None:
    answer = mara.client.post(f"{LIST}/views", {"name": name, "query": FAILED}, follow=True)
    assert "1 to 60 characters" in answer.content.decode()
    assert tabs(mara) == {}


def test_a_name_that_is_taken_and_too_many_are_said(mara: SignedIn) -> None:
    for n in range(20):
        save(mara, f"View {n}")
    again = mara.client.post(f"{LIST}/views", {"name": "View 3", "query": FAILED}, follow=True)
    assert "You have 20 views" in again.content.decode()
    with tenant(mara.project_id):
        view = SavedView.objects.get(name="View 4")
    taken = mara.client.post(f"{LIST}/views/{view.pk}", {"do": "rename", "name": "View 3", "query": ""}, follow=True)
    assert "You have a view View 3 already" in taken.content.decode()


def test_counts_stand_where_they_are_cheap_and_cost_no_query_more(
    mara: SignedIn, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    monkeypatch.setattr(savedtabs, "COUNTED_VIEWS", 2)
    an_execution(mara.project_id, agent="planner")
    save(mara, "A search", "q=late")
    for n in range(4):
        save(mara, f"Planner {n}", "agent=planner")
    page = text(mara, "part=views")
    counts = re.findall(r'tab-word">([^<]*)</span>(?: <span class="count-bare[^"]*">(\d+))?', page)
    assert [count for word, count in counts if word.startswith(("A ", "Planner"))] == ["", "1", "1", "", ""]
    with django_assert_max_num_queries(14 + 13):
        text(mara)


def test_a_nul_in_the_query_of_a_view_is_refused(mara: SignedIn) -> None:
    assert save(mara, "Bad", "agent=a%00b").status_code == 400
    assert save(mara, "Good").status_code == 302
    assert change(mara, only(mara), "share", query="q=%00") == 400
    assert (only(mara).name, only(mara).is_shared) == ("Good", False)
