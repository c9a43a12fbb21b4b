"""What waits for a person, as rows that the overview and the queue show alike."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.urls import reverse

from dashboard import words
from monitor.models import Execution, HumanAgent, QueueItem, Run
from monitor.models.queue import CLOSED_ITEMS, ItemKind, ItemStatus
from monitor.together import Together

KIND_WORDS = {
    ItemKind.CHAT: "Chat",
    ItemKind.APPROVAL: "Approval",
    ItemKind.PAUSED_EXECUTION: "Paused",
    ItemKind.TRIP: "Budget tripped",
}
# An alert follows when nobody claims these in time; of paused work and spent budgets one has gone out already.
ALARMED = {ItemKind.CHAT, ItemKind.APPROVAL}
LOOKS = {ItemKind.PAUSED_EXECUTION: "hitl_paused"}
# What the row's button says while nobody has the item.
VERBS = {ItemKind.CHAT: "Claim", ItemKind.PAUSED_EXECUTION: "Decide"}
ASKED = {
    "phrase": "asked for a person.",
    "low_confidence": "was handed over, the agent is unsure.",
    "errors": "was handed over after errors in a row.",
    "person_decision": "was taken over by a person.",
}
ENDED = {
    ItemStatus.RESOLVED: "resolved",
    ItemStatus.BACK_TO_AI: "back with the AI",
    ItemStatus.EXPIRED: "expired",
    ItemStatus.CANCELLED: "cancelled",
}
TRIPPED = "Budget tripped: "
HANDED_OVER = "was handed over by the agent."


@dataclass(frozen=True)
class Waiting:
    """One queue item in words: `name` and `what` make the sentence, `detail` is quieter."""

    id: UUID
    kind: str
    look: str
    kind_word: str
    name: str
    what: str
    detail: str
    agent: str
    cost_usd: Decimal | None
    requested_at: datetime
    due_at: datetime | None
    claimed_at: datetime | None
    closed_at: datetime | None
    status: str
    holder: str
    is_mine: bool
    url: str
    verb: str

    @property
    def is_open(self) -> bool:
        """Whether nobody has it yet."""
        return self.status == ItemStatus.PENDING

    @property
    def is_closed(self) -> bool:
        """Whether it is over."""
        return self.status in CLOSED_ITEMS

    @property
    def waits_for_customer(self) -> bool:
        """Whether a person has answered and the customer has not."""
        return self.status == ItemStatus.WAITING_USER

    @property
    def ended(self) -> str:
        """How a closed item ended, in words."""
        return ENDED.get(ItemStatus(self.status), "")

    @property
    def tone(self) -> str:
        """Red while nobody has it, the reader's own accent, grey for what others have and for what is over."""
        return "red" if self.is_open else "accent" if self.is_mine and not self.is_closed else "grey"

    def sentence(self, *, now: datetime) -> str:
        """Who waits and for how long; with a full stop."""
        waited = words.took(now - self.requested_at)
        if self.kind == ItemKind.CHAT:
            return f"{self.name} has waited {waited} for a person."
        return f"{self.name} has waited {waited} for a decision."


def rows(items: Iterable[QueueItem], *, me: HumanAgent | None) -> list[Waiting]:
    """The items (with `conversation` and `assignee__person` selected) as rows, in one trip more at most."""
    items = list(items)
    paused = [item.subject_id for item in items if item.kind == ItemKind.PAUSED_EXECUTION]
    tripped = {
        str(item.evidence.get("run_id")): item.subject_id
        for item in items
        if item.kind == ItemKind.TRIP and item.evidence.get("run_id")
    }
    project_id = items[0].project_id if items else 0
    with Together() as asked:
        works = asked.rows(
            Execution.objects.of(project_id).filter(id__in=paused).only("id", "task", "agent", "cost_usd")
        )
        # What the tripped runs have cost until now.
        costs = asked.rows(
            Run.objects.filter(project_id=project_id, run_id__in=list(tripped)).values_list("run_id", "cost_usd")
        )
    executions = {str(one.id): one for one in works}
    runs = {tripped[run_id]: cost for run_id, cost in costs}
    return [_row(item, executions, runs, me=me) for item in items]


def customer_name(customer: object) -> str:
    """What the client told of the customer: the name, else the id."""
    known = customer if isinstance(customer, dict) else {}
    return str(known.get("name") or known.get("email") or known.get("id") or "") or "A customer"


def _row(
    item: QueueItem, executions: dict[str, Execution], trips: dict[str, Decimal], *, me: HumanAgent | None
) -> Waiting:
    name, what, detail, cost = item.title, "", "", None
    execution = executions.get(item.subject_id)
    if item.kind == ItemKind.CHAT and item.conversation is not None:
        name = customer_name(item.conversation.customer)
        what = ASKED.get(item.trigger, HANDED_OVER)
        detail = item.conversation.handover_summary or item.title
        cost = item.conversation.cost_usd
    elif execution is not None:
        name = execution.task or execution.agent
        detail = str(item.evidence.get("reason") or item.title)
        cost = execution.cost_usd
    elif item.kind == ItemKind.TRIP:
        name, _, detail = item.title.removeprefix(TRIPPED).partition(": ")
        name = f"{name[:1].upper()}{name[1:]}"
        cost = trips.get(item.subject_id) or _usd(item.evidence.get("total_cost_usd"))
    return Waiting(
        id=item.pk,
        kind=item.kind,
        look=LOOKS.get(ItemKind(item.kind), item.kind),
        kind_word=KIND_WORDS[ItemKind(item.kind)],
        name=name,
        what=what,
        detail=detail,
        agent=item.agent,
        cost_usd=cost,
        requested_at=item.requested_at,
        due_at=item.claim_due_at if item.status == ItemStatus.PENDING else None,
        claimed_at=item.claimed_at,
        closed_at=item.closed_at,
        status=item.status,
        holder=str(item.assignee.person) if item.assignee else "",
        is_mine=me is not None and item.assignee_id == me.pk,
        url=reverse("queue-item", args=[item.pk]),
        verb=VERBS.get(ItemKind(item.kind), "Review"),
    )


def _usd(told: object) -> Decimal | None:
    """An amount that a trip's evidence tells as text."""
    return Decimal(told) if isinstance(told, str) and told else None


def threatens(row: Waiting, *, now: datetime) -> str:
    """What happens to what waits if nobody acts; "" when no clock runs."""
    if row.due_at is None:
        return ""
    left: timedelta = row.due_at - now
    if left.total_seconds() < 0:
        return f"The clock for claiming ran out {words.took(-left)} ago."
    if row.kind in ALARMED:
        return f"If nobody claims it in {words.took(left)}, an alert goes out."
    return f"It should be claimed within {words.took(left)}."
