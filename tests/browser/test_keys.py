"""What a person who knows the keys does without a mouse, and what the list of executions does with ticked rows."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.filling import post
from tests.browser.windows import Person, Window, make_project
from tests.flows.running import api
from tests.launcher.instance import Instance, until

pytestmark = pytest.mark.browser

TASKS = ("Plan the first week", "Plan the second week", "Plan the third week")
CALM = {"heartbeat_s": 3600, "timeout_s": 86_400}


@pytest.fixture(scope="module")
def people(handrail: Instance) -> Iterator[tuple[Person, dict[str, str], Callable[[str], str]]]:
    """A person of a project in which three executions run: their ids by task, and how to ask for their state."""
    project = make_project(handrail, "keys")
    with api(handrail, project.key) as client:
        ids = {task: post(client, "/executions", agent="planner", task=task, **CALM)["id"] for task in TASKS}
        yield project.people[0], ids, lambda task: client.get(f"/api/v1/executions/{ids[task]}").json()["status"]


@pytest.fixture
def here(people: tuple, window: Callable[..., Window]) -> Page:
    return window().sign_in(people[0])


def test_g_and_a_letter_go_to_a_place(here: Page) -> None:
    for letter, address in (("q", "/queue"), ("a", "/alerts"), ("e", "/executions"), ("c", "/costs"), ("o", "/")):
        # An address is there before its page listens.
        here.wait_for_load_state()
        here.keyboard.press("g")
        here.keyboard.press(letter)
        expect(here).to_have_url(re.compile(f"[0-9]{address}$"))


def test_a_question_mark_lists_the_keys_of_the_page(here: Page) -> None:
    here.goto("/alerts")
    here.keyboard.press("?")
    keys = here.get_by_role("dialog", name="Keys")
    expect(keys.get_by_role("listitem").filter(has_text="Queue")).to_have_text("Queuegq")
    expect(keys.get_by_role("listitem").filter(has_text="Filter")).to_have_text("Filterf")
    # Keys of the page rest while it is open.
    here.keyboard.press("g")
    here.keyboard.press("q")
    here.keyboard.press("Escape")
    expect(keys).to_have_count(0)
    expect(here).to_have_url(re.compile("/alerts$"))

    here.keyboard.press("?")
    keys.get_by_label("Single keys act on this browser").uncheck()
    here.keyboard.press("Escape")
    here.keyboard.press("/")
    expect(here.locator("[data-search]").first).not_to_be_focused()


def test_j_and_k_move_and_enter_opens(here: Page, people: tuple) -> None:
    here.goto("/executions")
    rows = here.locator("#rows [data-row]")
    expect(rows).to_have_count(3)
    for key, at in (("j", 0), ("j", 1), ("j", 2), ("j", 2), ("k", 1)):
        here.keyboard.press(key)
        expect(rows.nth(at)).to_have_class(re.compile("is-selected"))
        expect(here.locator("#rows .is-selected")).to_have_count(1)
    chosen = rows.nth(1).get_attribute("data-row")
    here.keyboard.press("Enter")
    expect(here).to_have_url(re.compile(f"/executions/{chosen}$"))


def test_a_slash_searches(here: Page, people: tuple) -> None:
    here.keyboard.press("/")
    expect(here.locator("[data-search]").locator("visible=true")).to_be_focused()
    here.keyboard.type("second week g q")
    expect(here).to_have_url(re.compile("[0-9]/$"))
    for _ in " g q":
        here.keyboard.press("Backspace")
    here.keyboard.press("Enter")
    expect(here).to_have_url(re.compile(r"/search\?q=second\+week$"))
    here.get_by_role("link", name=TASKS[1]).click()
    expect(here).to_have_url(re.compile(f"/executions/{people[1][TASKS[1]]}$"))


def test_the_chosen_theme_is_remembered(here: Page) -> None:
    theme = here.locator("html")
    expect(theme).to_have_attribute("data-bs-theme", "light")
    here.get_by_role("button", name="Other theme").click()
    expect(theme).to_have_attribute("data-bs-theme", "dark")
    here.goto("/costs")
    expect(theme).to_have_attribute("data-bs-theme", "dark")
    # The system's wish gives way to the person's.
    here.emulate_media(color_scheme="light")
    here.reload()
    expect(theme).to_have_attribute("data-bs-theme", "dark")


def test_the_buttons_of_an_execution_follow_what_was_pressed(here: Page, people: tuple) -> None:
    _, ids, _ = people
    here.goto(f"/executions/{ids[TASKS[1]]}")
    commands = here.locator("#commands")
    for pressed, follows in (("Pause", "Resume"), ("Resume", "Pause")):
        # By the mouse, which stays where it is, with a note that was typed there.
        commands.get_by_label("Why").fill("a moment")
        commands.get_by_role("button", name=pressed).click()
        expect(commands.get_by_role("button", name=follows)).to_be_visible()
        expect(commands.get_by_role("button", name=pressed)).to_have_count(0)
        expect(commands.get_by_label("Why")).to_have_value("")
        expect(commands).to_be_focused()


def test_ticked_executions_are_cancelled_together(here: Page, people: tuple) -> None:
    _, _, state = people
    here.goto("/executions")
    bar = here.locator("#bulk")
    expect(bar).to_be_hidden()
    here.get_by_role("row", name=TASKS[0]).get_by_role("checkbox").check()
    # The other one by the keys.
    here.locator("#rows [data-row]", has_text=TASKS[2]).get_by_role("link", name=TASKS[2]).focus()
    here.keyboard.press("x")
    expect(bar.get_by_text("2 chosen", exact=True)).to_be_visible()
    bar.get_by_label("Why").fill("The plan has changed.")
    bar.locator("summary", has_text="Cancel").click()
    bar.get_by_text("Ends the 2 chosen").wait_for()
    bar.get_by_role("button", name="Cancel them").click()
    expect(here.locator("#told").get_by_text("2 cancelled.")).to_be_visible()
    expect(bar).to_be_hidden()
    expect(here.locator("#rows [data-row]", has_text="Cancelled")).to_have_count(2)
    assert [state(task) for task in TASKS] == ["cancelled", "running", "cancelled"]

    # A command that comes too late is refused in words, by name; the others are carried out.
    for task in TASKS[1:]:
        here.get_by_role("row", name=task).get_by_role("checkbox").check()
    here.keyboard.press("p")
    told = here.locator("#told")
    expect(told.get_by_text("1 paused, 1 refused.")).to_be_visible()
    expect(told.get_by_role("link", name=TASKS[2])).to_be_visible()
    until(lambda: state(TASKS[1]) == "paused", "the running one is paused")
