"""The people's doors: who may, who was faster, what is kept, and what other tenants see."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Timer
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import cache
from django.db import connections
from django.test import AsyncClient, Client

from monitor import conversations, people, queue
from monitor.api.caller import Caller
from monitor.api.messages import MessageEvent, message_from_event
from monitor.api.problems import Problem
from monitor.models import Membership, Message, Person, QueueItem
from monitor.tenancy import crossing, tenant
from tests.monitor.api.conftest import client_with, make_key, make_project, now

API = "/api/v1"
PEOPLE = ("ada@example.org", "bob@example.org")


class Fleet:
    """A project with an agent's key, an operating key that may act for people, and two people."""

    def __init__(self, name: str = "north") -> None:
        self.project = make_project(name)
        self.agent = client_with(make_key(self.project, ("ingest", "read"), name="agent")[1])
        self.desk = client_with(make_key(self.project, ("read", "operate", "act-as"), name="desk")[1])
        self.admin = client_with(make_key(self.project, ("read", "operate", "admin"), name="admin")[1])
        with tenant(self.project.pk):
            self.people = [people.add(self.project.pk, email)[0] for email in PEOPLE]

    def handed_over(self, conversation: str = "chat/1") -> str:
        """A conversation that waits for a person; its address."""
        post(self.agent, "/conversations", conversation_id=conversation, agent="helper")
        answer = post(self.agent, f"/conversations/{conversation}/handover", reason="A refund")
        assert answer.status_code == 200, answer.content
        return f"/conversations/{conversation}"


@pytest.fixture
def fleet(db: None) -> Fleet:
    cache.clear()
    return Fleet()


def post(client: Client, where: str, **body: Any) -> Any:
    return client.post(API + where, body, content_type="application/json")


def claim(client: Client, where: str, email: str = PEOPLE[0]) -> Any:
    return post(client, f"{where}/claim", **{"as": email})


def say_as(client: Client, where: str, email: str, content: str, **more: Any) -> Any:
    return post(client, f"{where}/messages", role="human", content=content, **{"as": email, **more})


def events(fleet: Fleet, query: str = "") -> list[dict[str, Any]]:
    answer = fleet.agent.get(f"{API}/agent-events{query}")
    assert answer.status_code == 200, answer.content
    return answer.json()["events"]


def test_a_conversation_answers_by_the_clients_string_and_by_our_id(fleet: Fleet) -> None:
    made = post(fleet.agent, "/conversations", conversation_id="chat/1", agent="helper", customer={"id": "c7"})
    again = post(fleet.agent, "/conversations", conversation_id="chat/1", agent="helper")
    other = post(fleet.agent, "/conversations", conversation_id="chat/1", agent="another")
    assert [answer.status_code for answer in (made, again, other)] == [201, 200, 409]
    by_string = fleet.agent.get(f"{API}/conversations/chat/1").json()
    assert by_string == fleet.agent.get(f"{API}/conversations/{made.json()['id']}").json()
    assert (by_string["state"], by_string["is_hil"], by_string["owner"], by_string["epoch"]) == ("new", False, "ai", 0)
    assert by_string["cost_usd"].rstrip("0") == "0."
    assert fleet.agent.get(f"{API}/conversations/{uuid4()}").status_code == 404


def test_messages_are_kept_once_and_listed_in_order(fleet: Fleet) -> None:
    post(fleet.agent, "/conversations", conversation_id="chat-1")
    for n in (1, 2, 1):
        answer = post(fleet.agent, "/conversations/chat-1/messages", role="user", content=f"m{n}", client_id=f"u{n}")
    assert (answer.status_code, answer.json()["seq"]) == (200, 1)
    changed = post(fleet.agent, "/conversations/chat-1/messages", role="user", content="other", client_id="u1")
    assert (changed.status_code, changed.json()["reason"]) == (409, "other_content")
    page = fleet.agent.get(f"{API}/conversations/chat-1/messages?after=1").json()
    assert [(m["seq"], m["content"]) for m in page["results"]] == [(2, "m2")]


def test_a_lost_claim_names_the_holder_and_when(fleet: Fleet) -> None:
    where = fleet.handed_over()
    won, again, lost = claim(fleet.desk, where), claim(fleet.desk, where), claim(fleet.desk, where, PEOPLE[1])
    assert [answer.status_code for answer in (won, again, lost)] == [200, 200, 409]
    assert (won.json()["state"], won.json()["owner"], won.json()["is_hil"]) == ("human_active", PEOPLE[0], True)
    assert lost.headers["Content-Type"] == "application/problem+json"
    assert (lost.json()["reason"], lost.json()["holder"]["email"]) == ("taken", PEOPLE[0])
    item = fleet.desk.get(f"{API}/queue?assignee={PEOPLE[0]}").json()["results"][0]
    assert item["claimed_at"] == lost.json()["claimed_at"].replace("+00:00", "Z")


def test_a_claim_needs_a_person(fleet: Fleet) -> None:
    where = fleet.handed_over()
    assert post(fleet.desk, f"{where}/claim").status_code == 403
    assert claim(fleet.admin, where).status_code == 403
    assert claim(fleet.agent, where).status_code == 403
    unknown = claim(fleet.desk, where, "nobody@example.org")
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (400, "as")
    assert fleet.desk.get(f"{API}{where}").json()["state"] == "pending_human"


def test_both_the_key_and_the_person_are_recorded(fleet: Fleet) -> None:
    claim(fleet.desk, fleet.handed_over())
    with tenant(fleet.project.pk):
        assert Message.objects.count() == 0
        actors = QueueItem.objects.get().project.statechange_set.filter(cause="claimed").values_list("actor", flat=True)
        assert set(actors) == {"ada@example.org (through key:desk)"}


def test_a_signed_in_operator_claims_and_replies_as_themselves(fleet: Fleet) -> None:
    where = fleet.handed_over()
    with crossing():
        person = Person.objects.create_user("eve@example.org", "correct horse battery staple", name="Eve")
        Membership.objects.create(project=fleet.project, person=person, role="operator")
    browser = Client()
    browser.force_login(person)
    assert post(browser, f"{where}/claim", **{"as": PEOPLE[0]}).status_code == 403
    assert post(browser, f"{where}/claim").json()["owner"] == "eve@example.org"
    said = post(browser, f"{where}/messages", role="human", content="Hello, I am Eve.")
    assert (said.status_code, said.json()["author"]) == (201, "eve@example.org")
    assert post(browser, f"{where}/messages", role="assistant", content="I am a bot").status_code == 403
    assert browser.get(f"{API}/queue?assignee=me").json()["results"][0]["assignee"]["name"] == "Eve"


def test_only_the_holder_writes_and_an_agent_never_writes_as_a_person(fleet: Fleet) -> None:
    where = fleet.handed_over()
    claim(fleet.desk, where)
    assert say_as(fleet.desk, where, PEOPLE[0], "Hello").status_code == 201
    refused = say_as(fleet.desk, where, PEOPLE[1], "Me too")
    assert (refused.status_code, refused.json()["holder"]["email"]) == (409, PEOPLE[0])
    assert say_as(fleet.desk, where, PEOPLE[1], "A note", visibility="internal").status_code == 201
    assert say_as(fleet.agent, where, PEOPLE[0], "I am human").status_code == 403
    assert [event["kind"] for event in events(fleet)] == ["handover", "claimed", "human_message"]


def test_a_person_steps_in_while_the_ai_talks(fleet: Fleet) -> None:
    post(fleet.agent, "/conversations", conversation_id="chat-1")
    early = claim(fleet.desk, "/conversations/chat-1")
    assert (early.status_code, early.json()["state"]) == (409, "new")
    item = post(fleet.desk, "/conversations/chat-1/handover", reason="I know this one").json()["queue_item"]
    assert (item["trigger"], item["title"]) == ("person_decision", "I know this one")
    assert claim(fleet.desk, "/conversations/chat-1").json()["owner"] == PEOPLE[0]


def test_a_key_that_only_reports_can_talk_and_listen(fleet: Fleet) -> None:
    where = fleet.handed_over()
    reporter = client_with(make_key(fleet.project, ("ingest",), name="reporter")[1])
    assert post(reporter, f"{where}/messages", role="user", content="Hello").status_code == 201
    assert [event["kind"] for event in reporter.get(f"{API}/agent-events").json()["events"]] == ["handover"]
    reader = client_with(make_key(fleet.project, ("read",), name="reader")[1])
    assert post(reader, f"{where}/messages", role="user", content="Hello").status_code == 403
    assert post(fleet.desk, f"{where}/messages", role="assistant", content="I am no agent").status_code == 403


def test_a_stale_message_is_a_409_and_kept(fleet: Fleet) -> None:
    where = fleet.handed_over()
    claim(fleet.desk, where)
    stale = post(fleet.agent, f"{where}/messages", role="assistant", content="Let me see", epoch=0, client_id="a1")
    again = post(fleet.agent, f"{where}/messages", role="assistant", content="Let me see", epoch=0, client_id="a1")
    assert (stale.status_code, again.status_code) == (409, 409)
    problem = stale.json()
    assert (problem["reason"], problem["state"], problem["epoch"]) == ("stale_turn", "human_active", 2)
    [kept] = fleet.desk.get(f"{API}{where}/messages").json()["results"]
    assert (kept["visibility"], kept["content"]) == ("suppressed", "Let me see")


def test_the_way_back_to_the_ai(fleet: Fleet) -> None:
    where = fleet.handed_over()
    claim(fleet.desk, where)
    say_as(fleet.desk, where, PEOPLE[0], "I refunded it.")
    missing = post(fleet.desk, f"{where}/return", **{"as": PEOPLE[0]})
    assert (missing.status_code, missing.json()["errors"][0]["field"]) == (400, "instruction")
    foreign = post(fleet.desk, f"{where}/return", instruction="Go on", **{"as": PEOPLE[1]})
    assert foreign.status_code == 409
    back = post(fleet.desk, f"{where}/return", instruction="Send the receipt", **{"as": PEOPLE[0]})
    assert (back.json()["state"], back.json()["owner"]) == ("ai_processing", "ai")
    block = events(fleet, "?conversation_id=chat/1")[-1]
    assert (block["kind"], block["data"]["instruction"]) == ("handed_back", "Send the receipt")
    assert [message["content"] for message in block["data"]["messages"]] == ["I refunded it."]
    epoch = block["data"]["epoch"]
    assert post(fleet.agent, f"{where}/messages", role="assistant", content="Done", epoch=epoch).status_code == 201
    assert post(fleet.desk, f"{where}/resolve", outcome="x").json()["reason"] == "illegal_move"


def test_release_transfer_and_resolve(fleet: Fleet) -> None:
    where = fleet.handed_over()
    claim(fleet.desk, where)
    assert post(fleet.desk, f"{where}/release", **{"as": PEOPLE[0]}).json()["owner"] is None
    assert post(fleet.desk, f"{where}/release", **{"as": PEOPLE[0]}).json()["reason"] == "not_held"
    claim(fleet.desk, where)
    moved = post(fleet.desk, f"{where}/transfer", to=PEOPLE[1], **{"as": PEOPLE[0]})
    assert moved.json()["owner"] == PEOPLE[1]
    done = post(fleet.desk, f"{where}/resolve", outcome="solved", note="Refunded.", **{"as": PEOPLE[1]})
    assert (done.json()["state"], done.json()["is_hil"]) == ("resolved", False)
    [item] = fleet.desk.get(f"{API}/queue?status=resolved").json()["results"]
    assert (item["outcome"], item["note"], item["conversation_id"]) == ("solved", "Refunded.", "chat/1")


def test_the_queue_is_one_list_with_filters(fleet: Fleet) -> None:
    fleet.handed_over("chat-1")
    claim(fleet.desk, fleet.handed_over("chat-2"))
    with tenant(fleet.project.pk):
        urgent = queue.open_item(
            fleet.project.pk, "paused_execution", uuid4(), title="Hangs", trigger="retries_spent", priority=9, now=now()
        )

    def listed(query: str = "") -> list[str | None]:
        page = fleet.desk.get(f"{API}/queue{query}").json()
        return [row["conversation_id"] or row["kind"] for row in page["results"]]

    assert listed() == ["paused_execution", "chat-1", "chat-2"]
    assert listed("?kind=chat&status=pending") == ["chat-1"]
    assert listed("?assignee=none&limit=1") == ["paused_execution"]
    assert listed("?assignee=me") == []
    assert listed("?assignee=ADA@example.org") == ["chat-2"]
    first = fleet.desk.get(f"{API}/queue?limit=1").json()
    assert fleet.desk.get(first["next"]).json()["results"][0]["conversation_id"] == "chat-1"
    claimed = claim(fleet.desk, f"/queue/{urgent.pk}")
    assert (claimed.status_code, claimed.json()["status"], claimed.json()["epoch"]) == (200, "claimed", None)
    assert post(fleet.desk, f"/queue/{urgent.pk}/resolve").json()["reason"] == "decided_elsewhere"


def test_adding_an_email_does_not_tell_whose_it_is(fleet: Fleet) -> None:
    with crossing():
        person = Person.objects.create_user("eve@example.org", "correct horse battery staple", name="Eve Stranger")
    added = post(fleet.admin, "/human-agents", email="eve@example.org", name="Guess")
    assert (added.status_code, added.json()["name"]) == (201, "eve@example.org")
    assert b"Stranger" not in fleet.admin.get(f"{API}/human-agents").content
    with crossing():
        Membership.objects.create(project=fleet.project, person=person, role="operator")
    again = post(fleet.admin, "/human-agents", email="eve@example.org")
    assert (again.status_code, again.json()["name"]) == (200, "Eve Stranger")
    ours = post(fleet.admin, "/human-agents", email="fay@example.org", name="Fay")
    assert ours.json()["name"] == "Fay"


def test_human_agents_come_and_go(fleet: Fleet) -> None:
    body = {"email": "Zoe@Example.org", "name": "Zoe", "skills": ["billing"], "capacity": 1}
    made, again = (post(fleet.admin, "/human-agents", **body) for _ in range(2))
    assert (made.status_code, again.status_code, made.json()["id"]) == (201, 200, again.json()["id"])
    assert post(fleet.desk, "/human-agents", **body).status_code == 403
    where = f"{API}/human-agents/{made.json()['id']}"
    assert fleet.admin.patch(where, {"capacity": 2}, content_type="application/json").json()["capacity"] == 2
    online = post(fleet.desk, "/human-agents/presence", status="online", **{"as": "zoe@example.org"}).json()
    assert (online["status"], online["load"], online["skills"]) == ("online", 0, ["billing"])
    chat = fleet.handed_over()
    claim(fleet.desk, chat, "zoe@example.org")
    assert [row["email"] for row in fleet.desk.get(f"{API}/human-agents?skill=billing").json()["results"]] == [
        "zoe@example.org"
    ]
    assert fleet.desk.get(where).json()["load"] == 1
    post(fleet.desk, f"/human-agents/{made.json()['id']}/presence", status="offline")
    assert fleet.desk.get(f"{API}{chat}").json()["state"] == "pending_human"
    assert fleet.admin.delete(where).status_code == 204
    assert fleet.admin.get(where).status_code == 404


def test_another_tenant_sees_and_takes_nothing(fleet: Fleet) -> None:
    where, other = fleet.handed_over(), Fleet("south")
    conversation_id = fleet.agent.get(f"{API}{where}").json()["id"]
    item_id = fleet.desk.get(f"{API}/queue").json()["results"][0]["id"]
    for address in (where, f"{where}/messages", f"/conversations/{conversation_id}", f"/queue/{item_id}"):
        assert other.desk.get(API + address).status_code == 404
    assert other.desk.get(f"{API}/human-agents/{fleet.people[0].pk}").status_code == 404
    for address in (f"{where}/claim", f"/conversations/{conversation_id}/claim", f"/queue/{item_id}/claim"):
        assert post(other.desk, address, **{"as": PEOPLE[0]}).status_code == 404
    for listing in ("/conversations", "/queue"):
        assert other.desk.get(API + listing).json()["results"] == []
    assert events(other) == []
    assert fleet.desk.get(f"{API}{where}").json()["state"] == "pending_human"


def test_a_cursor_goes_on_where_it_stopped(fleet: Fleet) -> None:
    where = fleet.handed_over()
    claim(fleet.desk, where)
    for n in range(3):
        say_as(fleet.desk, where, PEOPLE[0], f"m{n}")
    first = fleet.agent.get(f"{API}/agent-events?limit=2").json()
    rest = fleet.agent.get(f"{API}/agent-events?after={first['cursor']}").json()
    assert [event["seq"] for event in first["events"] + rest["events"]] == [1, 2, 3, 4, 5]
    assert fleet.agent.get(f"{API}/agent-events?after={rest['cursor']}").json() == {"events": [], "cursor": 5}
    assert events(fleet, "?conversation_id=another") == []
    assert events(fleet, f"?execution_id={uuid4()}") == []


def test_a_waiting_agent_hears_of_a_reply(committed_db: None) -> None:
    fleet = Fleet()
    where = fleet.handed_over()
    claim(fleet.desk, where)
    headers = {"authorization": fleet.agent.defaults["HTTP_AUTHORIZATION"]}

    def reply() -> None:
        try:
            say_as(fleet.desk, where, PEOPLE[0], "Hello")
        finally:
            connections.close_all()

    timer = Timer(0.3, reply)
    timer.start()
    # Who comes in a thread does not wait.
    answer = async_to_sync(AsyncClient().get)(f"{API}/agent-events?after=2&wait=20", headers=headers)
    timer.join()
    found = [(event["seq"], event["kind"], event["data"]["message"]["content"]) for event in answer.json()["events"]]
    assert found == [(3, "human_message", "Hello")]


def test_claims_race_through_the_door(committed_db: None) -> None:
    fleet, racers = Fleet(), 12
    where = fleet.handed_over()
    emails = [f"person{n}@example.org" for n in range(racers)]
    with tenant(fleet.project.pk):
        for email in emails:
            people.add(fleet.project.pk, email)
    gate = Barrier(racers)

    def race(email: str) -> Any:
        try:
            gate.wait()
            return claim(fleet.desk, where, email)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(racers) as pool:
        answers = list(pool.map(race, emails))
    [won] = [answer.json()["owner"] for answer in answers if answer.status_code == 200]
    lost = [answer.json()["holder"]["email"] for answer in answers if answer.status_code == 409]
    assert lost == [won] * (racers - 1)


BAD = [
    ("/messages", {"role": "robot", "content": "x"}, "role"),
    ("/messages", {"role": "user", "content": 5}, "content"),
    ("/messages", {"role": "assistant", "confidence": 1.5}, "confidence"),
    ("/messages", {"role": "assistant", "epoch": -1}, "epoch"),
    ("/handover", {"priority": 10**6}, "priority"),
    ("/handover", {"skills": [""]}, "skills[0]"),
    ("/transfer", {}, "to"),
]


@pytest.mark.parametrize(("where", "body", "field"), BAD)
def test_bad_bodies_name_the_field(fleet: Fleet, where: str, body: dict[str, Any], field: str) -> None:
    address = fleet.handed_over()
    client = fleet.desk if where == "/transfer" else fleet.agent
    answer = post(client, address + where, **body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)


@pytest.mark.parametrize("nonsense", ["high", True, [0.1], {"is": 0}, -1, 10**18, None])
def test_a_confidence_that_is_none_is_kept_and_triggers_nothing(fleet: Fleet, nonsense: Any) -> None:
    post(fleet.agent, "/conversations", conversation_id="chat-1")
    data = {"confidence": nonsense}
    said = post(fleet.agent, "/conversations/chat-1/messages", role="assistant", content="Hm", data=data)
    assert (said.status_code, said.json()["data"], said.json()["state"]) == (201, data, "ai_processing")
    assert fleet.agent.get(f"{API}/conversations/chat-1").json()["confidence"] is None


def test_long_names_of_keys_and_people_fit_the_journal(fleet: Fleet) -> None:
    email = f"{'a' * 60}@{'b' * 60}.{'c' * 60}.{'d' * 60}.org"
    assert post(fleet.admin, "/human-agents", email=email).status_code == 201
    desk = client_with(make_key(fleet.project, ("operate", "act-as"), name="k" * 100)[1])
    where = fleet.handed_over()
    assert claim(desk, where, email).json()["owner"] == email
    assert say_as(desk, where, email, "Hello").status_code == 201
    assert post(desk, f"{where}/return", instruction="none", **{"as": email}).status_code == 200


def test_a_message_of_a_batch_opens_its_conversation(fleet: Fleet) -> None:
    caller = Caller(project_id=fleet.project.pk, actor="key:agent", kind="key", scopes=frozenset({"ingest"}))
    hello = MessageEvent(conversation_id="chat-9", role="user", content="escalate", client_id="u1", agent="helper")
    with tenant(fleet.project.pk):
        said, again = (message_from_event(caller, hello, now=now()) for _ in range(2))
        assert (said.message.seq, said.again, again.again) == (1, False, True)
        late = MessageEvent(conversation_id="chat-9", role="assistant", content="Wait")
        assert message_from_event(caller, late, now=now()).suppressed
        with pytest.raises(Problem):
            message_from_event(caller, MessageEvent(conversation_id="chat-9", role="human"), now=now())
        conversation, _ = conversations.open_conversation(fleet.project.pk, "chat-9", now=now())
        assert (conversation.agent, conversation.state) == ("helper", "pending_human")
