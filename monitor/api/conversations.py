"""Conversations over HTTP: open, list, hand over, and what people do with them."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.urls import path

from monitor import conversations, handover, patience
from monitor.api import queue as doors
from monitor.api.acting import refusals
from monitor.api.caller import Caller, Request
from monitor.api.door import Answer, Door, endpoint
from monitor.api.pages import PageQuery, paginate
from monitor.api.problems import Problem
from monitor.api.queue import ActBody, Note, QueueItemOut, ResolveBody, ReturnBody, TransferBody
from monitor.models import Conversation
from monitor.models.conversations import State
from monitor.models.keys import Scope

Name = Annotated[str, msgspec.Meta(max_length=200)]
ConversationId = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Channel = Annotated[str, msgspec.Meta(max_length=50)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Epoch = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Aware = Annotated[datetime, msgspec.Meta(tz=True)]
Skills = Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=100)]], msgspec.Meta(max_length=50)]
StateName = Literal[
    "new", "ai_processing", "finished", "handover", "pending_human", "human_active", "resolved", "back_to_ai"
]
LONGEST_CUSTOMER_ID = 200
WITH_PEOPLE = (State.HANDOVER, State.PENDING_HUMAN, State.HUMAN_ACTIVE)


class OpenBody(msgspec.Struct, kw_only=True):
    conversation_id: ConversationId
    agent: Name = ""
    channel: Channel = ""
    customer: dict[str, Any] = {}
    metadata: dict[str, Any] = {}

    def __post_init__(self) -> None:
        # The takeover screen finds a customer's conversations by it, and an index holds no long ones.
        if len(str(self.customer.get("id"))) > LONGEST_CUSTOMER_ID:
            raise ValueError(f"customer.id must have at most {LONGEST_CUSTOMER_ID} characters")


class ConversationOut(msgspec.Struct, kw_only=True):
    """A conversation. `owner` is `ai`, the email of the person who holds it, or null while it waits."""

    id: UUID
    conversation_id: str
    agent: str
    channel: str
    customer: dict[str, Any]
    state: str
    is_hil: bool
    owner: str | None
    owner_kind: str
    epoch: int
    last_seq: int
    confidence: float | None
    handover_reason: str
    handover_summary: str
    handover_context: dict[str, Any]
    bounce_count: int
    metadata: dict[str, Any]
    cost_usd: Decimal
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Conversation) -> "ConversationOut":
        plain = {name: getattr(row, name) for name in PLAIN}
        # A row that was just made still holds its default, an int.
        plain["cost_usd"] = Decimal(row.cost_usd)
        owner = row.owner.person.email if row.owner else ("ai" if row.owner_kind == "ai" else None)
        return cls(**plain, owner=owner, is_hil=row.state in WITH_PEOPLE)


PLAIN = [name for name in ConversationOut.__struct_fields__ if name not in ("is_hil", "owner")]


class ConversationPage(msgspec.Struct):
    results: list[ConversationOut]
    next: str | None


class ConversationQuery(PageQuery, kw_only=True):
    state: list[StateName] = []
    agent: Name = ""
    channel: Channel = ""
    is_hil: bool | None = None
    updated_after: Aware | None = None
    updated_before: Aware | None = None
    search: Name = ""


class HandoverBody(msgspec.Struct, kw_only=True):
    reason: Note = ""
    summary: Note = ""
    context: dict[str, Any] = {}
    skills: Skills = []
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0
    confidence: Share | None = None
    epoch: Epoch | None = None


class HandoverOut(msgspec.Struct, kw_only=True):
    conversation: ConversationOut
    queue_item: QueueItemOut


class FinishBody(msgspec.Struct, kw_only=True):
    epoch: Epoch | None = None


class Conversations(Door):
    @endpoint(scope="read", query=ConversationQuery, answer=ConversationPage)
    def get(self, request: Request, query: ConversationQuery) -> ConversationPage:
        """Conversations, last changed first."""
        rows = Conversation.objects.filter(project_id=request.caller.project_id).select_related("owner__person")
        if query.state:
            rows = rows.filter(state__in=query.state)
        if query.agent:
            rows = rows.filter(agent=query.agent)
        if query.channel:
            rows = rows.filter(channel=query.channel)
        if query.is_hil is not None:
            rows = rows.filter(state__in=WITH_PEOPLE) if query.is_hil else rows.exclude(state__in=WITH_PEOPLE)
        if query.updated_after:
            rows = rows.filter(updated_at__gte=query.updated_after)
        if query.updated_before:
            rows = rows.filter(updated_at__lt=query.updated_before)
        if query.search:
            rows = rows.filter(conversation_id__icontains=query.search)
        with patience.searching(query.search):
            found, following = paginate(rows, ("-updated_at", "-id"), query, request)
        return ConversationPage([ConversationOut.of(row) for row in found], following)

    @endpoint(
        scope="ingest", body=OpenBody, answer=ConversationOut, status=201, also=(200, 409), verbatim=True, grows=True
    )
    def post(self, request: Request, body: OpenBody) -> Answer:
        """Open a conversation; the same again is a 200, with other content a 409."""
        with refusals():
            row, made = conversations.open_conversation(
                request.caller.project_id,
                body.conversation_id,
                agent=body.agent,
                channel=body.channel,
                customer=body.customer,
                metadata=body.metadata,
                now=request.now,
            )
        return Answer(ConversationOut.of(row), status=201 if made else 200)


class OneConversation(Door):
    @endpoint(scope="read", answer=ConversationOut)
    def get(self, request: Request, conversation: str) -> ConversationOut:
        return ConversationOut.of(find(request.caller, conversation))


class Handover(Door):
    @endpoint(scope="ingest or operate", body=HandoverBody, answer=HandoverOut, also=(409,))
    def post(self, request: Request, conversation: str, body: HandoverBody) -> HandoverOut:
        """Give the conversation to people, as the agent or as a person who steps in.

        The first call counts: the same again answers with what it opened.
        """
        row = find(request.caller, conversation)
        by_agent = request.caller.kind == "key" and request.caller.may(Scope.INGEST)
        with refusals():
            handed = handover.hand_over(
                request.caller.project_id,
                row.pk,
                reason=body.reason,
                trigger="agent_decision" if by_agent else "person_decision",
                summary=body.summary,
                context=body.context,
                skills=body.skills,
                priority=body.priority,
                confidence=body.confidence,
                epoch=body.epoch,
                actor=request.caller.actor,
                now=request.now,
            )
        return HandoverOut(
            conversation=ConversationOut.of(handed.conversation),
            queue_item=QueueItemOut.of(handed.item, epoch=handed.conversation.epoch),
        )


class Finish(Door):
    @endpoint(scope="ingest", body=FinishBody, answer=ConversationOut, also=(409,))
    def post(self, request: Request, conversation: str, body: FinishBody) -> ConversationOut:
        """The agent has done its work."""
        row = find(request.caller, conversation)
        with refusals():
            conversations.finish(
                request.caller.project_id, row.pk, epoch=body.epoch, actor=request.caller.actor, now=request.now
            )
        return ConversationOut.of(find(request.caller, conversation))


class Claim(Door):
    @endpoint(scope="operate", body=ActBody, answer=ConversationOut, also=(409,))
    def post(self, request: Request, conversation: str, body: ActBody) -> ConversationOut:
        """Take the conversation. Somebody else's is a 409 that names them; one's own is a 200."""
        doors.claim(request, waiting(request.caller, conversation), body)
        return ConversationOut.of(find(request.caller, conversation))


class Release(Door):
    @endpoint(scope="operate", body=ActBody, answer=ConversationOut, also=(409,))
    def post(self, request: Request, conversation: str, body: ActBody) -> ConversationOut:
        """Put the conversation back into the queue; it keeps its place."""
        doors.release(request, waiting(request.caller, conversation), body)
        return ConversationOut.of(find(request.caller, conversation))


class Transfer(Door):
    @endpoint(scope="operate", body=TransferBody, answer=ConversationOut, also=(409,))
    def post(self, request: Request, conversation: str, body: TransferBody) -> ConversationOut:
        """Give the conversation to another person."""
        doors.transfer(request, waiting(request.caller, conversation), body)
        return ConversationOut.of(find(request.caller, conversation))


class Resolve(Door):
    @endpoint(scope="operate", body=ResolveBody, answer=ConversationOut, also=(409,))
    def post(self, request: Request, conversation: str, body: ResolveBody) -> ConversationOut:
        """End the conversation with an outcome."""
        doors.resolve(request, waiting(request.caller, conversation), body)
        return ConversationOut.of(find(request.caller, conversation))


class Return(Door):
    @endpoint(scope="operate", body=ReturnBody, answer=ConversationOut, also=(409,))
    def post(self, request: Request, conversation: str, body: ReturnBody) -> ConversationOut:
        """Give the conversation back to the AI; `instruction` says what to do next, or "none"."""
        doors.give_back(request, waiting(request.caller, conversation), body)
        return ConversationOut.of(find(request.caller, conversation))


def find(caller: Caller, named: str) -> Conversation:
    """The conversation by the client's string or our id. Raises a 404."""
    rows = Conversation.objects.filter(project_id=caller.project_id).select_related("owner__person")
    row = rows.filter(conversation_id=named).first()
    if row is None:
        try:
            row = rows.filter(pk=UUID(named)).first()
        except ValueError:
            row = None
    if row is None:
        raise Problem(404, "Not found")
    return row


def waiting(caller: Caller, named: str) -> UUID:
    """The open queue item of a conversation. Raises a 404, and a 409 when people have nothing to do with it."""
    row = find(caller, named)
    item = handover.open_chat(caller.project_id, row.pk)
    if item is None:
        raise Problem(
            409,
            "Not with people",
            f"The conversation is {row.state}; nobody has asked for a person.",
            reason="illegal_move",
            state=row.state,
        )
    return item.pk


urlpatterns = [
    path("conversations", Conversations.as_view()),
    path("conversations/<path:conversation>/handover", Handover.as_view()),
    path("conversations/<path:conversation>/finish", Finish.as_view()),
    path("conversations/<path:conversation>/claim", Claim.as_view()),
    path("conversations/<path:conversation>/release", Release.as_view()),
    path("conversations/<path:conversation>/transfer", Transfer.as_view()),
    path("conversations/<path:conversation>/resolve", Resolve.as_view()),
    path("conversations/<path:conversation>/return", Return.as_view()),
    path("conversations/<path:conversation>", OneConversation.as_view()),
]
