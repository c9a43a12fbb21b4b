"""Every page, empty and filled, light and dark, wide and narrow: quiet console, nothing too wide, accessible."""

from collections.abc import Iterator, Mapping

import pytest
from playwright.sync_api import Browser, Page

from frontend.look import AXE, in_the_margin, too_wide, violations
from tests.browser.filling import fill
from tests.browser.windows import Window, make_project
from tests.flows.running import api
from tests.launcher.instance import Instance

pytestmark = pytest.mark.browser

EVERYWHERE = {
    **{name: f"/{name}" for name in ("executions", "agents", "costs", "alerts", "queue", "system")},
    "overview": "/",
    "growth": "/system/growth",
    "keeping": "/system/keeping",
    "budgets": "/costs/budgets",
    "trips": "/costs/trips",
    "unpriced": "/costs/unpriced",
    "search": "/search?q=invoice",
}
# The same in every project.
KEPT_BY_THE_INSTANCE = ("/about", "/api/docs/", "/kit", "/kit/frame", "/kit/parts")
OF_WHAT_IS_THERE = (
    *("running execution", "retrying execution", "waiting execution", "broken execution", "stalled execution"),
    *("waiting chat", "held chat", "closed chat", "paused item", "trip item"),
    *("firing alert", "acknowledged alert", "resolved alert", "run"),
    *("busy agent", "entered agent", "form of an agent"),
)
TABS = ("moves", "calls", "tools", "children", "payloads", "raw")
WIDTHS = {1440: 960, 390: 844}
# Between the two, where panes stand beside each other with little room.
TABLET = {1000: 700}
BESIDE_EACH_OTHER = ("alerts", "firing alert", "queue", "waiting chat", "executions", "running execution")
THEMES = ("light", "dark")
# All that comes after the page itself: fonts, charts, the trace, fragments.
DRAWN = """(theme) => document.readyState === "complete" && document.fonts.status === "loaded"
  && [...document.querySelectorAll("[data-chart]")].every((figure) => figure.querySelector(".main-svg"))
  && (document.documentElement.dataset.bsTheme ?? theme) === theme
  && !document.querySelector(".htmx-request, [data-live-state=waiting]")"""


class Tour:
    """A signed-in window that looks at pages, and the addresses of what its project has."""

    def __init__(self, window: Window, addresses: dict[str, str]) -> None:
        self.window = window
        self.addresses = addresses

    def look(self, path: str, *, answers: int = 200, widths: Mapping[int, int] = WIDTHS) -> list[str]:
        """What is wrong with the page in every theme and width."""
        self.window.complaints.clear()
        found = []
        page = self.window.page
        for width, height in widths.items():
            page.set_viewport_size({"width": width, "height": height})
            answer = page.goto(path)
            assert answer is not None
            assert answer.status == answers
            for theme in THEMES:
                page.emulate_media(color_scheme=theme)
                page.wait_for_function(DRAWN, arg=theme)
                found += [f"{theme} {width}: {wrong}" for wrong in problems(page)]
        found += [line for line in self.window.complaints if f"status of {answers}" not in line]
        return found


def problems(page: Page) -> list[str]:
    return too_wide(page) + in_the_margin(page) + (violations(page) if AXE.exists() else [])


@pytest.fixture(scope="module", autouse=True)
def axe() -> None:
    if not AXE.exists():
        pytest.skip(f"axe-core is not here ({AXE}): run `npm ci`; NO PAGE WAS CHECKED")


def begin(chrome: Browser, handrail: Instance, project: str, *, filled: bool) -> Iterator[Tour]:
    made = make_project(handrail, project, role="admin", scopes="ingest,read,operate,admin,act-as")
    [person] = made.people
    addresses = dict(EVERYWHERE)
    if filled:
        with api(handrail, made.key) as client:
            addresses |= fill(client, person.email)
    window = Window(chrome, handrail)
    try:
        window.sign_in(person)
        yield Tour(window, addresses)
    finally:
        window.close()


@pytest.fixture(scope="module")
def empty(chrome: Browser, handrail: Instance) -> Iterator[Tour]:
    yield from begin(chrome, handrail, "empty", filled=False)


@pytest.fixture(scope="module")
def filled(chrome: Browser, handrail: Instance) -> Iterator[Tour]:
    yield from begin(chrome, handrail, "filled", filled=True)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_page_with_nothing_in_it_is_sound(empty: Tour, name: str) -> None:
    assert empty.look(empty.addresses[name]) == []


@pytest.mark.parametrize("name", [*EVERYWHERE, *OF_WHAT_IS_THERE])
def test_a_page_with_much_in_it_is_sound(filled: Tour, name: str) -> None:
    assert filled.look(filled.addresses[name]) == []


@pytest.mark.parametrize("name", BESIDE_EACH_OTHER)
def test_panes_beside_each_other_fit_a_tablet(filled: Tour, name: str) -> None:
    assert filled.look(filled.addresses[name], widths=TABLET) == []


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_of_an_execution_is_sound(filled: Tour, tab: str) -> None:
    assert filled.look(f"{filled.addresses['running execution']}?tab={tab}") == []


def test_a_timeline_with_a_command_is_sound(filled: Tour) -> None:
    assert filled.look(f"{filled.addresses['paused execution']}?tab=moves") == []


@pytest.mark.parametrize("path", KEPT_BY_THE_INSTANCE)
def test_a_page_of_the_instance_is_sound(filled: Tour, path: str) -> None:
    assert filled.look(path) == []


def test_a_page_that_is_not_there_is_sound(filled: Tour) -> None:
    assert filled.look("/no-such-page", answers=404) == []


def test_the_sign_in_page_is_sound(chrome: Browser, handrail: Instance) -> None:
    stranger = Window(chrome, handrail)
    assert Tour(stranger, {}).look("/sign-in") == []
    stranger.close()
