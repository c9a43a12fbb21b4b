"""Back to the AI, with an instruction: one typed block says what people did meanwhile."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from monitor import transcript, turns
from monitor.models import Conversation, HumanAgent, QueueItem
from monitor.models.conversations import MessageRole, Owner, State, Visibility
from monitor.models.queue import ItemKind, ItemStatus
from monitor.queue import DECIDED_ELSEWHERE, DecidedElsewhere, QueueRefusal, close, lock_item, tell_agents

BOUNCES = 3
BOUNCES_WITHIN = timedelta(hours=24)
NO_INSTRUCTION = "none"


class InstructionMissing(QueueRefusal):
    """A hand-back says what to do next, or "none" in so many words."""


class BouncedTooOften(QueueRefusal):
    """The AI has given this conversation back to people too often today: it stays with them."""

    def __init__(self, bounces: int) -> None:
        super().__init__(f"it came back from the AI {bounces} times within 24 hours and stays with people")
        self.bounces = bounces


@dataclass(frozen=True)
class HandedBack:
    """A conversation that the AI owns again, and the block that the agent reads."""

    item: QueueItem
    conversation: Conversation
    block: dict[str, Any]


def hand_back(
    project_id: int,
    item_id: UUID,
    human: HumanAgent | None,
    *,
    instruction: str,
    now: datetime,
    note: str = "",
    actor: str = "",
) -> HandedBack:
    """Give the conversation of an open chat item back to the AI; what was said so far can't trigger a handover again.

    Raises InstructionMissing, BouncedTooOften, TakenBy, Closed, DecidedElsewhere, and QueueItem.DoesNotExist.
    """
    if not instruction.strip():
        raise InstructionMissing('say what the AI is to do next, or "none"')
    item = lock_item(project_id, item_id, human)
    if item.kind != ItemKind.CHAT or item.conversation_id is None:
        raise DecidedElsewhere(DECIDED_ELSEWHERE.get(ItemKind(item.kind), "only a conversation goes back to the AI"))
    bounces = hand_backs(item.conversation_id, now=now)
    if bounces >= BOUNCES:
        raise BouncedTooOften(bounces)
    actor = actor or (human.person.email if human else "")
    item.instruction = "" if instruction.strip().lower() == NO_INSTRUCTION else instruction.strip()
    item.save(update_fields=["instruction"])
    close(item, ItemStatus.BACK_TO_AI, now=now, actor=actor, note=note)
    held = turns.move(
        project_id,
        item.conversation_id,
        State.BACK_TO_AI,
        State.AI_PROCESSING,
        owner_kind=Owner.AI,
        cause="handed_back",
        actor=actor,
        note=note,
        now=now,
    )
    block = _block(item, held, by=str(human.person) if human else actor, now=now)
    transcript.append(
        held,
        MessageRole.SYSTEM,
        f"Handed back to the AI. Instruction: {item.instruction or NO_INSTRUCTION}",
        author=actor,
        visibility=Visibility.INTERNAL,
        data={"type": "handed_back", "instruction": block["instruction"], "summary": block["summary"]},
        now=now,
    )
    held.trigger_baseline_seq = held.last_seq
    held.errors_in_a_row = 0
    held.save(update_fields=["trigger_baseline_seq", "errors_in_a_row"])
    tell_agents(item, "handed_back", now=now, data=block)
    return HandedBack(item, held, block)


def hand_backs(conversation: UUID, *, now: datetime) -> int:
    """How often people gave the conversation back to the AI within the last 24 hours."""
    return QueueItem.objects.filter(
        conversation_id=conversation, status=ItemStatus.BACK_TO_AI, closed_at__gt=now - BOUNCES_WITHIN
    ).count()


def _block(item: QueueItem, held: Conversation, *, by: str, now: datetime) -> dict[str, Any]:
    messages = transcript.stretch(held, after=item.evidence.get("seq", 0))
    return {
        "type": "handed_back",
        "epoch": held.epoch,
        "by": by,
        "instruction": item.instruction or None,
        "handover_reason": held.handover_reason,
        "summary": transcript.summary(messages, since=item.requested_at, now=now),
        "messages": [transcript.as_data(message) for message in messages if message.visibility == Visibility.PUBLIC],
        # Said by the agent after it had lost the turn: never sent to the customer.
        "suppressed": [message.seq for message in messages if message.visibility == Visibility.SUPPRESSED],
    }
