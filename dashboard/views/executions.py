"""The list of executions: what is asked for, page by page, kept true in place, and commands for several at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import F, QuerySet
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.http import require_POST

from dashboard import commands, listing, loops, savedtabs
from dashboard.access import PageRequest, page
from dashboard.arrival import curl
from dashboard.frame import range_of
from dashboard.listing import Asked
from dashboard.states import EXECUTIONS, Look, look_of
from monitor import patience, savedviews, standstill
from monitor.models import Agent, Execution
from monitor.models.executions import ENDED, OPEN, Status
from monitor.models.people import Role
from monitor.orders import MOST_AT_ONCE
from monitor.standstill import Still

AGENTS_OFFERED = 50
FIRST_EXECUTION = {"agent": "my-agent", "task": "Say hello"}
KEYS = [("j", ""), ("k", "move"), ("x", "choose"), ("↵", "open")]
BAR_TONES = {Status.HITL_PAUSED: "red", Status.RETRYING: "amber", Status.RUNNING: "blue"}
STARTED = {"recent": "last 30 min", "failed": "today", "needs": "at any time", "still": "at any time"}
# As what a row shows it, and in words.
STILL = {
    Still.STALLED: ("stalled", "alive, not progressing"),
    Still.SILENT: ("zombie", "nothing is heard of it"),
}
STATE_ORDER = (Status.HITL_PAUSED, Status.RETRYING, Status.RUNNING, Status.PAUSED, Status.PENDING, *ENDED)


@page
def executions(request: PageRequest) -> HttpResponse:
    """The list, or with `?part=` one of its live parts; without any words the visitor's default view."""
    project = request.visitor.project
    if not request.GET and (own := savedviews.default_of(project.pk, request.visitor.person.pk)):
        return redirect(f"{reverse('executions')}?{listing.asked_of(own.query, now=request.now).address()}")
    asked = listing.read(request.GET, range_of(request.GET, now=request.now))
    part = request.GET.get("part")
    if part is not None and part not in PARTS:
        raise Http404
    found = listing.matching(project.pk, asked, now=request.now, time_zone=project.time_zone)
    context: dict[str, Any] = {
        "asked": asked,
        "address": asked.address(after=asked.after),
        "own_address": asked.address(),
        "may_act": request.visitor.may(Role.OPERATOR),
        "range": range_of(request.GET, now=request.now),
        "list_keys": KEYS,
        "first_command": curl(request, "/executions", FIRST_EXECUTION),
    }
    try:
        with patience.searching(asked.q):
            _parts(request, asked, found, part, context)
    except patience.TookTooLong:
        context["took_too_long"] = True
    if part is None:
        context |= _filters(project.pk, asked)
    return TemplateResponse(request, "executions/page.html" if part is None else f"executions/_{part}.html", context)


@dataclass(frozen=True)
class Row:
    """One execution of the list, as it is shown."""

    id: UUID
    look: str
    name: str
    agent: str
    run_id: str
    attempt: int
    tries: int
    tries_tone: str
    progress: float | None
    bar_tone: str
    beat_at: datetime | None
    beat_tone: str
    beat_words: str
    from_spans: bool
    started_at: datetime
    ended_at: datetime | None
    took_s: float | None
    cost_usd: Decimal
    # Whether it still loops; None for one that never did.
    loops: bool | None = None

    @property
    def share(self) -> float:
        return (self.progress or 0) / 100


def row_of(execution: Execution, *, now: datetime, loops: bool | None = None) -> Row:
    """The row of one execution at `now`."""
    is_open = execution.status in OPEN
    look = shown_state(execution, now=now)
    beat_at = execution.last_heartbeat_at or execution.attempt_started_at
    waits = {Status.PENDING: "not started", Status.PAUSED: "paused"}.get(Status(execution.status), "")
    return Row(
        id=execution.id,
        look=look,
        name=execution.task or execution.agent,
        agent=execution.agent,
        run_id=execution.run_id,
        attempt=execution.attempt,
        tries=execution.tries,
        tries_tone="amber" if is_open and execution.attempt > 1 else "",
        progress=execution.progress if is_open else None,
        bar_tone="amber" if look in ("zombie", "stalled") else BAR_TONES.get(Status(execution.status), ""),
        beat_at=beat_at if is_open and not waits else None,
        beat_tone=look_of(look).tone if look in ("hitl_paused", "zombie") else "",
        beat_words=waits if is_open else "",
        from_spans=execution.from_spans,
        started_at=execution.started_at,
        ended_at=execution.ended_at,
        took_s=None if execution.duration_ms is None else execution.duration_ms / 1000,
        cost_usd=execution.cost_usd,
        loops=loops,
    )


def shown_state(execution: Execution, *, now: datetime) -> str:
    """The state as people see it: a try, or a trace, that went silent is a zombie until it is heard of again, and one
    that beats without progress has stalled.
    """
    kinds = standstill.kinds_of(execution, now=now)
    if Still.SILENT in kinds:
        return "zombie"
    return "stalled" if kinds else execution.status


def rows(request: PageRequest, asked: Asked, found: QuerySet[Execution]) -> dict[str, Any]:
    """One page of rows and the address of the next."""
    shown, after = listing.page(found, asked)
    marks = loops.marks(request.visitor.project.pk, [one.id for one in shown])
    return {
        "rows": [row_of(one, now=request.now, loops=marks.get(one.id)) for one in shown],
        "older": asked.address(after=after) if after else "",
        "newest": asked.address() if asked.after else "",
        "by_state": asked.address(order="state"),
        "by_start": asked.address(order="started"),
        "ever": bool(shown) or Execution.objects.of(request.visitor.project.pk).exists(),
    }


def views(request: PageRequest, asked: Asked, found: QuerySet[Execution]) -> dict[str, Any]:
    """The built-in views and the saved ones with how many each holds."""
    tabs, current = savedtabs.tabs(request.visitor, asked, now=request.now)
    return {"views": tabs, "all_count": tabs[0].count, "saved": current}


def foot(request: PageRequest, asked: Asked, found: QuerySet[Execution]) -> dict[str, Any]:
    """How many match, by state."""
    by_status = listing.count_by_status(found)
    total = sum(by_status.values())
    shown = min(total, listing.PAGE_ROWS)
    return {
        "total": total,
        "total_words": listing.counted(total),
        "shown": shown,
        "too_many": total > listing.COUNTED_TO,
        "by_status": ", ".join(
            f"{by_status[one]:,} {look_of(one).word.lower()}" for one in STATE_ORDER if by_status.get(one)
        ),
    }


PARTS = {"views": views, "rows": rows, "foot": foot}


def _parts(
    request: PageRequest, asked: Asked, found: QuerySet[Execution], part: str | None, context: dict[str, Any]
) -> None:
    """Each part's own into the context, so that what was found in time is shown when the next one is not."""
    for name, build in PARTS.items():
        if part in (None, name):
            context |= build(request, asked, found)


@dataclass(frozen=True)
class Choice:
    value: str
    word: str
    look: Look | None
    chosen: bool
    address: str


def _filters(project_id: int, asked: Asked) -> dict[str, Any]:
    agents = list(
        Agent.objects.filter(project_id=project_id)
        .order_by(F("last_seen_at").desc(nulls_last=True))
        .values_list("name", flat=True)[:AGENTS_OFFERED]
    )
    return {
        "states": [
            Choice(one, EXECUTIONS[one].word, EXECUTIONS[one], one in asked.statuses, "") for one in STATE_ORDER
        ],
        "agents": [
            Choice(one, one, None, one == asked.agent, asked.address(agent=one))
            for one in sorted(agents, key=str.lower)
        ],
        "without_agent": asked.address(agent=""),
        "without_run": asked.address(run_id=""),
        "stills": [
            Choice(one, word, EXECUTIONS[look], one in asked.still, asked.address(still=(one,)))
            for one, (look, word) in STILL.items()
        ],
        "without_still": asked.address(still=()),
        "may_choose_still": asked.view not in ("needs", "failed"),
        "without_filters": asked.address(agent="", run_id="", q="", statuses=(), still=()),
        "started_words": STARTED.get(asked.view, ""),
    }


@require_POST
@page(role=Role.OPERATOR, binds=False)
def act(request: PageRequest) -> HttpResponse:
    """Give one command to several executions; each has its own verdict, and the refused ones are named."""
    command = commands.COMMANDS.get(request.POST.get("command", ""))
    ids = _ids(request.POST.getlist("id"))
    if command is None or not ids or len(ids) > MOST_AT_ONCE:
        raise Http404
    outcomes = [
        commands.carry_out(
            request.visitor.project.pk,
            one,
            command,
            now=request.now,
            actor=request.visitor.person.email,
            note=request.POST.get("note", "").strip()[:500],
        )
        for one in ids
    ]
    told = {
        "command": command,
        "done": sum(one.done for one in outcomes),
        "refused": [one for one in outcomes if not one.done],
    }
    response = TemplateResponse(request, "executions/_told.html", told)
    response.headers["HX-Trigger"] = '{"live:look": {"topic": "executions"}, "bulk:done": {}}'
    return response


def _ids(texts: Iterable[str]) -> list[UUID]:
    try:
        return sorted({UUID(one) for one in texts})
    except ValueError:
        raise Http404 from None
