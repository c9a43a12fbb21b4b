"""Who has changed how long what is kept, in words."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q

from dashboard import words
from dashboard.access import Visitor
from monitor import commons
from monitor.keeping import KINDS
from monitor.models import StateChange, Subject
from monitor.together import Together

# The journal is read by days.
BACK = timedelta(days=30)
SHOWN = 20


@dataclass(frozen=True)
class Line:
    """`Spans`, `30 days instead of 90`, by whom and when; `is_all` where it holds for every project."""

    at: datetime
    who: str
    name: str
    what: str
    is_all: bool


def lines(visitor: Visitor, *, now: datetime) -> list[Line]:
    """The last changes of 30 days that the visitor may know of, newest first."""
    seen = Q(project_id=visitor.project.pk, data__of="project")
    if visitor.person.is_instance_admin:
        seen |= Q(project_id__in=commons.first_project(), data__of="instance")
    with Together(across=True) as asked:
        found = StateChange.objects.filter(seen, subject=Subject.KEEPING, at__gte=now - BACK)
        changes = asked.rows(found.order_by("-at", "-id")[:SHOWN])
    return [_line(change) for change in changes]


def _line(change: StateChange) -> Line:
    told = change.data
    name = KINDS[change.subject_id].label if change.subject_id in KINDS else change.subject_id
    what = f"{told['days']}{words.GAP}days instead of {told['was']}"
    if told["own"] is None:
        what += ", as all projects" if told["of"] == "project" else ", as Handrail comes"
    return Line(change.at, change.actor, name, what, told["of"] == "instance")
