"""The tabs of an execution's page: its trace, moves, calls, tools, children, payloads and conversation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
from django.db.models import Avg, Count, DurationField, ExpressionWrapper, F, Max, Q, QuerySet, Sum

from dashboard import family, journal, operations, traces
from dashboard.access import PageRequest
from dashboard.traces import MODEL_KINDS, TOOL_KINDS
from monitor import commands
from monitor.api.executions import show
from monitor.models import Conversation, Execution, Message, Span, StateChange
from monitor.models.executions import OPEN

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


@dataclass(frozen=True)
class Tab:
    """A tab with how much is in it, "" where nobody counts."""

    name: str
    word: str
    count: str


def tabs(
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
    told = commands.of(subject.project_id, subject.id, most=journal.MOST_MOVES)
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
