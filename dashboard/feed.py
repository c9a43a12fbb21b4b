"""The newest moves of anything in a project, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import QuerySet
from django.urls import NoReverseMatch, reverse

from dashboard import words
from dashboard.waiting import customer_name
from monitor.models import Execution, QueueItem, StateChange, Subject
from monitor.models.executions import Status, Verdict
from monitor.models.queue import ItemKind, ItemStatus
from monitor.together import Together

SHOWN = 9
# More is read than shown: some moves are not worth a line.
READ = 40


@dataclass(frozen=True)
class Line:
    """One line: the look of the glyph, the words, and where it leads."""

    at: datetime
    look: str
    text: str
    url: str


def newest(project_id: int) -> QuerySet[StateChange]:
    """The last moves of executions and queue items, newest first."""
    moves = StateChange.objects.filter(project_id=project_id, subject__in=[Subject.EXECUTION, Subject.QUEUE_ITEM])
    return moves.order_by("-at", "-id")[:READ]


def lines(project_id: int, changes: Sequence[StateChange]) -> list[Line]:
    """The moves in words, in one trip."""
    moved = [UUID(one.subject_id) for one in changes if one.subject == Subject.EXECUTION]
    moved_items = [one.subject_id for one in changes if one.subject == Subject.QUEUE_ITEM]
    with Together() as asked:
        found = asked.rows(
            Execution.objects.of(project_id)
            .filter(id__in=moved)
            .only("id", "agent", "task", "cost_usd", "duration_ms", "max_retries", "attempt")
        )
        found_items = asked.rows(
            QueueItem.objects.filter(project_id=project_id, pk__in=moved_items).select_related(
                "conversation", "assignee__person"
            )
        )
    executions = {str(one.id): one for one in found}
    items = {str(one.pk): one for one in found_items}
    told = (
        _of_execution(change, executions.get(change.subject_id))
        if change.subject == Subject.EXECUTION
        else _of_item(change, items.get(change.subject_id))
        for change in changes
    )
    return [line for line in told if line is not None][:SHOWN]


def _of_execution(change: StateChange, execution: Execution | None) -> Line | None:
    if execution is None or change.from_state == change.to_state:
        return None
    tries = execution.tries
    about = f", {execution.task}" if execution.task else ""
    took = words.took((execution.duration_ms or 0) / 1000)
    cost = f", {words.usd(execution.cost_usd)}" if execution.cost_usd else ""
    begun = "started" if change.from_state in ("", Status.PENDING) else "goes on"
    texts = {
        Status.RUNNING: f"{execution.agent} {begun}{about}",
        Status.RETRYING: f"{execution.agent}, try {change.attempt or 2} of {tries}{about}",
        Status.PAUSED: f"{execution.agent} was paused{about}",
        Status.HITL_PAUSED: f"{execution.agent} needs a person{about}",
        Status.COMPLETED: f"{execution.agent} finished in {took}{cost}",
        Status.FAILED: f"{execution.agent} failed{about}",
        Status.TIMEOUT: f"{execution.agent} timed out{about}",
        Status.CANCELLED: f"{execution.agent} was cancelled{about}",
    }
    text = texts.get(Status(change.to_state))
    if text is None:
        return None
    look = "zombie" if change.to_state == Status.RETRYING and change.cause == Verdict.ZOMBIE else change.to_state
    return Line(change.at, look, text, _url("execution", execution.id))


def _of_item(change: StateChange, item: QueueItem | None) -> Line | None:
    if item is None:
        return None
    about = customer_name(item.conversation.customer) if item.conversation else item.title
    who = str(item.assignee.person) if item.assignee else change.actor
    if change.to_state == ItemStatus.PENDING and item.kind == ItemKind.CHAT:
        text = f"{about} waits for a person"
    elif change.to_state == ItemStatus.CLAIMED:
        text = f"{who} took {about}"
    elif change.to_state == ItemStatus.RESOLVED:
        text = f"{who} resolved {about}"
    elif change.to_state == ItemStatus.BACK_TO_AI:
        text = f"{who} gave {about} back to the AI"
    else:
        return None
    look = {ItemStatus.CLAIMED: "acknowledged", ItemStatus.PENDING: "chat"}.get(ItemStatus(change.to_state), "resolved")
    return Line(change.at, look, text, _url("queue-item", item.pk))


def _url(name: str, subject_id: object) -> str:
    try:
        return reverse(name, args=[subject_id])
    except NoReverseMatch:
        return ""
