"""The list of agents: how each is, what it does, what it costs; and an agent entered by hand."""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from dashboard import agentlist
from dashboard.access import PageRequest, page
from dashboard.agentlist import Asked, Row
from dashboard.arrival import curl
from dashboard.frame import range_of
from dashboard.states import look_of
from monitor import agents as verbs
from monitor import registry
from monitor.models import Agent
from monitor.models.people import Role

FIRST_EXECUTION = {"agent": "my-agent", "task": "Say hello"}
KEYS = [("j", ""), ("k", "move"), ("↵", "open")]
LONGEST_NAME = 200
# (order, words, class) of each head of the table; "" can't be ordered by.
HEADS = (
    ("health", "Health", "glyph-on-phone"),
    ("name", "Agent", "wide"),
    ("", "Can do", "not-narrow"),
    ("", "Cost tier", "not-narrow"),
    ("running", "Running", "num not-phone"),
    ("executions", "Executions", "num not-phone"),
    ("errors", "Errors", "num not-phone"),
    ("avg", "Mean", "num not-narrow"),
    ("p95", "p95", "num not-phone"),
    ("cost", "Cost", "num took"),
    ("success", "Per success", "num not-narrow"),
    ("heard", "Last heard", "num not-phone"),
)
UPWARDS = ("name", "health")


@dataclass(frozen=True)
class Head:
    word: str
    css: str
    address: str
    sort: str


@dataclass(frozen=True)
class Tab:
    health: str
    word: str
    address: str
    count: int
    urgent: bool


@page
def agents(request: PageRequest) -> HttpResponse:
    """The list, or with `?part=list` what is live of it; a POST by an operator enters an agent."""
    if request.method == "POST":
        return _enter(request)
    part = request.GET.get("part")
    if part not in (None, "list"):
        raise Http404
    asked = Asked.of(request.GET, range_of(request.GET, now=request.now))
    context = _list(request, asked) | {
        "asked": asked,
        "address": asked.address(page=asked.page),
        "may_act": request.visitor.may(Role.OPERATOR),
        "list_keys": KEYS,
        "first_command": curl(request, "/executions", FIRST_EXECUTION),
    }
    return TemplateResponse(request, "agents/_list.html" if part else "agents/page.html", context)


def _list(request: PageRequest, asked: Asked) -> dict[str, Any]:
    project_id = request.visitor.project.pk
    found, total = agentlist.newest(asked.matching(project_id))
    standings = registry.standings(project_id, found, since=asked.span.since, until=asked.span.until, now=request.now)
    counts = agentlist.count_by_health(standings)
    rows = agentlist.ordered(standings, asked)
    first = (asked.page - 1) * agentlist.PAGE_ROWS
    shown = [Row.of(one) for one in rows[first : first + agentlist.PAGE_ROWS]]
    return {
        "rows": shown,
        "first": first + 1,
        "last": first + len(shown),
        "matching": len(rows),
        "total": total,
        "is_cut": total > len(standings),
        "most": agentlist.MOST_AGENTS,
        "previous": asked.address(page=asked.page - 1) if asked.page > 1 else "",
        "following": asked.address(page=asked.page + 1) if first + len(shown) < len(rows) else "",
        "range_address": Asked(asked.span).address(),
        "tabs": [Tab("", "All", asked.address(health=""), len(standings), urgent=False)]
        + [
            Tab(
                health,
                look_of(f"agent_{health}").word,
                asked.address(health=health),
                count,
                urgent=health == "failing" and count > 0,
            )
            for health, count in counts.items()
        ],
        "by_health": ", ".join(
            f"{count:,} {look_of(f'agent_{health}').word.lower()}" for health, count in counts.items() if count
        ),
        "heads": [
            Head(
                word,
                css,
                asked.address(order=order) if order and order != asked.order else "",
                ("ascending" if order in UPWARDS else "descending") if order == asked.order else "",
            )
            for order, word, css in HEADS
        ],
        "capabilities": [(one, asked.address(capability=one)) for one in agentlist.capabilities_of(found)],
        "tiers": [(one, asked.address(cost_tier=one)) for one in agentlist.tiers_of(found)],
        "without_capability": asked.address(capability=""),
        "without_tier": asked.address(cost_tier=""),
        "without_filters": Asked(asked.span, order=asked.order).address(),
        "ever": bool(found) or Agent.objects.filter(project_id=project_id).exists(),
    }


def _enter(request: PageRequest) -> HttpResponse:
    if not request.visitor.may(Role.OPERATOR):
        raise Http404
    name = request.POST.get("name", "").strip()
    if not name or len(name) > LONGEST_NAME:
        messages.warning(request, f"A name has 1 to {LONGEST_NAME} characters.")
        return redirect("agents")
    project_id = request.visitor.project.pk
    if verbs.enter_unless_known(project_id, name, actor=request.visitor.person.email, now=request.now):
        messages.success(request, f"{name} is entered. Say what you expect of it.")
    else:
        messages.warning(request, f"{name} is in the registry already.")
    return redirect("agent", name)
