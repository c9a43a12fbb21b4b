"""Saved views as people use their menus: saved, shared, opened with, renamed and deleted, by mouse and by keys."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.filling import CALM, post
from tests.browser.windows import Project, Window, make_person, make_project
from tests.flows.running import api
from tests.launcher.instance import Instance

pytestmark = pytest.mark.browser

WORK = (("planner", "Plan the first week"), ("planner", "Plan the second week"), ("clerk", "Answer a customer"))
PLANNERS = "/executions?agent=planner&range=7d"


@pytest.fixture(scope="module")
def team(handrail: Instance) -> Project:
    """Ada and Bob, who work in a project with three executions, and Vera, who may only look."""
    project = make_project(handrail, "views", ("Ada Lane", "Bob Hill"))
    project.people.append(make_person(handrail, "views", "Vera Moss", "viewer"))
    with api(handrail, project.key) as client:
        for agent, task in WORK:
            post(client, "/executions", agent=agent, task=task, **CALM)
    return project


def tab(page: Page, name: str) -> Locator:
    return page.get_by_role("navigation", name="Views").get_by_role("link", name=re.compile(f"^{re.escape(name)}( |$)"))


def menu(page: Page, name: str) -> Locator:
    """The menu of this name, opened; once it is drawn it stays so."""
    found = page.locator("details.menu").filter(has=page.locator("summary", has_text=name))
    found.locator("summary").click()
    expect(found.locator(".menu-panel")).to_be_visible()
    return found


def save(page: Page, name: str, *, shared: bool = False) -> None:
    opened = menu(page, "Save view")
    opened.get_by_label("Name of this list").fill(name)
    if shared:
        opened.get_by_label("Show it to everybody in the project").check()
    opened.get_by_role("button", name="Save").click()


def test_a_list_is_saved_shared_opened_with_renamed_and_deleted(team: Project, window: Callable[..., Window]) -> None:
    ada, bob, _ = team.people
    mine = window().sign_in(ada, PLANNERS)
    theirs = window().sign_in(bob, "/executions")
    rows = mine.locator("#rows [data-row]")
    expect(rows).to_have_count(2)

    save(mine, "Planners")
    expect(mine.get_by_text("The view Planners is saved.")).to_be_visible()
    expect(tab(mine, "Planners")).to_have_attribute("aria-current", "page")
    expect(tab(mine, "Planners")).to_have_text(re.compile(r"^Planners\s+2$"))
    expect(mine.get_by_text("Save view")).to_have_count(0)
    theirs.reload()
    expect(tab(theirs, "All")).to_be_visible()
    expect(tab(theirs, "Planners")).to_have_count(0)

    menu(mine, "This view").get_by_role("button", name="Share with the project").click()
    expect(mine.get_by_text("Everybody in the project sees the view now.")).to_be_visible()
    theirs.reload()
    tab(theirs, "Planners").click()
    expect(theirs.locator("#rows [data-row]")).to_have_count(2)
    # It is another's: Bob may look through it, and not change it.
    expect(theirs.get_by_text("This view")).to_have_count(0)

    menu(mine, "This view").get_by_role("button", name="Open my list with this view").click()
    expect(mine.get_by_text("Your list opens with the view now.")).to_be_visible()
    mine.goto("/")
    mine.get_by_role("navigation", name="Main").get_by_role("link", name="Executions").click()
    expect(tab(mine, "Planners")).to_have_attribute("aria-current", "page")
    expect(rows).to_have_count(2)
    tab(mine, "All").click()
    expect(rows).to_have_count(3)
    theirs.goto("/executions")
    expect(tab(theirs, "All")).to_have_attribute("aria-current", "page")

    tab(mine, "Planners").click()
    opened = menu(mine, "This view")
    opened.get_by_label("Its name").fill("Weekly plans")
    opened.get_by_role("button", name="Rename").click()
    expect(tab(mine, "Weekly plans")).to_have_attribute("aria-current", "page")
    expect(tab(mine, "Planners")).to_have_count(0)

    menu(mine, "This view").get_by_role("button", name="Open with all executions again").click()
    expect(mine.get_by_text("Your list opens with all executions now.")).to_be_visible()
    menu(mine, "This view").get_by_role("button", name="Keep it to yourself").click()
    expect(mine.get_by_text("You alone see the view now.")).to_be_visible()
    menu(mine, "This view").get_by_role("button", name="Delete this view").click()
    expect(mine.get_by_text("The view is deleted; the executions are as they were.")).to_be_visible()
    expect(tab(mine, "Weekly plans")).to_have_count(0)
    expect(rows).to_have_count(2)
    mine.goto("/executions")
    expect(tab(mine, "All")).to_have_attribute("aria-current", "page")


def test_a_name_is_short_and_ones_own_once(team: Project, window: Callable[..., Window]) -> None:
    here = window().sign_in(team.people[1], "/executions?agent=clerk&range=7d")
    opened = menu(here, "Save view")
    field = opened.get_by_label("Name of this list")
    # The browser itself lets nobody send an empty name, or type more than there is room for.
    opened.get_by_role("button", name="Save").click()
    expect(field).to_be_focused()
    expect(opened).to_have_attribute("open", "")
    field.press_sequentially("x" * 61)
    expect(field).to_have_value("x" * 60)
    opened.get_by_role("button", name="Save").click()
    long = tab(here, "x" * 60)
    expect(long).to_have_attribute("aria-current", "page")
    # On a phone the chosen tab comes into sight by itself.
    here.set_viewport_size({"width": 390, "height": 844})
    here.reload()
    assert here.evaluate("document.documentElement.scrollWidth") == 390
    expect(long).to_be_in_viewport()
    here.set_viewport_size({"width": 1440, "height": 960})

    here.goto("/executions?agent=planner&range=7d")
    save(here, "x" * 60)
    expect(here.get_by_text(re.compile("^You have a view x+ already"))).to_be_visible()
    save(here, "Plans")
    expect(tab(here, "Plans")).to_be_visible()
    opened = menu(here, "This view")
    opened.get_by_label("Its name").fill("x" * 60)
    opened.get_by_role("button", name="Rename").click()
    expect(here.get_by_text(re.compile("^You have a view x+ already"))).to_be_visible()
    expect(tab(here, "Plans")).to_have_attribute("aria-current", "page")
    for name in ("Plans", "x" * 60):
        tab(here, name).click()
        menu(here, "This view").get_by_role("button", name="Delete this view").click()
        expect(tab(here, name)).to_have_count(0)


def test_a_viewer_looks_through_shared_views_and_has_no_menus(team: Project, window: Callable[..., Window]) -> None:
    ada, _, vera = team.people
    mine = window().sign_in(ada, PLANNERS)
    save(mine, "For all", shared=True)
    expect(tab(mine, "For all")).to_be_visible()
    looks = window().sign_in(vera, "/executions")
    expect(looks.get_by_text("Save view")).to_have_count(0)
    tab(looks, "For all").click()
    expect(tab(looks, "For all")).to_have_attribute("aria-current", "page")
    expect(tab(looks, "For all")).to_have_attribute("title", "Shared by Ada Lane")
    expect(looks.locator("#rows [data-row]")).to_have_count(2)
    expect(looks.get_by_text("This view")).to_have_count(0)
    menu(mine, "This view").get_by_role("button", name="Delete this view").click()
    expect(tab(mine, "For all")).to_have_count(0)


def test_the_menus_are_worked_by_keys_alone(team: Project, window: Callable[..., Window]) -> None:
    here = window().sign_in(team.people[0], PLANNERS)

    def press(*keys: str) -> None:
        for key in keys:
            here.keyboard.press(key)

    summary = here.locator("summary", has_text="Save view")
    here.get_by_role("heading", name="Executions").click()
    for _ in range(40):
        press("Tab")
        if summary.evaluate("each => each === document.activeElement"):
            break
    expect(summary).to_be_focused()
    field = here.get_by_label("Name of this list")
    press("Enter")
    expect(field).to_be_visible()
    press("Escape")
    expect(field).to_be_hidden()
    expect(summary).to_be_focused()
    # The name is what is wanted first.
    press("Enter")
    expect(field).to_be_focused()
    # Letters are letters here, and no keys of the page.
    here.keyboard.type("j x g e")
    press("Tab", "Space", "Tab", "Enter")
    expect(tab(here, "j x g e")).to_have_attribute("title", "Yours, shared with the project")

    here.locator("summary", has_text="This view").focus()
    press("Enter", "Tab")
    expect(here.get_by_label("Its name")).to_be_focused()
    here.keyboard.press("Control+a")
    here.keyboard.type("By keys")
    press("Enter")
    expect(tab(here, "By keys")).to_have_attribute("aria-current", "page")
    here.locator("summary", has_text="This view").focus()
    press("Enter")
    # Leaving it by Tab closes it: name, rename, share, open with, delete.
    for name in ("Its name", "Rename", "Keep it to yourself", "Open my list with this view", "Delete this view"):
        press("Tab")
        focused = here.locator(":focus")
        expect(focused).to_have_accessible_name(name)
    press("Tab")
    expect(here.get_by_label("Its name")).to_be_hidden()
    press("Shift+Tab")
    here.locator("summary", has_text="This view").focus()
    press("Enter", "Tab", "Tab", "Tab", "Tab", "Tab", "Enter")
    expect(tab(here, "By keys")).to_have_count(0)
