"""Budgets over HTTP; the global ones belong to the instance's admins alone."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.db.models import QuerySet

from monitor import budgets, commons, ledger, limits, windows
from monitor.api.bodies import within_usd
from monitor.api.caller import Request
from monitor.api.door import Answer, Door, endpoint
from monitor.api.pages import PageQuery, paginate
from monitor.api.problems import Forbidden, Problem, bad_field
from monitor.budgets import Held
from monitor.models import Budget

Scope = Literal["run", "agent", "department", "project", "global"]
Period = Literal["run", "hour", "day", "week", "month"]
Action = Literal["stop", "alert"]
WarnAt = Annotated[float, msgspec.Meta(gt=0, le=1)]
Target = Annotated[str, msgspec.Meta(max_length=200)]


class NewBudget(msgspec.Struct, kw_only=True):
    """A limit for each window of a scope; without `target` each run, agent or department has it by itself."""

    scope: Scope
    period: Period
    limit_usd: Decimal
    target: Target = ""
    warn_at: WarnAt = 0.8
    action: Action = "stop"

    def __post_init__(self) -> None:
        within_usd(self.limit_usd, "limit_usd")


class ChangedBudget(msgspec.Struct, kw_only=True):
    limit_usd: Decimal | None = None
    warn_at: WarnAt | None = None
    action: Action | None = None

    def __post_init__(self) -> None:
        within_usd(self.limit_usd, "limit_usd")


class BudgetOut(msgspec.Struct, kw_only=True):
    """A budget and, where it is one window's, what that has spent; amounts in US dollars."""

    id: UUID
    scope: str
    target: str
    period: str
    limit_usd: Decimal
    warn_at: float
    action: str
    is_global: bool
    spent_usd: Decimal | None
    top_up_usd: Decimal | None
    tripped: bool
    renews_at: datetime | None
    created_at: datetime


class BudgetPage(msgspec.Struct):
    results: list[BudgetOut]
    next: str | None


class BudgetQuery(PageQuery, kw_only=True):
    scope: list[Scope] = []


class Budgets(Door):
    @endpoint(scope="read", query=BudgetQuery, answer=BudgetPage)
    def get(self, request: Request, query: BudgetQuery) -> BudgetPage:
        found = _visible(request)
        if query.scope:
            found = found.filter(scope__in=query.scope)
        rows, following = paginate(found, ("id",), query, request)
        zone = ledger.time_zone(request.caller.project_id)
        return BudgetPage(_all_out(rows, zone, request), following)

    @endpoint(scope="admin", body=NewBudget, answer=BudgetOut, status=201, also=(409,))
    def post(self, request: Request, body: NewBudget) -> BudgetOut:
        if body.scope == "global" and not request.caller.is_instance_admin:
            raise Forbidden("Global budgets belong to the admins of the instance.")
        try:
            asked = msgspec.structs.asdict(body)
            budget = limits.make(request.caller.project_id, **asked, actor=request.caller.actor, now=request.now)
        except limits.BadLimit as error:
            raise bad_field(error.field, error.message) from error
        except limits.LimitTaken as error:
            raise Problem(409, "Conflict", "There is one already: budget one per scope and period.") from error
        return _out(budget, ledger.time_zone(request.caller.project_id), request)


class OneBudget(Door):
    @endpoint(scope="read", answer=BudgetOut)
    def get(self, request: Request, budget_id: UUID) -> BudgetOut:
        return _out(_get(request, budget_id), ledger.time_zone(request.caller.project_id), request)

    @endpoint(scope="admin", body=ChangedBudget, answer=BudgetOut)
    def patch(self, request: Request, budget_id: UUID, body: ChangedBudget) -> BudgetOut:
        is_global = _get(request, budget_id).project_id is None
        limits.change(
            request.caller.project_id,
            budget_id,
            is_global=is_global,
            **msgspec.structs.asdict(body),
            actor=request.caller.actor,
            now=request.now,
        )
        return _out(_get(request, budget_id), ledger.time_zone(request.caller.project_id), request)

    @endpoint(scope="admin", status=204)
    def delete(self, request: Request, budget_id: UUID) -> Answer:
        is_global = _get(request, budget_id).project_id is None
        caller = request.caller
        limits.remove(caller.project_id, budget_id, is_global=is_global, actor=caller.actor, now=request.now)
        return Answer(status=204)


def _visible(request: Request) -> "QuerySet[Budget]":
    caller = request.caller
    return Budget.objects.filter(commons.visible(caller.project_id, is_instance_admin=caller.is_instance_admin))


def _get(request: Request, budget_id: UUID) -> Budget:
    budget = _visible(request).filter(pk=budget_id).first()
    if budget is None:
        raise Problem(404, "Not found")
    return budget


def _out(budget: Budget, time_zone: str, request: Request) -> BudgetOut:
    return _all_out([budget], time_zone, request)[0]


def _all_out(found: Sequence[Budget], time_zone: str, request: Request) -> list[BudgetOut]:
    """The budgets with what the windows hold that they bind now, in one query."""
    bound = [budgets.window_of(budget, time_zone, now=request.now) for budget in found]
    held = budgets.look(key for key in bound if key is not None)
    return [
        _told(budget, held.get(key) if key else None, time_zone, now=request.now)
        for budget, key in zip(found, bound, strict=True)
    ]


def _told(budget: Budget, held: Held | None, time_zone: str, *, now: datetime) -> BudgetOut:
    is_global = budget.project_id is None
    plain: dict[str, Any] = {
        name: getattr(budget, name)
        for name in ("id", "scope", "target", "period", "limit_usd", "warn_at", "action", "created_at")
    }
    return BudgetOut(
        **plain,
        is_global=is_global,
        spent_usd=held.spent_usd if held else None,
        top_up_usd=held.top_up_usd if held else None,
        tripped=held is not None and held.tripped_at is not None,
        renews_at=windows.ends_at(budget.period, "UTC" if is_global else time_zone, now=now),
    )
