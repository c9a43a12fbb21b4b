"""The executions above and below one, as its page shows them."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q

from dashboard.views.executions import Row, row_of
from monitor import families
from monitor.models import Execution
from monitor.models.executions import OPEN

MOST_CHILDREN = 200


@dataclass(frozen=True)
class Family:
    """The parent, where one is known, and how many children there are and are still open."""

    parent: Row | None
    count: int
    open_count: int


def of(execution: Execution, *, now: datetime) -> Family:
    """What stands above an execution and how much below it, in one or two queries."""
    known = Execution.objects.of(execution.project_id)
    parent = None
    if execution.parent_id is not None:
        parent = known.filter(id=execution.parent_id).defer("inputs", "output", "metadata").first()
    below = known.filter(parent_id=execution.id).aggregate(all=Count("id"), open=Count("id", filter=Q(status__in=OPEN)))
    return Family(row_of(parent, now=now) if parent else None, below["all"], below["open"])


def children(execution: Execution, *, now: datetime) -> list[Row]:
    """The first MOST_CHILDREN children, the oldest first."""
    found = families.children(execution.project_id, execution.id, most=MOST_CHILDREN)
    return [row_of(one, now=now) for one in found]


def cancel_words(execution: Execution) -> str:
    """What a cancel ends."""
    below = len(families.open_below(execution.project_id, execution.id))
    if not below:
        return "It ends. Nothing below it is open."
    return (
        "It ends, and so " + ("does 1 open execution" if below == 1 else f"do {below:,} open executions") + " below it."
    )
