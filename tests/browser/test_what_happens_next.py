"""The plan of an execution on a phone: the present is in sight, and live news move neither it nor the focus."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.filling import CALM, post
from tests.browser.windows import Window, make_project
from tests.flows.running import api
from tests.launcher.instance import Instance

pytestmark = pytest.mark.browser

# A part that is exchanged for a new one loses the mark.
EXCHANGED = """async (id) => {
  const old = document.getElementById(id);
  document.dispatchEvent(new CustomEvent("live:look", { detail: { topic: "executions" } }));
  while (document.getElementById(id) === old) await new Promise((done) => setTimeout(done, 20));
}"""


def test_the_present_is_in_sight_and_stays_where_it_is_put(handrail: Instance, window: Callable[..., Window]) -> None:
    project = make_project(handrail, "phones")
    with api(handrail, project.key) as client:
        parent = post(client, "/executions", agent="planner", task="Plan the year", **CALM)["id"]
        one = post(client, "/executions", agent="planner", task="Plan a week", parent_id=parent, **CALM)["id"]
        post(client, f"/executions/{one}/heartbeat", progress=10, message="begins")
        post(client, f"/executions/{one}/heartbeat", progressing=False)
    here = window().sign_in(project.people[0], f"/executions/{one}")
    here.set_viewport_size({"width": 390, "height": 844})
    here.reload()
    steps = here.get_by_role("list", name="Steps")
    expect(steps.get_by_text("Now", exact=True)).to_be_in_viewport(ratio=1)

    # Who reads what was, with the focus on it, goes on reading.
    steps.evaluate("each => { each.scrollLeft = 0; }")
    steps.focus()
    here.evaluate(EXCHANGED, "state")
    expect(steps).to_be_focused()
    assert steps.evaluate("each => each.scrollLeft") == 0

    above = here.locator("#state").get_by_role("link", name="Plan the year")
    above.focus()
    here.evaluate(EXCHANGED, "state")
    expect(above).to_be_focused()
