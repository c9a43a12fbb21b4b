"""Families: executions that were started by others, and what a cancelled one means for those below it."""

from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Count, Q

from monitor.models import Execution
from monitor.models.executions import ENDED, OPEN, Status
from monitor.pipeline import Statement
from monitor.together import Together

# A cancel reaches what is 50 levels down; a circle of parents ends here, too.
DESCENDANTS = """
WITH RECURSIVE family (id, depth) AS (
    SELECT id, 1 FROM monitor_execution WHERE project_id = %(project_id)s AND parent_id = %(id)s
     UNION
    SELECT e.id, depth + 1 FROM monitor_execution e JOIN family f ON e.parent_id = f.id
     WHERE e.project_id = %(project_id)s AND depth < 50
), below AS (
    SELECT id, max(depth) AS depth FROM family WHERE id <> %(id)s GROUP BY id
)
SELECT id FROM below JOIN monitor_execution e USING (id)
 WHERE e.project_id = %(project_id)s AND e.status = ANY(%(open)s) AND NOT e.from_spans
 ORDER BY depth, id
"""

# Breadth first, and no row further than is asked for: each parent's children by their index, ended or not.
BELOW = """
WITH RECURSIVE family (id, depth, is_open) AS (
    (SELECT id, 1, status = ANY(%(open)s) AND NOT from_spans FROM monitor_execution
      WHERE project_id = %(project_id)s AND parent_id = %(id)s LIMIT %(limit)s)
     UNION
    SELECT child.id, depth + 1, child.is_open
      FROM family CROSS JOIN LATERAL (
           SELECT e.id, e.status = ANY(%(open)s) AND NOT e.from_spans AS is_open FROM monitor_execution e
            WHERE e.project_id = %(project_id)s AND e.parent_id = family.id LIMIT %(limit)s) AS child
     WHERE depth < 50
), walked AS (
    SELECT id, is_open FROM family WHERE id <> %(id)s LIMIT %(limit)s
)
SELECT count(DISTINCT id), count(DISTINCT id) FILTER (WHERE is_open) FROM walked
"""

HOLD = "SELECT FROM monitor_execution WHERE project_id = %(project_id)s AND id = %(id)s FOR SHARE"


class Below(NamedTuple):
    """How many executions are below one, and how many of them are open and heard by somebody."""

    in_all: int
    still_open: int


def open_below(project_id: int, execution_id: UUID) -> list[UUID]:
    """The open work below an execution, as far as somebody listens: parents before their children."""
    with connection.cursor() as cursor:
        cursor.execute(DESCENDANTS, {"project_id": project_id, "id": execution_id, "open": [str(one) for one in OPEN]})
        return [one for (one,) in cursor.fetchall()]


def count_below(project_id: int, execution_id: UUID, *, most: int) -> Below:
    """What is below an execution, down to where a cancel reaches; counting stops at `most` + 1."""
    with Together() as asked:
        found = asking_below(asked, project_id, execution_id, most=most)
    return found[0]


def asking_below(asked: Together, project_id: int, execution_id: UUID, *, most: int) -> list[Below]:
    """`count_below` asked with others: it alone."""
    named: dict[str, Any] = {"project_id": project_id, "id": execution_id, "limit": most + 1}
    statement = Statement(BELOW, named | {"open": [str(one) for one in OPEN]})
    return asked.ask(statement, lambda rows: [Below(*row) for row in rows])


def count_children(project_id: int, execution_id: UUID, *, most: int) -> tuple[int, int]:
    """How many name it as their parent, and how many of those are open; counting stops at `most` + 1."""
    first = Execution.objects.of(project_id).filter(parent_id=execution_id)[: most + 1]
    counted = first.aggregate(all=Count("id"), open=Count("id", filter=Q(status__in=OPEN)))
    return counted["all"], counted["open"]


def children(project_id: int, execution_id: UUID, *, most: int) -> list[Execution]:
    """The first executions that name it as their parent, the oldest first."""
    found = Execution.objects.of(project_id).filter(parent_id=execution_id).order_by("started_at", "id")
    return list(found.defer("inputs", "output", "metadata")[:most])


def stopped_above(project_id: int, child: Execution) -> str | None:
    """Why the child's parent was cancelled, None when it was not; whoever cancels it from now on finds the child.

    The lock waits for a cancel that is under way, and makes a later one wait for the child. What has ended needs none.
    """
    if child.parent_id is None or child.parent_id == child.id:
        return None
    named: dict[str, Any] = {"project_id": project_id, "id": child.parent_id}
    parent = Execution.objects.filter(**named).first()
    if parent is not None and parent.status in OPEN and not parent.from_spans:
        with connection.cursor() as cursor:
            cursor.execute(HOLD, named)
        parent = Execution.objects.filter(**named).first()
    if parent is None or parent.from_spans or parent.status not in ENDED:
        return None
    # An abort may end it as failed or as a time-out; the command in force tells it from an end of its own.
    is_cancelled = parent.status == Status.CANCELLED or parent.command_seq is not None
    return parent.command_reason or "the work above it was cancelled" if is_cancelled else None
