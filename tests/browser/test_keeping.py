"""An admin keeps things for less: told first what leaves, asked, and then it is so."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.windows import Window, make_project
from tests.launcher.instance import Instance

pytestmark = pytest.mark.browser


def test_what_deletes_is_asked_first_and_the_way_there_leads_over_growth(
    handrail: Instance, window: Callable[..., Window]
) -> None:
    made = make_project(handrail, "keeping", role="admin")
    ada = window()
    ada.sign_in(made.people[0])
    page = ada.page
    page.goto("/system")
    page.get_by_role("link", name="Growth and how long things are kept").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("The disk is")
    page.locator('tr[data-row="spans"]').get_by_role("link").click()
    field = page.get_by_label("Spans, days")
    field.fill("1")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_have_text("Spans can be kept for 3 to 400 days.")
    # What is refused is a 400, and the console says so.
    ada.complaints.clear()
    field.fill("30")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="This deletes what is older")).to_be_visible()
    page.get_by_role("link", name="Leave it as it is").click()
    expect(field).to_have_value("")
    field.fill("30")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Keep less and delete").click()
    expect(page.get_by_text("Spans: 30 days, from now on.")).to_be_visible()
    expect(field).to_have_value("30")
    expect(page.get_by_role("region", name="Changed within 30 days")).to_contain_text("30 days instead of 90")
