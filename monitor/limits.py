"""Limits: the budgets that people set, change and take away. What they mean for a call is said in budgets.py."""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from monitor import news
from monitor.models import Budget
from monitor.models.money import BudgetAction, BudgetScope, Period
from monitor.tenancy import crossing

MOST_USD = Decimal(1_000_000)


class BadLimit(ValueError):
    """A budget that makes no sense; `field` names the culprit."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class LimitTaken(Exception):
    """There is a budget for this scope, target and period already."""


def make(
    project_id: int,
    *,
    scope: str,
    period: str,
    limit_usd: Decimal,
    target: str = "",
    warn_at: float = 0.8,
    action: str = BudgetAction.STOP,
) -> Budget:
    """A limit for each window of a scope; a global one is the instance's, and so its admins' to make.

    Raises BadLimit and LimitTaken.
    """
    if (scope == BudgetScope.RUN) != (period == Period.RUN):
        raise BadLimit("period", "is run for a run's budget, and only there")
    if target and scope in (BudgetScope.PROJECT, BudgetScope.GLOBAL):
        raise BadLimit("target", f"has no meaning for the scope {scope}")
    _check(limit_usd, warn_at)
    is_global = scope == BudgetScope.GLOBAL
    try:
        with transaction.atomic(), _reaching(is_global=is_global):
            budget = Budget.objects.create(
                project_id=None if is_global else project_id,
                scope=scope,
                target=target,
                period=period,
                limit_usd=limit_usd,
                warn_at=warn_at,
                action=action,
            )
    except IntegrityError as error:
        raise LimitTaken from error
    news.tell(project_id, "costs")
    budget.refresh_from_db()
    return budget


def change(
    project_id: int,
    budget_id: UUID,
    *,
    is_global: bool,
    limit_usd: Decimal | None = None,
    warn_at: float | None = None,
    action: str | None = None,
) -> bool:
    """Set what is given; the next call is held against it. False when there is no such budget. Raises BadLimit."""
    _check(limit_usd, warn_at)
    fields = {"limit_usd": limit_usd, "warn_at": warn_at, "action": action}
    changed = {name: value for name, value in fields.items() if value is not None}
    found = _one(project_id, budget_id, is_global=is_global)
    if not changed:
        return found.exists()
    with _reaching(is_global=is_global):
        moved = found.update(**changed)
    news.tell(project_id, "costs")
    return moved == 1


def _one(project_id: int, budget_id: UUID, *, is_global: bool) -> QuerySet[Budget]:
    """The budget of the project, or of the whole instance."""
    found = Budget.objects.filter(pk=budget_id)
    return found.filter(project=None) if is_global else found.filter(project_id=project_id)


def remove(project_id: int, budget_id: UUID, *, is_global: bool) -> bool:
    """Take a budget away; False when somebody has done so before. Its windows and trips stay in the books."""
    with _reaching(is_global=is_global):
        gone, _ = _one(project_id, budget_id, is_global=is_global).delete()
    news.tell(project_id, "costs")
    return gone == 1


def _check(limit_usd: Decimal | None, warn_at: float | None) -> None:
    if limit_usd is not None and not (limit_usd.is_finite() and 0 <= limit_usd <= MOST_USD):
        raise BadLimit("limit_usd", "must be 0 to 1,000,000 US dollars")
    if warn_at is not None and not 0 < warn_at <= 1:
        raise BadLimit("warn_at", "must lie above 0 and be at most 1")


@contextmanager
def _reaching(*, is_global: bool) -> Iterator[None]:
    """Row-level security keeps the instance's budgets from the role that serves one project."""
    if not is_global:
        yield
        return
    with crossing():
        yield
