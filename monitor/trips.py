"""Trips: the financial stop of a window that passed its limit, and the person's reset."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import F

from monitor import changes, commons, executions, ledger, news, queue, rollups, transitions
from monitor.models import Budget, BudgetWindow, Execution, Run, Subject, Trip
from monitor.models.money import BudgetScope, Period
from monitor.models.queue import ItemKind, ItemStatus
from monitor.tenancy import tenant
from monitor.windows import INSTANCE, Key

ZERO = Decimal(0)
MOST_TOP_UP_USD = Decimal(1_000_000)


class ResetRefused(Exception):
    """The trip stays as it is: it has been reset already, or its window is over."""

    def __init__(self, trip: Trip) -> None:
        reset = f"it was reset at {trip.reset_at:%Y-%m-%d %H:%M} UTC by {trip.reset_by}"
        super().__init__(reset if trip.reset_by else f"its {trip.period} is over, and calls are allowed again")
        self.trip = trip


def trip(project_id: int, key: Key, *, spent_usd: Decimal, threshold_usd: Decimal, now: datetime) -> Trip:
    """Stop what a window holds: an event, a critical alert's cause, an item for people; a run's work is cancelled.

    The caller holds the window's row, so that it trips once. Where a trip is open already, whatever became of the
    window since, that one stops it: people are asked once.
    """
    owner_id = None if key.project_id == INSTANCE else project_id
    named = {"scope": key.scope, "target": key.target, "period": key.period, "window_starts_at": key.starts_at}
    stopped = Trip.objects.filter(project=owner_id, **named, reset_at=None).first()
    if stopped is None:
        stopped = _open(project_id, key, spent_usd=spent_usd, threshold_usd=threshold_usd, now=now)
    if key.scope == BudgetScope.RUN:
        Run.objects.filter(project_id=project_id, run_id=key.target, tripped_at=None).update(tripped_at=now)
        stop_run(project_id, key.target, reason=stopped.reason, now=now)
    return stopped


def _open(project_id: int, key: Key, *, spent_usd: Decimal, threshold_usd: Decimal, now: datetime) -> Trip:
    """Make the trip of a window, and tell of it."""
    by_model, calls, began = _spending(project_id, key, now=now)
    is_global = key.project_id == INSTANCE
    whose = "all projects" if is_global else f"{key.scope} {key.target}".strip()
    what = whose + ("" if key.period == Period.RUN else f", this {key.period}")
    reason = f"{what}: {spent_usd:.2f} of {threshold_usd:.2f} US dollars spent"
    made = Trip.objects.create(
        project_id=None if is_global else project_id,
        scope=key.scope,
        target=key.target,
        period=key.period,
        window_starts_at=key.starts_at,
        total_cost_usd=spent_usd,
        threshold_usd=threshold_usd,
        cost_by_model=by_model,
        call_count=calls,
        duration_ms=max(0, int((now - began).total_seconds() * 1000)),
        reason=reason,
        tripped_at=now,
    )
    evidence: dict[str, Any] = {
        "trip_id": str(made.id),
        "scope": key.scope,
        "target": key.target,
        "period": key.period,
        "cost_by_model": by_model,
        "call_count": calls,
        "is_global": is_global,
        "run_id": key.target if key.scope == BudgetScope.RUN else "",
        "agent": key.target if key.scope == BudgetScope.AGENT else "",
    }
    sums = {"total_cost_usd": f"{spent_usd:f}", "threshold_usd": f"{threshold_usd:f}"}
    changes.record(
        project_id, Subject.TRIP, made.id, to_state="open", cause="budget", now=now, note=reason, data=evidence | sums
    )
    queue.open_item(
        project_id,
        ItemKind.TRIP,
        made.id,
        # Everybody of the project sees the item; what all projects spend is for the instance's admins.
        title=f"Budget tripped: {what if is_global else reason}",
        trigger="budget",
        evidence=evidence if is_global else evidence | sums,
        agent=evidence["agent"],
        now=now,
    )
    return made


def reset(trip: Trip, *, note: str, top_up_usd: Decimal | None, actor: str, project_id: int, now: datetime) -> Trip:
    """Let the window's spenders go on: by `top_up_usd` more, else by the budget's limit once more.

    Counted from what is spent by now, for what came in after the trip was spent as well; from nothing where the window
    is kept no more. `project_id` is where it is reset; a global trip may have tripped in another project. Raises
    ResetRefused.
    """
    if trip.scope == BudgetScope.RUN:
        # Whoever spends takes the run before its window.
        Run.objects.select_for_update(no_key=True).filter(project_id=project_id, run_id=trip.target).first()
    window = _held(trip, project_id)
    limit_usd = _limit_usd(trip)
    granted_usd = limit_usd if top_up_usd is None else top_up_usd
    allowance_usd = max(limit_usd + window.top_up_usd, window.spent_usd) + granted_usd
    moved = Trip.objects.filter(pk=trip.pk, reset_at=None).update(
        reset_at=now, reset_by=actor, note=note, top_up_usd=granted_usd
    )
    trip.refresh_from_db()
    if moved == 0:
        raise ResetRefused(trip)
    BudgetWindow.objects.filter(**_window(trip, project_id)).update(
        top_up_usd=allowance_usd - limit_usd, tripped_at=None
    )
    if trip.scope == BudgetScope.RUN:
        Run.objects.filter(project_id=project_id, run_id=trip.target).update(tripped_at=None)
    _tell_reset(commons.home(trip) or project_id, trip, now=now)
    news.tell(project_id, "costs", str(trip.id))
    return trip


def _tell_reset(project_id: int, trip: Trip, *, now: datetime) -> None:
    """Close the item and settle the alert where the window tripped, which need not be where it is reset."""
    with tenant(project_id):
        changes.record(
            project_id,
            Subject.TRIP,
            trip.id,
            from_state="open",
            to_state="reset",
            cause="reset",
            actor=trip.reset_by,
            note=trip.note,
            now=now,
            data={"top_up_usd": f"{trip.top_up_usd:f}", "scope": trip.scope, "target": trip.target},
        )
        queue.close_for(
            project_id,
            ItemKind.TRIP,
            trip.id,
            status=ItemStatus.RESOLVED,
            outcome="reset",
            note=trip.note,
            now=now,
            actor=trip.reset_by,
        )


def _held(trip: Trip, project_id: int) -> BudgetWindow:
    """The window of an open trip, locked; made where it is gone, so that a call that begins it again waits.

    Whoever changes the time zone takes it too, and the trip may be another's by the time it is ours. Raises
    ResetRefused.
    """
    while trip.reset_at is None:
        window, _ = BudgetWindow.objects.select_for_update().get_or_create(**_window(trip, project_id))
        trip.refresh_from_db()
        if trip.reset_at is None and trip.window_starts_at == window.starts_at:
            return window
    raise ResetRefused(trip)


def _window(trip: Trip, project_id: int) -> dict[str, Any]:
    return {
        "project_id": INSTANCE if trip.scope == BudgetScope.GLOBAL else project_id,
        "scope": trip.scope,
        "target": trip.target,
        "period": trip.period,
        "starts_at": trip.window_starts_at,
    }


def _limit_usd(trip: Trip) -> Decimal:
    """The budget's limit as it is now; what the trip remembers when the budget is gone."""
    budget = (
        Budget.objects.filter(
            project=trip.project_id, scope=trip.scope, period=trip.period, target__in=[trip.target, ""]
        )
        if trip.project_id
        else Budget.objects.filter(project=None, scope=trip.scope, period=trip.period)
    )
    binding = budget.order_by(F("target").desc()).first()
    return trip.threshold_usd if binding is None else binding.limit_usd


def _spending(project_id: int, key: Key, *, now: datetime) -> tuple[dict[str, str], int, datetime]:
    """What the window holds by model, how many calls, and since when; of a global one this project's share."""
    if key.scope == BudgetScope.RUN:
        run = Run.objects.get(project_id=project_id, run_id=key.target)
        by_model, calls = ledger.booked(run)
        began = run.first_at
    else:
        groups = rollups.totals(
            project_id,
            since=key.starts_at,
            until=now.replace(second=0, microsecond=0) + rollups.MINUTE * 6,
            kinds=("llm", "tool"),
            group_by="model",
            agent=key.target if key.scope == BudgetScope.AGENT else None,
            department=key.target if key.scope == BudgetScope.DEPARTMENT else None,
        )
        began = key.starts_at
        by_model = {one.group: one.cost_usd for one in groups}
        calls = sum(one.count for one in groups)
    return {name: f"{cost:f}" for name, cost in sorted(by_model.items()) if cost}, calls, began


def stop_run(project_id: int, run_id: str, *, reason: str, now: datetime) -> list[UUID]:
    """Cancel the open executions of a run, as far as somebody listens; return which."""
    stopped = []
    found = Execution.objects.of(project_id).open().filter(run_id=run_id, from_spans=False)
    for execution_id in found.order_by("id").values_list("id", flat=True):
        try:
            executions.cancel(project_id, execution_id, now=now, actor="budget", note=reason, cause="budget")
        except transitions.IllegalMove:
            continue  # it ended meanwhile, by itself or with its parent
        stopped.append(execution_id)
    return stopped
