"""When the news of a budget is over: its window has ended, or there is room in it again.

Many things make room: a limit is raised or taken away, a person grants more, the window renews, the run is done. So
nobody is asked to say so; whoever holds an open piece of news looks here.
"""

from datetime import datetime, timedelta
from decimal import Decimal

from django.db.models import Exists, F, OuterRef

from monitor import windows
from monitor.models import Budget, BudgetWindow, Execution, Project, Run, Trip
from monitor.models.money import BudgetAction, BudgetScope, Period
from monitor.windows import INSTANCE, Key

# A run has no end of its own: it is done when nothing of it is open and it has spent nothing for so long.
RUN_IS_DONE_AFTER = timedelta(minutes=15)
RENEWED = "the budget has renewed"
GONE = "the budget is gone"
ROOM = "the budget has room again"


def allow_anew(budget: Budget) -> None:
    """Where a limit that was just set leaves room, a window may warn and be passed again.

    A window that was passed while nothing stopped it is open to a trip, once its budget stops.
    """
    owner = INSTANCE if budget.project_id is None else budget.project_id
    held = BudgetWindow.objects.filter(project_id=owner, scope=budget.scope, period=budget.period)
    if budget.target:
        held = held.filter(target=budget.target)
    held.filter(warned_at__isnull=False, spent_usd__lt=_warns_at_usd(budget)).update(warned_at=None)
    stopped = Trip.objects.filter(
        project=budget.project_id,
        scope=OuterRef("scope"),
        target=OuterRef("target"),
        period=OuterRef("period"),
        window_starts_at=OuterRef("starts_at"),
        reset_at=None,
    )
    passed = held.filter(~Exists(stopped), tripped_at__isnull=False)
    if budget.action != BudgetAction.STOP:
        passed = passed.filter(spent_usd__lt=budget.limit_usd + F("top_up_usd"))
    passed.update(tripped_at=None)


def of_warning(project_id: int, key: Key, *, now: datetime) -> str:
    """Why nobody needs the warning of a window any more; "" while somebody does."""
    if reason := _of_window(project_id, key, now=now):
        return reason
    budget = _binding(project_id, key)
    if budget is None:
        return GONE
    window = BudgetWindow.objects.get(**key._asdict())
    if window.tripped_at is not None:
        return "its limit was passed since, which is told by itself"
    return ROOM if window.spent_usd < _warns_at_usd(budget) else ""


def of_excess(project_id: int, key: Key, *, now: datetime) -> str:
    """Why nobody needs to know any more that a window is exceeded; "" while somebody does."""
    if reason := _of_window(project_id, key, now=now):
        return reason
    budget = _binding(project_id, key)
    if budget is None:
        return GONE
    if budget.action == BudgetAction.STOP:
        return "the budget stops by now, which is told by itself"
    window = BudgetWindow.objects.get(**key._asdict())
    return ROOM if window.spent_usd < budget.limit_usd + window.top_up_usd else ""


def _of_window(project_id: int, key: Key, *, now: datetime) -> str:
    if not BudgetWindow.objects.filter(**key._asdict()).exists():
        return "the window is no longer kept"
    if key.period != Period.RUN:
        return RENEWED if key.starts_at != _began(project_id, key.scope, key.period, now=now) else ""
    if Execution.objects.of(project_id).open().filter(run_id=key.target).exists():
        return ""
    run = Run.objects.filter(project_id=project_id, run_id=key.target)
    return "" if run.filter(last_at__gt=now - RUN_IS_DONE_AFTER).exists() else "the run is done"


def _began(project_id: int, scope: str, period: str, *, now: datetime) -> datetime:
    is_global = scope == BudgetScope.GLOBAL
    zone = "UTC" if is_global else Project.objects.values_list("time_zone", flat=True).get(pk=project_id)
    return windows.starts_at(period, zone, now=now)


def _binding(project_id: int, key: Key) -> Budget | None:
    """The budget that binds the window: the target's own before the general one."""
    owner = None if key.project_id == INSTANCE else project_id
    found = Budget.objects.filter(project=owner, scope=key.scope, period=key.period, target__in=["", key.target])
    return found.order_by("-target").first()


def _warns_at_usd(budget: Budget) -> Decimal:
    return budget.limit_usd * Decimal(str(budget.warn_at))
