"""Who had a conversation when: its moves out of the journal, by names instead of addresses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet

from monitor.models import Conversation, QueueItem, StateChange, Subject
from monitor.models.conversations import State

MOVES_READ = 200
GONE = {"holder_offline", "went_offline", "presence_lost", "person_removed"}
KINDS = {
    State.HUMAN_ACTIVE: "claimed",
    State.PENDING_HUMAN: "handed_over",
    State.RESOLVED: "resolved",
    State.BACK_TO_AI: "handed_back",
}


@dataclass(frozen=True)
class Move:
    """One move: `kind` is claimed, transferred, handed_over, handed_back, released, returned, resolved or reopened."""

    key: int
    kind: str
    at: datetime
    who: str
    to_state: str
    note: str = ""


def newest(conversation: Conversation, item: QueueItem) -> QuerySet[StateChange]:
    """The last moves of a conversation and where its item was handed on, newest first."""
    own = Q(subject=Subject.CONVERSATION, subject_id=str(conversation.pk))
    handed_on = Q(subject=Subject.QUEUE_ITEM, subject_id=str(item.pk), cause="transferred")
    return StateChange.objects.filter(
        own | handed_on, project_id=conversation.project_id, at__gte=conversation.created_at
    ).order_by("-at", "-id")[:MOVES_READ]


def told(changes: Sequence[StateChange], *, names: Mapping[str, str], me: str) -> list[Move]:
    """Those that people care about, oldest first."""
    found = []
    for change in reversed(changes):
        kind = _kind(change)
        if kind:
            actor = who(change.actor, names, me)
            found.append(Move(change.id, kind, change.at, actor, change.to_state, change.note))
    return found


def who(actor: str, names: Mapping[str, str], me: str) -> str:
    """`You`, a name, or what the journal has: a key that acts for a person is that person."""
    email = actor.partition(" (through ")[0]
    return "You" if email and email == me else names.get(email) or actor or "Nobody"


def _kind(change: StateChange) -> str:
    if change.cause == "transferred":
        return "transferred"
    if change.cause == "user_returned":
        return "reopened"
    if change.to_state == State.PENDING_HUMAN and change.from_state == State.HUMAN_ACTIVE:
        return "returned" if change.cause in GONE or not change.actor else "released"
    return KINDS.get(State(change.to_state), "") if change.to_state in State.values else ""
