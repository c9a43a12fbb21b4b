"""How far budgets are spent, and when they will be: the rows of the costs page."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

from django.db.models import Count, F, Q, Window
from django.db.models.functions import RowNumber

from monitor import commons, rollups, windows
from monitor.models import Budget, BudgetWindow, Project, Trip
from monitor.models.money import BudgetAction, BudgetScope, Period
from monitor.together import Together
from monitor.windows import INSTANCE

ZERO = Decimal(0)
AN_HOUR = timedelta(hours=1)
A_DAY = timedelta(days=1)
# How many agents, departments or runs a general budget shows; the rest is counted.
SHOWN = 6
CURRENT = {Period.HOUR: "this hour", Period.DAY: "today", Period.WEEK: "this week", Period.MONTH: "this month"}
_SCOPES = (BudgetScope.PROJECT, BudgetScope.GLOBAL, BudgetScope.DEPARTMENT, BudgetScope.AGENT, BudgetScope.RUN)
_PERIODS = (Period.DAY, Period.MONTH, Period.WEEK, Period.HOUR, Period.RUN)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One window of a budget, or a general budget of which no window is open.

    `per_hour_usd` is the rate on which `reaches_at` rests; both are None where there is none to tell.
    """

    scope: str
    target: str
    period: str
    name: str
    aside: str
    limit_usd: Decimal
    warn_at: float
    stops: bool
    spent_usd: Decimal | None = None
    reserved_usd: Decimal = ZERO
    resets_at: datetime | None = None
    per_hour_usd: Decimal | None = None
    reaches_at: datetime | None = None
    tripped_at: datetime | None = None
    trip: Trip | None = None
    open_trips: int = 0

    @property
    def id(self) -> str:
        return f"{self.scope}:{self.target}:{self.period}"

    @property
    def left_usd(self) -> Decimal:
        return max(ZERO, self.limit_usd - (self.spent_usd or ZERO) - self.reserved_usd)

    @property
    def share(self) -> float | None:
        """What is spent as a share of the limit, may exceed 1; None without a window."""
        if self.spent_usd is None:
            return None
        return float(self.spent_usd / self.limit_usd) if self.limit_usd else float(self.spent_usd > 0)

    @property
    def reserved_share(self) -> float:
        return float(self.reserved_usd / self.limit_usd) if self.limit_usd else 0.0

    @property
    def tone(self) -> str:
        """Red where a person must act, amber from the warning on, else the colour of money."""
        if self.tripped_at is not None and self.stops:
            return "red"
        return "amber" if (self.share or 0) >= self.warn_at else "s2"

    @property
    def is_over(self) -> bool:
        return (self.share or 0) >= 1

    @property
    def not_within(self) -> str:
        """`not today`, for a limit that is not reached before the window is over."""
        return f"not {CURRENT[Period(self.period)]}" if self.resets_at else ""


@dataclass(frozen=True)
class Standing:
    """All that the budgets say now; `today` is the project's day, also without a budget (then with limit None)."""

    rows: list[Row]
    more: list[str]
    open_trips: int
    today: "Today"

    @property
    def refusing(self) -> "Row | None":
        """The tripped budget, besides the day's, that refuses every call of the project now."""
        whole = (BudgetScope.PROJECT, BudgetScope.GLOBAL)
        tripped = (row for row in self.rows if row.scope in whole and row.tone == "red" and row != self.today.limit)
        return next(tripped, None)

    @property
    def is_tripped(self) -> bool:
        """Whether something is refused now; trips may also be open from windows that are over."""
        return any(row.tone == "red" for row in self.rows)

    @property
    def has_reserved(self) -> bool:
        return any(row.reserved_usd for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Today:
    spent_usd: Decimal
    per_hour_usd: Decimal
    limit: Row | None
    resets_at: datetime


@dataclass
class Rates:
    """US dollars an hour over the last hour and the last day, by scope and target."""

    by_hour: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    by_day: dict[tuple[str, str], Decimal] = field(default_factory=dict)

    def of(self, scope: str, target: str, period: str) -> Decimal:
        """Hours and days are judged by the last hour, weeks and months by the last day, nights included."""
        rates = self.by_hour if period in (Period.HOUR, Period.DAY) else self.by_day
        return rates.get((scope, target), ZERO)


def reached_at(left_usd: Decimal, per_hour_usd: Decimal, *, now: datetime, until: datetime) -> datetime | None:
    """When what is left is spent at this rate; None when that is not before `until`."""
    if per_hour_usd <= 0 or left_usd > per_hour_usd * Decimal((until - now) / AN_HOUR):
        return None
    return now + timedelta(hours=float(left_usd / per_hour_usd))


def standing(project: Project, *, is_instance_admin: bool, now: datetime) -> Standing:
    """Where each budget that the visitor may see stands, the most spent first."""
    seen = commons.visible(project.pk, is_instance_admin=is_instance_admin)
    budgets = list(Budget.objects.filter(seen).order_by("id"))
    trips = _open_trips(seen)
    held = _windows(project, budgets, trips, now=now)
    rates = _rates(project.pk, {budget.scope for budget in budgets}, now=now)
    by_window = {(trip.scope, trip.target, trip.period, trip.window_starts_at): trip for trip in trips}
    own = {(budget.scope, budget.period, budget.target) for budget in budgets if budget.target}
    rows: list[Row] = []
    more: list[str] = []
    for budget in budgets:
        fitting = _of(budget, held, own)
        is_general = _is_general(budget)
        shown = fitting[:SHOWN] if is_general else fitting
        rows += [_row(project, budget, window, by_window, rates, now=now) for window in shown]
        if not shown or (is_general and budget.scope == BudgetScope.RUN):
            rows.append(_waiting_row(project, budget, trips, now=now))
        elif is_general:
            more += _more(budget, held, own, len(shown))
    rows.sort(key=_order)
    today = _today(project, rows, held, rates, now=now)
    return Standing(rows, more, sum(_open(trips, scope) for scope in _SCOPES), today)


def _today(
    project: Project, rows: Iterable[Row], held: Iterable[BudgetWindow], rates: Rates, *, now: datetime
) -> Today:
    of_day = (BudgetScope.PROJECT, Period.DAY)
    window = next((one for one in held if (one.scope, one.period) == of_day), None)
    ends_at = windows.ends_at(Period.DAY, project.time_zone, now=now)
    assert ends_at is not None  # only a run has no end
    return Today(
        spent_usd=window.spent_usd if window else ZERO,
        per_hour_usd=rates.of(BudgetScope.PROJECT, "", Period.DAY),
        limit=next((row for row in rows if (row.scope, row.period) == of_day), None),
        resets_at=ends_at,
    )


def _is_general(budget: Budget) -> bool:
    return not budget.target and budget.scope not in (BudgetScope.PROJECT, BudgetScope.GLOBAL)


def _zone(project: Project, scope: str) -> str:
    return "UTC" if scope == BudgetScope.GLOBAL else project.time_zone


def _windows(
    project: Project, budgets: Iterable[Budget], trips: Iterable[Trip], *, now: datetime
) -> list[BudgetWindow]:
    """The windows that are open now, the most spent first: of each scope and period the first few, and the named."""
    wanted = {(budget.scope, budget.period) for budget in budgets if budget.scope != BudgetScope.RUN}
    tripped_runs = [one.target for one in trips if one.scope == BudgetScope.RUN]
    condition = Q(project_id=project.pk, scope=BudgetScope.RUN, target__in=tripped_runs)
    for scope, period in wanted | {(BudgetScope.PROJECT, Period.DAY)}:
        condition |= Q(
            project_id=INSTANCE if scope == BudgetScope.GLOBAL else project.pk,
            scope=scope,
            period=period,
            starts_at=windows.starts_at(period, _zone(project, scope), now=now),
        )
    named = [budget.target for budget in budgets if budget.target]
    alike = [F("scope"), F("period")]
    ranked = BudgetWindow.objects.filter(condition).annotate(
        place=Window(RowNumber(), partition_by=alike, order_by=[F("spent_usd").desc(), F("target").asc()]),
        of=Window(Count("*"), partition_by=alike),
    )
    # The named ones may stand before the others and must not push them out.
    most = SHOWN + len(named)
    return list(ranked.filter(Q(place__lte=most) | Q(target__in=named)).order_by("-spent_usd", "target"))


def _open_trips(whose: Q) -> list[Trip]:
    """The newest open trips of each scope, each with the number of all of them."""
    ranked = Trip.objects.filter(whose, reset_at=None).annotate(
        place=Window(RowNumber(), partition_by=[F("scope")], order_by=F("tripped_at").desc()),
        of=Window(Count("*"), partition_by=[F("scope")]),
    )
    return list(ranked.filter(place__lte=SHOWN * 10).order_by("-tripped_at"))


def _open(trips: Iterable[Trip], scope: str) -> int:
    return next((trip.of for trip in trips if trip.scope == scope), 0)  # type: ignore[attr-defined]


def _rates(project_id: int, scopes: set[str], *, now: datetime) -> Rates:
    """The project's own rate always; of agents and departments where they have budgets."""
    groups: tuple[Literal["department", "agent"], ...] = ("department", "agent")
    by: tuple[Literal["department", "agent", ""], ...] = tuple(one for one in groups if one in scopes) or ("",)
    with Together() as asked:
        found = {
            (group, span): rollups.totals(
                project_id,
                since=now - span,
                until=now + timedelta(minutes=1),
                kinds=["llm", "tool"],
                group_by=group,
                within=asked,
            )
            for group in by
            for span in (AN_HOUR, A_DAY)
        }
    rates = Rates()
    for (group, span), totals in found.items():
        known, hours = rates.by_hour if span == AN_HOUR else rates.by_day, Decimal(span / AN_HOUR)
        known.update({(group, one.group): one.cost_usd / hours for one in totals})
        known[BudgetScope.PROJECT, ""] = sum((one.cost_usd for one in totals), ZERO) / hours
    return rates


def _of(budget: Budget, held: Iterable[BudgetWindow], own: set[tuple[str, str, str]]) -> list[BudgetWindow]:
    """The windows that a budget binds: its target's, or those of all that have no budget of their own."""
    alike = [one for one in held if (one.scope, one.period) == (budget.scope, budget.period)]
    if _is_general(budget):
        return [one for one in alike if (one.scope, one.period, one.target) not in own]
    return [one for one in alike if one.target == budget.target]


def _more(budget: Budget, held: Iterable[BudgetWindow], own: set[tuple[str, str, str]], shown: int) -> list[str]:
    """How many a general budget binds besides the shown ones, in words."""
    alike = [one for one in held if (one.scope, one.period) == (budget.scope, budget.period)]
    named = sum((one.scope, one.period, one.target) in own for one in alike)
    hidden = max((one.of for one in alike), default=0) - named - shown  # type: ignore[attr-defined]
    return [f"{hidden:,} more {budget.scope}{'s' if hidden > 1 else ''}, {budget.period}"] if hidden > 0 else []


def _row(
    project: Project,
    budget: Budget,
    window: BudgetWindow,
    trips: dict[tuple[str, str, str, datetime], Trip],
    rates: Rates,
    *,
    now: datetime,
) -> Row:
    limit = budget.limit_usd + window.top_up_usd
    ends_at = windows.ends_at(budget.period, _zone(project, budget.scope), now=now)
    left = limit - window.spent_usd - window.reserved_usd
    rate = None
    if ends_at is not None and budget.scope == BudgetScope.GLOBAL:
        # What other projects spend an hour is theirs; the window knows the mean since it began.
        rate = window.spent_usd / max(Decimal((now - window.starts_at) / AN_HOUR), Decimal("0.25"))
    elif ends_at is not None:
        rate = rates.of(budget.scope, window.target, budget.period)
    name, aside = _named(project, budget, window.target, now=now)
    return Row(
        scope=budget.scope,
        target=window.target,
        period=budget.period,
        name=name,
        aside=aside,
        limit_usd=limit,
        warn_at=budget.warn_at,
        stops=budget.action == BudgetAction.STOP,
        spent_usd=window.spent_usd,
        reserved_usd=window.reserved_usd,
        resets_at=ends_at,
        per_hour_usd=rate,
        reaches_at=reached_at(left, rate, now=now, until=ends_at) if rate and ends_at and left > 0 else None,
        tripped_at=window.tripped_at,
        trip=trips.get((window.scope, window.target, window.period, window.starts_at)),
    )


def _waiting_row(project: Project, budget: Budget, trips: Iterable[Trip], *, now: datetime) -> Row:
    """A budget without an open window of its own: nothing is spent, or it speaks for each of many."""
    name, aside = _named(project, budget, budget.target, now=now)
    is_general = _is_general(budget)
    return Row(
        scope=budget.scope,
        target=budget.target,
        period=budget.period,
        name=f"Each {budget.scope}" if is_general else name,
        aside=("" if budget.period == Period.RUN else str(budget.period)) if is_general else aside,
        limit_usd=budget.limit_usd,
        warn_at=budget.warn_at,
        stops=budget.action == BudgetAction.STOP,
        spent_usd=None if is_general else ZERO,
        resets_at=None if is_general else windows.ends_at(budget.period, _zone(project, budget.scope), now=now),
        # Trips of other scopes may be of windows that are over.
        open_trips=_open(trips, BudgetScope.RUN) if budget.scope == BudgetScope.RUN and is_general else 0,
    )


def _named(project: Project, budget: Budget, target: str, *, now: datetime) -> tuple[str, str]:
    """`Project, November` and nothing, `Sales` and `department, month`."""
    if budget.scope in (BudgetScope.PROJECT, BudgetScope.GLOBAL):
        whose = "Project" if budget.scope == BudgetScope.PROJECT else "All projects"
        here = now.astimezone(ZoneInfo(_zone(project, budget.scope)))
        return f"{whose}, {f'{here:%B}' if budget.period == Period.MONTH else CURRENT[Period(budget.period)]}", ""
    if budget.scope == BudgetScope.RUN:
        return target, "run"
    return target, f"{budget.scope}, {budget.period}"


def _order(row: Row) -> tuple[int, int, int, float, str]:
    """By scope; project and instance by period, the others by how much is spent."""
    scope, period = _SCOPES.index(BudgetScope(row.scope)), _PERIODS.index(Period(row.period))
    is_whole = row.scope in (BudgetScope.PROJECT, BudgetScope.GLOBAL)
    return scope, period if is_whole else 0, int(row.spent_usd is None), -(row.share or 0.0), row.name
