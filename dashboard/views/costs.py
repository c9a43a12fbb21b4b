"""Costs: what is spent against each budget, on what it went, and on which runs."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpResponse
from django.template.response import TemplateResponse

from dashboard import runs, spending
from dashboard.access import PageRequest, page
from dashboard.arrival import curl
from dashboard.breakdown import CHOICES, By, breakdown
from dashboard.frame import Range, range_of
from monitor import rollups
from monitor.models import Execution, Run, Trip
from monitor.models.people import Role
from monitor.rollups import Totals

EXECUTIONS_SHOWN = 50
SEARCH_CHARS = 200
FIRST_CALL = {"model": "gpt-4o", "input_tokens": 1000, "output_tokens": 100, "run_id": "first"}


@page
def costs(request: PageRequest) -> HttpResponse:
    """The whole page, or with `?part=` one of its live parts."""
    span = range_of(request.GET, now=request.now)
    part = request.GET.get("part")
    if part is not None and part not in PARTS:
        raise Http404
    context: dict[str, Any] = {"part": part, "may_act": request.visitor.may(Role.OPERATOR)}
    for name, build in PARTS.items():
        if part in (None, name):
            context |= build(request, span)
    template = "costs/page.html" if part is None else f"costs/_{part}.html"
    return TemplateResponse(request, template, context)


def budgets(request: PageRequest, span: Range) -> dict[str, Any]:
    """The sentence about today, and each budget with what is left of it."""
    visitor = request.visitor
    is_instance_admin = visitor.person.is_instance_admin
    standing = spending.standing(visitor.project, is_instance_admin=is_instance_admin, now=request.now)
    return {"standing": standing, "today": standing.today, "may_edit": visitor.may(Role.ADMIN)}


def chart(request: PageRequest, span: Range) -> dict[str, Any]:
    """Cost over the range, split as asked, with the sums beside it."""
    by = _by(request)
    return {
        "breakdown": breakdown(request.visitor.project, span, by, now=request.now),
        "first_command": curl(request, "/calls", FIRST_CALL),
        "choices": [(choice, _address(span, request, by=choice)) for choice in CHOICES],
        "chart_address": _address(span, request),
        "span_address": urlencode(_range(span)),
    }


def run_list(request: PageRequest, span: Range) -> dict[str, Any]:
    """The runs that were active in the range."""
    q, order = _q(request), _order(request)
    after = runs.After.read(request.GET.get("after", ""), order)
    found = runs.page(request.visitor.project.pk, span, q=q, order=order, after=after)
    following = {"after": str(found.following)} if found.following else {}
    return {
        "runs": found.rows,
        "q": q,
        "order": order,
        "by": _by(request),
        "span": span,
        "is_later_page": after is not None,
        "following": _address(span, request, **following) if following else "",
        "first_page": _address(span, request),
        "orders": {each: _address(span, request, order=each) for each in runs.ORDERS},
        "runs_address": _address(span, request, **({"after": str(after)} if after else {})),
        "without_search": _address(span, request, run=""),
    }


PARTS: dict[str, Callable[[PageRequest, Range], dict[str, Any]]] = {
    "budgets": budgets,
    "chart": chart,
    "runs": run_list,
}


@page
def run(request: PageRequest, run_id: str) -> HttpResponse:
    """One run: its sums, what it cost by model, its executions, and its trips."""
    project_id = request.visitor.project.pk
    found = Run.objects.filter(project_id=project_id, run_id=run_id).first()
    if found is None:
        raise Http404
    executions = list(
        Execution.objects.of(project_id)
        .filter(run_id=run_id)
        .only("id", "agent", "task", "status", "attempt", "started_at", "ended_at", "duration_ms", "cost_usd")
        .order_by("-started_at", "-id")[: EXECUTIONS_SHOWN + 1]
    )
    context = {
        "run": found,
        "latency_ms": found.latency_ms / found.calls if found.calls else None,
        "bookings": runs.by_model(found),
        "executions": executions[:EXECUTIONS_SHOWN],
        "has_more": len(executions) > EXECUTIONS_SHOWN,
        "trips": list(Trip.objects.filter(project_id=project_id, scope="run", target=run_id).order_by("-tripped_at")),
        "executions_address": urlencode({"run_id": run_id, "range": "30d"}),
        "may_act": request.visitor.may(Role.OPERATOR),
    }
    return TemplateResponse(request, "costs/run.html", context)


@page
def unpriced(request: PageRequest) -> HttpResponse:
    """The models of the range with calls that have no price, the most such calls first."""
    span = range_of(request.GET, now=request.now)
    totals = rollups.totals(
        request.visitor.project.pk, since=span.since, until=_up_to(span), kinds=["llm"], group_by="model"
    )
    found: list[Totals] = sorted((one for one in totals if one.unpriced), key=lambda one: (-one.unpriced, one.group))
    context = {"models": found, "calls": sum(one.unpriced for one in found), "span": span}
    return TemplateResponse(request, "costs/unpriced.html", context)


def _up_to(span: Range) -> Any:
    return span.until.replace(second=0, microsecond=0) + rollups.MINUTE


def _by(request: PageRequest) -> By:
    return next((choice for choice in CHOICES if choice == request.GET.get("by")), CHOICES[0])


def _q(request: PageRequest) -> str:
    return request.GET.get("run", "").strip()[:SEARCH_CHARS]


def _order(request: PageRequest) -> str:
    return "cost" if request.GET.get("order") == "cost" else "newest"


def _range(span: Range) -> dict[str, str]:
    if span.key == "custom":
        return {"range": "custom", "from": span.since.isoformat(), "to": span.until.isoformat()}
    return {"range": span.key}


def _address(span: Range, request: PageRequest, **changes: str) -> str:
    """The query string of this page with `changes`; without them at its first page of runs."""
    asked = _range(span) | {"by": _by(request), "run": _q(request), "order": _order(request)} | changes
    plain = {"by": CHOICES[0], "run": "", "order": "newest"}
    return urlencode({name: value for name, value in asked.items() if plain.get(name) != value})
