"""A refund that the AI can't give: a person takes over in mid-turn, helps, and gives the conversation back."""

from typing import Any

from django.core.cache import cache
from django.test import Client

from monitor import people
from monitor.models import Membership, Person
from monitor.tenancy import crossing, tenant
from tests.monitor.api.conftest import client_with, make_key, make_project

API = "/api/v1"
CHAT = f"{API}/conversations/order-4711"


class Agent:
    """The program that talks to the customer: it knows its epoch, and reads events behind one cursor."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.epoch = 0
        self.cursor = 0

    def post(self, where: str, **body: Any) -> Any:
        return self.client.post(where, body, content_type="application/json")

    def say(self, role: str, content: str, **more: Any) -> Any:
        epoch = {} if role == "user" else {"epoch": self.epoch}
        return self.post(f"{CHAT}/messages", role=role, content=content, **epoch, **more)

    def news(self) -> list[dict[str, Any]]:
        answer = self.client.get(f"{API}/agent-events?after={self.cursor}&conversation_id=order-4711").json()
        self.cursor = answer["cursor"]
        return answer["events"]


def a_person(project: Any, name: str) -> Client:
    with crossing():
        person = Person.objects.create_user(f"{name}@example.org", "correct horse battery staple", name=name.title())
        Membership.objects.create(project=project, person=person, role="operator")
    with tenant(project.pk):
        people.add(project.pk, person.email)
    browser = Client()
    browser.force_login(person)
    return browser


def act(browser: Client, where: str, **body: Any) -> Any:
    return browser.post(where, body, content_type="application/json")


def test_a_person_takes_over_helps_and_gives_back(db: None) -> None:
    cache.clear()
    project = make_project("shop")
    agent = Agent(client_with(make_key(project, ("ingest", "read"))[1]))
    ada, bob = a_person(project, "ada"), a_person(project, "bob")

    # The agent talks, until the customer wants a person.
    agent.post(f"{API}/conversations", conversation_id="order-4711", agent="clerk", customer={"id": "c7"})
    agent.say("user", "I want my money back.")
    assert agent.say("assistant", "Let me look.", confidence=0.9).status_code == 201
    asked = agent.say("user", "No. Let me speak to a human!")
    assert (asked.json()["state"], asked.json()["epoch"]) == ("pending_human", 1)

    # Both people see it; one of them gets it.
    [item] = ada.get(f"{API}/queue").json()["results"]
    assert (item["trigger"], item["evidence"]["phrase"], item["status"]) == ("phrase", "speak to human", "pending")
    assert act(ada, f"{CHAT}/claim").json()["owner"] == "ada@example.org"
    lost = act(bob, f"{CHAT}/claim")
    assert (lost.status_code, lost.json()["holder"]["name"]) == (409, "Ada")

    # The agent was in the middle of an answer: it is kept, and it is told.
    stale = agent.say("assistant", "I have refunded 400 USD.")
    assert (stale.status_code, stale.json()["state"], stale.json()["epoch"]) == (409, "human_active", 2)

    # Ada helps; Bob may only leave a note.
    act(bob, f"{CHAT}/messages", role="human", content="He is a regular.", visibility="internal")
    assert act(bob, f"{CHAT}/messages", role="human", content="Hello!").status_code == 409
    act(ada, f"{CHAT}/messages", role="human", content="I have refunded 12 USD.")
    agent.say("user", "Thank you, Ada!")

    # Ada gives the conversation back, and says what to do next.
    act(ada, f"{CHAT}/return", instruction="Send the receipt by mail.")
    news = agent.news()
    assert [event["kind"] for event in news] == ["handover", "claimed", "human_message", "handed_back"]
    assert [event["seq"] for event in news] == [1, 2, 3, 4]
    block = news[-1]["data"]
    assert block["instruction"] == "Send the receipt by mail."
    assert [(said["role"], said["content"]) for said in block["messages"]] == [
        ("human", "I have refunded 12 USD."),
        ("user", "Thank you, Ada!"),
    ]
    assert block["suppressed"] == [4]

    # The agent goes on in its new epoch; nothing said before triggers again.
    agent.epoch = block["epoch"]
    assert agent.say("assistant", "The receipt is on its way.", confidence=0.95).status_code == 201
    assert agent.post(f"{CHAT}/finish", epoch=agent.epoch).json()["state"] == "finished"
    assert agent.news() == []
    assert ada.get(f"{API}/queue").json()["results"] == []
    kept = ada.get(f"{CHAT}/messages").json()["results"]
    assert [said["seq"] for said in kept] == list(range(1, 10))
    assert {said["seq"]: said["visibility"] for said in kept if said["visibility"] != "public"} == {
        4: "suppressed",
        5: "internal",
        8: "internal",
    }
