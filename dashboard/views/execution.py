"""One execution: its state and what happens next, what it is commanded, and the panel of each of its spans."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.http import require_POST

from dashboard import commands, family, journal, loops, traces
from dashboard.access import PageRequest, page
from dashboard.plan import plan
from dashboard.traces import MODEL_KINDS, TOOL_KINDS
from dashboard.views.execution_tabs import BUILDERS, TABS, Call, Payload, tabs
from dashboard.views.executions import row_of
from monitor.models import Execution, QueueItem, StateChange
from monitor.models.executions import OPEN, WAITING, Status
from monitor.models.people import Role
from monitor.models.queue import ItemKind, ItemStatus
from monitor.models.spans import Kind
from monitor.together import Together


@page
def execution(request: PageRequest, execution_id: UUID) -> HttpResponse:
    """The page with one tab open, or with `?part=` what is live of it."""
    subject = find(request, execution_id)
    part = request.GET.get("part")
    tab = request.GET.get("tab", "trace")
    if tab not in TABS or part not in (None, "state", "commands", "loops", "tab"):
        raise Http404
    context: dict[str, Any] = {
        "execution": subject,
        "row": row_of(subject, now=request.now),
        "name": commands.name_of(subject),
        "is_open": subject.status in OPEN,
        "tab": tab,
        "here": reverse("execution", args=[subject.id]),
    }
    with Together() as asked:
        newest = asked.rows(journal.newest(subject)) if part not in ("commands", "loops") else []
        relatives = family.asking(asked, subject, now=request.now) if part in (None, "state") else None
        looped = asked.rows(loops.of_execution(subject)) if part in (None, "loops") else []
        commanded = _commands(request, subject, asked) if part in (None, "commands") else None
        is_tab = part in (None, "tab")
        under = traces.below(asked, subject) if is_tab else []
        traced = asked.rows(traces.trace_of(subject)) if is_tab else []
    changes = newest[::-1]
    context["loops"] = loops.told(looped)
    if relatives is not None:
        context["family"] = relatives()
        context |= _state(subject, changes, now=request.now)
    if commanded is not None:
        context |= commanded()
    if is_tab:
        spans = traces.spans_of(subject, traced, now=request.now)
        whole = traces.spans_of(subject, traced, now=request.now, also=under) if under else spans
        context |= BUILDERS[tab](request, subject, changes, whole if tab == "trace" else spans)
        if part is None:
            own = traces.count_by_kind(spans)
            shown = traces.count_by_kind(whole) if under else own
            context["tabs"] = tabs(subject, changes, own, shown, context["family"].count)
    templates = {None: "execution/page.html", "tab": f"execution/_{tab}.html"}
    return TemplateResponse(request, templates.get(part, f"execution/_{part}.html"), context)


def _state(subject: Execution, changes: Sequence[StateChange], *, now: datetime) -> dict[str, Any]:
    times_out_at, words = None, ""
    if subject.status == Status.RUNNING and subject.attempt_started_at is not None:
        times_out_at = subject.attempt_started_at + timedelta(seconds=subject.timeout_s)
        if times_out_at <= now:
            times_out_at, words = None, "is over"
    elif subject.status in WAITING:
        words = "stands still"
    return {
        "timeout_words": words,
        "stalls_in": subject.stall_due_at if subject.stall_due_at and subject.stall_due_at > now else None,
        "plan": plan(subject, changes, now=now),
        "times_out_at": times_out_at,
        "tokens": subject.input_tokens + subject.output_tokens,
    }


def find(request: PageRequest, execution_id: UUID) -> Execution:
    """The execution of the visitor's project. Raises Http404."""
    found = Execution.objects.of(request.visitor.project.pk).filter(id=execution_id).first()
    if found is None:
        raise Http404
    return found


def _commands(request: PageRequest, subject: Execution, asked: Together) -> Callable[[], dict[str, Any]]:
    waits = Q(kind=ItemKind.PAUSED_EXECUTION, subject_id=str(subject.id))
    if subject.conversation_id:
        waits |= Q(conversation__conversation_id=subject.conversation_id)
    open_items = QueueItem.objects.filter(
        waits, project_id=subject.project_id, status__in=(ItemStatus.PENDING, ItemStatus.CLAIMED)
    )
    items = asked.rows(open_items.order_by("-requested_at")[:1])
    offered = commands.offered(subject) if request.visitor.may(Role.OPERATOR) else []
    below = family.asking_below(asked, subject) if offered else []
    return lambda: {
        "offered": [one for one in offered if one.name != "cancel"],
        "cancel": next((one for one in offered if one.name == "cancel"), None),
        "cancel_words": family.cancel_words(below[0]) if below else "",
        "item": items[0] if items else None,
        "item_url": reverse("queue-item", args=[items[0].pk]) if items else "",
    }


@page
def span(request: PageRequest, execution_id: UUID, key: str) -> HttpResponse:
    """The panel of one span, with its payloads; a try's panel tells how it went."""
    subject = find(request, execution_id)
    if key.startswith("try-"):
        tries = journal.tries(subject, journal.moves(subject))
        chosen = next((one for one in tries if f"try-{one.number}" == key), None)
        if chosen is None:
            raise Http404
        return TemplateResponse(request, "execution/_try.html", {"try": chosen})
    wanted = traces.read_key(key)
    if wanted is None:
        raise Http404
    with Together() as asked:
        under, traced = traces.below(asked, subject), asked.rows(traces.trace_of(subject))
    spans = traces.spans_of(subject, traced, now=request.now, also=under)
    found = spans.filter(trace_id=wanted[0], span_id=wanted[1]).first()
    if found is None:
        raise Http404
    context = {
        "call": Call.of(found),
        "span": found,
        "look": "failed" if found.failed else "running" if found.ended_at is None else "completed",
        "is_model": Kind(found.kind) in MODEL_KINDS,
        "payloads": [
            Payload.of("Arguments" if found.kind in TOOL_KINDS else "Input", found.input),
            Payload.of("Result" if found.kind in TOOL_KINDS else "Output", found.output),
        ],
        "attributes": Payload.of("Attributes", found.attributes or None),
    }
    return TemplateResponse(request, "execution/_span.html", context)


@require_POST
@page(role=Role.OPERATOR, binds=False)
def command(request: PageRequest, execution_id: UUID, name: str) -> HttpResponse:
    """Give it one command; a refusal says what it has become and through whom."""
    asked = commands.COMMANDS.get(name)
    if asked is None:
        raise Http404
    note = request.POST.get("note", "").strip()[:500]
    outcome = commands.carry_out(
        request.visitor.project.pk,
        execution_id,
        asked,
        now=request.now,
        actor=request.visitor.person.email,
        note=note,
    )
    if request.headers.get("HX-Request") != "true":
        return HttpResponseRedirect(reverse("execution", args=[execution_id]))
    return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(_told(asked, outcome))})


def _told(asked: commands.Command, outcome: commands.Outcome) -> dict[str, Any]:
    if outcome.done:
        toast = {"strong": f"{asked.done.capitalize()}.", "text": asked.means}
    else:
        text = f"{outcome.name} {outcome.words}."
        toast = {"strong": f"Not {asked.done}.", "text": text, "icon": "alert-triangle", "tone": "amber"}
    return {"toast": toast, "live:look": {"topic": "executions"}}
