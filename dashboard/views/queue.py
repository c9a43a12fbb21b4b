"""The queue: what waits for a person, and the conversation, execution or trip that one of its items is about."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import Case, Count, IntegerField, Q, QuerySet, Value, When
from django.http import Http404, HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse

from dashboard import moves, takeover, talk, trail, waiting
from dashboard.access import PageRequest, page
from monitor import calendars
from monitor.models import Budget, Execution, HumanAgent, Message, Project, QueueItem, Span, StateChange, Trip
from monitor.models.people import Presence, Role
from monitor.models.queue import CLOSED_ITEMS, OPEN_ITEMS, ItemKind, ItemStatus
from monitor.together import Together

ROWS_A_PAGE = 50
CLOSED_SHOWN = 20
GROUPS = ("Yours", "Waiting for a person", "With others", "Closed today")
YOURS, WAITING, OTHERS, CLOSED = range(4)
TABS = {"mine": "Mine", "open": "Open", "approvals": "Approvals", "paused": "Paused", "all": "All"}
OUTCOMES = ("solved", "not solved", "customer left", "duplicate")
KEYS = [("j", ""), ("k", "move"), ("c", "claim"), ("?", "all keys")]


@page
def queue(request: PageRequest) -> HttpResponse:
    """The list alone, beside it what to take next; `?part=list` is the list as a fragment."""
    part = request.GET.get("part")
    if part not in (None, "list"):
        raise Http404
    context = list_of(request, None)
    row = context["next_row"]
    if row is not None:
        said = f"{row.sentence(now=request.now)} {waiting.threatens(row, now=request.now)}"
        context["next_words"] = said.strip()
    if part == "list":
        return TemplateResponse(request, "queue/_list.html", context)
    return TemplateResponse(request, "queue/page.html", context | {"item": None})


@page
def item(request: PageRequest, item_id: UUID) -> HttpResponse:
    """One item beside the list; `?part=` list, centre, why or a masked fact of the customer comes alone."""
    part = request.GET.get("part")
    look = Looking(request, item_of(request, item_id))
    if part is None:
        context = {**list_of(request, look.item), **centre_of(look), **why_of(look)}
        return TemplateResponse(request, "queue/page.html", context)
    if part == "list":
        return TemplateResponse(request, "queue/_list.html", list_of(request, look.item))
    if part == "centre":
        return TemplateResponse(request, "queue/_centre.html", centre_of(look))
    if part == "why":
        return TemplateResponse(request, "queue/_why.html", why_of(look))
    if part == "customer":
        return customer_fact(look)
    raise Http404


def item_of(request: PageRequest, item_id: UUID) -> QueueItem:
    """The project's item with its conversation and holder; a stranger's is a 404."""
    found = (
        QueueItem.objects.select_related("conversation", "assignee__person")
        .filter(project_id=request.visitor.project.pk, pk=item_id)
        .first()
    )
    if found is None:
        raise Http404
    return found


class Looking:
    """One look of a visitor at an item: what several parts of the page need is read once."""

    def __init__(self, request: PageRequest, item: QueueItem) -> None:
        self.request = request
        self.item = item

    @property
    def me(self) -> HumanAgent | None:
        return self.request.visitor.human

    @property
    def email(self) -> str:
        return self.request.visitor.person.email

    @cached_property
    def _read(self) -> tuple[list[HumanAgent], list[StateChange], list[Span]]:
        """Who takes conversations in this project, and what came about in the item's: moves and spans, newest first."""
        found = HumanAgent.objects.filter(project_id=self.item.project_id).select_related("person")
        conversation = self.item.conversation
        with Together() as asked:
            people = asked.rows(found.order_by("person__name", "person__email"))
            changes = asked.rows(moves.newest(conversation, self.item)) if conversation else []
            spans = asked.rows(takeover.spans_of(conversation)) if conversation else []
        return people, changes, spans

    @property
    def people(self) -> list[HumanAgent]:
        """Who takes conversations in this project."""
        return self._read[0]

    @cached_property
    def names(self) -> dict[str, str]:
        return {one.person.email: str(one.person) for one in self.people}

    @cached_property
    def messages(self) -> list[Message]:
        """The last messages of the item's conversation, oldest first."""
        last = Message.objects.filter(conversation=self.item.conversation).order_by("-seq")
        return list(last[: talk.MESSAGES_SHOWN])[::-1]

    @cached_property
    def moves(self) -> list[moves.Move]:
        return moves.told(self._read[1], names=self.names, me=self.email)

    @property
    def spans(self) -> list[Span]:
        """What the agent did in the item's conversation, oldest first."""
        return self._read[2][::-1]


@dataclass(frozen=True)
class Tab:
    """One filter of the list, with how many open items pass it."""

    name: str
    words: str
    count: int
    url: str
    here: bool


@dataclass(frozen=True)
class Group:
    """Rows under one heading."""

    words: str
    rows: list[waiting.Waiting]


def list_of(request: PageRequest, chosen: QueueItem | None) -> dict[str, Any]:
    """Tabs with counts and a page of rows in their groups, in four queries."""
    me = request.visitor.human
    mine = Q(assignee=me) if me else Q(pk__in=[])
    everything = QueueItem.objects.filter(project_id=request.visitor.project.pk)
    still_open = everything.filter(status__in=OPEN_ITEMS)
    counting = still_open.values("project_id").annotate(
        mine=Count("pk", filter=mine),
        open=Count("pk", filter=Q(status=ItemStatus.PENDING)),
        approvals=Count("pk", filter=Q(kind=ItemKind.APPROVAL)),
        paused=Count("pk", filter=Q(kind=ItemKind.PAUSED_EXECUTION)),
        all=Count("pk"),
    )
    tab = request.GET.get("tab", "all")
    tab = tab if tab in TABS else "all"
    passes = _passes(tab, mine)
    number = _page_number(request)
    first = (number - 1) * ROWS_A_PAGE
    rank = Case(
        When(mine, then=Value(YOURS)),
        When(status=ItemStatus.PENDING, then=Value(WAITING)),
        default=Value(OTHERS),
        output_field=IntegerField(),
    )
    ranked = _with_subjects(still_open.filter(passes)).annotate(rank=rank)
    with Together() as asked:
        counted: list[Any] = asked.rows(counting)
        items = asked.rows(ranked.order_by("rank", "-priority", "requested_at", "pk")[first : first + ROWS_A_PAGE])
    counts = counted[0] if counted else dict.fromkeys(TABS, 0)
    total = counts[tab]
    closed = []
    if first + ROWS_A_PAGE >= total and tab != "open":
        over = everything.filter(
            passes, status__in=CLOSED_ITEMS, closed_at__gte=today_in(request.visitor.project, now=request.now)
        )
        closed = list(_with_subjects(over).order_by("-closed_at")[:CLOSED_SHOWN])
    rows = waiting.rows([*items, *closed], me=me)
    ranks = [getattr(one, "rank", CLOSED) for one in [*items, *closed]]
    grouped = [
        Group(words, [row for row, rank in zip(rows, ranks, strict=True) if rank == n])
        for n, words in enumerate(GROUPS)
    ]
    path = reverse("queue-item", args=[chosen.pk]) if chosen else reverse("queue")
    query = urlencode({"tab": tab, **({"page": number} if number > 1 else {})})
    return {
        "tabs": [
            Tab(name, words, counts[name], f"{path}?tab={name}", name == tab)
            for name, words in TABS.items()
            if name != "approvals" or counts[name]
        ],
        "tab": tab,
        "groups": [group for group in grouped if group.rows],
        "counts": counts,
        "path": path,
        "query": query,
        "shown_from": first + 1,
        "shown_to": first + len(items),
        "total": total,
        "earlier_url": f"{path}?tab={tab}&page={number - 1}" if number > 1 else "",
        "later_url": f"{path}?tab={tab}&page={number + 1}" if first + len(items) < total else "",
        "closed_cut": CLOSED_SHOWN if len(closed) == CLOSED_SHOWN else 0,
        "next_row": next((row for row in rows if row.is_open), None),
        "chosen_id": chosen.pk if chosen else None,
        "keys": KEYS,
    }


def _passes(tab: str, mine: Q) -> Q:
    return {
        "mine": mine,
        "open": Q(status=ItemStatus.PENDING),
        "approvals": Q(kind=ItemKind.APPROVAL),
        "paused": Q(kind=ItemKind.PAUSED_EXECUTION),
    }.get(tab, Q())


def _with_subjects(items: "QuerySet[QueueItem]") -> "QuerySet[QueueItem]":
    return items.select_related("conversation", "assignee__person").defer(
        "conversation__metadata", "conversation__handover_context"
    )


def _page_number(request: PageRequest) -> int:
    asked = request.GET.get("page", "1")
    return max(1, min(int(asked), 100_000)) if asked.isdecimal() and len(asked) < 7 else 1


def today_in(project: Project, *, now: datetime) -> datetime:
    """When the project's present day began."""
    midnight, _ = calendars.bounds(now, ZoneInfo(project.time_zone))
    return midnight


def centre_of(look: Looking) -> dict[str, Any]:
    """Who has it, what was said, and what the visitor may do about it."""
    item, me, now = look.item, look.me, look.request.now
    row = waiting.rows([item], me=me)[0]
    context: dict[str, Any] = {
        "item": item,
        "row": row,
        "holding": _holding(row, me),
        "me": me,
        "is_offline": me is not None and me.status == Presence.OFFLINE,
        "is_chat": item.kind == ItemKind.CHAT and item.conversation is not None,
        "outcomes": OUTCOMES,
        "others": [one for one in look.people if me is not None and one.pk != me.pk],
    }
    if item.kind == ItemKind.PAUSED_EXECUTION:
        execution = Execution.objects.of(item.project_id).filter(id=item.subject_id).first()
        context |= {"execution": execution, "execution_url": _url("execution", item.subject_id)}
    if item.kind == ItemKind.TRIP:
        context |= _trip(look)
    if item.conversation is not None:
        shown = talk.entries(
            item.conversation,
            look.messages,
            look.spans,
            look.moves,
            customer=waiting.customer_name(item.conversation.customer),
            names=look.names,
            me=look.email,
            evidence=item.evidence,
            now=now,
        )
        context |= {"entries": shown, "hidden": max(0, item.conversation.last_seq - len(look.messages))}
    return context


def _holding(row: waiting.Waiting, me: HumanAgent | None) -> str:
    """In whose hands the item is: mine, open, theirs or closed; viewer for those who may only look."""
    if me is None:
        return "viewer"
    if row.is_closed:
        return "closed"
    if row.is_open:
        return "open"
    return "mine" if row.is_mine else "theirs"


def _trip(look: Looking) -> dict[str, Any]:
    """The trip and its budget's limit; of a global one only the instance's admins see more than that it tripped."""
    sees = look.request.visitor.sees
    trip = Trip.objects.filter(sees, pk=look.item.subject_id).first()
    limit = None
    if trip is not None:
        limits = Budget.objects.filter(sees, scope=trip.scope, period=trip.period, target__in=[trip.target, ""])
        limit = limits.order_by("-target").values_list("limit_usd", flat=True).first()
    is_global = bool(look.item.evidence.get("is_global"))
    return {"trip": trip, "is_global": is_global, "trip_limit_usd": limit, "costs_url": _url("costs")}


def why_of(look: Looking) -> dict[str, Any]:
    """Why it is here, goal and facts, the decision trail, the cost, the customer."""
    item, project = look.item, look.request.visitor.project
    context: dict[str, Any] = {
        "item": item,
        "reasons": takeover.reasons(item, project),
        "confidence": takeover.confidence(item, project),
        "bounces": item.conversation.bounce_count if item.conversation else 0,
    }
    if item.conversation is not None:
        with Together() as asked:
            before, cost = takeover.before(asked, item.conversation), takeover.cost_of(asked, item.conversation)
        earlier, earlier_total = before()
        context |= {
            "goal": takeover.goal(item.conversation),
            "facts": takeover.facts(item.conversation.handover_context),
            "trail": trail.trail(look.spans, look.moves),
            "cost": cost(),
            "customer": takeover.customer(item.conversation),
            "earlier": earlier,
            "earlier_total": earlier_total,
        }
    return context


def customer_fact(look: Looking) -> HttpResponse:
    """A masked fact in clear, for those who may act."""
    name = look.request.GET.get("fact", "")
    known = look.item.conversation.customer if look.item.conversation else {}
    if name not in takeover.MASKED or name not in known or not look.request.visitor.may(Role.OPERATOR):
        raise Http404
    return TemplateResponse(look.request, "queue/_fact.html", {"value": str(known[name])})


def _url(name: str, *args: object) -> str:
    try:
        return reverse(name, args=args)
    except NoReverseMatch:
        return ""
