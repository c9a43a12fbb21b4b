"""Everybody at once: whatever people, agents and customers do at the same time, nothing locks up and nothing splits."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from django.db import connections

from monitor import claims, conversations, handback, handover, people, queue, turns
from monitor.models import Conversation, HumanAgent, Message, Project, QueueEvent, QueueItem
from monitor.models.conversations import Owner, State
from monitor.models.people import Presence
from monitor.models.queue import HELD, OPEN_ITEMS, ItemStatus
from monitor.tenancy import crossing, tenant

NOW = datetime.now(UTC).replace(microsecond=0)
REFUSALS = (queue.QueueRefusal, turns.IllegalMove, conversations.NotTheHolder, turns.StaleTurn)


class Everybody:
    """Three conversations, three people, and each verb that somebody may call at any time."""

    def __init__(self) -> None:
        with crossing():
            self.project_id = Project.objects.create(name="north").pk
        with tenant(self.project_id):
            opened = [conversations.open_conversation(self.project_id, f"chat-{n}", now=NOW)[0] for n in range(3)]
            self.chats = [row.pk for row in opened]
            self.people = [people.add(self.project_id, f"p{n}@example.org", capacity=2)[0] for n in range(3)]

    def act(self, dice: random.Random, now: datetime) -> None:
        chat, human = dice.choice(self.chats), dice.choice(self.people)
        verbs: list[Callable[[], object]] = [
            lambda: conversations.say(self.project_id, chat, "user", "please escalate", now=now),
            lambda: conversations.say(self.project_id, chat, "assistant", "yes", now=now),
            lambda: conversations.say(self.project_id, chat, "human", "hello", human=human, now=now),
            lambda: handover.hand_over(self.project_id, chat, reason="help", now=now),
            lambda: claims.claim(self.project_id, self.item(chat), human, now=now),
            lambda: claims.claim(self.project_id, self.item(chat), human, now=now),
            lambda: claims.release(self.project_id, self.item(chat), human, now=now),
            lambda: claims.transfer(self.project_id, self.item(chat), human, dice.choice(self.people), now=now),
            lambda: claims.resolve(self.project_id, self.item(chat), human, now=now),
            lambda: handback.hand_back(self.project_id, self.item(chat), human, instruction="none", now=now),
            lambda: people.present(self.project_id, human.pk, dice.choice(Presence.values), now=now),
        ]
        with tenant(self.project_id):
            dice.choice(verbs)()

    def item(self, chat: object) -> object:
        item = QueueItem.objects.filter(conversation_id=chat, status__in=OPEN_ITEMS).first()
        if item is None:
            raise claims.NotHeld("nothing waits")
        return item.pk


def test_everybody_at_once(committed_db: None) -> None:
    everybody = Everybody()

    def player(seed: int) -> int:
        dice, done = random.Random(seed), 0
        try:
            for turn in range(40):
                try:
                    # Time flies, so that the bounce limit does not end the game.
                    everybody.act(dice, NOW + timedelta(hours=1.5 * turn))
                    done += 1
                except REFUSALS:
                    pass
        finally:
            connections.close_all()
        return done

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(player, range(8)))
    assert min(done) > 0

    with tenant(everybody.project_id):
        for chat in Conversation.objects.all():
            items = list(QueueItem.objects.filter(conversation=chat, status__in=OPEN_ITEMS))
            seqs = list(Message.objects.filter(conversation=chat).order_by("seq").values_list("seq", flat=True))
            assert seqs == list(range(1, chat.last_seq + 1))
            match chat.state:
                case State.HUMAN_ACTIVE:
                    [item] = items
                    assert item.status in HELD
                    assert (chat.owner_kind, chat.owner_id) == (Owner.HUMAN, item.assignee_id)
                case State.PENDING_HUMAN:
                    [item] = items
                    assert (item.status, item.assignee_id) == (ItemStatus.PENDING, None)
                    assert (chat.owner_kind, chat.owner_id) == (Owner.NONE, None)
                case _:
                    assert items == []
        for human in HumanAgent.objects.all():
            assert QueueItem.objects.filter(assignee=human, status__in=HELD).count() <= len(everybody.chats)
        seqs = list(QueueEvent.objects.order_by("seq").values_list("seq", flat=True))
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(seqs) > 20
