"""Who owns the turn of a conversation: every change of owner raises the epoch, the fence against stale writers."""

from datetime import datetime
from uuid import UUID

from monitor import changes
from monitor.models import Conversation, HumanAgent, Subject
from monitor.models.conversations import MOVES, Owner, State


class IllegalMove(Exception):
    """The conversation is not in a state from which this may happen."""

    def __init__(self, present: str, wanted: str) -> None:
        super().__init__(f"the conversation is {present}; it can't become {wanted}")
        self.present = present
        self.wanted = wanted


class StaleTurn(Exception):
    """The agent acts on a turn that is no longer its own; `conversation` says whose it is and in which epoch."""

    def __init__(self, conversation: Conversation) -> None:
        super().__init__(f"the conversation is {conversation.state} in epoch {conversation.epoch}")
        self.conversation = conversation


def hold(project_id: int, conversation: UUID) -> Conversation:
    """Lock the conversation's row until the transaction ends; locks of queue items come before this one.

    Raises Conversation.DoesNotExist.
    """
    return Conversation.objects.select_for_update(no_key=True).get(project_id=project_id, pk=conversation)


def is_stale(held: Conversation, epoch: int | None) -> bool:
    """Whether who speaks for the agent, in `epoch` as far as they say, speaks on a turn that is not its own."""
    return held.owner_kind != Owner.AI or (epoch is not None and epoch != held.epoch)


def walk(held: Conversation, *path: State, cause: str, now: datetime, actor: str = "", note: str = "") -> Conversation:
    """Take a locked conversation along `path`, one recorded move a step. Raises IllegalMove where MOVES has no step."""
    for state in path:
        if held.state not in MOVES[state]:
            raise IllegalMove(held.state, state)
        before, held.state, held.updated_at = held.state, state, now
        held.save(update_fields=["state", "updated_at"])
        changes.record(
            held.project_id,
            Subject.CONVERSATION,
            held.pk,
            from_state=before,
            to_state=state,
            cause=cause,
            actor=actor,
            note=note,
            now=now,
            data={"conversation_id": held.conversation_id, "agent": held.agent},
            concerns_alerts=False,
        )
    return held


def give(held: Conversation, *, owner_kind: Owner, now: datetime, owner: HumanAgent | None = None) -> Conversation:
    """Give the turn of a locked conversation to another owner, one epoch later."""
    held.epoch += 1
    held.owner_kind = owner_kind
    held.owner = owner
    held.updated_at = now
    held.save(update_fields=["epoch", "owner_kind", "owner", "updated_at"])
    return held


def move(
    project_id: int,
    conversation: UUID,
    *path: State,
    owner_kind: Owner,
    cause: str,
    now: datetime,
    owner: HumanAgent | None = None,
    actor: str = "",
    note: str = "",
) -> Conversation:
    """Lock, walk and give in one step; returns the conversation as it is now.

    Raises IllegalMove and Conversation.DoesNotExist.
    """
    held = walk(hold(project_id, conversation), *path, cause=cause, actor=actor, note=note, now=now)
    return give(held, owner_kind=owner_kind, owner=owner, now=now)
