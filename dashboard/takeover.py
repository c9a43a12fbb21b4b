"""What stands beside a conversation: why it is here, goal and facts, what it has cost, and who the customer is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db.models import Count, OuterRef, Q, QuerySet, Sum
from django.db.models.fields.json import KT
from django.db.models.functions import Left

from dashboard import waiting
from monitor.models import Budget, Conversation, Project, QueueItem, Span
from monitor.models.conversations import State
from monitor.models.money import BudgetScope
from monitor.models.queue import ItemKind
from monitor.models.spans import Kind
from monitor.together import Together

SPANS_READ = 400
ARGUMENTS_SHOWN = 200
BEFORE_SHOWN = 5
FACTS_SHOWN = 12
TOLD = (Kind.TOOL, Kind.LLM, Kind.STEP, Kind.PLAN, Kind.GUARDRAIL, Kind.RETRIEVAL)
MASKED = {"email", "phone"}
KNOWN_APART = {"name", "id"}
TOKENS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "audio_input_tokens",
    "image_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_output_tokens",
)


@dataclass(frozen=True)
class Reason:
    """One thing that brought the item here."""

    look: str
    strong: str
    text: str = ""
    at: datetime | None = None


@dataclass(frozen=True)
class Fact:
    """What the agent knew when it gave up: `look` is verified, claimed, inferred, or "" when it did not say."""

    text: str
    source: str = ""
    look: str = ""


@dataclass(frozen=True)
class Cost:
    """What the agent spent in this conversation; `limit_usd` is the budget of a run where there is one."""

    cost_usd: Decimal
    calls: int
    tokens: int
    models: list[str]
    limit_usd: Decimal | None

    @property
    def share(self) -> float:
        return float(self.cost_usd / self.limit_usd) if self.limit_usd else 0.0

    @property
    def tone(self) -> str:
        return "red" if self.share >= 1 else "amber" if self.share >= 0.8 else ""


@dataclass(frozen=True)
class Customer:
    """What the client told of the customer; `masked` are shown on demand only."""

    name: str
    id: str
    shown: list[tuple[str, str]] = field(default_factory=list)
    masked: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Before:
    """An earlier conversation of the same customer."""

    at: datetime
    agent: str
    ended: str
    item_id: Any


def spans_of(conversation: Conversation) -> QuerySet[Span]:
    """The last things that the agent did in the conversation, newest first; arguments are cut."""
    return (
        Span.objects.filter(
            project_id=conversation.project_id, conversation_id=conversation.conversation_id, kind__in=TOLD
        )
        .annotate(arguments=Left("input", ARGUMENTS_SHOWN))
        .only(
            *("project_id", "trace_id", "span_id", "started_at", "ended_at", "kind", "name"),
            *("failed", "tool", "tool_call_id", "model", "request_model"),
        )
        .order_by("-started_at", "-span_id")[:SPANS_READ]
    )


def cost_of(asked: Together, conversation: Conversation) -> Callable[[], Cost]:
    """Calls, tokens and models out of the spans, the sum as it is booked, the limit of a run; asked with others."""
    rows: list[Any] = asked.rows(
        Span.objects.filter(
            project_id=conversation.project_id,
            conversation_id=conversation.conversation_id,
            bears_usage=True,
        )
        .values("model")
        .annotate(calls=Count("span_id"), **{f"sum_{name}": Sum(name) for name in TOKENS})
        .order_by("-calls")
    )
    limits = asked.rows(
        Budget.objects.filter(project_id=conversation.project_id, scope=BudgetScope.RUN)
        .filter(Q(target="") | Q(target=conversation.conversation_id))
        .order_by("-target")
        .values_list("limit_usd", flat=True)[:1]
    )

    def told() -> Cost:
        tokens = sum(row[f"sum_{name}"] or 0 for row in rows for name in TOKENS)
        models = [row["model"] for row in rows if row["model"]]
        calls = sum(row["calls"] for row in rows)
        return Cost(conversation.cost_usd, calls, tokens, models, limits[0] if limits else None)

    return told


def reasons(item: QueueItem, project: Project) -> list[Reason]:
    """Why a person is needed, most telling first."""
    seen = item.evidence
    name = waiting.customer_name(item.conversation.customer) if item.conversation else "The customer"
    why = str(seen.get("reason") or item.title)
    at = item.requested_at
    match item.trigger:
        case "phrase":
            return [Reason("chat", f"{name} asked for a person", f"Phrase “{seen.get('phrase', '')}”", at)]
        case "low_confidence":
            return [Reason("chat", "The agent is unsure", why, at)]
        case "errors":
            return [Reason("failed", f"{seen.get('errors', 'Several')} errors in a row", str(seen.get("last", "")), at)]
        case "user_returned":
            return [Reason("chat", f"{name} wrote again", why, at)]
        case "person_decision":
            return [Reason("acknowledged", "A person took it over", why, at)]
        case "budget":
            return [Reason("trip", "A budget is spent", item.title, at)]
    if item.kind == ItemKind.PAUSED_EXECUTION:
        tries = max(int(seen.get("max_retries") or 0) + 1, int(seen.get("attempt") or 0))
        return [Reason("hitl_paused", f"{seen.get('attempt') or tries} of {tries} tries are spent", why, at)]
    return [Reason("chat", f"{item.agent or 'The agent'} asked for a person", why, at)]


def confidence(item: QueueItem, project: Project) -> tuple[float, float | None] | None:
    """How sure the agent was, and below what it hands over; None where it never said."""
    sure = item.evidence.get("confidence")
    if sure is None and item.conversation is not None:
        sure = item.conversation.confidence
    if not isinstance(sure, int | float):
        return None
    below = item.evidence.get("below", project.handover_confidence_below)
    return float(sure), float(below) if isinstance(below, int | float) else None


def goal(conversation: Conversation) -> str:
    """What the customer wants, as the agent told it."""
    told = conversation.handover_context.get("goal")
    return str(told or conversation.handover_summary or conversation.handover_reason)


def facts(context: Mapping[str, Any]) -> list[Fact]:
    """The handover's context: its list `facts` (text, status, source), else its plain values."""
    listed = context.get("facts")
    if isinstance(listed, list):
        return [_fact(one) for one in listed[:FACTS_SHOWN]]
    plain = [(key, value) for key, value in context.items() if key not in ("goal", "facts") and _is_plain(value)]
    return [Fact(str(value)[:300], key.replace("_", " ")) for key, value in plain[:FACTS_SHOWN]]


def _fact(told: Any) -> Fact:
    if not isinstance(told, Mapping):
        return Fact(str(told)[:300])
    status = str(told.get("status") or told.get("confidence") or "")
    source = str(told.get("source") or "")
    joined = {"verified": "verified by", "claimed": "claimed by", "inferred": "inferred from"}.get(status, "")
    said = f"{joined} {source}".strip() if source else status
    text = str(told.get("text") or told.get("content") or told.get("fact") or "")[:300]
    return Fact(text, said, status if joined else "")


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and value != ""


def customer(conversation: Conversation) -> Customer:
    """Name and id, what else is known, and what is shown only when asked for."""
    known = {str(key): str(value)[:200] for key, value in conversation.customer.items() if _is_plain(value)}
    masked = [(key, masked_text(value)) for key, value in known.items() if key in MASKED]
    shown = [(key.replace("_", " "), value) for key, value in known.items() if key not in MASKED | KNOWN_APART]
    return Customer(waiting.customer_name(conversation.customer), known.get("id", ""), shown[:FACTS_SHOWN], masked)


def masked_text(value: str) -> str:
    """`a•••••@example.com`; of anything else only the last two characters."""
    name, at, host = value.partition("@")
    return f"{name[:1]}•••••@{host}" if at else f"•••••{value[-2:]}"


def before(asked: Together, conversation: Conversation) -> Callable[[], tuple[list[Before], int]]:
    """The customer's last conversations before this one, and how many there are; asked with others."""
    customer_id = conversation.customer.get("id")
    if not customer_id:
        return lambda: ([], 0)
    item = QueueItem.objects.filter(conversation_id=OuterRef("pk")).order_by("-requested_at")
    found = (
        Conversation.objects.filter(project_id=conversation.project_id)
        .alias(customer_key=KT("customer__id"))
        .filter(customer_key=str(customer_id), created_at__lt=conversation.created_at)
    )
    rows = asked.rows(found.order_by("-created_at").annotate(item_id=item.values("pk")[:1])[:BEFORE_SHOWN])
    counted = asked.rows(found.order_by().values("project_id").annotate(count=Count("pk")))

    def told() -> tuple[list[Before], int]:
        shown: list[Any] = rows
        total = counted[0]["count"] if counted else 0
        return [Before(row.created_at, row.agent, _ended(row), row.item_id) for row in shown], total

    return told


def _ended(conversation: Any) -> str:
    if conversation.state == State.RESOLVED:
        return "resolved by a person"
    if conversation.state == State.FINISHED:
        return "finished by the AI after a person helped" if conversation.item_id else "finished by the AI"
    return "still open"
