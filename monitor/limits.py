"""Limits: the budgets that people set, change and take away. What they mean for a call is said in budgets.py."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db import IntegrityError, models, transaction

from monitor import changes, commons, news, relief
from monitor.models import Budget, Subject
from monitor.models.money import BudgetAction, BudgetScope, Period
from monitor.tenancy import crossing, tenant
from monitor.values import is_usd


class Edit(models.TextChoices):
    """What a person did to a budget, as the journal has it."""

    MADE = "made"
    CHANGED = "changed"
    REMOVED = "removed"


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
    actor: str,
    now: datetime,
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
            relief.allow_anew(budget)
    except IntegrityError as error:
        raise LimitTaken from error
    _record(project_id, budget, Edit.MADE, actor=actor, now=now)
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
    actor: str,
    now: datetime,
) -> bool:
    """Set what is given; the next call is held against it. False when there is no such budget. Raises BadLimit."""
    _check(limit_usd, warn_at)
    given = {"limit_usd": limit_usd, "warn_at": warn_at, "action": action}
    with _reaching(is_global=is_global):
        budget = _one(project_id, budget_id, is_global=is_global)
        if budget is None:
            return False
        before = _values(budget)
        changed = [name for name, value in given.items() if value is not None and value != getattr(budget, name)]
        for name in changed:
            setattr(budget, name, given[name])
        budget.save(update_fields=changed)
        relief.allow_anew(budget)
    if changed:
        was = {name: value for name, value in before.items() if name in changed}
        _record(project_id, budget, Edit.CHANGED, was=was, actor=actor, now=now)
    return True


def remove(project_id: int, budget_id: UUID, *, is_global: bool, actor: str, now: datetime) -> bool:
    """Take a budget away; False when somebody has done so before. Its windows and trips stay in the books."""
    with _reaching(is_global=is_global):
        budget = _one(project_id, budget_id, is_global=is_global)
        if budget is None:
            return False
        budget.delete()
    _record(project_id, budget, Edit.REMOVED, actor=actor, now=now)
    return True


def _one(project_id: int, budget_id: UUID, *, is_global: bool) -> Budget | None:
    """The locked budget of the project, or of the whole instance."""
    found = Budget.objects.select_for_update().filter(pk=budget_id)
    return (found.filter(project=None) if is_global else found.filter(project_id=project_id)).first()


def _record(
    project_id: int, budget: Budget, edit: str, *, actor: str, now: datetime, was: Mapping[str, str] | None = None
) -> None:
    """Write into the journal who did what; that of a global budget is kept in one place for the whole instance."""
    keeper = commons.keeper() if budget.scope == BudgetScope.GLOBAL else project_id
    with tenant(keeper):
        changes.record(
            keeper,
            Subject.BUDGET,
            f"{budget.scope}:{budget.target}:{budget.period}"[:200],
            to_state=edit,
            cause="edited",
            actor=actor,
            now=now,
            data={"scope": budget.scope, "target": budget.target, "period": budget.period}
            | _values(budget)
            | {"was": dict(was or {})},
            concerns_alerts=False,
        )
    news.tell(project_id, "costs")


def _values(budget: Budget) -> dict[str, str]:
    return {"limit_usd": f"{budget.limit_usd:f}", "warn_at": f"{budget.warn_at:g}", "action": str(budget.action)}


def _check(limit_usd: Decimal | None, warn_at: float | None) -> None:
    if limit_usd is not None and not is_usd(limit_usd):
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
