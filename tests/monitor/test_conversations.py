"""Conversations: numbered messages, the fence around the turn, and what calls for a person."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any

import pytest
from django.db import connections

from monitor import claims, conversations, handback, handover, people, transcript, turns
from monitor.conversations import Said
from monitor.models import Conversation, HumanAgent, Message, Project, QueueEvent, QueueItem, StateChange
from monitor.models.conversations import State
from monitor.models.queue import ItemStatus
from monitor.tenancy import crossing, tenant

NOW = datetime.now(UTC).replace(microsecond=0)


def a_project(**settings: Any) -> int:
    with crossing():
        return Project.objects.create(name="north", **settings).pk


class Chat:
    """A conversation of one project, with a short way to speak in it."""

    def __init__(self, project_id: int, name: str = "chat-1") -> None:
        self.project_id = project_id
        self.pk = conversations.open_conversation(project_id, name, agent="helper", now=NOW)[0].pk

    def say(self, role: str, content: str, *, now: datetime = NOW, **more: Any) -> Said:
        return conversations.say(self.project_id, self.pk, role, content, now=now, **more)

    def hand_over(self, **more: Any) -> handover.HandedOver:
        return handover.hand_over(self.project_id, self.pk, **{"reason": "Out of my depth.", "now": NOW, **more})

    @property
    def row(self) -> Conversation:
        return Conversation.objects.get(pk=self.pk)

    @property
    def item(self) -> QueueItem:
        item = handover.open_chat(self.project_id, self.pk)
        assert item is not None
        return item


@contextmanager
def a_chat(**settings: Any) -> Iterator[Chat]:
    project_id = a_project(**settings)
    with tenant(project_id):
        yield Chat(project_id)


def a_person(chat: Chat, name: str = "ada") -> HumanAgent:
    return people.add(chat.project_id, f"{name}@example.org", name=name.title())[0]


def events(*kinds: str) -> list[QueueEvent]:
    return list(QueueEvent.objects.filter(kind__in=kinds).order_by("seq"))


def test_a_conversation_is_opened_once(db: None) -> None:
    with a_chat() as chat:
        again, made = conversations.open_conversation(chat.project_id, "chat-1", agent="helper", now=NOW)
        assert (again.pk, made) == (chat.pk, False)
        with pytest.raises(conversations.OpenedOtherwise):
            conversations.open_conversation(chat.project_id, "chat-1", agent="another", now=NOW)
        assert chat.row.agent == "helper"


def test_the_straight_way_of_a_conversation(db: None) -> None:
    with a_chat() as chat:
        assert chat.row.state == State.NEW
        chat.say("user", "Where is my parcel?")
        assert chat.row.state == State.AI_PROCESSING
        chat.say("assistant", "In Leeds.", data={"confidence": 0.93}, epoch=0)
        assert conversations.finish(chat.project_id, chat.pk, epoch=0, now=NOW)
        assert not conversations.finish(chat.project_id, chat.pk, epoch=0, now=NOW)
        assert (chat.row.state, chat.row.confidence) == (State.FINISHED, 0.93)
        chat.say("user", "And now?")
        assert chat.row.state == State.AI_PROCESSING
        assert [change.to_state for change in StateChange.objects.filter(subject="conversation").order_by("id")] == [
            "ai_processing",
            "finished",
            "ai_processing",
        ]


def test_a_repeated_message_is_one_message(db: None) -> None:
    with a_chat() as chat:
        first = chat.say("user", "Hello", client_id="m1", author="c7")
        again = chat.say("user", "Hello", client_id="m1", author="c7")
        assert (again.message.pk, again.again, first.again) == (first.message.pk, True, False)
        with pytest.raises(transcript.SaidOtherwise):
            chat.say("user", "Goodbye", client_id="m1", author="c7")
        chat.say("assistant", "Hello", client_id="m1")
        assert [(m.seq, m.role) for m in Message.objects.order_by("seq")] == [(1, "user"), (2, "assistant")]


def test_numbers_have_no_gaps_under_sixteen_threads(committed_db: None) -> None:
    with a_chat() as chat:
        pass

    def writer(n: int) -> None:
        try:
            for k in range(5):
                with tenant(chat.project_id):
                    chat.say("user", f"{n}-{k}", client_id=f"{n}-{k}")
                # Each post arrives twice.
                with tenant(chat.project_id):
                    chat.say("user", f"{n}-{k}", client_id=f"{n}-{k}")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(writer, range(16)))
    with tenant(chat.project_id):
        assert list(Message.objects.order_by("seq").values_list("seq", flat=True)) == list(range(1, 81))
        assert chat.row.last_seq == 80


def test_events_never_appear_behind_a_reader(committed_db: None) -> None:
    project_id = a_project()
    with tenant(project_id):
        chats = [Chat(project_id, f"chat-{n}") for n in range(24)]
    seen: list[int] = []
    done = Event()

    def read() -> None:
        try:
            cursor, last_look = 0, False
            while True:
                last_look = done.is_set()
                with tenant(project_id):
                    rows = QueueEvent.objects.filter(seq__gt=cursor).order_by("seq")[:3]
                    found = list(rows.values_list("seq", flat=True))
                seen.extend(found)
                cursor = found[-1] if found else cursor
                if last_look and not found:
                    return
        finally:
            connections.close_all()

    def write(chat: Chat) -> None:
        try:
            with tenant(project_id):
                chat.hand_over()
            with tenant(project_id):
                claims.resolve(project_id, chat.item.pk, None, now=NOW)
        finally:
            connections.close_all()

    reader = Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, chats))
    done.set()
    reader.join()
    assert seen == list(range(1, 49))


@pytest.mark.parametrize(
    ("text", "fires"),
    [
        ("Let me SPEAK   to human, please", True),
        ("Can I speak to a human?", True),
        ("talk to an agent!", True),
        ("Escalate.", True),
        ("You de-escalate well", False),
        ("He escalated it", False),
        ("I will speak to humanity", False),
    ],
)
def test_phrases_are_heard_as_people_say_them(db: None, text: str, fires: bool) -> None:
    with a_chat() as chat:
        said = chat.say("user", text)
        assert (said.handed_over is not None) == fires
        assert chat.row.state == (State.PENDING_HUMAN if fires else State.AI_PROCESSING)


def test_a_phrase_hands_over_with_its_evidence(db: None) -> None:
    with a_chat() as chat:
        chat.say("assistant", "I can escalate this.")
        assert chat.row.state == State.AI_PROCESSING
        said = chat.say("user", "Yes, escalate it")
        item = said.handed_over
        assert item is not None
        assert (said.conversation.state, said.conversation.epoch) == (State.PENDING_HUMAN, 1)
        assert (item.kind, item.trigger, item.subject_id) == ("chat", "phrase", str(chat.pk))
        assert (item.evidence["phrase"], item.evidence["message_seq"]) == ("escalate", 2)
        assert (item.claim_due_at, chat.row.epoch) == (NOW + timedelta(minutes=2), 1)
        assert chat.row.handover_reason == "The customer said “escalate”."
        assert [event.data["trigger"] for event in events("handover")] == ["phrase"]


def test_an_answer_below_the_threshold_hands_over_and_is_still_sent(db: None) -> None:
    with a_chat(handover_confidence_below=0.6) as chat:
        assert chat.say("assistant", "Perhaps.", data={"confidence": 0.6}).handed_over is None
        said = chat.say("assistant", "No idea.", data={"confidence": 0.59})
        assert said.handed_over is not None
        assert (said.message.visibility, said.handed_over.trigger) == ("public", "low_confidence")


def test_three_errors_in_a_row_hand_over(db: None) -> None:
    with a_chat() as chat:
        for failure in ({"error": "504"}, {"success": False}):
            assert chat.say("tool", "", data=failure).handed_over is None
        chat.say("assistant", "", data={"tool_calls": [{"name": "track"}]})
        item = chat.say("tool", "", data={"error": "timeout"}).handed_over
        assert item is not None
        assert (item.trigger, item.evidence["errors"], item.evidence["last"]) == ("errors", 3, "timeout")


def test_a_success_ends_the_row_of_errors(db: None) -> None:
    with a_chat() as chat:
        for role, data in [
            ("tool", {"error": "504"}),
            ("tool", {"error": "504"}),
            ("tool", {}),
            ("tool", {"error": 1}),
        ]:
            assert chat.say(role, "result", data=data).handed_over is None
        assert chat.row.errors_in_a_row == 1


def test_triggers_that_are_off_stay_silent(db: None) -> None:
    off = {"handover_confidence_below": None, "handover_phrases": [], "handover_errors_in_a_row": None}
    with a_chat(**off) as chat:
        chat.say("user", "I want to speak to human, escalate")
        chat.say("assistant", "Hm.", data={"confidence": 0.0})
        for _ in range(5):
            chat.say("tool", "", data={"error": "504"})
        assert (chat.row.state, QueueItem.objects.count()) == (State.AI_PROCESSING, 0)


def test_the_first_handover_counts_and_what_follows_is_suppressed(db: None) -> None:
    with a_chat() as chat:
        first = chat.hand_over(reason="A refund.", summary="Wants money back.", skills=["billing"], priority=3)
        second = chat.hand_over(reason="Something else.")
        assert (second.item.pk, second.again, first.again) == (first.item.pk, True, False)
        assert (chat.row.handover_reason, first.item.skills, first.item.priority) == ("A refund.", ["billing"], 3)
        said = chat.say("assistant", "You are being transferred.")
        assert (said.suppressed, said.handed_over, chat.row.state) == (True, None, State.PENDING_HUMAN)
        assert chat.say("tool", "done", data={"error": "x"}).suppressed
        assert not chat.say("user", "Thank you").suppressed


def test_a_takeover_in_mid_turn_stops_the_agent(db: None) -> None:
    with a_chat() as chat:
        chat.say("user", "Hello", epoch=None)
        chat.hand_over()
        ada = a_person(chat)
        claims.claim(chat.project_id, chat.item.pk, ada, now=NOW)
        late = chat.say("assistant", "Let me see…", epoch=0, client_id="a1")
        assert (late.suppressed, late.conversation.epoch) == (True, 2)
        again = chat.say("assistant", "Let me see…", epoch=0, client_id="a1")
        assert (again.suppressed, again.again, Message.objects.count()) == (True, True, 2)


def test_an_old_epoch_is_stale_even_when_the_ai_owns_the_turn_again(db: None) -> None:
    with a_chat() as chat:
        chat.hand_over()
        epoch = handback.hand_back(
            chat.project_id, chat.item.pk, None, instruction="none", actor="key:ops", now=NOW
        ).conversation.epoch
        assert chat.say("assistant", "From before", epoch=0).suppressed
        assert not chat.say("assistant", "From now", epoch=epoch).suppressed
        with pytest.raises(turns.StaleTurn):
            chat.hand_over(epoch=0)
        assert chat.row.state == State.AI_PROCESSING


def test_only_the_holder_writes_to_the_customer(db: None) -> None:
    with a_chat() as chat:
        ada, bob = a_person(chat, "ada"), a_person(chat, "bob")
        with pytest.raises(conversations.NotTheHolder, match="claim it first"):
            chat.say("human", "Hello", human=ada)
        chat.hand_over()
        claims.claim(chat.project_id, chat.item.pk, ada, now=NOW)
        with pytest.raises(conversations.NotTheHolder, match="Ada holds it"):
            chat.say("human", "Hello", human=bob)
        chat.say("human", "She is angry.", human=bob, visibility="internal")
        assert chat.item.first_reply_at is None
        chat.say("human", "Hello, I am Ada.", human=ada, now=NOW + timedelta(seconds=30))
        assert (chat.item.first_reply_at, chat.item.status) == (NOW + timedelta(seconds=30), ItemStatus.WAITING_USER)
        [event] = events("human_message")
        assert (event.data["message"]["content"], event.data["message"]["author"]) == (
            "Hello, I am Ada.",
            "ada@example.org",
        )
        chat.say("user", "Hi Ada")
        assert chat.item.status == ItemStatus.CLAIMED


def test_a_hand_back_carries_what_people_did(db: None) -> None:
    with a_chat() as chat:
        ada = a_person(chat)
        for _ in range(2):
            chat.say("tool", "", data={"error": "504"})
        chat.say("user", "escalate")
        item = chat.item
        claims.claim(chat.project_id, item.pk, ada, now=NOW)
        chat.say("human", "I refund 12 USD.", human=ada)
        chat.say("assistant", "Too late", epoch=0)
        chat.say("human", "Careful, VIP.", human=ada, visibility="internal")
        chat.say("user", "Great")
        back = handback.hand_back(
            chat.project_id, item.pk, ada, instruction=" Send the receipt. ", now=NOW + timedelta(minutes=4)
        )
        block = back.block
        assert (block["type"], block["instruction"], block["epoch"]) == ("handed_back", "Send the receipt.", 3)
        assert [(m["seq"], m["content"]) for m in block["messages"]] == [(4, "I refund 12 USD."), (7, "Great")]
        assert block["suppressed"] == [5]
        assert block["summary"].startswith("ada@example.org wrote 1 message in 4 minutes; the customer wrote 1.")
        assert events("handed_back")[0].data["instruction"] == "Send the receipt."
        row = chat.row
        assert (row.state, row.owner, row.errors_in_a_row, row.trigger_baseline_seq) == (
            State.AI_PROCESSING,
            None,
            0,
            row.last_seq,
        )


def test_a_hand_back_wants_an_instruction_or_none_in_so_many_words(db: None) -> None:
    with a_chat() as chat:
        chat.hand_over()
        with pytest.raises(handback.InstructionMissing):
            handback.hand_back(chat.project_id, chat.item.pk, None, instruction="  ", now=NOW)
        assert chat.row.state == State.PENDING_HUMAN
        block = handback.hand_back(chat.project_id, chat.item.pk, None, instruction="None", now=NOW).block
        assert block["instruction"] is None


def test_what_was_said_before_the_hand_back_never_triggers_again(db: None) -> None:
    with a_chat() as chat:
        chat.say("user", "escalate", client_id="u1")
        handback.hand_back(chat.project_id, chat.item.pk, None, instruction="Go on.", now=NOW)
        # The agent's side retries what it had sent, and reports late what had been said earlier.
        assert chat.say("user", "escalate", client_id="u1").again
        late = NOW - timedelta(minutes=1)
        assert chat.say("user", "escalate now", client_id="u2", said_at=late).handed_over is None
        assert chat.row.state == State.AI_PROCESSING
        # Said anew it counts anew.
        assert chat.say("user", "escalate", client_id="u3", now=NOW + timedelta(seconds=5)).handed_over is not None


def test_three_bounces_in_a_day_keep_it_with_people(db: None) -> None:
    with a_chat() as chat:
        for _ in range(3):
            chat.hand_over()
            handback.hand_back(chat.project_id, chat.item.pk, None, instruction="none", now=NOW)
        chat.hand_over()
        assert chat.row.bounce_count == 3
        assert StateChange.objects.filter(cause="bounce_limit", judged_at=None).count() == 1
        with pytest.raises(handback.BouncedTooOften):
            handback.hand_back(chat.project_id, chat.item.pk, None, instruction="none", now=NOW)
        assert chat.item.status == ItemStatus.PENDING
        later = NOW + timedelta(hours=24)
        assert handback.hand_back(chat.project_id, chat.item.pk, None, instruction="none", now=later)


def test_a_resolved_conversation_goes_on_when_the_customer_writes_again(db: None) -> None:
    with a_chat() as chat:
        chat.hand_over()
        claims.resolve(chat.project_id, chat.item.pk, None, outcome="solved", now=NOW)
        assert chat.say("assistant", "Anything else?").suppressed
        with pytest.raises(turns.IllegalMove):
            chat.hand_over()
        chat.say("user", "One more thing")
        assert (chat.row.state, chat.row.owner_kind) == (State.AI_PROCESSING, "ai")
        assert events("reopened")[0].data["epoch"] == chat.row.epoch
        chat.say("assistant", "Yes?", epoch=chat.row.epoch)
