"""One execution: its state and what happens next, its trace, moves, calls, tools, payloads, and commands for it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from django.db.models import Avg, Count, DurationField, ExpressionWrapper, F, Max, Q, QuerySet, Sum
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.views.decorators.http import require_POST

from dashboard import commands, family, journal, loops, operations, traces
from dashboard.access import PageRequest, page
from dashboard.plan import plan
from dashboard.traces import MODEL_KINDS, TOOL_KINDS
from dashboard.views.executions import row_of
from monitor import commands as ordered
from monitor.api.executions import show
from monitor.models import Conversation, Execution, Message, QueueItem, Span, StateChange
from monitor.models.executions import OPEN, WAITING, Status
from monitor.models.people import Role
from monitor.models.queue import ItemKind, ItemStatus
from monitor.models.spans import Kind

MOST_CALLS = 500
DURATION = ExpressionWrapper(F("ended_at") - F("started_at"), output_field=DurationField())
MOST_MESSAGES = 100
# Of a payload a page shows this much; the rest is in the raw answer of the API.
MOST_CHARACTERS = 100_000
TABS = {
    "trace": "Trace",
    "moves": "Transitions",
    "calls": "Calls and cost",
    "tools": "Tools",
    "children": "Children",
    "payloads": "Input and output",
    "conversation": "Conversation",
    "raw": "Raw",
}


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
    changes = journal.moves(subject) if part not in ("commands", "loops") else []
    if part in (None, "state"):
        context["family"] = family.of(subject, now=request.now)
    if part in (None, "state"):
        context |= _state(subject, changes, now=request.now)
    if part in (None, "loops"):
        context["loops"] = loops.of_execution(subject)
    if part in (None, "commands"):
        context |= _commands(request, subject)
    if part in (None, "tab"):
        under = traces.below(subject)
        spans = traces.spans_of(subject, now=request.now)
        whole = traces.spans_of(subject, now=request.now, also=under) if under else spans
        context |= BUILDERS[tab](request, subject, changes, whole if tab == "trace" else spans)
        if part is None:
            own = traces.count_by_kind(spans)
            shown = traces.count_by_kind(whole) if under else own
            context["tabs"] = _tabs(subject, changes, own, shown, context["family"].count)
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


@dataclass(frozen=True)
class Tab:
    name: str
    word: str
    count: str


def _tabs(
    subject: Execution, changes: Sequence[StateChange], kinds: dict[str, int], whole: dict[str, int], children: str
) -> list[Tab]:
    """The tabs with their numbers: the trace shows the agents below too, calls and tools are its own."""
    counts = {
        "trace": traces.spoken_count(whole, whole),
        "moves": str(len(changes)),
        "calls": traces.spoken_count(kinds, MODEL_KINDS),
        "tools": traces.spoken_count(kinds, TOOL_KINDS),
        "children": children,
    }
    absent = {"conversation" if not subject.conversation_id else "", "children" if not children else ""}
    shown = [name for name in TABS if name not in absent]
    return [Tab(name, TABS[name], counts.get(name, "")) for name in shown]


def _commands(request: PageRequest, subject: Execution) -> dict[str, Any]:
    waits = Q(kind=ItemKind.PAUSED_EXECUTION, subject_id=str(subject.id))
    if subject.conversation_id:
        waits |= Q(conversation__conversation_id=subject.conversation_id)
    item = (
        QueueItem.objects.filter(
            waits, project_id=subject.project_id, status__in=(ItemStatus.PENDING, ItemStatus.CLAIMED)
        )
        .order_by("-requested_at")
        .first()
    )
    offered = commands.offered(subject) if request.visitor.may(Role.OPERATOR) else []
    return {
        "offered": [one for one in offered if one.name != "cancel"],
        "cancel": next((one for one in offered if one.name == "cancel"), None),
        "cancel_words": family.cancel_words(subject) if offered else "",
        "item": item,
        "item_url": _queue_url(item) if item else "",
    }


def _queue_url(item: QueueItem) -> str:
    try:
        return reverse("queue-item", args=[item.pk])
    except NoReverseMatch:
        return ""


def trace(
    request: PageRequest, subject: Execution, changes: Sequence[StateChange], spans: QuerySet[Span]
) -> dict[str, Any]:
    """The waterfall's figure."""
    found = traces.drawn(spans)
    figure = traces.waterfall(
        found,
        journal.tries(subject, changes),
        journal.pauses(changes, now=request.now),
        now=request.now,
        is_open=subject.status in OPEN,
    )
    return {
        "figure": figure,
        "has_spans": bool(found),
        "has_more_spans": len(found) > traces.MOST_SPANS,
        "span_attribute": f"handrail.execution.id={subject.id}",
    }


def moves(
    request: PageRequest, subject: Execution, changes: Sequence[StateChange], spans: QuerySet[Span]
) -> dict[str, Any]:
    """The journal in words."""
    told = ordered.of(subject.project_id, subject.id, most=journal.MOST_MOVES)
    return {"lines": journal.lines(changes, told), "has_more_moves": len(changes) >= journal.MOST_MOVES}


def children(
    request: PageRequest, subject: Execution, changes: Sequence[StateChange], spans: QuerySet[Span]
) -> dict[str, Any]:
    """The executions that name it as their parent."""
    rows = family.children(subject, now=request.now)
    return {"children": rows, "has_more_children": len(rows) >= family.MOST_CHILDREN}


def calls(
    request: PageRequest, subject: Execution, changes: Sequence[StateChange], spans: QuerySet[Span]
) -> dict[str, Any]:
    """Each call with its tokens by bucket and its three costs, and the sums of all."""
    billed = spans.filter(Q(kind__in=MODEL_KINDS) | Q(bears_usage=True) | Q(reported_usd__isnull=False))
    totals = billed.aggregate(
        count=Count("span_id"),
        unpriced=Count("span_id", filter=Q(pricing="unpriced")),
        reported=Sum("reported_usd"),
        computed=Sum("computed_usd"),
        booked=Sum("cost_usd"),
        input=Sum("input_tokens"),
        cache_read=Sum("cache_read_tokens"),
        cache_write=Sum("cache_write_tokens"),
        output=Sum("output_tokens"),
        reasoning=Sum("reasoning_tokens"),
    )
    rows = billed.defer("input", "output", "attributes").order_by("started_at", "span_id")[:MOST_CALLS]
    return {"calls": [Call.of(one) for one in rows], "totals": totals, "most_calls": MOST_CALLS}


@dataclass(frozen=True)
class Call:
    """One billed span as a row; None is unknown or not told, never 0."""

    span: Span
    took_s: float | None
    other: str
    computed_usd: Decimal | None
    is_unpriced: bool

    @classmethod
    def of(cls, span: Span) -> "Call":
        took = (span.ended_at - span.started_at).total_seconds() if span.ended_at else None
        buckets = {
            "audio in": span.audio_input_tokens,
            "image in": span.image_input_tokens,
            "audio out": span.audio_output_tokens,
            "images": span.images,
        }
        other = ", ".join(f"{count:,} {word}" for word, count in buckets.items() if count)
        return cls(span, took, other, span.computed_usd, span.pricing == "unpriced")


def tools(
    request: PageRequest, subject: Execution, changes: Sequence[StateChange], spans: QuerySet[Span]
) -> dict[str, Any]:
    """The tools it used: how often, how well, how long."""
    used = spans.filter(kind__in=TOOL_KINDS)
    by_name = (
        used.values("tool", "name")
        .annotate(
            count=Count("span_id"),
            failed_count=Count("span_id", filter=Q(failed=True)),
            last_at=Max("started_at"),
            mean=Avg(DURATION),
            longest=Max(DURATION),
        )
        .order_by("-count", "tool", "name")[:200]
    )
    return {
        "tools": [one | {"word": one["tool"] or one["name"]} for one in by_name],
        "operations": operations.of_execution(subject, now=request.now),
    }


def payloads(
    request: PageRequest, subject: Execution, changes: Sequence[StateChange], spans: QuerySet[Span]
) -> dict[str, Any]:
    """What went in and what came out; its agent's span says it where nobody else does."""
    taken, given = subject.inputs, subject.output
    if subject.from_spans and subject.trace_id is not None and subject.span_id is not None:
        own = spans.filter(trace_id=subject.trace_id, span_id=subject.span_id)
        taken, given = own.values_list("input", "output").first() or (None, None)
    return {
        "payloads": [
            Payload.of("Input", taken),
            Payload.of("Output", given),
            Payload.of("Error", subject.error or None),
            Payload.of("Last message", subject.message or None),
            Payload.of("Metadata", subject.metadata or None),
        ]
    }


@dataclass(frozen=True)
class Payload:
    """A value as text, cut at MOST_CHARACTERS."""

    word: str
    text: str
    is_cut: bool

    @classmethod
    def of(cls, word: str, value: Any) -> "Payload":
        text = "" if value is None else _pretty(value)
        # JSON within a text may hold half a surrogate pair, which no page can.
        shown = text[:MOST_CHARACTERS].encode("utf-8", "replace").decode()
        return cls(word, shown, len(text) > MOST_CHARACTERS)


def _pretty(value: Any) -> str:
    """JSON with indents; text that holds JSON is read first."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
        if isinstance(value, str):
            return value
    return json.dumps(value, indent=2, ensure_ascii=False)


def conversation(
    request: PageRequest, subject: Execution, changes: Sequence[StateChange], spans: QuerySet[Span]
) -> dict[str, Any]:
    """The newest messages of the conversation that it belongs to."""
    found = Conversation.objects.filter(
        project_id=subject.project_id, conversation_id=subject.conversation_id or None
    ).first()
    if found is None:
        return {"conversation": None}
    newest = Message.objects.filter(conversation=found).order_by("-seq")[:MOST_MESSAGES]
    return {"conversation": found, "talk": list(newest)[::-1], "most_messages": MOST_MESSAGES}


def raw(
    request: PageRequest, subject: Execution, changes: Sequence[StateChange], spans: QuerySet[Span]
) -> dict[str, Any]:
    """The execution as the API answers it."""
    return {"raw": Payload.of("Raw", msgspec.json.encode(show(subject)).decode())}


BUILDERS = {
    "trace": trace,
    "moves": moves,
    "calls": calls,
    "tools": tools,
    "children": children,
    "payloads": payloads,
    "conversation": conversation,
    "raw": raw,
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
    spans = traces.spans_of(subject, now=request.now, also=traces.below(subject))
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
