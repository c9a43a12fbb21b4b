"""Messages over HTTP, one by one and as events of a batch."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.urls import path

from monitor import conversations
from monitor.api.acting import acting_person, refusals
from monitor.api.caller import Caller, Request, require
from monitor.api.conversations import Aware, Channel, ConversationId, Epoch, Name, Share, find
from monitor.api.door import Answer, Door, endpoint
from monitor.api.pages import PageQuery, paginate
from monitor.api.problems import CONTENT_TYPE, Forbidden, Problem, bad_field
from monitor.api.queue import Email
from monitor.models import Conversation, HumanAgent, Message
from monitor.models.conversations import MessageRole
from monitor.models.keys import Scope
from monitor.moments import misplaced

Content = Annotated[str, msgspec.Meta(max_length=200_000)]
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class SayBody(msgspec.Struct, kw_only=True):
    """One message. `client_id` makes a retry harmless; `epoch` is the turn the agent believes to own."""

    role: Literal["user", "assistant", "human", "system", "tool"]
    content: Content = ""
    author: Name = ""
    client_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    epoch: Epoch | None = None
    visibility: Literal["public", "internal"] = "public"
    confidence: Share | None = None
    error: Content | None = None
    data: dict[str, Any] = {}
    occurred_at: Aware | None = None
    acts_for: Email = msgspec.field(name="as", default="")


class MessageEvent(SayBody, kw_only=True):
    """A message in a batch: it names its conversation, which is opened when it is new."""

    conversation_id: ConversationId
    agent: Name = ""
    channel: Channel = ""


class MessageOut(msgspec.Struct, kw_only=True):
    id: UUID
    seq: int
    role: str
    author: str
    content: str
    visibility: str
    client_id: str | None
    data: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, row: Message) -> "MessageOut":
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


class SaidOut(MessageOut, kw_only=True):
    """The message as kept, and where the conversation stands; `queue_item_id` when it called for a person."""

    state: str = ""
    epoch: int = 0
    queue_item_id: UUID | None = None


class MessagePage(msgspec.Struct):
    results: list[MessageOut]
    next: str | None


class MessageQuery(PageQuery, kw_only=True):
    after: Seq = 0
    visibility: list[Literal["public", "internal", "suppressed"]] = []


class Messages(Door):
    @endpoint(scope="read", query=MessageQuery, answer=MessagePage)
    def get(self, request: Request, conversation: str, query: MessageQuery) -> MessagePage:
        """Messages behind `after`, in order."""
        rows = Message.objects.filter(conversation=find(request.caller, conversation), seq__gt=query.after)
        if query.visibility:
            rows = rows.filter(visibility__in=query.visibility)
        found, following = paginate(rows, ("seq",), query, request)
        return MessagePage([MessageOut.of(row) for row in found], following)

    @endpoint(scope="ingest or operate", rate="ingest", body=SayBody, answer=SaidOut, status=201, also=(200, 403, 409))
    def post(self, request: Request, conversation: str, body: SayBody) -> Answer:
        """Say something. On a turn that is no longer the agent's own it is kept, shown to people, and a 409."""
        row = find(request.caller, conversation)
        human: HumanAgent | None = None
        if body.role == MessageRole.HUMAN:
            require(request.caller, Scope.OPERATE)
            human, _ = acting_person(request, body.acts_for)
        elif request.caller.kind == "key":
            require(request.caller, Scope.INGEST)
        else:
            raise Forbidden("People write as people: use the role human.")
        with refusals():
            said = _say(request.caller, row, body, human=human, now=request.now)
        if said.suppressed:
            return _suppressed(said)
        return Answer(_said(said), status=200 if said.again else 201)


def message_from_event(caller: Caller, event: MessageEvent, *, now: datetime) -> conversations.Said:
    """Keep one message of a batch, what was said too late as suppressed.

    Needs a transaction of its own, for it may announce an event. Raises Problem.
    """
    if event.role == MessageRole.HUMAN:
        raise Forbidden("People's messages don't come in batches.")
    rows = Conversation.objects.filter(project_id=caller.project_id, conversation_id=event.conversation_id)
    with refusals():
        row = rows.first()
        if row is None:
            row, _ = conversations.open_conversation(
                caller.project_id, event.conversation_id, agent=event.agent, channel=event.channel, now=now
            )
        return _say(caller, row, event, human=None, now=now)


def _say(
    caller: Caller, row: Conversation, body: SayBody, *, human: HumanAgent | None, now: datetime
) -> conversations.Said:
    data: dict[str, Any] = dict(body.data)
    if body.occurred_at is not None and (wrong := misplaced(body.occurred_at, now=now)):
        raise bad_field("occurred_at", wrong)
    if body.confidence is not None:
        data["confidence"] = body.confidence
    if body.error is not None:
        data["error"] = body.error
    return conversations.say(
        caller.project_id,
        row.pk,
        body.role,
        body.content,
        author=body.author,
        client_id=body.client_id,
        human=human,
        epoch=body.epoch,
        visibility=body.visibility,
        data=data,
        said_at=body.occurred_at,
        now=now,
    )


def _said(said: conversations.Said) -> SaidOut:
    return SaidOut(
        **{name: getattr(said.message, name) for name in MessageOut.__struct_fields__},
        state=said.conversation.state,
        epoch=said.conversation.epoch,
        queue_item_id=said.handed_over.pk if said.handed_over else None,
    )


def _suppressed(said: conversations.Said) -> Answer:
    """A refusal that is committed: the message stays for people to see."""
    problem: Mapping[str, Any] = Problem(
        409,
        "Stale turn",
        f"The conversation is {said.conversation.state} in epoch {said.conversation.epoch}: "
        "the message was kept for people to see and is not for the customer.",
        reason="stale_turn",
        state=said.conversation.state,
        epoch=said.conversation.epoch,
        message=MessageOut.of(said.message),
    ).body()
    return Answer(problem, status=409, content_type=CONTENT_TYPE)


urlpatterns = [path("conversations/<path:conversation>/messages", Messages.as_view())]
