"""The handover: a conversation goes to people, by way of the queue. The way back is in handback.py."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from monitor import changes, queue, turns
from monitor.handback import BOUNCES, hand_backs
from monitor.models import Conversation, QueueItem, Subject
from monitor.models.conversations import Owner, State
from monitor.models.queue import OPEN_ITEMS, ItemKind


@dataclass(frozen=True)
class HandedOver:
    """The queue item of a handover; `again` means that people have the conversation already."""

    item: QueueItem
    conversation: Conversation
    again: bool = False


def hand_over(
    project_id: int,
    conversation: UUID,
    *,
    reason: str,
    now: datetime,
    trigger: str = "agent_decision",
    summary: str = "",
    context: Mapping[str, Any] | None = None,
    skills: Iterable[str] = (),
    priority: int = 0,
    confidence: float | None = None,
    evidence: Mapping[str, Any] | None = None,
    epoch: int | None = None,
    actor: str = "",
) -> HandedOver:
    """Give the conversation to people. The first call counts: another one while they have it changes nothing.

    Raises turns.StaleTurn when the agent's epoch is past, turns.IllegalMove and Conversation.DoesNotExist.
    """
    held = turns.hold(project_id, conversation)
    if held.owner_kind != Owner.AI:
        present = open_chat(project_id, conversation)
        if present is not None:
            return HandedOver(present, held, again=True)
        raise turns.IllegalMove(held.state, State.HANDOVER)
    if epoch is not None and epoch != held.epoch:
        raise turns.StaleTurn(held)
    bounces = hand_backs(held.pk, now=now)
    held.bounce_count = bounces
    held.handover_reason = reason
    held.handover_summary = summary
    held.handover_context = dict(context or {})
    held.confidence = held.confidence if confidence is None else confidence
    held.save(update_fields=["bounce_count", "handover_reason", "handover_summary", "handover_context", "confidence"])
    if held.state == State.FINISHED:
        turns.walk(held, State.AI_PROCESSING, cause=trigger, actor=actor, now=now)
    turns.walk(held, State.HANDOVER, State.PENDING_HUMAN, cause=trigger, actor=actor, note=reason, now=now)
    turns.give(held, owner_kind=Owner.NONE, now=now)
    seen = {"reason": reason, "confidence": held.confidence, **(evidence or {}), "seq": held.last_seq}
    item = enqueue(held, trigger=trigger, reason=reason, evidence=seen, skills=skills, priority=priority, now=now)
    if bounces >= BOUNCES:
        _tell_of_bounces(held, bounces, now=now)
    queue.tell_agents(
        item,
        "handover",
        now=now,
        data={"trigger": trigger, "reason": reason, "summary": summary, "epoch": held.epoch},
    )
    return HandedOver(item, held)


def _tell_of_bounces(held: Conversation, bounces: int, *, now: datetime) -> None:
    """It goes to and fro: from now on it stays with people, who have to know."""
    changes.record(
        held.project_id,
        Subject.CONVERSATION,
        held.pk,
        from_state=held.state,
        to_state=held.state,
        cause="bounce_limit",
        now=now,
        data={"conversation_id": held.conversation_id, "agent": held.agent, "bounces": bounces},
    )


def enqueue(
    held: Conversation,
    *,
    trigger: str,
    reason: str,
    evidence: Mapping[str, Any],
    skills: Iterable[str],
    priority: int,
    now: datetime,
) -> QueueItem:
    """Open the chat item of a conversation that waits for a person, or return the one it has."""
    return queue.open_item(
        held.project_id,
        ItemKind.CHAT,
        held.pk,
        title=reason or f"{held.agent or 'The agent'} asks for a person",
        trigger=trigger,
        evidence=evidence,
        agent=held.agent,
        conversation=held,
        skills=skills,
        priority=priority,
        now=now,
    )


def open_chat(project_id: int, conversation: UUID) -> QueueItem | None:
    """The open queue item of a conversation."""
    return _open_items(project_id, conversation).first()


def _open_items(project_id: int, conversation: UUID) -> QuerySet[QueueItem]:
    return QueueItem.objects.filter(
        project_id=project_id, kind=ItemKind.CHAT, subject_id=str(conversation), status__in=OPEN_ITEMS
    )


def lock_chat(project_id: int, conversation: UUID) -> QueueItem | None:
    """The conversation's open item, locked: before the conversation, as every claim does it."""
    items = _open_items(project_id, conversation).select_for_update(no_key=True, of=("self",))
    return items.select_related("assignee__person").first()
