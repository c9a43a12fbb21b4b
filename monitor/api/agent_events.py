"""The one cursor of the agent side: people's replies, decisions, hand-backs and commands, in order, without gaps."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from django.urls import path

from monitor import commands
from monitor.api.caller import Caller
from monitor.api.waiting import Event, LongPoll, WaitQuery
from monitor.models import QueueEvent
from monitor.models.keys import Scope


class EventsQuery(WaitQuery, kw_only=True):
    """`after` is the number of the last event seen; 0 reads from the beginning."""

    after: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100
    conversation_id: Annotated[str, msgspec.Meta(max_length=200)] = ""
    execution_id: UUID | None = None


class AgentEventOut(msgspec.Struct, kw_only=True):
    seq: int
    kind: str
    conversation_id: str
    execution_id: UUID | None
    data: dict[str, Any]
    at: datetime


class EventsOut(msgspec.Struct, kw_only=True):
    """`cursor` is the `after` of the next call."""

    events: list[AgentEventOut]
    cursor: int


class AgentEvents(LongPoll):
    """Events behind `after`; waits for the first one up to `wait` seconds. A time-out means: nothing yet.

    What a caller with the scope ingest reads of kind `command` counts as delivered.
    """

    scope = "ingest or read"
    query_type = EventsQuery
    answer = EventsOut

    def look(self, caller: Caller, query: EventsQuery, now: datetime, **path: Any) -> EventsOut | None:
        rows = QueueEvent.objects.filter(project_id=caller.project_id, seq__gt=query.after)
        if query.conversation_id:
            rows = rows.filter(conversation_id=query.conversation_id)
        if query.execution_id:
            rows = rows.filter(execution_id=query.execution_id)
        names = AgentEventOut.__struct_fields__
        found = [AgentEventOut(**row) for row in rows.order_by("seq").values(*names)[: query.limit]]
        if not found:
            return None
        ordered = [one.seq for one in found if one.kind == "command"]
        # Whoever only reads is no agent.
        if ordered and caller.may(Scope.INGEST):
            commands.deliver_by_events(caller.project_id, ordered, now=now)
        return EventsOut(events=found, cursor=found[-1].seq)

    def nothing(self, query: EventsQuery) -> EventsOut:
        return EventsOut(events=[], cursor=query.after)

    def following(self, query: EventsQuery, result: EventsOut) -> EventsQuery:
        return msgspec.structs.replace(query, after=result.cursor)

    def resumed(self, query: EventsQuery, last_event_id: str) -> EventsQuery:
        known = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19
        return msgspec.structs.replace(query, after=int(last_event_id)) if known else query

    def events(self, result: EventsOut) -> Iterable[Event]:
        for event in result.events:
            yield Event(event, id=str(event.seq), name=event.kind)


urlpatterns = [path("agent-events", AgentEvents.as_view())]
