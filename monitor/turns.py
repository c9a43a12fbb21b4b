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


def hold(project_id: int, conversation: UUID) -> Conversation:
    """Lock the conversation's row until the transaction ends; locks of queue items come before this one.

    Raises Conversation.DoesNotExist.
    """
    return Conversation.objects.select_for_update(no_key=True).get(project_id=project_id, pk=conversation)


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
    """Walk the conversation along `path` and give the turn to its new owner, one epoch later; returns it as it is now.

    Raises IllegalMove where MOVES does not list a step, and Conversation.DoesNotExist.
    """
    held = hold(project_id, conversation)
    row = Conversation.objects.filter(project_id=project_id, pk=held.pk)
    for state in path:
        if held.state not in MOVES[state]:
            raise IllegalMove(held.state, state)
        row.filter(state=held.state).update(state=state)
        changes.record(
            project_id,
            Subject.CONVERSATION,
            held.pk,
            from_state=held.state,
            to_state=state,
            cause=cause,
            actor=actor,
            note=note,
            now=now,
            data={"conversation_id": held.conversation_id, "agent": held.agent},
            concerns_alerts=False,
        )
        held.state = state
    return give(held, owner_kind=owner_kind, owner=owner, now=now)


def give(held: Conversation, *, owner_kind: Owner, now: datetime, owner: HumanAgent | None = None) -> Conversation:
    """Give the turn of a locked conversation to another owner, one epoch later."""
    held.epoch += 1
    held.owner_kind = owner_kind
    held.owner = owner
    held.updated_at = now
    held.save(update_fields=["epoch", "owner_kind", "owner", "updated_at"])
    return held
