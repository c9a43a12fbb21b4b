"""The registry of agents over HTTP."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from django.urls import path
from msgspec import Meta

from monitor import agents, names, registry, rollups
from monitor.agents import Edit
from monitor.api.caller import Request
from monitor.api.door import Answer, Door, endpoint
from monitor.api.problems import Problem, bad_field
from monitor.models import Agent, Project
from monitor.registry import HEALTH_WINDOW, THIS_MINUTE, Standing
from monitor.rollups import Totals

MOST_AGENTS = 1000
LONGEST_NAME = 200


class AgentQuery(msgspec.Struct, kw_only=True):
    capability: Annotated[str, Meta(max_length=100)] | None = None
    cost_tier: Annotated[str, Meta(max_length=20)] | None = None


class AgentOut(msgspec.Struct, kw_only=True):
    """Latency, errors, cost and tokens are those of the last 24 hours; null when the agent did nothing.

    Of `timeout_s`, `heartbeat_s`, `max_retries` and `stall_s` null is the project's default.
    """

    name: str
    type: str
    description: str
    capabilities: list[str]
    supported_models: list[str]
    default_model: str
    cost_tier: str
    mode: str
    timeout_s: int | None
    heartbeat_s: int | None
    max_retries: int | None
    stall_s: int | None
    expected_every_s: int | None
    heard_from: registry.HeardFrom
    heard_at: datetime | None
    missed_at: datetime | None
    health: registry.Health
    is_healthy: bool
    running: int
    executions: int
    error_rate: float | None
    avg_latency_ms: int | None
    p95_latency_ms: int | None
    cost_usd: Decimal
    tokens: int
    first_seen_at: datetime | None
    last_seen_at: datetime | None
    version: int


class AgentList(msgspec.Struct, kw_only=True):
    agents: list[AgentOut]


class Applied(msgspec.Struct, kw_only=True):
    """The defaults that the agent's next execution gets: its own, or else the project's."""

    timeout_s: int
    heartbeat_s: int
    max_retries: int
    stall_s: int | None


class OneAgentOut(AgentOut, kw_only=True):
    applied: Applied


class PerformanceQuery(msgspec.Struct, kw_only=True):
    days: Annotated[int, Meta(ge=1, le=90)] = 7


class Performance(msgspec.Struct, kw_only=True):
    total_executions: int
    success_rate: float | None
    avg_duration_ms: int | None


class Agents(Door):
    """Every agent that was ever seen or entered, by name; at most 1,000."""

    @endpoint(scope="read", query=AgentQuery, answer=AgentList)
    def get(self, request: Request, query: AgentQuery) -> AgentList:
        found = Agent.objects.filter(project_id=request.caller.project_id)
        if query.capability is not None:
            found = found.filter(capabilities__contains=[query.capability])
        if query.cost_tier is not None:
            found = found.filter(cost_tier=query.cost_tier)
        rows = list(found.order_by("name")[:MOST_AGENTS])
        return AgentList(agents=[AgentOut(**_fields(one)) for one in _standings(request, rows)])


class OneAgent(Door):
    """One agent. PUT says all there is to say of it, seen or not; PATCH what is named."""

    @endpoint(scope="read", answer=OneAgentOut)
    def get(self, request: Request, name: str) -> OneAgentOut:
        agent = Agent.objects.filter(project_id=request.caller.project_id, name=name).first()
        if agent is None:
            raise _unknown()
        return _out(request, agent)

    @endpoint(scope="operate", body=Edit, answer=OneAgentOut, also=(201, 409))
    def put(self, request: Request, name: str, body: Edit) -> Answer:
        if len(name) > LONGEST_NAME:
            raise bad_field("name", f"may have {LONGEST_NAME} characters")
        caller = request.caller
        try:
            agent, is_new = agents.enter(caller.project_id, name, body, actor=caller.actor, now=request.now)
        except agents.ChangedMeanwhile as error:
            raise _meanwhile(error) from error
        return Answer(_out(request, agent), status=201 if is_new else 200)

    @endpoint(scope="operate", body=Edit, answer=OneAgentOut, also=(409,))
    def patch(self, request: Request, name: str, body: Edit) -> OneAgentOut:
        caller = request.caller
        try:
            agent = agents.change(caller.project_id, name, body, actor=caller.actor, now=request.now)
        except agents.NoAgent as error:
            raise _unknown() from error
        except agents.ChangedMeanwhile as error:
            raise _meanwhile(error) from error
        return _out(request, agent)

    @endpoint(scope="operate", status=204, also=(409,))
    def delete(self, request: Request, name: str) -> Answer:
        """Take it out of the registry; what it did stays, and it is back once it is heard."""
        caller = request.caller
        try:
            agents.forget(caller.project_id, name, actor=caller.actor, now=request.now)
        except agents.NoAgent as error:
            raise _unknown() from error
        except agents.AtWork as error:
            raise Problem(409, "Conflict", "It has open executions: end those first.") from error
        return Answer(status=204)


class AgentPerformance(Door):
    """How often an agent worked and how well, over the last days."""

    @endpoint(scope="read", query=PerformanceQuery, answer=Performance)
    def get(self, request: Request, name: str, query: PerformanceQuery) -> Performance:
        project_id = request.caller.project_id
        if not Agent.objects.filter(project_id=project_id, name=name).exists():
            raise _unknown()
        since = request.now - timedelta(days=query.days)
        found = rollups.totals(
            project_id, since=since, until=request.now + THIS_MINUTE, kinds=("execution",), agent=name
        )
        worked = found[0] if found else None
        return Performance(
            total_executions=worked.count if worked else 0,
            success_rate=_success_rate(worked),
            avg_duration_ms=_ms(worked.avg_ms if worked else None),
        )


def _standings(request: Request, rows: list[Agent]) -> list[Standing]:
    since = request.now - HEALTH_WINDOW
    return registry.standings(request.caller.project_id, rows, since=since, until=request.now, now=request.now)


def _out(request: Request, agent: Agent) -> OneAgentOut:
    [standing] = _standings(request, [agent])
    project = Project.objects.get(pk=request.caller.project_id)
    return OneAgentOut(**_fields(standing), applied=Applied(**agents.applied(agent, project)))


def _fields(standing: Standing) -> dict[str, Any]:
    agent = standing.agent
    own = {name: getattr(agent, name) for name in AgentOut.__struct_fields__ if hasattr(agent, name)}
    figures = ("heard_from", "heard_at", "health", "executions", "error_rate", "cost_usd", "tokens")
    rate = standing.error_rate
    return (
        own
        | {name: getattr(standing, name) for name in figures}
        | {
            "running": standing.now.running,
            "avg_latency_ms": _ms(standing.avg_ms),
            "p95_latency_ms": _ms(standing.p95_ms),
            "is_healthy": rate is None or rate < registry.FAILING_FROM,
        }
    )


def _unknown() -> Problem:
    return Problem(404, "Not found", "There is no agent of this name.")


def _meanwhile(error: agents.ChangedMeanwhile) -> Problem:
    detail = "Somebody else has edited the agent: read it again, then say what you change."
    return Problem(409, "Conflict", detail, version=error.agent.version)


def _success_rate(worked: Totals | None) -> float | None:
    return None if worked is None or worked.error_rate is None else 1 - worked.error_rate


def _ms(value: float | None) -> int | None:
    return None if value is None else round(value)


urlpatterns = [
    path("agents", Agents.as_view()),
    path(f"agents/<{names.ANY}:name>/performance", AgentPerformance.as_view()),
    path(f"agents/<{names.ANY}:name>", OneAgent.as_view()),
]
