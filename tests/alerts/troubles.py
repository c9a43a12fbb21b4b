"""Builders for stories that begin with a real trouble and end with what became of its alert."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from alerts.endings import settle_over
from alerts.judge import judge
from alerts.models import Alert
from monitor import limits, reporting
from monitor.models import Budget, Project
from monitor.reports import Call
from monitor.tenancy import crossing, tenant
from tests.alerts.builders import a_channel
from tests.monitor import fleets

NOON = datetime.now(fleets.NOW.tzinfo).replace(hour=12, minute=0, second=0, microsecond=0)
DAY = timedelta(days=1)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def a_project(name: str = "north") -> int:
    with crossing():
        project_id = Project.objects.create(name=name).pk
    a_channel(project_id)
    return project_id


def a_budget(project_id: int, *, limit: str = "10", scope: str = "project", action: str = "stop", **said: Any) -> None:
    with tenant(project_id):
        period = "run" if scope == "run" else "day"
        given = {"scope": scope, "period": period, "limit_usd": Decimal(limit), "action": action} | said
        limits.make(project_id, **given, actor="ann@example.org", now=NOON)


def spend(project_id: int, usd: str, *, now: datetime, **said: Any) -> None:
    with tenant(project_id):
        call = Call(**({"model": "gpt-4o", "agent": "planner", "cost_usd": Decimal(usd)} | said))
        reporting.record_call(project_id, call, now=now)


def set_limit(project_id: int, usd: str) -> None:
    with tenant(project_id):
        [budget] = budgets_of(project_id)
        change = {"limit_usd": Decimal(usd), "actor": "ann@example.org", "now": NOON}
        limits.change(project_id, budget, is_global=False, **change)


def budgets_of(project_id: int) -> list[UUID]:
    return list(Budget.objects.filter(project_id=project_id).values_list("pk", flat=True))


def turn(*, now: datetime) -> None:
    judge(now=now)
    settle_over(now=now)


def alerts(kind: str) -> list[Alert]:
    with crossing():
        return list(Alert.objects.filter(type=kind).order_by("first_seen_at", "pk"))
