"""Conversations: open, say, finish. What an agent says on a turn that is not its own is kept back."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from monitor import claims, ground, handover, news, pipeline, queue, transcript, triggers, turns
from monitor.events import announce
from monitor.handback import BOUNCES, hand_backs
from monitor.models import Conversation, HumanAgent, Message, Project, QueueItem
from monitor.models.conversations import MessageRole, Owner, State, Visibility
from monitor.models.people import Presence
from monitor.models.queue import HELD, ItemStatus
from monitor.pipeline import Statement

AUTHOR_LENGTH = 200
AI_ROLES = (MessageRole.ASSISTANT, MessageRole.TOOL, MessageRole.SYSTEM)


# Each span that stands in the ledger has an odd count of bookings.
COST_BEFORE = """
SELECT coalesce(sum(cost_usd), 0) FROM monitor_span
 WHERE project_id = %(project_id)s AND conversation_id = %(id)s AND conversation_id <> '' AND bookings %% 2 = 1
"""


class OpenedOtherwise(Exception):
    """There is a conversation of this id with another agent, channel or customer."""

    def __init__(self, conversation: Conversation) -> None:
        super().__init__(f"conversation {conversation.conversation_id} exists with other content")
        self.conversation = conversation


class NotTheHolder(Exception):
    """Only who holds the conversation may write to the customer; `holder` has it, or nobody."""

    def __init__(self, holder: HumanAgent | None, at: datetime | None = None) -> None:
        super().__init__(f"{holder.person} holds it" if holder else "nobody holds it: claim it first")
        self.holder = holder
        self.at = at


@dataclass(frozen=True)
class Said:
    """A message that is kept. `again` means that it was sent before, `handed_over` is the item that it opened."""

    message: Message
    conversation: Conversation
    again: bool = False
    handed_over: QueueItem | None = None

    @property
    def suppressed(self) -> bool:
        return self.message.visibility == Visibility.SUPPRESSED


def open_conversation(
    project_id: int,
    conversation_id: str,
    *,
    now: datetime,
    agent: str = "",
    channel: str = "",
    customer: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> tuple[Conversation, bool]:
    """The conversation of this client string, made unless it exists; True when it is new. Raises OpenedOtherwise."""
    asked = {"agent": agent, "channel": channel, "customer": dict(customer or {}), "metadata": dict(metadata or {})}
    known = Conversation.objects.filter(project_id=project_id, conversation_id=conversation_id).first()
    conversation, made = (known, False) if known else _open(project_id, conversation_id, asked, now=now)
    if not made and any(value and getattr(conversation, name) != value for name, value in asked.items()):
        raise OpenedOtherwise(conversation)
    if made:
        news.tell(project_id, "conversations", str(conversation.pk))
    return conversation, made


def _open(
    project_id: int, conversation_id: str, asked: Mapping[str, Any], *, now: datetime
) -> tuple[Conversation, bool]:
    """Make it unless another was faster; what spans told of it before counts for it."""
    wanted = {"project_id": project_id, "id": conversation_id}
    _, ((cost_usd,),) = pipeline.flush(
        [ground.claiming_talk(project_id, conversation_id), Statement(COST_BEFORE, wanted)]
    )
    return Conversation.objects.get_or_create(
        project_id=project_id,
        conversation_id=conversation_id,
        defaults={**asked, "cost_usd": cost_usd, "created_at": now, "updated_at": now},
    )


def say(
    project_id: int,
    conversation: UUID,
    role: str,
    content: str,
    *,
    now: datetime,
    author: str = "",
    client_id: str | None = None,
    human: HumanAgent | None = None,
    epoch: int | None = None,
    visibility: str = Visibility.PUBLIC,
    data: Mapping[str, Any] | None = None,
    said_at: datetime | None = None,
) -> Said:
    """Keep a message under the next number of its conversation.

    What the agent says on a turn that is not its own is kept as suppressed: shown to people, never to the customer.
    A person's public message needs `human` to hold the conversation; a note does not. `said_at` is when it was said,
    where the report comes late: what was said before the last hand-back triggers nothing.
    Raises NotTheHolder, transcript.SaidOtherwise and Conversation.DoesNotExist.
    """
    item = None if role in AI_ROLES else handover.lock_chat(project_id, conversation)
    held = turns.hold(project_id, conversation)
    if role == MessageRole.HUMAN and human is not None:
        author = human.person.email[:AUTHOR_LENGTH]
    before = transcript.repeated(held, role, content, author=author, client_id=client_id)
    if before is not None:
        return Said(before, held, again=True)
    if role in AI_ROLES and turns.is_stale(held, epoch):
        visibility = Visibility.SUPPRESSED
    if role == MessageRole.HUMAN and visibility == Visibility.PUBLIC:
        _refuse_unless_held(held, item, human)
    message = transcript.append(
        held,
        role,
        content,
        author=author,
        client_id=client_id,
        visibility=visibility,
        data=data,
        said_at=said_at,
        now=now,
    )
    if visibility != Visibility.PUBLIC:
        return Said(message, held)
    if role == MessageRole.HUMAN and item is not None:
        _replied(item, held, message, now=now)
        return Said(message, held)
    if role == MessageRole.USER:
        _heard(held, item, now=now)
    elif held.state in (State.NEW, State.FINISHED):
        turns.walk(held, State.AI_PROCESSING, cause="message", now=now)
    handed = _judge(held, message, said_at=said_at or now, now=now)
    if handed is not None:
        return Said(message, handed.conversation, handed_over=handed.item)
    return Said(message, held)


def finish(project_id: int, conversation: UUID, *, now: datetime, epoch: int | None = None, actor: str = "") -> bool:
    """The agent has done its work; False when it was finished already. Raises turns.StaleTurn and turns.IllegalMove."""
    held = turns.hold(project_id, conversation)
    if held.state == State.FINISHED:
        return False
    if turns.is_stale(held, epoch):
        raise turns.StaleTurn(held)
    turns.walk(held, State.FINISHED, cause="finished", actor=actor, now=now)
    return True


def _refuse_unless_held(held: Conversation, item: QueueItem | None, human: HumanAgent | None) -> None:
    if item is None or item.assignee is None:
        raise NotTheHolder(None)
    if human is None or item.assignee.pk != human.pk:
        raise NotTheHolder(item.assignee, item.claimed_at)


def _replied(item: QueueItem, held: Conversation, message: Message, *, now: datetime) -> None:
    """A person has answered the customer: the clock of the first reply stops, the place is free until they write."""
    item.first_reply_at = item.first_reply_at or now
    item.status = ItemStatus.WAITING_USER
    item.save(update_fields=["first_reply_at", "status"])
    news.tell(item.project_id, "queue", str(item.pk))
    queue.tell_agents(
        item, "human_message", now=now, data={"message": transcript.as_data(message), "epoch": held.epoch}
    )


def _heard(held: Conversation, item: QueueItem | None, *, now: datetime) -> None:
    """The customer writes: whoever owns the turn has work again, and what was over begins anew."""
    if held.state in (State.NEW, State.FINISHED):
        turns.walk(held, State.AI_PROCESSING, cause="message", now=now)
    elif held.state == State.RESOLVED:
        _reopen(held, now=now)
    elif item is not None and item.status in HELD and item.assignee is not None:
        if item.assignee.status == Presence.OFFLINE:
            claims.release(held.project_id, item.pk, None, now=now, cause="holder_offline")
            held.refresh_from_db()
        elif item.status == ItemStatus.WAITING_USER:
            item.status = ItemStatus.CLAIMED
            item.save(update_fields=["status"])
            news.tell(item.project_id, "queue", str(item.pk))


def _reopen(held: Conversation, *, now: datetime) -> None:
    """A resolved conversation goes on with the AI, or with people when it bounced too often today."""
    held.trigger_baseline_seq = held.last_seq - 1
    held.errors_in_a_row = 0
    held.save(update_fields=["trigger_baseline_seq", "errors_in_a_row"])
    if hand_backs(held.pk, now=now) >= BOUNCES:
        turns.walk(held, State.PENDING_HUMAN, cause="user_returned", now=now)
        turns.give(held, owner_kind=Owner.NONE, now=now)
        reason = "The customer writes again; the AI has given this conversation back too often today."
        seen = {"reason": reason, "seq": held.last_seq - 1}
        handover.enqueue(held, trigger="user_returned", reason=reason, evidence=seen, skills=(), priority=0, now=now)
    else:
        turns.walk(held, State.AI_PROCESSING, cause="user_returned", now=now)
        turns.give(held, owner_kind=Owner.AI, now=now)
        announce(
            held.project_id,
            "reopened",
            now=now,
            conversation_id=held.conversation_id,
            data={"epoch": held.epoch, "seq": held.last_seq},
        )


def _judge(held: Conversation, message: Message, *, said_at: datetime, now: datetime) -> handover.HandedOver | None:
    """Does this message call for a person? Only while the AI has the turn."""
    if held.owner_kind != Owner.AI:
        return None
    if held.trigger_baseline_seq and _lies_before_baseline(held, said_at):
        return None
    before = held.errors_in_a_row, held.confidence
    if triggers.failed(message.role, message.data):
        held.errors_in_a_row += 1
    elif triggers.ends_errors(message.role, message.content, message.data):
        held.errors_in_a_row = 0
    sure = triggers.confidence(message.data)
    held.confidence = held.confidence if sure is None else sure
    if (held.errors_in_a_row, held.confidence) != before:
        held.save(update_fields=["errors_in_a_row", "confidence"])
    pulled = triggers.pulled(Project.objects.get(pk=held.project_id), held, message)
    if pulled is None:
        return None
    return handover.hand_over(
        held.project_id,
        held.pk,
        reason=pulled.reason,
        trigger=pulled.trigger,
        evidence={**pulled.evidence, "message_seq": message.seq},
        now=now,
    )


def _lies_before_baseline(held: Conversation, said_at: datetime) -> bool:
    """Was it said before the message behind which triggers count anew?"""
    baseline = Message.objects.filter(conversation=held, seq=held.trigger_baseline_seq).first()
    return baseline is not None and said_at < baseline.created_at
