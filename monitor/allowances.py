"""The budgets that a new project begins with; people change them later, and a restart changes none of them back."""

from collections.abc import Mapping
from decimal import Decimal

from monitor.models import Budget
from monitor.models.money import BudgetScope, Period

RUN_USD = Decimal(5)
PROJECT_USD = {Period.HOUR: Decimal(50), Period.DAY: Decimal(500), Period.MONTH: Decimal(5000)}
DEPARTMENTS_USD = {
    "Sales": Decimal(500),
    "Marketing": Decimal(300),
    "Operations": Decimal(200),
    "Support": Decimal(150),
}
OTHER_DEPARTMENTS_USD = Decimal(100)
GLOBAL_DAY_USD = Decimal(1000)


def give_budgets(
    project_id: int, *, day_usd: Decimal | None = None, departments_usd: Mapping[str, Decimal] | None = None
) -> int:
    """Make the default budgets that the project does not have; returns how many were made."""
    limits = {(BudgetScope.RUN, "", Period.RUN): RUN_USD}
    limits |= {(BudgetScope.PROJECT, "", period): usd for period, usd in PROJECT_USD.items()}
    if day_usd is not None:
        limits[BudgetScope.PROJECT, "", Period.DAY] = day_usd
    for name, usd in (DEPARTMENTS_USD | dict(departments_usd or {})).items():
        limits[BudgetScope.DEPARTMENT, name, Period.MONTH] = usd
    # Without a target: every other department by itself.
    limits[BudgetScope.DEPARTMENT, "", Period.MONTH] = OTHER_DEPARTMENTS_USD
    return sum(
        Budget.objects.get_or_create(
            project_id=project_id, scope=scope, target=target, period=period, defaults={"limit_usd": usd}
        )[1]
        for (scope, target, period), usd in limits.items()
    )


def give_global_budget() -> bool:
    """Make the instance's daily budget unless there is one. Call it inside `crossing()`."""
    _, made = Budget.objects.get_or_create(
        project=None,
        scope=BudgetScope.GLOBAL,
        target="",
        period=Period.DAY,
        defaults={"limit_usd": GLOBAL_DAY_USD},
    )
    return made
