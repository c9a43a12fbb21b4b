"""The registry of agents over HTTP."""

from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from django.urls import path
from msgspec import Meta

from monitor import rollups
from monitor.api.door import Door, Request, endpoint
from monitor.api.problems import Problem
from monitor.models import Agent
from monitor.rollups import Totals

HEALTH_WINDOW = timedelta(hours=24)
# Rollups read up to the beginning of a minute.
THIS_MINUTE = timedelta(minutes=1)
# The rate at which the shipped rule turns critical.
HEALTHY_BELOW = 0.25
MOST_AGENTS = 1000


class AgentQuery(msgspec.Struct, kw_only=True):
    capability: Annotated[str, Meta(max_length=100)] | None = None
    cost_tier: Annotated[str, Meta(max_length=20)] | None = None


class AgentOut(msgspec.Struct, kw_only=True):
    """Latency and errors are those of the last 24 hours; null when the agent did nothing."""

    name: str
    type: str
    description: str
    capabilities: list[str]
    supported_models: list[str]
    default_model: str
    cost_tier: str
    avg_latency_ms: int | None
    is_healthy: bool
    error_rate: float | None
    first_seen_at: datetime
    last_seen_at: datetime


class AgentList(msgspec.Struct, kw_only=True):
    agents: list[AgentOut]


class PerformanceQuery(msgspec.Struct, kw_only=True):
    days: Annotated[int, Meta(ge=1, le=90)] = 7


class Performance(msgspec.Struct, kw_only=True):
    total_executions: int
    success_rate: float | None
    avg_duration_ms: int | None


class Agents(Door):
    """Every agent that was ever seen, by name; at most 1,000."""

    @endpoint(scope="read", query=AgentQuery, answer=AgentList)
    def get(self, request: Request, query: AgentQuery) -> AgentList:
        project_id = request.caller.project_id
        found = Agent.objects.filter(project_id=project_id)
        if query.capability is not None:
            found = found.filter(capabilities__contains=[query.capability])
        if query.cost_tier is not None:
            found = found.filter(cost_tier=query.cost_tier)
        since = request.now - HEALTH_WINDOW
        worked = {
            row.group: row
            for row in rollups.totals(
                project_id, since=since, until=request.now + THIS_MINUTE, kinds=("execution",), group_by="agent"
            )
        }
        rows = found.order_by("name")[:MOST_AGENTS]
        return AgentList(agents=[AgentOut(**_fields(row, worked.get(row.name))) for row in rows])


class AgentPerformance(Door):
    """How often an agent worked and how well, over the last days."""

    @endpoint(scope="read", query=PerformanceQuery, answer=Performance)
    def get(self, request: Request, name: str, query: PerformanceQuery) -> Performance:
        project_id = request.caller.project_id
        if not Agent.objects.filter(project_id=project_id, name=name).exists():
            raise Problem(404, "Not found", "There is no agent of this name.")
        since = request.now - timedelta(days=query.days)
        found = rollups.totals(
            project_id, since=since, until=request.now + THIS_MINUTE, kinds=("execution",), agent=name
        )
        worked = found[0] if found else None
        return Performance(
            total_executions=worked.count if worked else 0,
            success_rate=_success_rate(worked),
            avg_duration_ms=_ms(worked),
        )


def _fields(row: Agent, worked: Totals | None) -> dict[str, Any]:
    names = [name for name in AgentOut.__struct_fields__ if hasattr(row, name)]
    error_rate = worked.error_rate if worked else None
    return {name: getattr(row, name) for name in names} | {
        "avg_latency_ms": _ms(worked),
        "error_rate": error_rate,
        "is_healthy": error_rate is None or error_rate < HEALTHY_BELOW,
    }


def _success_rate(worked: Totals | None) -> float | None:
    return None if worked is None or worked.error_rate is None else 1 - worked.error_rate


def _ms(worked: Totals | None) -> int | None:
    return None if worked is None or worked.avg_ms is None else round(worked.avg_ms)


urlpatterns = [
    path("agents", Agents.as_view()),
    path("agents/<path:name>/performance", AgentPerformance.as_view()),
]
