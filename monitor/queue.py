"""The human queue: an item is opened for a subject, moves and is closed. What people do with it is in claims.py."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from monitor import changes
from monitor.events import announce
from monitor.models import Conversation, HumanAgent, Project, QueueItem, Subject
from monitor.models.queue import CLOSED_ITEMS, ITEM_MOVES, OPEN_ITEMS, ItemKind

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


class Closed(QueueRefusal):
    """The item is no longer open; `status` says how it ended."""

    def __init__(self, status: str) -> None:
        super().__init__(f"it is {status}")
        self.status = status


class DecidedElsewhere(QueueRefusal):
    """An item of this kind is closed by a decision on its subject, not in the queue."""


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
                    claim_due_at=claim_due(project_id, now=now),
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


def claim_due(project_id: int, *, now: datetime) -> datetime | None:
    """When a claim is late; None where the project has switched this clock off."""
    within_s = Project.objects.values_list("claim_within_s", flat=True).get(pk=project_id)
    return None if within_s is None else now + timedelta(seconds=within_s)


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


def move(item: QueueItem, status: str, **fields: Any) -> None:
    """Move a locked item; the database refuses what ITEM_MOVES does not list."""
    item.status = status
    for name, value in fields.items():
        setattr(item, name, value)
    item.save(update_fields=["status", *fields])


def close(item: QueueItem, status: str, *, now: datetime, actor: str = "", outcome: str = "", note: str = "") -> None:
    """Close a locked item; its conversation is the caller's affair."""
    before = item.status
    move(item, status, closed_at=now, outcome=outcome[:40], note=note)
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
