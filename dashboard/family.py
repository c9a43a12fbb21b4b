"""The executions above and below one, as its page shows them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dashboard import listing
from dashboard.views.executions import Row, row_of
from monitor import families
from monitor.families import Below
from monitor.models import Execution
from monitor.together import Together

MOST_CHILDREN = 200


@dataclass(frozen=True)
class Family:
    """The parent, where one is known, and how many children there are: `7`, `10,000+`, "" for none.

    `open_count` of them are still open; None where counting stopped.
    """

    parent: Row | None
    count: str
    open_count: int | None


def asking(asked: Together, execution: Execution, *, now: datetime) -> Callable[[], Family]:
    """What stands above an execution and how much below it; to be called once it is answered, for one query more."""
    known = Execution.objects.of(execution.project_id).defer("inputs", "output", "metadata")
    parents = asked.rows(known.filter(id=execution.parent_id)) if execution.parent_id is not None else []

    def told() -> Family:
        count, still_open = families.count_children(execution.project_id, execution.id, most=listing.COUNTED_TO)
        return Family(
            row_of(parents[0], now=now) if parents else None,
            listing.counted(count) if count else "",
            still_open if count <= listing.COUNTED_TO else None,
        )

    return told


def children(execution: Execution, *, now: datetime) -> list[Row]:
    """The first MOST_CHILDREN children, the oldest first."""
    found = families.children(execution.project_id, execution.id, most=MOST_CHILDREN)
    return [row_of(one, now=now) for one in found]


def asking_below(asked: Together, execution: Execution) -> list[Below]:
    """How much is below an execution, asked with others: one answer, for `cancel_words`."""
    return families.asking_below(asked, execution.project_id, execution.id, most=listing.COUNTED_TO)


def cancel_words(below: Below) -> str:
    """What a cancel ends."""
    count, still_open = below
    if count > listing.COUNTED_TO:
        return f"It ends, and so does all that is open of the {listing.counted(count)} executions below it."
    if not still_open:
        return "It ends. Nothing below it is open."
    ends = "does 1 open execution" if still_open == 1 else f"do {still_open:,} open executions"
    return f"It ends, and so {ends} below it."
