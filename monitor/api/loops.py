"""Loops over HTTP: what was found, newest first."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
from django.urls import path

from monitor.api.door import Door, Request, endpoint
from monitor.api.pages import PageQuery, paginate
from monitor.models import Loop
from monitor.registration import Aware, HexTrace


class LoopedCall(msgspec.Struct):
    """One call of a round, its arguments shortened to 300 characters."""

    tool: str
    arguments: str


class LoopOut(msgspec.Struct, kw_only=True):
    """A cycle of calls that an agent made again and again; open until `ended_at`.

    `rounds` are whole ones, `calls` all that belong to it. `spans` are the first and the last of it, each as trace and
    span in hex. `answers_differ` tells that equal calls got different answers.
    """

    id: UUID
    execution_id: UUID | None
    trace_id: str
    agent: str
    run_id: str
    cycle: list[LoopedCall]
    rounds: int
    calls: int
    answers_differ: bool
    first_at: datetime
    last_at: datetime
    spans: list[str]
    found_at: datetime
    ended_at: datetime | None
    end: str


class LoopPage(msgspec.Struct):
    results: list[LoopOut]
    next: str | None


class LoopQuery(PageQuery, kw_only=True):
    status: Literal["open", "over", ""] = ""
    agent: str | None = None
    run_id: str | None = None
    execution_id: UUID | None = None
    trace_id: HexTrace | None = None
    found_after: Aware | None = None
    found_before: Aware | None = None


def show(loop: Loop) -> LoopOut:
    """The finding as the API answers it."""
    fields = {name: getattr(loop, name) for name in LoopOut.__struct_fields__}
    return LoopOut(
        **fields | {"trace_id": loop.trace_id.hex, "cycle": [LoopedCall(**one) for one in loop.cycle]},
    )


def of_execution(project_id: int, execution_id: UUID) -> list[LoopOut]:
    """The findings of one execution, oldest first."""
    found = Loop.objects.filter(project_id=project_id, execution_id=execution_id)
    return [show(one) for one in found.order_by("first_at", "id")]


class Loops(Door):
    @endpoint(scope="read", query=LoopQuery, answer=LoopPage)
    def get(self, request: Request, query: LoopQuery) -> LoopPage:
        """Loops among tool calls, the newest finding first."""
        found = Loop.objects.filter(project_id=request.caller.project_id)
        if query.status:
            found = found.filter(ended_at__isnull=query.status == "open")
        for name in ("agent", "run_id", "execution_id"):
            if (wanted := getattr(query, name)) is not None:
                found = found.filter(**{name: wanted})
        if query.trace_id is not None:
            found = found.filter(trace_id=UUID(query.trace_id))
        if query.found_after is not None:
            found = found.filter(found_at__gte=query.found_after)
        if query.found_before is not None:
            found = found.filter(found_at__lt=query.found_before)
        rows, following = paginate(found, ("-found_at", "-id"), query, request)
        return LoopPage([show(row) for row in rows], following)


urlpatterns = [path("loops", Loops.as_view())]
