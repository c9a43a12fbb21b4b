"""The queue: two people want one conversation, a reply reaches the agent, and nobody acts beyond their rights."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from monitor import conversations, people, queue
from monitor.ids import uuid7
from monitor.models import (
    BudgetWindow,
    Conversation,
    Execution,
    HumanAgent,
    Membership,
    Message,
    Person,
    QueueEvent,
    QueueItem,
    Span,
    Trip,
)
from monitor.models.conversations import Owner, State, Visibility
from monitor.models.people import Presence
from monitor.models.queue import ItemStatus
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import SignedIn, an_execution, signed_in

HTMX = {"HX-Request": "true"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every story needs the database."""


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def a_chat(project_id: int, name: str = "Yara Garcia", *, at: datetime | None = None, **handed: Any) -> QueueItem:
    """A conversation that the agent has handed over."""
    at = at or ago(60)
    customer = {"id": name.lower().replace(" ", "_"), "name": name, "email": "yara@example.com"}
    with tenant(project_id):
        talk, _ = conversations.open_conversation(
            project_id, f"chat-{uuid4()}", agent="airline-support", channel="web chat", customer=customer, now=at
        )
        conversations.say(project_id, talk.pk, "user", "I need another flight.", now=at)
        values: dict[str, Any] = {"reason": "The policy says no"} | handed
        return conversations.hand_over(project_id, talk.pk, now=at, **values).item


def a_colleague(project_id: int, name: str = "Jonas Weber", **human: Any) -> SignedIn:
    with crossing():
        person = Person.objects.create_user(f"{name.split()[0].lower()}@north.example", "correct horse", name=name)
        Membership.objects.create(project_id=project_id, person=person, role="operator")
        HumanAgent.objects.create(project_id=project_id, person=person, **human)
    client = Client()
    client.force_login(person)
    return SignedIn(client, person, project_id)


def act(who: SignedIn, item: QueueItem, verb: str, **fields: str) -> Any:
    return who.client.post(f"/queue/{item.pk}/{verb}", fields, headers=HTMX)


def now_of(item: QueueItem) -> QueueItem:
    with tenant(item.project_id):
        return QueueItem.objects.select_related("assignee__person", "conversation").get(pk=item.pk)


def shown(who: SignedIn, url: str) -> str:
    answer = who.client.get(url)
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_the_empty_queue_says_what_comes_here() -> None:
    page = shown(signed_in(), "/queue")
    assert "Nobody waits for a person." in page
    assert "/api/v1/conversations/{id}/handover" in page


def test_the_list_tells_who_waits_since_when_and_leads_to_the_next() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id, summary="Nonstop and business class")
    page = shown(mara, "/queue")
    assert "Waiting for a person" in page
    assert "Nonstop and business class" in page
    assert "airline-support · nobody" in page
    assert "data-countdown" in page
    assert "Yara Garcia has waited 1" in page
    assert f'href="/queue/{item.pk}"' in page


def test_the_first_who_claims_has_it_and_the_other_reads_by_whom() -> None:
    mara = signed_in()
    jonas = a_colleague(mara.project_id)
    item = a_chat(mara.project_id)
    won = act(jonas, item, "claim")
    lost = act(mara, item, "claim")
    assert won.status_code == 200
    assert 'data-holding="mine"' in won.content.decode()
    assert "You took over at" in won.content.decode()
    assert lost.status_code == 409
    faster = r"Jonas Weber was faster\. Yara Garcia was claimed [\d.]+\ss before you tried\."
    assert re.search(faster, lost.content.decode())
    assert "Jonas Weber was faster." in lost.headers["HX-Trigger"]
    assert 'data-holding="theirs"' in lost.content.decode()
    assert "airline-support · Jonas Weber" in shown(mara, f"/queue/{item.pk}?part=list")
    taken = now_of(item)
    assert str(taken.assignee.person) == "Jonas Weber"
    assert taken.version == 1


def test_claiming_twice_is_once() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id)
    assert act(mara, item, "claim").status_code == 200
    first = now_of(item)
    assert act(mara, item, "claim").status_code == 200
    assert (now_of(item).version, now_of(item).claimed_at) == (first.version, first.claimed_at)


def test_a_full_person_is_told_so_and_takes_nothing() -> None:
    mara = signed_in()
    with tenant(mara.project_id):
        HumanAgent.objects.filter(person=mara.person).update(capacity=1)
    first, second = a_chat(mara.project_id, "Noah Muller"), a_chat(mara.project_id)
    act(mara, first, "claim")
    answer = act(mara, second, "claim")
    assert answer.status_code == 409
    assert "1 of at most 1 conversations" in answer.content.decode()
    assert now_of(second).status == ItemStatus.PENDING


def test_who_is_offline_is_told_what_claiming_does() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id)
    assert "You are shown as offline" in shown(mara, f"/queue/{item.pk}")
    act(mara, item, "claim")
    with tenant(mara.project_id):
        assert HumanAgent.objects.get(person=mara.person).status == Presence.ONLINE


def test_a_reply_lands_as_a_message_and_as_an_event_for_the_agent() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id)
    act(mara, item, "claim")
    said = {"kind": "reply", "content": "Hello, this is Mara.", "client_id": "one"}
    answer = act(mara, item, "say", **said)
    assert answer.status_code == 200
    assert "Hello, this is Mara." in answer.content.decode()
    act(mara, item, "say", **said)
    with tenant(mara.project_id):
        message = Message.objects.get(role="human")
        assert (message.content, message.author, message.visibility) == (
            "Hello, this is Mara.",
            mara.person.email,
            Visibility.PUBLIC,
        )
        event = QueueEvent.objects.get(kind="human_message")
        assert event.data["message"]["content"] == "Hello, this is Mara."
    assert now_of(item).status == ItemStatus.WAITING_USER


def test_only_the_holder_replies_but_a_note_is_always_possible() -> None:
    mara = signed_in()
    jonas = a_colleague(mara.project_id)
    item = a_chat(mara.project_id)
    act(jonas, item, "claim")
    refused = act(mara, item, "say", kind="reply", content="Me too")
    assert refused.status_code == 409
    assert "Jonas Weber has had Yara Garcia since" in refused.content.decode()
    assert "kept as a draft" in refused.content.decode()
    noted = act(mara, item, "say", kind="note", content="Did we ever give credit?")
    assert noted.status_code == 200
    assert "Note, only for the team" in noted.content.decode()
    with tenant(mara.project_id):
        assert [one.visibility for one in Message.objects.filter(role="human")] == [Visibility.INTERNAL]
        assert not QueueEvent.objects.filter(kind="human_message").exists()


def test_a_hand_back_needs_an_instruction_or_an_explicit_none() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id)
    act(mara, item, "claim")
    refused = act(mara, item, "back", how="told", instruction="  ")
    assert refused.status_code == 409
    assert "An instruction is missing." in refused.content.decode()
    assert now_of(item).status == ItemStatus.CLAIMED
    given = act(mara, item, "back", how="told", instruction="Offer the later flight.")
    assert given.status_code == 200
    assert "You gave it back to the AI" in given.content.decode()
    with tenant(mara.project_id):
        assert QueueEvent.objects.get(kind="handed_back").data["instruction"] == "Offer the later flight."
        talk = Conversation.objects.get()
        assert (talk.state, talk.owner_kind) == (State.AI_PROCESSING, Owner.AI)


def test_none_is_an_instruction_when_it_is_chosen() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id)
    act(mara, item, "claim")
    assert act(mara, item, "back", how="none", instruction="forgotten").status_code == 200
    with tenant(mara.project_id):
        assert QueueEvent.objects.get(kind="handed_back").data["instruction"] is None


def test_resolving_keeps_outcome_and_note_and_is_over_for_others() -> None:
    mara = signed_in()
    jonas = a_colleague(mara.project_id)
    item = a_chat(mara.project_id)
    act(mara, item, "claim")
    assert act(mara, item, "resolve", outcome="solved", note="Seat released").status_code == 200
    closed = now_of(item)
    assert (closed.status, closed.outcome, closed.note) == (ItemStatus.RESOLVED, "solved", "Seat released")
    late = act(jonas, item, "claim")
    assert late.status_code == 409
    assert "Yara Garcia was resolved meanwhile." in late.content.decode()
    assert "Closed today" in shown(jonas, "/queue")


def test_what_a_lost_person_held_goes_back_by_itself() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id)
    act(mara, item, "claim")
    people.presence(now=datetime.now(UTC) + timedelta(minutes=6))
    page = shown(mara, f"/queue/{item.pk}")
    assert "It went back into the queue at" in page
    assert "Nobody put it back" not in page


def test_released_it_waits_again() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id)
    act(mara, item, "claim")
    assert act(mara, item, "release").status_code == 200
    assert now_of(item).status == ItemStatus.PENDING
    assert "You put it back into the queue" in shown(mara, f"/queue/{item.pk}")


def test_transferred_it_is_anothers() -> None:
    mara = signed_in()
    jonas = a_colleague(mara.project_id)
    item = a_chat(mara.project_id)
    act(mara, item, "claim")
    assert act(mara, item, "transfer", to="nobody@north.example").status_code == 409
    answer = act(mara, item, "transfer", to=jonas.person.email, note="You know fares")
    assert "Jonas Weber has it now." in answer.headers["HX-Trigger"]
    assert 'data-holding="theirs"' in answer.content.decode()
    assert 'data-holding="mine"' in shown(jonas, f"/queue/{item.pk}")


def test_without_scripts_a_refusal_comes_after_the_redirect() -> None:
    mara = signed_in()
    jonas = a_colleague(mara.project_id)
    item = a_chat(mara.project_id)
    act(jonas, item, "claim")
    page = mara.client.post(f"/queue/{item.pk}/claim", follow=True)
    assert page.redirect_chain == [(f"/queue/{item.pk}", 302)]
    assert "Jonas Weber was faster." in page.content.decode()


def test_a_paused_execution_is_decided_with_a_note() -> None:
    mara = signed_in()
    execution = an_execution(
        mara.project_id, status="hitl_paused", verdict="error", attempt=4, error="flight not available"
    )
    with tenant(mara.project_id):
        item = queue.open_item(
            mara.project_id,
            "paused_execution",
            execution.id,
            title="airline-rebooking failed",
            trigger="error",
            evidence={"reason": "4 of 4 tries spent", "attempt": 4, "max_retries": 3},
            now=ago(30),
        )
    page = shown(mara, f"/queue/{item.pk}")
    assert "flight not available" in page
    assert "4 of 4 tries are spent" in page
    assert "needs a person" in page.lower()
    answer = act(mara, item, "decide", decision="retry", note="The flight is back")
    assert answer.status_code == 200
    with tenant(mara.project_id):
        again = Execution.objects.get(id=execution.id)
        assert (again.status, again.attempt, again.command_reason) == ("retrying", 5, "The flight is back")
        assert QueueEvent.objects.get(kind="command").data["command"] == "retry"
    assert now_of(item).status == ItemStatus.RESOLVED
    assert act(mara, item, "decide", decision="cancel").status_code == 200
    assert act(mara, item, "decide", decision="explode").status_code == 404


def test_what_a_colleague_has_claimed_is_decided_by_them() -> None:
    mara = signed_in()
    jonas = a_colleague(mara.project_id)
    execution = an_execution(mara.project_id, status="hitl_paused", verdict="error")
    with tenant(mara.project_id):
        item = queue.open_item(
            mara.project_id, "paused_execution", execution.id, title="It failed", trigger="error", now=ago(30)
        )
    act(jonas, item, "claim")
    assert act(mara, item, "decide", decision="retry").status_code == 409
    with tenant(mara.project_id):
        assert Execution.objects.get(id=execution.id).status == "hitl_paused"


def test_a_trip_is_reset_with_a_top_up() -> None:
    mara = signed_in()
    window = {"scope": "run", "target": "eval-1", "period": "run"}
    with tenant(mara.project_id):
        BudgetWindow.objects.create(
            project_id=mara.project_id, starts_at=EPOCH, spent_usd=Decimal(6), tripped_at=ago(60), **window
        )
        trip = Trip.objects.create(
            project_id=mara.project_id,
            window_starts_at=EPOCH,
            total_cost_usd=Decimal("5.02"),
            threshold_usd=Decimal(5),
            reason="run eval-1: 5.02 of 5.00 US dollars spent",
            tripped_at=ago(60),
            **window,
        )
        item = queue.open_item(mara.project_id, "trip", trip.pk, title="Budget tripped", trigger="budget", now=ago(60))
    assert "5.02 of 5.00 US dollars spent" in shown(mara, f"/queue/{item.pk}")
    assert act(mara, item, "reset", top_up_usd="much").status_code == 409
    assert act(mara, item, "reset", top_up_usd="2.50", note="Let it finish").status_code == 200
    with tenant(mara.project_id):
        done = Trip.objects.get()
        assert (done.top_up_usd, done.note, done.reset_by) == (Decimal("2.50"), "Let it finish", mara.person.email)
    assert now_of(item).status == ItemStatus.RESOLVED


@pytest.mark.parametrize("verb", ["claim", "release", "transfer", "resolve", "back", "say", "decide", "reset"])
def test_a_viewer_looks_and_does_nothing(verb: str) -> None:
    vera = signed_in(role="viewer")
    item = a_chat(vera.project_id)
    page = shown(vera, f"/queue/{item.pk}")
    assert "You may look here." in page
    assert "data-composer" not in page
    assert 'data-key="c"' not in page
    assert act(vera, item, verb, content="x", decision="retry", how="none").status_code == 404
    assert now_of(item).status == ItemStatus.PENDING


@pytest.mark.parametrize("part", ["", "?part=list", "?part=centre", "?part=why", "?part=customer&fact=email"])
def test_another_projects_item_is_not_found(part: str) -> None:
    theirs, mine = signed_in("theirs"), signed_in("mine")
    item = a_chat(theirs.project_id)
    assert mine.client.get(f"/queue/{item.pk}{part}").status_code == 404
    assert act(mine, item, "claim").status_code == 404
    assert now_of(item).status == ItemStatus.PENDING
    assert "Yara Garcia" not in shown(mine, "/queue")


def test_the_reason_the_facts_and_the_trail_stand_beside_it() -> None:
    mara = signed_in()
    began = ago(300)

    def after(seconds: float) -> datetime:
        return began + timedelta(seconds=seconds)

    with tenant(mara.project_id):
        talk, _ = conversations.open_conversation(
            mara.project_id, "chat-1", agent="airline-support", customer={"name": "Amelia Davis"}, now=began
        )
        conversations.say(mara.project_id, talk.pk, "user", "Cancel UDMOP1.", now=after(1))
        for n in range(7):
            Span.objects.create(
                project_id=mara.project_id,
                trace_id=uuid7(),
                span_id=n + 1,
                started_at=after(10 + n),
                ended_at=after(10.04 + n),
                received_at=after(20),
                kind="tool",
                name="get_reservation_details",
                tool="get_reservation_details",
                conversation_id="chat-1",
                input='{"reservation_id": "UDMOP1"}',
                digest=b"x" * 16,
            )
        said = conversations.say(
            mara.project_id, talk.pk, "user", "Yes, let me speak to a human. Thanks.", now=after(100)
        )
        assert said.handed_over is not None
        item = said.handed_over
        Conversation.objects.update(
            confidence=0.58,
            handover_context={"facts": [{"text": "No insurance", "status": "verified", "source": "get_fares"}]},
        )
        human = people.human_for(mara.project_id, person_id=mara.person.pk)
        assert human is not None
        queue.claim(mara.project_id, item.pk, human, now=after(200))
        conversations.say(mara.project_id, talk.pk, "assistant", "PLEASE HOLD ON.", now=after(202.4))
    page = shown(mara, f"/queue/{item.pk}")
    assert "let me <mark>speak to a human</mark>. Thanks." in page
    assert "Amelia Davis asked for a person" in page
    assert "Phrase “speak to human”" in page
    assert "Confidence 0.58" in page
    assert "hands over below 0.70" in page
    assert "verified by get_fares" in page
    assert "get_reservation_details ×7" in page
    assert "7 steps, 0.3\u00a0s" in page
    assert "The AI can no longer send messages or start tools here." in page
    assert "Held back, not sent." in page
    assert "airline-support answered 2.4\u00a0s after you took over" in page
    assert "<s>PLEASE HOLD ON.</s>" in page


def test_the_email_is_masked_until_somebody_who_acts_asks() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id)
    page = shown(mara, f"/queue/{item.pk}")
    assert "y•••••@example.com" in page
    assert "yara@example.com" not in page
    assert "yara@example.com" in shown(mara, f"/queue/{item.pk}?part=customer&fact=email")
    assert mara.client.get(f"/queue/{item.pk}?part=customer&fact=id").status_code == 404


def test_what_the_customer_came_with_before_is_told() -> None:
    mara = signed_in()
    earlier = a_chat(mara.project_id, at=ago(90_000))
    act(mara, earlier, "resolve", outcome="solved")
    a_chat(mara.project_id, "Somebody Else", at=ago(80_000))
    item = a_chat(mara.project_id)
    why = shown(mara, f"/queue/{item.pk}?part=why")
    assert "1 conversation<" in why
    assert f'href="/queue/{earlier.pk}"' in why
    assert "resolved by a person" in why


def test_words_of_strangers_are_text() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id, "<script>alert(1)</script>", reason="<b>x</b>")
    page = shown(mara, f"/queue/{item.pk}")
    assert "<script>alert(1)" not in page
    assert "<b>x</b>" not in page


def test_tabs_filter_and_count() -> None:
    mara = signed_in()
    mine, other = a_chat(mara.project_id, "Noah Muller"), a_chat(mara.project_id)
    act(mara, mine, "claim")
    page = shown(mara, "/queue?tab=mine")
    assert "Noah Muller" in page
    assert f'data-row="{other.pk}"' not in page
    assert 'Mine <span class="count-bare">1</span>' in page
    assert 'All <span class="count-bare">2</span>' in page
    assert "Approvals" not in page
    assert "You have nothing." not in page
    act(mara, mine, "release")
    assert "You have nothing." in shown(mara, "/queue?tab=mine")


def test_two_hundred_items_are_paged_within_the_query_budget(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    mara = signed_in()
    first = a_chat(mara.project_id, "Customer 000", at=ago(2000))
    with tenant(mara.project_id):
        talks = [
            Conversation(
                project_id=mara.project_id, conversation_id=f"c{n}", customer={"name": f"Customer {n:03}"}, agent="a"
            )
            for n in range(1, 200)
        ]
        Conversation.objects.bulk_create(talks)
        QueueItem.objects.bulk_create(
            QueueItem(
                project_id=mara.project_id,
                kind="chat",
                subject_id=str(talk.pk),
                conversation=talk,
                title="It asks for a person",
                trigger="agent_decision",
                requested_at=ago(1000 - n),
            )
            for n, talk in enumerate(talks)
        )
    with django_assert_max_num_queries(30):
        page = shown(mara, f"/queue/{first.pk}")
    assert page.count('class="item ') == 50
    assert "1 to 50 of 200" in page
    last = shown(mara, "/queue?page=4")
    assert "151 to 200 of 200" in last
    assert "Customer 199" in last
    assert shown(mara, "/queue?page=999999").count('class="item ') == 0
    with django_assert_max_num_queries(22):
        shown(mara, f"/queue/{first.pk}?part=centre")


@pytest.mark.parametrize("part", ["nothing", "page"])
def test_an_unknown_part_is_not_found(part: str) -> None:
    mara = signed_in()
    item = a_chat(mara.project_id)
    assert mara.client.get(f"/queue?part={part}").status_code == 404
    assert mara.client.get(f"/queue/{item.pk}?part={part}").status_code == 404


def test_the_sidebars_counts_come_alone() -> None:
    mara = signed_in()
    a_chat(mara.project_id)
    fragment = shown(mara, "/frame/counts?here=/queue")
    assert "<html" not in fragment
    assert 'id="watcher"' in fragment
    assert 'data-nav-count="queue">1<' in fragment
    assert 'id="nav-queue" href="/queue" data-go="q" aria-current="page"' in fragment


def test_who_is_at_a_page_is_not_gone() -> None:
    mara = signed_in()
    with tenant(mara.project_id):
        HumanAgent.objects.update(status=Presence.ONLINE, last_seen_at=ago(80))
    assert mara.client.post("/presence/seen", headers=HTMX).status_code == 204
    people.presence(now=datetime.now(UTC) + timedelta(seconds=30))
    with tenant(mara.project_id):
        assert HumanAgent.objects.get().status == Presence.ONLINE
        HumanAgent.objects.update(status=Presence.OFFLINE)
    mara.client.post("/presence/seen", headers=HTMX)
    with tenant(mara.project_id):
        assert HumanAgent.objects.get().status == Presence.OFFLINE


def test_an_item_that_never_was_is_not_found() -> None:
    mara = signed_in()
    assert mara.client.get(f"/queue/{UUID(int=7)}").status_code == 404
