"""Financial trips over HTTP, the dearest first, and their reset."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.db.models import QuerySet

from monitor import commons, trips
from monitor.api.bodies import within_usd
from monitor.api.caller import Request
from monitor.api.door import Door, endpoint
from monitor.api.pages import PageQuery, paginate
from monitor.api.problems import Problem
from monitor.models import Trip
from monitor.models.money import BudgetScope


class TripOut(msgspec.Struct, kw_only=True):
    """A window that passed its limit: amounts in US dollars; open until `reset_at`.

    `reset_by` is empty where no person reset it: its window was over.
    """

    id: UUID
    scope: str
    target: str
    period: str
    window_starts_at: datetime
    total_cost_usd: Decimal
    threshold_usd: Decimal
    cost_by_model: dict[str, Any]
    call_count: int
    duration_ms: int
    is_global: bool
    reason: str
    tripped_at: datetime
    reset_at: datetime | None
    reset_by: str
    note: str
    top_up_usd: Decimal | None

    @classmethod
    def of(cls, trip: Trip) -> "TripOut":
        plain = {name: getattr(trip, name) for name in cls.__struct_fields__ if name != "is_global"}
        return cls(**plain, is_global=trip.scope == BudgetScope.GLOBAL)


class TripPage(msgspec.Struct):
    results: list[TripOut]
    next: str | None


class TripQuery(PageQuery, kw_only=True):
    status: Literal["open", "reset", ""] = ""
    scope: list[Literal["run", "agent", "department", "project", "global"]] = []


class ResetBody(msgspec.Struct, kw_only=True):
    """Why, and how much more may be spent; without `top_up_usd` the budget's limit once more."""

    note: Annotated[str, msgspec.Meta(max_length=10_000)] = ""
    top_up_usd: Decimal | None = None

    def __post_init__(self) -> None:
        within_usd(self.top_up_usd, "top_up_usd")


class Trips(Door):
    @endpoint(scope="read", query=TripQuery, answer=TripPage)
    def get(self, request: Request, query: TripQuery) -> TripPage:
        found = _visible(request)
        if query.status:
            found = found.filter(reset_at__isnull=query.status == "open")
        if query.scope:
            found = found.filter(scope__in=query.scope)
        rows, following = paginate(found, ("-total_cost_usd", "-id"), query, request)
        return TripPage([TripOut.of(trip) for trip in rows], following)


class OneTrip(Door):
    @endpoint(scope="read", answer=TripOut)
    def get(self, request: Request, trip_id: UUID) -> TripOut:
        return TripOut.of(_get(request, trip_id))


class Reset(Door):
    @endpoint(scope="operate", body=ResetBody, answer=TripOut, also=(409,))
    def post(self, request: Request, trip_id: UUID, body: ResetBody) -> TripOut:
        trip = _get(request, trip_id)
        try:
            done = trips.reset(
                trip,
                note=body.note,
                top_up_usd=body.top_up_usd,
                actor=request.caller.actor,
                project_id=request.caller.project_id,
                now=request.now,
            )
        except trips.ResetRefused as refusal:
            raise Problem(409, "Conflict", str(refusal), reset_at=refusal.trip.reset_at) from refusal
        return TripOut.of(done)


def _visible(request: Request) -> "QuerySet[Trip]":
    caller = request.caller
    return Trip.objects.filter(commons.visible(caller.project_id, is_instance_admin=caller.is_instance_admin))


def _get(request: Request, trip_id: UUID) -> Trip:
    trip = _visible(request).filter(pk=trip_id).first()
    if trip is None:
        raise Problem(404, "Not found")
    return trip
