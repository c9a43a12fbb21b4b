"""Who has changed which budget, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Q

from dashboard import words
from dashboard.access import Visitor
from monitor import commons
from monitor.limits import Edit
from monitor.models import StateChange, Subject
from monitor.models.money import BudgetAction, BudgetScope, Period
from monitor.together import Together

# The journal is read by days.
BACK = timedelta(days=30)
SHOWN = 20
SCOPES = {
    BudgetScope.PROJECT: "the project",
    BudgetScope.DEPARTMENT: "departments",
    BudgetScope.AGENT: "agents",
    BudgetScope.RUN: "runs",
    BudgetScope.GLOBAL: "all projects",
}
ACTIONS = {BudgetAction.STOP: "stops new calls", BudgetAction.ALERT: "only alerts"}


@dataclass(frozen=True)
class Line:
    """`Department Sales, month` and `$100 instead of $80`, by whom and when."""

    at: datetime
    who: str
    did: str
    name: str
    what: str


def lines(visitor: Visitor, *, now: datetime) -> list[Line]:
    """The last edits of 30 days that the visitor may know of, newest first."""
    is_global = Q(data__scope=BudgetScope.GLOBAL)
    seen = Q(project_id=visitor.project.pk) & ~is_global
    if visitor.person.is_instance_admin:
        seen |= Q(project_id__in=commons.first_project()) & is_global
    with Together(across=True) as asked:
        found = StateChange.objects.filter(seen, subject=Subject.BUDGET, to_state__in=Edit.values, at__gte=now - BACK)
        changes = asked.rows(found.order_by("-at", "-id")[:SHOWN])
    return [_line(change) for change in changes]


def named(scope: str, target: str, period: str) -> str:
    """`Department Sales, month`, `Each run`, `The project, day`."""
    if scope in (BudgetScope.PROJECT, BudgetScope.GLOBAL):
        return f"{SCOPES[BudgetScope(scope)].capitalize()}, {period}"
    whose = f"{scope.capitalize()} {target}" if target else f"Each {scope}"
    return whose if period == Period.RUN else f"{whose}, {period}"


def _line(change: StateChange) -> Line:
    told, was = change.data, change.data["was"]
    if change.to_state == Edit.CHANGED:
        what = ", ".join(f"{_said(name, told)} instead of {_said(name, was)}" for name in was)
    else:
        what = ", ".join(_said(name, told) for name in ("limit_usd", "warn_at", "action"))
    name = named(told["scope"], told["target"], told["period"])
    return Line(change.at, change.actor, change.to_state, name, what)


def _said(name: str, values: Mapping[str, Any]) -> str:
    if name == "limit_usd":
        return words.usd_limit(Decimal(values[name]))
    if name == "warn_at":
        return f"warns at {round(float(values[name]) * 100)}{words.GAP}%"
    return ACTIONS[BudgetAction(values[name])]
