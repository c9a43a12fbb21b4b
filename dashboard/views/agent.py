"""One agent: how it is, what it did over the range, its newest work, what holds for it, and its form."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse

from alerts.models import OPEN_ALERTS, Alert
from dashboard import agentedits, agentform, charts
from dashboard.access import PageRequest, page
from dashboard.agentlist import Row, span_pairs
from dashboard.arrival import curl
from dashboard.frame import Range, range_of
from dashboard.listing import NOT_SHOWN_IN_ROWS
from dashboard.views.executions import row_of
from monitor import agents as verbs
from monitor import registry, rollups
from monitor.agents import AtWork, ChangedMeanwhile
from monitor.models import Agent, Execution
from monitor.models.people import Role
from monitor.together import Together

EXECUTIONS_SHOWN = 10
ALERTS_SHOWN = 5
# A small chart has room for so many.
SMALL_BARS = 60


@page
def agent(request: PageRequest, name: str) -> HttpResponse:
    """The page, with `?part=` one of its live parts or its form; a POST by an operator is the form, sent."""
    subject = Agent.objects.filter(project_id=request.visitor.project.pk, name=name).first()
    part = request.GET.get("part")
    if subject is None or part not in (None, "edit", *PARTS):
        raise Http404
    may_act = request.visitor.may(Role.OPERATOR)
    if (request.method == "POST" or part == "edit") and not may_act:
        raise Http404
    if request.method == "POST":
        return _forget(request, subject) if request.POST.get("do") == "forget" else _save(request, subject)
    if part == "edit":
        return _form(request, subject, agentform.shown(subject))
    span = range_of(request.GET, now=request.now)
    context: dict[str, Any] = {
        "agent": subject,
        "here": reverse("agent", args=[name]),
        "span": span,
        "query": urlencode(span_pairs(span)),
        "range_address": urlencode(span_pairs(span)),
        "quoted": urlencode({"agent": name}),
        "may_act": may_act,
    }
    for each, build in PARTS.items():
        if part in (None, each):
            context |= build(request, subject, span)
    return TemplateResponse(request, f"agent/_{part}.html" if part else "agent/page.html", context)


def state(request: PageRequest, subject: Agent, span: Range) -> dict[str, Any]:
    """Its health and the figures of the range, each leading to its rows."""
    [standing] = registry.standings(subject.project_id, [subject], since=span.since, until=span.until, now=request.now)
    return {"row": Row.of(standing), "health": f"agent_{standing.health}", "mode": agentform.MODES[subject.mode]}


def figures(request: PageRequest, subject: Agent, span: Range) -> dict[str, Any]:
    """Executions, latency and cost over the range."""
    step = charts.step_for(span.until - span.since, SMALL_BARS)
    grid = charts.grid(span.since, span.until, step)
    bounds: dict[str, Any] = {"since": grid.since, "until": grid.until, "step_s": step, "agent": subject.name}
    with Together() as asked:
        worked = rollups.series(subject.project_id, kinds=["execution"], with_latency=True, within=asked, **bounds)
        called = rollups.series(subject.project_id, kinds=registry.CALLS, within=asked, **bounds)
    latency = [(one.at, (one.p95_ms or 0) / 1000) for one in worked]
    total, failed = sum(one.count for one in worked), sum(one.failed for one in worked)
    return {
        "step_words": charts.step_words(step),
        "throughput": charts.throughput(grid, worked, [], shift=span.until - span.since),
        "throughput_summary": f"{total} executions, {failed} failed",
        "latency": charts.line(grid, "p95", latency),
        "costs": charts.stacked(grid, {"cost": [(one.at, float(one.cost_usd)) for one in called]}),
        "has_work": bool(worked),
        "has_calls": any(one.cost_usd for one in called),
    }


def work(request: PageRequest, subject: Agent, span: Range) -> dict[str, Any]:
    """Its newest executions."""
    found = Execution.objects.of(subject.project_id).filter(agent=subject.name).defer(*NOT_SHOWN_IN_ROWS)
    return {
        "rows": [row_of(one, now=request.now) for one in found.order_by("-started_at")[:EXECUTIONS_SHOWN]],
        "first_command": curl(request, "/executions", {"agent": subject.name, "task": "Say hello"}),
    }


def about(request: PageRequest, subject: Agent, span: Range) -> dict[str, Any]:
    """Open alerts about it, the defaults that hold, and who has said what of it."""
    found = Alert.objects.filter(project_id=subject.project_id, agent=subject.name, status__in=OPEN_ALERTS)
    with Together() as asked:
        alerts = asked.rows(found.defer("data", "message").order_by("-last_seen_at")[: ALERTS_SHOWN + 1])
        edits = asked.rows(agentedits.newest(subject.project_id, subject.name, now=request.now))
    return {
        "alerts": alerts[:ALERTS_SHOWN],
        "has_more_alerts": len(alerts) > ALERTS_SHOWN,
        "alerts_address": urlencode({"q": subject.name}),
        "defaults": agentedits.defaults(subject, request.visitor.project),
        "edits": agentedits.lines(edits),
    }


PARTS: dict[str, Callable[[PageRequest, Agent, Range], dict[str, Any]]] = {
    "state": state,
    "figures": figures,
    "work": work,
    "about": about,
}


def _forget(request: PageRequest, subject: Agent) -> HttpResponse:
    try:
        verbs.forget(subject.project_id, subject.name, actor=request.visitor.person.email, now=request.now)
    except AtWork:
        messages.error(request, f"{subject.name} is not forgotten: it has open executions.")
        return redirect("agent", subject.name)
    messages.success(request, f"{subject.name} is forgotten. What it did stays, and it is back once it is heard.")
    return redirect("agents")


def _save(request: PageRequest, subject: Agent) -> HttpResponse:
    given = {name: str(value) for name, value in request.POST.items()}
    try:
        verbs.change(
            subject.project_id,
            subject.name,
            agentform.read(given),
            actor=request.visitor.person.email,
            now=request.now,
        )
    except agentform.BadForm as error:
        return _form(request, subject, given, wrong=error.field, error=str(error))
    except ChangedMeanwhile as meanwhile:
        given["version"] = str(meanwhile.agent.version)
        last = agentedits.lines(agentedits.newest(subject.project_id, subject.name, now=request.now)[:1])
        who = last[0].who if last else "Somebody else"
        return _form(
            request,
            meanwhile.agent,
            given,
            error=f"{who} has edited {subject.name} since you opened this. Yours is below; saving it replaces theirs.",
        )
    messages.success(request, f"{subject.name} is saved. New executions take its new defaults.")
    return redirect("agent", subject.name)


def _form(
    request: PageRequest, subject: Agent, values: dict[str, Any], *, wrong: str = "", error: str = ""
) -> HttpResponse:
    context = {
        "agent": subject,
        "here": reverse("agent", args=[subject.name]),
        "values": values,
        "wrong": wrong,
        "error": error,
        "defaults": {one.word: one.of_project for one in agentedits.defaults(subject, request.visitor.project)},
        "modes": agentform.MODES.items(),
        "units": {"min": "minutes", "h": "hours", "d": "days", "s": "seconds"}.items(),
        "project": request.visitor.project,
    }
    is_fragment = request.headers.get("HX-Request") == "true"
    template = "agent/_edit.html" if is_fragment else "agent/edit.html"
    return TemplateResponse(request, template, context, status=400 if error else 200)
