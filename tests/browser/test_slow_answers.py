"""On a slow server answers come late and overtake each other; the page ends with what was asked last."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.filling import post
from tests.browser.windows import Project, Window, make_project
from tests.flows.running import api
from tests.launcher.instance import Instance

pytestmark = pytest.mark.browser
LIST = "**/alerts?part=list**"
LOOK = "document.dispatchEvent(new CustomEvent('live:look', { detail: { topic: 'alerts' } }))"
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


class SlowServer:
    """Keeps every answer for the list until it is told to give it; the alert's title says which it is."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._held: list[tuple[Route, str]] = []
        page.route(LIST, self._hold)

    def is_asked(self) -> int:
        """Have the page ask once more; which answer that will be."""
        wanted = len(self._held) + 1
        self._page.evaluate(LOOK)
        while len(self._held) < wanted:
            self._page.wait_for_timeout(20)
        return wanted

    def answers(self, number: int) -> None:
        """Give one answer; return when the page has read it."""
        route, body = self._held[number - 1]
        with self._page.expect_response(LIST) as given:
            route.fulfill(body=body, content_type="text/html")
        given.value.finished()
        self._page.evaluate(TWO_FRAMES)

    def _hold(self, route: Route) -> None:
        self._held.append((route, route.fetch().text().replace("The disk", f"Answer {len(self._held) + 1}: the disk")))


@pytest.fixture(scope="module")
def project(handrail: Instance) -> Project:
    made = make_project(handrail, "slow")
    with api(handrail, made.key) as client:
        post(client, "/alerts", title="The disk is nearly full", level="warning")
    return made


@pytest.mark.parametrize("is_held", [True, False], ids=["pointed at", "left alone"])
@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=["in turn", "overtaking"])
def test_the_answer_that_was_asked_for_last_stays(
    project: Project, window: Callable[..., Window], order: tuple[int, int], is_held: bool
) -> None:
    page = window().sign_in(project.people[0], "/alerts")
    row = page.locator("#alert-list [data-row]").first
    expect(row).to_contain_text("The disk is nearly full")
    page.locator("#alert-list" if is_held else "nav").first.hover()
    server = SlowServer(page)
    server.is_asked()
    server.is_asked()
    for number in order:
        server.answers(number)
    expect(row).to_contain_text("Answer 2")
