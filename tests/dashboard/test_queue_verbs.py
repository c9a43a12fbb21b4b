"""The queue: two people want one conversation, a reply reaches the agent, and nobody acts beyond their rights."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from monitor import people, queue
from monitor.models import (
    BudgetWindow,
    Conversation,
    Execution,
    HumanAgent,
    Message,
    QueueEvent,
    Trip,
)
from monitor.models.conversations import Owner, State, Visibility
from monitor.models.people import Presence
from monitor.models.queue import ItemStatus
from monitor.tenancy import tenant
from tests.dashboard.builders import an_execution, signed_in
from tests.dashboard.queue_builders import a_chat, a_colleague, act, ago, now_of, shown

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every story needs the database."""


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
    assert act(mara, item, "reset", top_up_usd="$1,250.50", note="Let it finish").status_code == 200
    with tenant(mara.project_id):
        done = Trip.objects.get()
        assert (done.top_up_usd, done.note, done.reset_by) == (Decimal("1250.50"), "Let it finish", mara.person.email)
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
