"""A small API over the frame, for its tests alone."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from django.db import connection
from django.http import HttpResponse
from django.urls import path

from monitor.api.door import Answer, Door, Request, endpoint
from monitor.api.pages import PageQuery, paginate
from monitor.api.problems import Problem
from monitor.models import Agent

Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class Call(msgspec.Struct, kw_only=True):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
    input_tokens: Tokens = 0
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class Calls(msgspec.Struct, kw_only=True):
    calls: list[Call]
    data: Any = None


class Named(msgspec.Struct, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]


class Note(msgspec.Struct, kw_only=True):
    note: str = ""


class AgentQuery(PageQuery, kw_only=True):
    name: list[str] | None = None
    type: str | None = None


class AgentOut(msgspec.Struct, kw_only=True):
    name: str
    cost_usd: Decimal


class AgentPage(msgspec.Struct, kw_only=True):
    results: list[AgentOut]
    next: str | None


class CallDoor(Door):
    @endpoint(scope="ingest", rate="ingest", body=Calls, status=201)
    def post(self, request: Request, body: Calls) -> Any:
        return {"count": len(body.calls), "at": body.calls[0].at if body.calls else None, "data": body.data}


class AgentDoor(Door):
    @endpoint(scope="read", query=AgentQuery, answer=AgentPage)
    def get(self, request: Request, query: AgentQuery) -> AgentPage:
        agents = Agent.objects.filter(project_id=request.caller.project_id)
        if query.name:
            agents = agents.filter(name__in=query.name)
        rows, following = paginate(agents, ("-last_seen_at", "-id"), query, request)
        return AgentPage(results=[AgentOut(name=row.name, cost_usd=Decimal("1E-8")) for row in rows], next=following)

    @endpoint(scope="operate", body=Named, status=201)
    def post(self, request: Request, body: Named) -> Answer:
        agent = Agent.objects.create(
            project_id=request.caller.project_id,
            name=body.name,
            first_seen_at=request.now,
            last_seen_at=request.now,
        )
        if body.name == "refused":
            raise Problem(402, "Refused", scope="run", limit_usd=Decimal("5.00"))
        return Answer({"id": agent.pk}, headers={"Location": f"/api/v1/sample/agents/{agent.pk}"})

    @endpoint(scope="admin", body=Note)
    def delete(self, request: Request, body: Note) -> Answer:
        return Answer(status=204)


class WhoDoor(Door):
    @endpoint(scope="read")
    def get(self, request: Request, name: str) -> dict[str, Any]:
        caller = request.caller
        return {"actor": caller.actor, "project": caller.project_id, "scopes": sorted(caller.scopes), "name": name}


class StoreDoor(Door):
    """Sends what the caller says straight to the database, to see its refusals."""

    @endpoint(scope="ingest", body=Named)
    def post(self, request: Request, body: Named) -> dict[str, Any]:
        with connection.cursor() as cursor:
            cursor.execute(body.name)
        return {}


class FaultDoor(Door):
    @endpoint(scope="read")
    def get(self, request: Request) -> HttpResponse:
        raise RuntimeError("a fault of ours")


urlpatterns = [
    path("api/v1/sample/calls", CallDoor.as_view()),
    path("api/v1/sample/agents", AgentDoor.as_view()),
    path("api/v1/sample/who/<str:name>", WhoDoor.as_view()),
    path("api/v1/sample/store", StoreDoor.as_view()),
    path("api/v1/sample/fault", FaultDoor.as_view()),
]
handler400 = "monitor.api.problems.bad_request"
handler404 = "monitor.api.problems.page_not_found"
handler500 = "monitor.api.problems.server_error"
