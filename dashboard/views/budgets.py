"""Budgets as their admins edit them: make one, change a limit, take one away."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from dashboard import edits, words
from dashboard.access import PageRequest, page
from dashboard.amounts import usd_of
from dashboard.edits import ACTIONS, SCOPES, named
from monitor import limits
from monitor.models import Budget
from monitor.models.money import BudgetAction, BudgetScope, Period
from monitor.models.people import Role

TARGET_CHARS = 200


@page(role=Role.ADMIN)
def budgets(request: PageRequest) -> HttpResponse:
    """Every budget with its form, and an empty one; a POST makes a budget."""
    if request.method == "POST":
        return _make(request)
    return _show(request, {})


@page(role=Role.ADMIN)
def budget(request: PageRequest, budget_id: UUID) -> HttpResponse:
    """A POST changes one budget, or with `do=delete` takes it away."""
    found = Budget.objects.filter(request.visitor.sees, pk=budget_id).first()
    if found is None or request.method != "POST":
        raise Http404
    by = _by(request)
    project_id, is_global, name = (
        request.visitor.project.pk,
        found.project_id is None,
        named(found.scope, found.target, found.period),
    )
    if request.POST.get("do") == "delete":
        if limits.remove(project_id, budget_id, is_global=is_global, **by):
            messages.success(request, f"{name} has no limit any more.")
        return redirect("budgets")
    fields = _fields(request)
    if isinstance(fields, str):
        return _show(request, {"wrong": budget_id, "error": fields})
    limits.change(project_id, budget_id, is_global=is_global, **fields, **by)
    messages.success(request, f"{name}: {words.usd_limit(fields['limit_usd'])}, from the next call on.")
    return redirect("budgets")


def _make(request: PageRequest) -> HttpResponse:
    scope, target = request.POST.get("scope", ""), request.POST.get("target", "").strip()
    period = Period.RUN if scope == BudgetScope.RUN else request.POST.get("period", "")
    if scope not in _scopes(request) or period not in Period.values:
        raise Http404
    fields = _fields(request)
    if isinstance(fields, str):
        return _show(request, {"error": fields, "given": request.POST})
    try:
        made = limits.make(
            request.visitor.project.pk,
            scope=scope,
            period=period,
            target=target[:TARGET_CHARS],
            **fields,
            **_by(request),
        )
    except limits.BadLimit as error:
        return _show(request, {"error": f"The {error.field} {error.message}.", "given": request.POST})
    except limits.LimitTaken:
        return _show(request, {"error": "There is one for this already: change it above.", "given": request.POST})
    messages.success(
        request,
        f"{named(made.scope, made.target, made.period)}: {words.usd_limit(made.limit_usd)}, from the next call on.",
    )
    return redirect("budgets")


def _by(request: PageRequest) -> dict[str, Any]:
    return {"actor": request.visitor.person.email, "now": request.now}


def _fields(request: PageRequest) -> dict[str, Any] | str:
    """What a form says of limit, warning and action, or the sentence that says what is wrong with it."""
    limit_usd = usd_of(request.POST.get("limit_usd", ""))
    if limit_usd is None:
        return "The limit is an amount of dollars, 0 to 1,000,000."
    percent = request.POST.get("warn_at", "")
    if not percent.isascii() or not percent.isdigit() or not 1 <= int(percent) <= 100:
        return "The warning is a share of the limit, 1 to 100 %."
    action = request.POST.get("action", "")
    if action not in BudgetAction.values:
        raise Http404
    return {"limit_usd": limit_usd, "warn_at": int(percent) / 100, "action": action}


def _show(request: PageRequest, context: dict[str, Any]) -> HttpResponse:
    found = list(Budget.objects.filter(request.visitor.sees))
    found.sort(
        key=lambda one: (list(SCOPES).index(BudgetScope(one.scope)), one.target, Period.values.index(one.period))
    )
    context |= {
        "budgets": [
            {
                "row": one,
                "name": named(one.scope, one.target, one.period),
                "warn_percent": round(one.warn_at * 100),
                "limit": _plain(one),
            }
            for one in found
        ],
        "scopes": [(value, SCOPES[BudgetScope(value)]) for value in _scopes(request)],
        "periods": [period for period in Period.values if period != Period.RUN],
        "edits": edits.lines(request.visitor, now=request.now),
        "actions": [(value.value, word) for value, word in ACTIONS.items()],
    }
    return TemplateResponse(request, "costs/budgets.html", context, status=400 if "error" in context else 200)


def _scopes(request: PageRequest) -> list[str]:
    is_admin = request.visitor.person.is_instance_admin
    return [scope.value for scope in SCOPES if is_admin or scope != BudgetScope.GLOBAL]


def _plain(budget: Budget) -> str:
    """The limit as it stands in its field: `260`, `0.5`."""
    return f"{budget.limit_usd.normalize():f}"
