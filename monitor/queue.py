"""The human queue: open, claim, release, resolve. Locks are taken in the order of monitor/deadlocks.py."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F

from monitor import changes, turns
from monitor.events import announce
from monitor.models import Conversation, HumanAgent, Project, QueueItem, Subject
from monitor.models.conversations import Owner, State
from monitor.models.people import Presence
from monitor.models.queue import CLOSED_ITEMS, HELD, ITEM_MOVES, OPEN_ITEMS, ItemKind, ItemStatus

# Closed by their own verbs: a decision, a command to the execution, more to spend.
DECIDED_ELSEWHERE = {
    ItemKind.APPROVAL: "approve or deny it",
    ItemKind.PAUSED_EXECUTION: "resume, retry or cancel the execution",
    ItemKind.TRIP: "reset the trip, or wait until its hour, day, week or month is over",
}


class QueueRefusal(Exception):
    """The queue says no; nothing has changed."""


class TakenBy(QueueRefusal):
    """Somebody else holds the item."""

    def __init__(self, holder: HumanAgent, at: datetime | None) -> None:
        super().__init__(f"{holder.person} has had it since {at:%H:%M:%S} UTC" if at else f"{holder.person} has it")
        self.holder = holder
        self.at = at


class AtCapacity(QueueRefusal):
    """The person already holds as much as they may."""

    def __init__(self, held: int, capacity: int) -> None:
        super().__init__(f"holds {held} of at most {capacity}")
        self.held = held
        self.capacity = capacity


class Closed(QueueRefusal):
    """The item is no longer open; `status` says how it ended."""

    def __init__(self, status: str) -> None:
        super().__init__(f"it is {status}")
        self.status = status


class NotHeld(QueueRefusal):
    """The item waits in the queue: nobody holds it, so there is nothing to release or transfer."""


class DecidedElsewhere(QueueRefusal):
    """An item of this kind is closed by a decision on its subject, not in the queue."""


@dataclass(frozen=True)
class Claimed:
    """A claim that stands. `again` means that the person held the item already; `epoch` is the conversation's."""

    item: QueueItem
    epoch: int | None
    again: bool = False


def open_item(
    project_id: int,
    kind: str,
    subject_id: object,
    *,
    title: str,
    trigger: str,
    now: datetime,
    evidence: Mapping[str, Any] | None = None,
    agent: str = "",
    conversation: Conversation | None = None,
    skills: Iterable[str] = (),
    priority: int = 0,
) -> QueueItem:
    """Put the subject into the queue, or return the open item it has there already."""
    while True:
        present = QueueItem.objects.filter(
            project_id=project_id, kind=kind, subject_id=str(subject_id), status__in=OPEN_ITEMS
        ).first()
        if present is not None:
            return present
        try:
            with transaction.atomic():
                item = QueueItem.objects.create(
                    project_id=project_id,
                    kind=kind,
                    subject_id=str(subject_id),
                    conversation=conversation,
                    title=title[:300],
                    agent=agent,
                    trigger=trigger,
                    evidence=dict(evidence or {}),
                    skills=list(skills),
                    priority=priority,
                    requested_at=now,
                    claim_due_at=_claim_due(project_id, now=now),
                )
        except IntegrityError as error:
            if "queue_item_one_open_per_subject" not in str(error):
                raise
            continue  # somebody else was first: theirs is the open one, unless it has been closed since
        record(item, from_state="", to_state=item.status, cause=trigger, now=now)
        return item


def close_for(
    project_id: int,
    kind: str,
    subject_id: object,
    *,
    status: str,
    now: datetime,
    actor: str = "",
    outcome: str = "",
    note: str = "",
) -> bool:
    """Close the open item of a subject whose own verb has settled it; False when there was none."""
    item = (
        QueueItem.objects.select_for_update(no_key=True)
        .filter(project_id=project_id, kind=kind, subject_id=str(subject_id), status__in=ITEM_MOVES[status])
        .first()
    )
    if item is not None:
        close(item, status, now=now, actor=actor, outcome=outcome, note=note)
    return item is not None


def claim(project_id: int, item_id: UUID, human: HumanAgent, *, now: datetime, actor: str = "") -> Claimed:
    """Take a pending item; claiming what one holds already changes nothing.

    Raises TakenBy, AtCapacity, Closed, and QueueItem.DoesNotExist.
    """
    human = lock_human(project_id, human.pk)
    row = QueueItem.objects.filter(project_id=project_id, pk=item_id)
    while True:
        item = row.select_related("assignee__person").get()
        if item.status in CLOSED_ITEMS:
            raise Closed(item.status)
        if item.assignee is not None:
            if item.assignee.pk == human.pk:
                return Claimed(item, _epoch(item), again=True)
            raise TakenBy(item.assignee, item.claimed_at)
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
    record(item, from_state=ItemStatus.PENDING, to_state=item.status, cause="claimed", actor=actor, now=now)
    tell_agents(item, "claimed", now=now, data={"by": str(human.person), "epoch": epoch})
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

    Raises TakenBy, Closed, NotHeld, and QueueItem.DoesNotExist.
    """
    item = lock_item(project_id, item_id, human)
    if item.status not in HELD:
        raise NotHeld("nobody holds it")
    actor = actor or (human.person.email if human else "")
    before = item.status
    _move(
        item,
        ItemStatus.PENDING,
        assignee=None,
        version=item.version + 1,
        claimed_at=None,
        first_reply_at=None,
        # The customer waits anew, and so does the clock.
        claim_due_at=_claim_due(project_id, now=now),
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
    record(item, from_state=before, to_state=item.status, cause=cause, actor=actor, note=note, now=now)
    tell_agents(item, "released", now=now, data={"reason": cause, "epoch": epoch})
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

    Raises TakenBy, AtCapacity, Closed, NotHeld, and QueueItem.DoesNotExist.
    """
    to = lock_human(project_id, to.pk)
    item = lock_item(project_id, item_id, human)
    if item.status not in HELD:
        raise NotHeld("nobody holds it")
    if item.assignee_id == to.pk:
        return Claimed(item, _epoch(item), again=True)
    if item.kind != ItemKind.APPROVAL:
        refuse_beyond_capacity(to)
    actor = actor or (human.person.email if human else "")
    before = item.status
    _move(item, ItemStatus.CLAIMED, assignee=to, version=item.version + 1, claimed_at=now, first_reply_at=None)
    epoch = None
    if item.kind == ItemKind.CHAT and item.conversation_id:
        held = turns.hold(project_id, item.conversation_id)
        epoch = turns.give(held, owner_kind=Owner.HUMAN, owner=to, now=now).epoch
    record(item, from_state=before, to_state=item.status, cause="transferred", actor=actor, note=note, now=now)
    tell_agents(item, "claimed", now=now, data={"by": str(to.person), "epoch": epoch})
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

    Raises TakenBy, Closed, DecidedElsewhere, and QueueItem.DoesNotExist.
    """
    item = lock_item(project_id, item_id, human)
    if item.kind in DECIDED_ELSEWHERE:
        raise DecidedElsewhere(DECIDED_ELSEWHERE[ItemKind(item.kind)])
    actor = actor or (human.person.email if human else "")
    close(item, ItemStatus.RESOLVED, now=now, actor=actor, outcome=outcome, note=note)
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
    tell_agents(item, "resolved", now=now, data={"outcome": outcome, "note": note, "epoch": epoch})
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


def lock_item(project_id: int, item_id: UUID, human: HumanAgent | None) -> QueueItem:
    """Lock an open item that `human` may act on: theirs or nobody's. Raises TakenBy and Closed."""
    item = (
        QueueItem.objects.select_for_update(no_key=True, of=("self",))
        .select_related("assignee__person")
        .get(project_id=project_id, pk=item_id)
    )
    if item.status in CLOSED_ITEMS:
        raise Closed(item.status)
    if human is not None and item.assignee is not None and item.assignee.pk != human.pk:
        raise TakenBy(item.assignee, item.claimed_at)
    return item


def tell_agents(item: QueueItem, kind: str, *, now: datetime, data: Mapping[str, Any]) -> None:
    """Announce what happened to an item to the agent it belongs to."""
    announce(
        item.project_id,
        kind,
        now=now,
        conversation_id=item.conversation.conversation_id if item.conversation else "",
        execution_id=UUID(item.subject_id) if item.kind == ItemKind.PAUSED_EXECUTION else None,
        data={"item_id": str(item.pk), "kind": item.kind, **data},
    )


def _move(item: QueueItem, status: str, **fields: Any) -> None:
    """Move a locked item; the database refuses what ITEM_MOVES does not list."""
    item.status = status
    for name, value in fields.items():
        setattr(item, name, value)
    item.save(update_fields=["status", *fields])


def _claim_due(project_id: int, *, now: datetime) -> datetime | None:
    """When a claim is late; None where the project has switched this clock off."""
    within_s = Project.objects.values_list("claim_within_s", flat=True).get(pk=project_id)
    return None if within_s is None else now + timedelta(seconds=within_s)


def _epoch(item: QueueItem) -> int | None:
    return item.conversation.epoch if item.conversation else None


def close(item: QueueItem, status: str, *, now: datetime, actor: str = "", outcome: str = "", note: str = "") -> None:
    """Close a locked item; its conversation is the caller's affair."""
    before = item.status
    _move(item, status, closed_at=now, outcome=outcome[:40], note=note)
    record(item, from_state=before, to_state=status, cause=outcome[:40] or status, actor=actor, note=note, now=now)


def record(
    item: QueueItem, *, from_state: str, to_state: str, cause: str, now: datetime, actor: str = "", note: str = ""
) -> None:
    """Write a move of an item into the journal, for `alerts` to judge."""
    changes.record(
        item.project_id,
        Subject.QUEUE_ITEM,
        item.pk,
        from_state=from_state,
        to_state=to_state,
        cause=cause,
        actor=actor,
        note=note,
        now=now,
        data=facts(item),
    )


def facts(item: QueueItem) -> dict[str, Any]:
    """What the journal says of an item with each of its moves."""
    return {
        "kind": item.kind,
        "subject_id": item.subject_id,
        "conversation_id": item.conversation.conversation_id if item.conversation else "",
        "title": item.title,
        "agent": item.agent,
    }
