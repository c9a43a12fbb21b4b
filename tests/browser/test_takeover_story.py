"""An agent falls silent and a customer asks for a person: people see it, one of them takes over, the agents hear it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.windows import Window, make_project
from tests.flows.running import api
from tests.launcher.instance import Instance, until

pytestmark = pytest.mark.browser

CHAT = "order-4711"
LISTENS_S = 20


class Ear:
    """The agent's side of one conversation: every event behind one cursor, read by long-polls one after another."""

    def __init__(self, client: httpx.Client) -> None:
        self.events: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self._client = client
        self._ended = Event()
        self._thread = Thread(target=self._listen, name="agent's ear")

    @property
    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events]

    def hears(self, kind: str) -> dict[str, Any]:
        """What came with the first event of this kind, once it has come."""
        until(lambda: kind in self.kinds or self.error is not None, f"{kind} among {self.kinds}")
        assert self.error is None, self.error
        return next(event["data"] for event in self.events if event["kind"] == kind)

    def _listen(self) -> None:
        cursor = 0
        try:
            while not self._ended.is_set():
                query = {"after": cursor, "conversation_id": CHAT, "wait": LISTENS_S}
                page = self._client.get("/api/v1/agent-events", params=query).raise_for_status().json()
                self.events += page["events"]
                cursor = page["cursor"]
        except (httpx.HTTPError, RuntimeError) as error:
            # A client that is closed under a waiting call is how the ear is ended.
            if not self._ended.is_set():
                self.error = error

    @contextmanager
    def listening(self) -> Iterator["Ear"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            self._thread.join(LISTENS_S + 10)


def post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    return client.post(f"/api/v1{path}", json=body).raise_for_status().json()


def test_a_silent_agent_reaches_a_person_and_a_customer_is_taken_over_by_one_of_two(
    handrail: Instance, window: Callable[..., Window]
) -> None:
    project = make_project(handrail, "takeover", ["Ada Lane", "Bob Reyes"])
    ada, bob = project.people
    with api(handrail, project.key) as agent:
        here = window()
        page = here.sign_in(ada, "/alerts")
        execution = falls_silent(agent, page)
        acknowledge(page)
        page.keyboard.press("g")
        page.keyboard.press("q")
        expect(page.get_by_role("link", name="Book a room")).to_be_visible()

        with api(handrail, project.key) as listener, Ear(listener).listening() as ear:
            hand_over(agent)
            expect(page.get_by_role("link", name="Amelia Davis")).to_be_visible()
            there = window()
            there.sign_in(bob, "/queue")
            winner, loser = both_claim(here, there)
            names = {here: "Ada Lane", there: "Bob Reyes"}
            is_told(loser, names[winner])
            answer(winner.page)
            give_back(winner.page)
            is_heard(agent, ear)

        decide(page, agent, execution)


def falls_silent(agent: httpx.Client, page: Page) -> str:
    """Register, beat once and never again; the open page tells it without being loaded anew."""
    expect(page.get_by_text("All quiet.")).to_be_visible()
    page.evaluate("window.loadedOnce = true")
    work = {"agent": "planner", "task": "Book a room", "heartbeat_s": 1, "timeout_s": 3600, "max_retries": 0}
    execution: str = post(agent, "/executions", **work)["id"]
    assert post(agent, f"/executions/{execution}/heartbeat", progress=40)["command"] == "continue"
    expect(
        page.locator("#alert-list").get_by_role("link", name=re.compile("^planner stopped sending heartbeats"))
    ).to_be_visible()
    assert page.evaluate("window.loadedOnce")
    assert post(agent, f"/executions/{execution}/heartbeat")["command"] == "pause"
    return execution


def acknowledge(page: Page) -> None:
    """By the keys alone: j chooses the row, which is shown beside the list, a acknowledges it."""
    page.keyboard.press("j")
    shown = page.locator("#alert")
    expect(shown.get_by_role("heading", name=re.compile("^planner stopped sending heartbeats"))).to_be_visible()
    expect(shown.locator("[data-key=a]")).to_be_enabled()
    page.keyboard.press("a")
    expect(shown.get_by_text(re.compile("^You have had it for"))).to_be_visible()
    expect(page.locator("#alert-list [data-row] .aside", has_text=re.compile("you$"))).to_be_visible()
    expect(shown.locator("[data-key=a]")).to_have_count(0)


def hand_over(agent: httpx.Client) -> None:
    """A customer talks to the agent, which then asks for a person."""
    customer = {"id": "c7", "name": "Amelia Davis"}
    post(agent, "/conversations", conversation_id=CHAT, agent="clerk", customer=customer)
    said = post(agent, f"/conversations/{CHAT}/messages", role="user", content="My lamp arrived broken.")
    post(agent, f"/conversations/{CHAT}/handover", reason="A refund above my limit", epoch=said["epoch"])


def both_claim(here: Window, there: Window) -> tuple[Window, Window]:
    """Both press Claim before either request has left; the one who got it, and the other."""
    held: list[Route] = []
    for one in (here, there):
        one.page.get_by_role("link", name="Amelia Davis").click()
        expect(one.page.get_by_text("Nobody has it yet.")).to_be_visible()
        one.page.route("**/claim", lambda route: held.append(route))
    for one in (here, there):
        with one.page.expect_request("**/claim"):
            one.page.get_by_role("button", name="Claim").click()
    assert len(held) == 2
    for route in held:
        route.continue_()
    for one in (here, there):
        expect(one.page.locator("#holding")).to_have_attribute("data-holding", re.compile("mine|theirs"))
    got = {one.page.locator("#holding").get_attribute("data-holding"): one for one in (here, there)}
    assert set(got) == {"mine", "theirs"}
    return got["mine"], got["theirs"]


def is_told(loser: Window, holder: str) -> None:
    """Who was too late reads who has it, and can't reply."""
    expect(loser.page.locator("#toasts").get_by_text(f"{holder} was faster.")).to_be_visible()
    expect(loser.page.locator("#holding").get_by_text(f"{holder} has had it since")).to_be_visible()
    expect(loser.page.get_by_role("radio", name="Note")).to_be_enabled()
    expect(loser.page.get_by_role("radio", name="Reply")).to_have_count(0)
    loser.forgive("status of 409")


def answer(page: Page) -> None:
    page.get_by_label("Text").fill("I have refunded 12 USD.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#talk").get_by_text("I have refunded 12 USD.")).to_be_visible()
    expect(page.get_by_label("Text")).to_have_value("")


def give_back(page: Page) -> None:
    page.get_by_role("button", name="Back to AI").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Instruction").fill("Send the receipt by mail.")
    dialog.get_by_role("button", name="Give back").click()
    expect(page.locator("#toasts").get_by_text("Back with the AI.")).to_be_visible()
    expect(page.locator("#holding")).to_have_attribute("data-holding", "closed")


def is_heard(agent: httpx.Client, ear: Ear) -> None:
    """The agent hears all of it in order, and goes on in the new epoch."""
    block = ear.hears("handed_back")
    assert ear.kinds == ["handover", "claimed", "human_message", "handed_back"]
    assert ear.hears("human_message")["message"]["content"] == "I have refunded 12 USD."
    assert block["instruction"] == "Send the receipt by mail."
    assert [(said["role"], said["content"]) for said in block["messages"]] == [("human", "I have refunded 12 USD.")]
    sent = {"role": "assistant", "content": "The receipt is on its way.", "epoch": block["epoch"]}
    assert post(agent, f"/conversations/{CHAT}/messages", **sent)["state"] == "ai_processing"


def decide(page: Page, agent: httpx.Client, execution: str) -> None:
    """The paused execution is retried from the queue; the agent's next sign of life hears it."""
    page.get_by_role("link", name="Book a room").click()
    expect(page.get_by_text("planner stands still until you decide")).to_be_visible()
    page.get_by_role("textbox", name="Why").fill("The booking site is back.")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#toasts").get_by_text("Retried.")).to_be_visible()
    told = post(agent, f"/executions/{execution}/heartbeat")
    assert (told["command"], told["attempt"]) == ("retry", 2)
    assert post(agent, f"/executions/{execution}/heartbeat", attempt=2)["command"] == "continue"
    post(agent, f"/executions/{execution}/complete", attempt=2, output="room 7")
