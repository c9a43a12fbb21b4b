"""A trace of 10,000 spans: only the rows in sight exist, wherever one scrolls, and keys reach its far end."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from playwright.sync_api import expect

from tests.browser.filling import post
from tests.browser.windows import Person, Window, make_project
from tests.flows.running import api
from tests.launcher.instance import Instance

pytestmark = pytest.mark.browser

SPANS = 10_000
ROWS_IN_SIGHT = 120


@pytest.fixture(scope="module")
def long_one(handrail: Instance) -> Iterator[tuple[Person, str]]:
    """A person, and the execution of their project that called a tool 10,000 times."""
    project = make_project(handrail, "library")
    began = datetime.now(UTC) - timedelta(minutes=50)
    with api(handrail, project.key) as client:
        one = str(uuid4())
        post(
            client,
            "/executions",
            id=one,
            agent="reader",
            task="Read a library",
            status="completed",
            started_at=began.isoformat(),
            duration_ms=SPANS * 200,
        )
        events = [
            {
                "type": "tool_call",
                "tool": f"read_page_{n}",
                "agent": "reader",
                "execution_id": one,
                "duration_ms": 150,
                "arguments": {"page": n},
                "occurred_at": (began + timedelta(milliseconds=200 * n)).isoformat(),
            }
            for n in range(SPANS)
        ]
        for first in range(0, SPANS, 5000):
            answer = post(client, "/batch", events=events[first : first + 5000])
            assert (answer["accepted"], answer["rejected"]) == (5000, [])
        yield project.people[0], one


def test_of_ten_thousand_spans_only_those_in_sight_are_drawn(
    long_one: tuple[Person, str], window: Callable[..., Window]
) -> None:
    person, one = long_one
    page = window().sign_in(person)
    page.goto(f"/executions/{one}?tab=trace")
    trace = page.get_by_role("treegrid")
    expect(trace).to_have_attribute("aria-rowcount", str(SPANS + 1))
    rows = trace.locator(".wf-body .wf-row")
    expect(rows.first).to_contain_text("read_page_0")
    assert rows.count() < ROWS_IN_SIGHT

    trace.focus()
    page.keyboard.press("End")
    last = trace.get_by_text(f"read_page_{SPANS - 1}", exact=True)
    expect(last).to_be_in_viewport()
    assert rows.count() < ROWS_IN_SIGHT
    page.keyboard.press("Enter")
    expect(page.locator("#span")).to_contain_text(f'"page": {SPANS - 1}')
    page.keyboard.press("Home")
    expect(trace.get_by_text("read_page_0", exact=True)).to_be_in_viewport()
