"""`GET /api/metrics`, as the seed documents have it."""

from typing import Any, Literal

import msgspec
from django.urls import path

from alerts.snapshot import snapshot
from monitor.api.caller import Request
from monitor.api.door import Door, endpoint

PARTS = {"agent": "agents", "system": "system", "costs": "costs", "alerts": "alerts"}


class MetricsQuery(msgspec.Struct, kw_only=True):
    """`type` answers one part alone."""

    type: Literal["agent", "system", "costs", "alerts"] | None = None


class Metrics(Door):
    """Agents, system, costs and alerts in one answer, at most a minute old; dropped by an acknowledgement."""

    @endpoint(scope="read", query=MetricsQuery)
    def get(self, request: Request, query: MetricsQuery) -> dict[str, Any]:
        found = snapshot(request.caller.project_id, now=request.now)
        if query.type is None:
            return found
        part = PARTS[query.type]
        return {part: found[part], "generated_at": found["generated_at"]}


urlpatterns = [path("api/metrics", Metrics.as_view())]
