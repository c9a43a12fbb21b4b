"""What a person does with an item of the queue: claim it, put it back, pass it on, resolve it.

Locks are taken in the order of monitor/deadlocks.py.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import F

from monitor import queue, turns
from monitor.models import HumanAgent, QueueItem
from monitor.models.conversations import Owner, State
from monitor.models.people import Presence
from monitor.models.queue import CLOSED_ITEMS, HELD, ItemKind, ItemStatus


class AtCapacity(queue.QueueRefusal):
    """The person already holds as much as they may."""

    def __init__(self, held: int, capacity: int) -> None:
        super().__init__(f"holds {held} of at most {capacity}")
        self.held = held
        self.capacity = capacity


class NotHeld(queue.QueueRefusal):
    """The item waits in the queue: nobody holds it, so there is nothing to release or transfer."""


@dataclass(frozen=True)
class Claimed:
    """A claim that stands. `again` means that the person held the item already; `epoch` is the conversation's."""

    item: QueueItem
    epoch: int | None
    again: bool = False


def claim(project_id: int, item_id: UUID, human: HumanAgent, *, now: datetime, actor: str = "") -> Claimed:
    """Take a pending item; claiming what one holds already changes nothing.

    Raises queue.TakenBy, AtCapacity, queue.Closed, and QueueItem.DoesNotExist.
    """
    human = lock_human(project_id, human.pk)
    row = QueueItem.objects.filter(project_id=project_id, pk=item_id)
    while True:
        item = row.select_related("assignee__person").get()
        if item.status in CLOSED_ITEMS:
            raise queue.Closed(item.status)
        if item.assignee is not None:
            if item.assignee.pk == human.pk:
                return Claimed(item, _epoch(item), again=True)
            raise queue.TakenBy(item.assignee, item.claimed_at)
        if item.kind != ItemKind.APPROVAL:
            refuse_beyond_capacity(human)
        won = row.filter(status=ItemStatus.PENDING, assignee=None).update(
            status=ItemStatus.CLAIMED, assignee=human, version=F("version") + 1, claimed_at=now, first_reply_at=None
        )
        if won:
            break  # else it has just been taken or closed: look who it was
    HumanAgent.objects.filter(pk=human.pk).update(status=Presence.ONLINE, last_seen_at=now)
    item = row.get()
    actor = actor or human.person.email
    epoch = None
    if item.kind == ItemKind.CHAT and item.conversation_id:
        epoch = turns.move(
            project_id,
            item.conversation_id,
            State.HUMAN_ACTIVE,
            owner_kind=Owner.HUMAN,
            owner=human,
            cause="claimed",
            actor=actor,
            now=now,
        ).epoch
    queue.record(item, from_state=ItemStatus.PENDING, to_state=item.status, cause="claimed", actor=actor, now=now)
    queue.tell_agents(item, "claimed", now=now, data={"by": str(human.person), "epoch": epoch})
    return Claimed(item, epoch)


def release(
    project_id: int,
    item_id: UUID,
    human: HumanAgent | None,
    *,
    now: datetime,
    actor: str = "",
    cause: str = "released",
    note: str = "",
) -> QueueItem:
    """Put a held item back into the queue, where it keeps its place; without `human` whoever holds it.

    Raises queue.TakenBy, queue.Closed, NotHeld, and QueueItem.DoesNotExist.
    """
    item = queue.lock_item(project_id, item_id, human)
    if item.status not in HELD:
        raise NotHeld("nobody holds it")
    actor = actor or (human.person.email if human else "")
    before = item.status
    queue.move(
        item,
        ItemStatus.PENDING,
        assignee=None,
        version=item.version + 1,
        claimed_at=None,
        first_reply_at=None,
        # The customer waits anew, and so does the clock.
        claim_due_at=queue.claim_due(project_id, now=now),
        claim_breached_at=None,
    )
    epoch = None
    if item.kind == ItemKind.CHAT and item.conversation_id:
        epoch = turns.move(
            project_id,
            item.conversation_id,
            State.PENDING_HUMAN,
            owner_kind=Owner.NONE,
            cause=cause,
            actor=actor,
            note=note,
            now=now,
        ).epoch
    queue.record(item, from_state=before, to_state=item.status, cause=cause, actor=actor, note=note, now=now)
    queue.tell_agents(item, "released", now=now, data={"reason": cause, "epoch": epoch})
    return item


def transfer(
    project_id: int,
    item_id: UUID,
    human: HumanAgent | None,
    to: HumanAgent,
    *,
    now: datetime,
    actor: str = "",
    note: str = "",
) -> Claimed:
    """Give a held item to another person; without `human` it is taken from whoever holds it, and `note` says why.

    Raises queue.TakenBy, AtCapacity, queue.Closed, NotHeld, and QueueItem.DoesNotExist.
    """
    to = lock_human(project_id, to.pk)
    item = queue.lock_item(project_id, item_id, human)
    if item.status not in HELD:
        raise NotHeld("nobody holds it")
    if item.assignee_id == to.pk:
        return Claimed(item, _epoch(item), again=True)
    if item.kind != ItemKind.APPROVAL:
        refuse_beyond_capacity(to)
    actor = actor or (human.person.email if human else "")
    before = item.status
    queue.move(item, ItemStatus.CLAIMED, assignee=to, version=item.version + 1, claimed_at=now, first_reply_at=None)
    epoch = None
    if item.kind == ItemKind.CHAT and item.conversation_id:
        held = turns.hold(project_id, item.conversation_id)
        epoch = turns.give(held, owner_kind=Owner.HUMAN, owner=to, now=now).epoch
    queue.record(item, from_state=before, to_state=item.status, cause="transferred", actor=actor, note=note, now=now)
    queue.tell_agents(item, "claimed", now=now, data={"by": str(to.person), "epoch": epoch})
    return Claimed(item, epoch)


def resolve(
    project_id: int,
    item_id: UUID,
    human: HumanAgent | None,
    *,
    now: datetime,
    outcome: str = "",
    note: str = "",
    actor: str = "",
) -> QueueItem:
    """Close an item that the person holds or that nobody holds, and its conversation with it.

    Raises queue.TakenBy, queue.Closed, queue.DecidedElsewhere, and QueueItem.DoesNotExist.
    """
    item = queue.lock_item(project_id, item_id, human)
    if item.kind in queue.DECIDED_ELSEWHERE:
        raise queue.DecidedElsewhere(queue.DECIDED_ELSEWHERE[ItemKind(item.kind)])
    actor = actor or (human.person.email if human else "")
    queue.close(item, ItemStatus.RESOLVED, now=now, actor=actor, outcome=outcome, note=note)
    epoch = None
    if item.conversation_id:
        epoch = turns.move(
            project_id,
            item.conversation_id,
            State.RESOLVED,
            owner_kind=Owner.NONE,
            cause="resolved",
            actor=actor,
            note=note,
            now=now,
        ).epoch
    queue.tell_agents(item, "resolved", now=now, data={"outcome": outcome, "note": note, "epoch": epoch})
    return item


def lock_human(project_id: int, human_id: int) -> HumanAgent:
    """Lock the person's row: the first lock of all, so that nobody counts what they hold at the same time."""
    return (
        HumanAgent.objects.select_for_update(no_key=True, of=("self",))
        .select_related("person")
        .get(project_id=project_id, pk=human_id)
    )


def refuse_beyond_capacity(human: HumanAgent) -> None:
    """Raise AtCapacity when the locked person has no place left; approvals and what waits for the user don't count."""
    held = (
        QueueItem.objects.filter(project_id=human.project_id, assignee=human, status=ItemStatus.CLAIMED)
        .exclude(kind=ItemKind.APPROVAL)
        .count()
    )
    if held >= human.capacity:
        raise AtCapacity(held, human.capacity)


def _epoch(item: QueueItem) -> int | None:
    return item.conversation.epoch if item.conversation else None
