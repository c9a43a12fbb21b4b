"""Named operations over HTTP: how often, how well and how long, per agent and operation."""

from datetime import timedelta
from uuid import UUID

from django.urls import path

from monitor import operations, patience
from monitor.api.costs import SpanOfTime
from monitor.api.door import Door, Request, endpoint
from monitor.api.problems import bad_field

BACK = timedelta(days=1)


class OperationQuery(SpanOfTime, kw_only=True):
    agent: str | None = None
    operation: str | None = None
    execution_id: UUID | None = None


class OperationList(Door):
    @endpoint(scope="read", query=OperationQuery, answer=operations.Operations)
    def get(self, request: Request, query: OperationQuery) -> operations.Operations:
        """What agents reported as `operation`, of the last day unless `from` and `to` (at most 31 days) say else."""
        window = query.within(now=request.now, back=BACK)
        if window["until"] - window["since"] > operations.LONGEST:
            raise bad_field("from", f"must lie at most {operations.LONGEST.days} days before to")
        with patience.within(patience.SUMS_MS):
            return operations.statistics(
                request.caller.project_id,
                **window,
                agent=query.agent,
                operation=query.operation,
                execution_id=query.execution_id,
            )


urlpatterns = [path("operations", OperationList.as_view())]
