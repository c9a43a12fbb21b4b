"""Costs over HTTP: calls, what runs and periods cost, and every path of the costs' area."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from django.urls import URLPattern, path

from monitor import ledger, patience, reporting
from monitor.api import budgets, trips
from monitor.api.caller import Request
from monitor.api.door import Answer, Door, endpoint
from monitor.api.problems import Problem, bad_field
from monitor.deadlocks import unhindered
from monitor.ledger import DayCosts, GroupBy, Period, RunCosts, Summary
from monitor.models import Run
from monitor.reporting import CallAnswer, IdTaken
from monitor.reports import Aware, BadReport, Call

LONGEST = timedelta(days=800)
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


class Calls(Door):
    """One call of a model, or of a tool that costs."""

    @endpoint(
        scope="ingest",
        rate="ingest",
        body=Call,
        answer=CallAnswer,
        status=201,
        also=(200, 409),
        bound=False,
        # The span that it becomes is masked.
        verbatim=True,
        grows=True,
    )
    def post(self, request: Request, body: Call) -> Answer:
        caller = request.caller
        try:
            answer, is_new = unhindered(
                caller.project_id,
                lambda: reporting.record_call(
                    caller.project_id, body, now=request.now, department=caller.department, rule=caller.rule
                ),
            )
        except IdTaken as error:
            raise Problem(409, "Conflict", f"The id {body.id} was used before, for another call.") from error
        except BadReport as error:
            raise bad_field(error.field, error.message) from error
        return Answer(answer, status=201 if is_new else 200)


class RunCost(Door):
    @endpoint(scope="read", answer=RunCosts)
    def get(self, request: Request, run_id: str) -> RunCosts:
        try:
            return ledger.run_costs(request.caller.project_id, run_id)
        except Run.DoesNotExist as error:
            raise Problem(404, "Not found", f"No run {run_id} has reported anything.") from error


class SpanOfTime(msgspec.Struct, kw_only=True):
    """From (inclusive) and to (exclusive)."""

    since: Aware | None = msgspec.field(default=None, name="from")
    until: Aware | None = msgspec.field(default=None, name="to")

    def within(self, *, now: datetime, back: timedelta) -> dict[str, Any]:
        """The period, by default the last `back`; raises a 400 when it is backward or too long."""
        for name, moment in (("from", self.since), ("to", self.until)):
            if moment is not None and not EARLIEST < moment < LATEST:
                raise bad_field(name, f"must lie between {EARLIEST.year} and {LATEST.year}")
        until = self.until or now + timedelta(minutes=1)
        since = self.since or until - back
        if since >= until:
            raise bad_field("from", "must lie before to")
        if until - since > LONGEST:
            raise bad_field("from", f"must lie at most {LONGEST.days} days before to")
        return {"since": since, "until": until}


class SummaryQuery(SpanOfTime, kw_only=True):
    period: Period = "daily"
    group_by: GroupBy = "model"


class CostSummary(Door):
    @endpoint(scope="read", query=SummaryQuery, answer=Summary)
    def get(self, request: Request, query: SummaryQuery) -> Summary:
        span = query.within(now=request.now, back=ledger.BACK[query.period])
        with patience.within(patience.SUMS_MS):
            return ledger.summary(
                request.caller.project_id, query.period, group_by=query.group_by, now=request.now, **span
            )


class DailyCosts(Door):
    @endpoint(scope="read", query=SpanOfTime, answer=list[DayCosts])
    def get(self, request: Request, query: SpanOfTime) -> list[DayCosts]:
        return ledger.daily(request.caller.project_id, **query.within(now=request.now, back=ledger.BACK["daily"]))


urlpatterns: list[URLPattern] = [
    path("calls", Calls.as_view()),
    path("runs/<path:run_id>/costs", RunCost.as_view()),
    path("costs/summary", CostSummary.as_view()),
    path("costs/daily", DailyCosts.as_view()),
    path("budgets", budgets.Budgets.as_view()),
    path("budgets/<uuid:budget_id>", budgets.OneBudget.as_view()),
    path("trips", trips.Trips.as_view()),
    path("trips/<uuid:trip_id>", trips.OneTrip.as_view()),
    path("trips/<uuid:trip_id>/reset", trips.Reset.as_view()),
]
