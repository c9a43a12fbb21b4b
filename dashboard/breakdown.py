"""What a range of time cost, bar by bar: split by model, agent or department."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

from dashboard import charts, words
from dashboard.charts import Grid
from dashboard.frame import Range
from monitor import rollups
from monitor.calendars import Calendar
from monitor.models import Budget, Project
from monitor.models.money import BudgetScope, Period
from monitor.rollups import Totals

ZERO = Decimal(0)
By = Literal["model", "agent", "department"]
CHOICES: tuple[By, ...] = ("model", "agent", "department")
# As many as there are colours; the rest is one more bar.
COLOURED = 5
LISTED = 12
MINUTES_UP_TO = timedelta(hours=6)
HOURS_UP_TO = timedelta(hours=48)
DAYS_UP_TO = timedelta(days=charts.MOST_BARS)
A_WEEK_S = 7 * charts.DAY_S


@dataclass(frozen=True, kw_only=True)
class Group:
    """What one model, agent or department adds; `swatch` is its colour's number, 0 for the others.

    `cost_usd` counts: of each call the larger of what was reported and what we computed.
    """

    name: str
    calls: int
    unpriced: int
    reported_usd: Decimal
    computed_usd: Decimal
    cost_usd: Decimal
    share: float = 0.0
    swatch: int = 0
    is_tool: bool = False

    @property
    def is_unknown(self) -> bool:
        """Nothing of it has a price."""
        return self.unpriced > 0 and self.cost_usd == 0


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    by: By
    step: str
    since: datetime
    total: Group
    groups: list[Group]
    more: int
    spec: dict[str, Any]

    @property
    def is_empty(self) -> bool:
        return not self.groups

    @property
    def summary(self) -> str:
        """The chart in words."""
        dearest = f", most of it {self.groups[0].name}" if self.groups else ""
        return f"{words.usd(self.total.cost_usd)} in {words.amount(self.total.calls)} calls{dearest}"


@dataclass(frozen=True)
class Steps:
    """How the range is cut: seconds, or days and weeks of the project's calendar."""

    word: str
    grid: Grid
    since: datetime
    calendar: Calendar | None = None


def breakdown(project: Project, span: Range, by: By, *, now: datetime) -> Breakdown:
    """The whole bars that cover the range, and what each group adds to them, the dearest first."""
    steps = _steps(span, project.time_zone)
    until = min(span.until, now) + timedelta(minutes=1)

    def read(kinds: list[str]) -> list[Totals]:
        return rollups.series(
            project.pk,
            since=steps.since,
            until=until,
            step_s=steps.grid.step_s,
            calendar=steps.calendar,
            time_zone=project.time_zone if steps.calendar else "UTC",
            kinds=kinds,
            group_by=by,
        )

    calls, tools = read(["llm"]), read(["tool"])
    groups, total = _groups(calls, tools, by)
    coloured = {group.name for group in groups if group.swatch}
    here = ZoneInfo(project.time_zone)
    points: dict[str, list[tuple[datetime, float]]] = {name: [] for name in _in_colour_order(groups)}
    for one in [*calls, *tools]:
        name = one.group or f"no {by}"
        at = charts.midnight(one.at.astimezone(here).date()) if steps.calendar else one.at
        points.setdefault(name if name in coloured else "others", []).append((at, float(one.cost_usd)))
    limit = _daily_limit(project.pk) if steps.calendar == "day" else None
    return Breakdown(
        by=by,
        step=steps.word,
        since=steps.since,
        total=total,
        groups=groups[:LISTED],
        more=max(0, len(groups) - LISTED),
        spec=charts.stacked(
            steps.grid,
            {name: found for name, found in points.items() if name in coloured or any(usd for _, usd in found)},
            limit=(float(limit), f"daily limit {words.usd_limit(limit)}") if limit else None,
        ),
    )


def _steps(span: Range, time_zone: str) -> Steps:
    length = span.until - span.since
    if length <= HOURS_UP_TO:
        step_s = 300 if length <= MINUTES_UP_TO else 3600
        grid = charts.grid(span.since, span.until, step_s)
        return Steps("5 minutes" if step_s == 300 else "hour", grid, grid.since)
    here = ZoneInfo(time_zone)
    first, last = span.since.astimezone(here).date(), span.until.astimezone(here).date()
    if length <= DAYS_UP_TO:
        word, calendar, grid = "day", "day", charts.day_grid(first, last)
    else:
        first -= timedelta(days=first.weekday())
        word, calendar, grid = "week", "week", charts.day_grid(first, last, A_WEEK_S)
    since = datetime(first.year, first.month, first.day, tzinfo=here)
    return Steps(word, grid, since, calendar)  # type: ignore[arg-type]


def _groups(calls: Iterable[Totals], tools: Iterable[Totals], by: By) -> tuple[list[Group], Group]:
    """The groups, the dearest first and the unpriced last, and their sum. Tools add to the cost only."""
    sums: dict[str, list[Any]] = defaultdict(lambda: [0, 0, ZERO, ZERO, ZERO])
    called = set()
    for one in calls:
        called.add(one.group)
        _add(sums[one.group], one.count, one)
    for one in tools:
        if one.cost_usd:
            _add(sums[one.group], 0, one)
    total = [sum(column) for column in zip(*sums.values(), strict=True)] or [0, 0, ZERO, ZERO, ZERO]
    found = []
    ranked = sorted(sums, key=lambda name: (-sums[name][4], sums[name][1], name))
    for place, name in enumerate(ranked, start=1):
        calls_n, unpriced, reported, computed, cost = sums[name]
        found.append(
            Group(
                name=name or f"no {by}",
                calls=calls_n,
                unpriced=unpriced,
                reported_usd=reported,
                computed_usd=computed,
                cost_usd=cost,
                share=float(cost / total[4]) if total[4] else 0.0,
                swatch=place if place <= COLOURED and cost else 0,
                is_tool=by == "model" and name not in called,
            )
        )
    whole = Group(
        name="all",
        calls=total[0],
        unpriced=total[1],
        reported_usd=total[2],
        computed_usd=total[3],
        cost_usd=total[4],
        share=1.0,
    )
    return found, whole


def _add(held: list[Any], calls: int, one: Totals) -> None:
    for at, value in enumerate((calls, one.unpriced, one.reported_usd, one.computed_usd, one.cost_usd)):
        held[at] += value


def _in_colour_order(groups: Iterable[Group]) -> list[str]:
    return [group.name for group in groups if group.swatch]


def _daily_limit(project_id: int) -> Decimal | None:
    return (
        Budget.objects.filter(project_id=project_id, scope=BudgetScope.PROJECT, period=Period.DAY)
        .values_list("limit_usd", flat=True)
        .first()
    )
