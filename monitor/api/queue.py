"""The human queue over HTTP: one list, and claim, release, transfer, resolve and return by item."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.urls import path

from monitor import claims, handback, people
from monitor.api.acting import acting, acting_person, refusals
from monitor.api.caller import Request
from monitor.api.door import Door, endpoint
from monitor.api.pages import PageQuery, paginate
from monitor.api.problems import Problem, bad_field
from monitor.models import HumanAgent, QueueItem
from monitor.models.queue import OPEN_ITEMS

Kind = Literal["chat", "approval", "paused_execution", "trip"]
Status = Literal["pending", "claimed", "waiting_user", "resolved", "back_to_ai", "expired", "cancelled"]
Email = Annotated[str, msgspec.Meta(max_length=254)]
Note = Annotated[str, msgspec.Meta(max_length=10_000)]
Outcome = Annotated[str, msgspec.Meta(max_length=40)]


class HolderOut(msgspec.Struct, kw_only=True):
    id: int
    email: str
    name: str

    @classmethod
    def of(cls, human: HumanAgent | None) -> "HolderOut | None":
        return None if human is None else cls(id=human.pk, email=human.person.email, name=str(human.person))


class QueueItemOut(msgspec.Struct, kw_only=True):
    """Something that waits for a person, or did."""

    id: UUID
    kind: str
    subject_id: str
    conversation_id: str | None
    status: str
    title: str
    agent: str
    trigger: str
    evidence: dict[str, Any]
    skills: list[str]
    priority: int
    assignee: HolderOut | None
    version: int
    requested_at: datetime
    claim_due_at: datetime | None
    claim_breached_at: datetime | None
    claimed_at: datetime | None
    first_reply_at: datetime | None
    closed_at: datetime | None
    instruction: str
    outcome: str
    note: str
    epoch: int | None = None

    @classmethod
    def of(cls, item: QueueItem, *, epoch: int | None = None) -> "QueueItemOut":
        plain = {name: getattr(item, name) for name in PLAIN}
        client_id = item.conversation.conversation_id if item.conversation else None
        return cls(**plain, conversation_id=client_id, assignee=HolderOut.of(item.assignee), epoch=epoch)


PLAIN = [name for name in QueueItemOut.__struct_fields__ if name not in ("conversation_id", "assignee", "epoch")]


class QueuePage(msgspec.Struct):
    results: list[QueueItemOut]
    next: str | None


class QueueQuery(PageQuery, kw_only=True):
    """Open items, unless `status` says otherwise. `assignee` is `me`, `none` or an email."""

    status: list[Status] = []
    kind: list[Kind] = []
    agent: str = ""
    trigger: str = ""
    conversation_id: str = ""
    assignee: Email = ""
    breached: bool | None = None


class ActBody(msgspec.Struct, kw_only=True):
    """Who acts: `as` is for keys with the scope act-as."""

    acts_for: Email = msgspec.field(name="as", default="")
    note: Note = ""


class TransferBody(ActBody, kw_only=True):
    """To whom: the email of another human agent."""

    to: Email


class ResolveBody(ActBody, kw_only=True):
    outcome: Outcome = ""


class ReturnBody(ActBody, kw_only=True):
    """What the AI is to do next, or "none"."""

    instruction: Note = ""


class Queue(Door):
    @endpoint(scope="read", query=QueueQuery, answer=QueuePage)
    def get(self, request: Request, query: QueueQuery) -> QueuePage:
        """What waits for people: the most urgent and oldest first; with closed ones asked for, newest first."""
        statuses = query.status or OPEN_ITEMS
        items = QueueItem.objects.filter(project_id=request.caller.project_id, status__in=statuses)
        items = items.select_related("assignee__person", "conversation")
        if query.kind:
            items = items.filter(kind__in=query.kind)
        if query.agent:
            items = items.filter(agent=query.agent)
        if query.trigger:
            items = items.filter(trigger=query.trigger)
        if query.conversation_id:
            items = items.filter(conversation__conversation_id=query.conversation_id)
        if query.assignee == "none":
            items = items.filter(assignee=None)
        elif query.assignee == "me":
            own = request.caller.person_id
            items = items.none() if own is None else items.filter(assignee__person_id=own)
        elif query.assignee:
            items = items.filter(assignee__person__email=query.assignee.lower())
        if query.breached is not None:
            items = items.filter(claim_breached_at__isnull=not query.breached)
        open_only = set(statuses) <= set(OPEN_ITEMS)
        order = ("-priority", "requested_at", "id") if open_only else ("-requested_at", "-id")
        rows, following = paginate(items, order, query, request)
        return QueuePage([QueueItemOut.of(item) for item in rows], following)


class OneItem(Door):
    @endpoint(scope="read", answer=QueueItemOut)
    def get(self, request: Request, item_id: UUID) -> QueueItemOut:
        return _answer(request, item_id)


class Claim(Door):
    @endpoint(scope="operate", body=ActBody, answer=QueueItemOut, also=(409,))
    def post(self, request: Request, item_id: UUID, body: ActBody) -> QueueItemOut:
        """Take the item. Somebody else's is a 409 that names them; one's own is a 200."""
        return claim(request, item_id, body)


class Release(Door):
    @endpoint(scope="operate", body=ActBody, answer=QueueItemOut, also=(409,))
    def post(self, request: Request, item_id: UUID, body: ActBody) -> QueueItemOut:
        """Put the item back; it keeps its place."""
        return release(request, item_id, body)


class Transfer(Door):
    @endpoint(scope="operate", body=TransferBody, answer=QueueItemOut, also=(409,))
    def post(self, request: Request, item_id: UUID, body: TransferBody) -> QueueItemOut:
        """Give the item to another person."""
        return transfer(request, item_id, body)


class Resolve(Door):
    @endpoint(scope="operate", body=ResolveBody, answer=QueueItemOut, also=(409,))
    def post(self, request: Request, item_id: UUID, body: ResolveBody) -> QueueItemOut:
        """Close the item, and its conversation with it."""
        return resolve(request, item_id, body)


class Return(Door):
    @endpoint(scope="operate", body=ReturnBody, answer=QueueItemOut, also=(409,))
    def post(self, request: Request, item_id: UUID, body: ReturnBody) -> QueueItemOut:
        """Give the conversation back to the AI, with an instruction."""
        return give_back(request, item_id, body)


def claim(request: Request, item_id: UUID, body: ActBody) -> QueueItemOut:
    human, actor = acting_person(request, body.acts_for)
    with refusals():
        claimed = claims.claim(request.caller.project_id, item_id, human, actor=actor, now=request.now)
    return _answer(request, item_id, epoch=claimed.epoch)


def release(request: Request, item_id: UUID, body: ActBody) -> QueueItemOut:
    human, actor = acting(request, body.acts_for)
    with refusals():
        claims.release(request.caller.project_id, item_id, human, actor=actor, note=body.note, now=request.now)
    return _answer(request, item_id)


def transfer(request: Request, item_id: UUID, body: TransferBody) -> QueueItemOut:
    human, actor = acting(request, body.acts_for)
    to = people.human_for(request.caller.project_id, email=body.to)
    if to is None:
        raise bad_field("to", "is not the email of a human agent of this project")
    with refusals():
        moved = claims.transfer(
            request.caller.project_id, item_id, human, to, actor=actor, note=body.note, now=request.now
        )
    return _answer(request, item_id, epoch=moved.epoch)


def resolve(request: Request, item_id: UUID, body: ResolveBody) -> QueueItemOut:
    human, actor = acting(request, body.acts_for)
    with refusals():
        claims.resolve(
            request.caller.project_id,
            item_id,
            human,
            outcome=body.outcome,
            note=body.note,
            actor=actor,
            now=request.now,
        )
    return _answer(request, item_id)


def give_back(request: Request, item_id: UUID, body: ReturnBody) -> QueueItemOut:
    human, actor = acting(request, body.acts_for)
    with refusals():
        back = handback.hand_back(
            request.caller.project_id,
            item_id,
            human,
            instruction=body.instruction,
            note=body.note,
            actor=actor,
            now=request.now,
        )
    return _answer(request, item_id, epoch=back.conversation.epoch)


def _answer(request: Request, item_id: UUID, *, epoch: int | None = None) -> QueueItemOut:
    item = (
        QueueItem.objects.select_related("assignee__person", "conversation")
        .filter(project_id=request.caller.project_id, pk=item_id)
        .first()
    )
    if item is None:
        raise Problem(404, "Not found")
    return QueueItemOut.of(item, epoch=epoch)


urlpatterns = [
    path("queue", Queue.as_view()),
    path("queue/<uuid:item_id>", OneItem.as_view()),
    path("queue/<uuid:item_id>/claim", Claim.as_view()),
    path("queue/<uuid:item_id>/release", Release.as_view()),
    path("queue/<uuid:item_id>/transfer", Transfer.as_view()),
    path("queue/<uuid:item_id>/resolve", Resolve.as_view()),
    path("queue/<uuid:item_id>/return", Return.as_view()),
]
