"""Trips: budgets that were spent, the dearest first, and their reset by a person."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.db.models import Q
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from dashboard import words, written
from dashboard.access import PageRequest, page
from dashboard.amounts import usd_of
from monitor import trips as verbs
from monitor import windows
from monitor.models import Trip
from monitor.models.money import BudgetScope
from monitor.models.people import Role

PAGE_ROWS = 50
NOTE_CHARS = 10_000


@dataclass(frozen=True)
class TripRow:
    """A trip, the model that cost it most, and whether its window is over, so that it stops nobody any more."""

    trip: Trip
    name: str
    model: str
    model_usd: Decimal | None
    is_over: bool

    @property
    def lasted(self) -> timedelta:
        """How long the window had been spending."""
        return timedelta(milliseconds=self.trip.duration_ms)


@page
def trips(request: PageRequest) -> HttpResponse:
    """Every trip, `?status=open` only the open ones."""
    only_open = request.GET.get("status") == "open"
    found = Trip.objects.filter(request.visitor.sees)
    if only_open:
        found = found.filter(reset_at=None)
    after = _after(request.GET.get("after", ""))
    if after is not None:
        total, trip_id = after
        found = found.filter(Q(total_cost_usd__lt=total) | Q(total_cost_usd=total, id__lt=trip_id))
    rows = list(found.order_by("-total_cost_usd", "-id")[: PAGE_ROWS + 1])
    address = {"status": "open"} if only_open else {}
    following = ""
    if len(rows) > PAGE_ROWS:
        rows.pop()
        following = urlencode(address | {"after": f"{rows[-1].total_cost_usd:f}~{rows[-1].pk}"})
    context = {
        "rows": [_row(request, trip) for trip in rows],
        "only_open": only_open,
        "following": following,
        "is_later_page": after is not None,
        "may_act": request.visitor.may(Role.OPERATOR),
        "live_address": urlencode(address | ({"after": request.GET["after"]} if after else {})),
    }
    return TemplateResponse(request, "costs/_trips.html" if request.GET.get("part") else "costs/trips.html", context)


@page(role=Role.OPERATOR)
def reset(request: PageRequest, trip_id: UUID) -> HttpResponse:
    """The form of a reset, alone for a dialog; sent, it lets the spenders go on."""
    trip = Trip.objects.filter(request.visitor.sees, pk=trip_id).first()
    if trip is None:
        raise Http404
    context: dict[str, Any] = {"row": _row(request, trip), "trip": trip}
    if request.method == "POST":
        note = request.POST.get("note", "").strip()[:NOTE_CHARS]
        given = request.POST.get("top_up_usd", "").strip()
        top_up_usd = usd_of(given)
        if given and top_up_usd is None:
            return _form(request, context | {"note": note, "given": given, "is_wrong": True})
        return _reset(request, trip, note=note, top_up_usd=top_up_usd)
    return _form(request, context)


def _reset(request: PageRequest, trip: Trip, *, note: str, top_up_usd: Decimal | None) -> HttpResponse:
    name = _row(request, trip).name
    try:
        done = verbs.reset(
            trip,
            note=note,
            top_up_usd=top_up_usd,
            actor=request.visitor.person.email,
            project_id=request.visitor.project.pk,
            now=request.now,
        )
        messages.success(request, f"{name} may spend {words.usd(done.top_up_usd)} more.")
    except verbs.ResetRefused as refusal:
        first = refusal.trip
        when = words.ago(first.reset_at, now=request.now)
        said = f"{first.reset_by} was faster: {name} was reset {when}." if first.reset_by else f"{name}: {refusal}."
        messages.warning(request, said)
    return redirect("costs")


def _form(request: PageRequest, context: dict[str, Any]) -> HttpResponse:
    is_fragment = request.headers.get("HX-Request") == "true"
    return TemplateResponse(request, "costs/_reset.html" if is_fragment else "costs/reset.html", context)


def _row(request: PageRequest, trip: Trip) -> TripRow:
    costs = {model: Decimal(usd) for model, usd in trip.cost_by_model.items()}
    model = max(costs, key=lambda name: costs[name], default="")
    whose = {"project": "The project", "global": "All projects"}.get(trip.scope)
    name = whose or f"{trip.scope.capitalize()} {trip.target}"
    zone = "UTC" if trip.scope == BudgetScope.GLOBAL else request.visitor.project.time_zone
    ends_at = windows.ends_at(trip.period, zone, now=trip.window_starts_at)
    is_over = ends_at is not None and ends_at <= request.now
    return TripRow(trip, name, model, costs.get(model), is_over)


def _after(text: str) -> tuple[Decimal, UUID] | None:
    """The cursor of an address; None when somebody has written it by hand, wrongly."""
    total, _, trip_id = text.partition("~")
    amount, found = written.amount(total), written.uuid(trip_id)
    return (amount, found) if amount is not None and found else None
