"""Reading the books: what runs, periods and days cost, from rollups and run rows wherever they suffice."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec
from django.db.models import Sum

from monitor import rollups, rundays
from monitor.calendars import Calendar
from monitor.models import LedgerEntry, Project, Run
from monitor.rollups import Totals

ZERO = Decimal(0)
MOST_GROUPS = 500
CALLS = ("llm",)
TOOLS = ("tool",)
Period = Literal["hourly", "daily", "weekly", "monthly"]
GroupBy = Literal["model", "provider", "agent", "department", "run"]
CALENDARS: dict[str, Calendar] = {"daily": "day", "weekly": "week", "monthly": "month"}
BACK = {
    "hourly": timedelta(hours=24),
    "daily": timedelta(days=30),
    "weekly": timedelta(weeks=12),
    "monthly": timedelta(days=366),
}


class RunCosts(msgspec.Struct, kw_only=True):
    """What one run cost; `computed` is what we priced, `reported` what clients said, `total` the larger per call."""

    run_id: str
    total_cost_usd: Decimal
    reported_cost_usd: Decimal
    computed_cost_usd: Decimal
    total_calls: int
    failed_calls: int
    tool_calls: int
    unpriced_calls: int
    cost_by_model: dict[str, Decimal]
    input_tokens: int
    output_tokens: int
    avg_latency_ms: float | None
    duration_ms: int
    started_at: datetime
    ended_at: datetime
    tripped: bool


class Summed(msgspec.Struct, kw_only=True):
    """The sums of a period; tools add to the cost only."""

    total_calls: int
    total_cost_usd: Decimal
    reported_cost_usd: Decimal
    computed_cost_usd: Decimal
    avg_cost_usd: Decimal | None
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    total_tokens: int
    unpriced_calls: int
    avg_latency_ms: float | None
    success_rate: float | None


class ModelCosts(msgspec.Struct, kw_only=True):
    """What one model, or one tool that costs, adds to a period."""

    model: str
    calls: int
    cost_usd: Decimal
    avg_latency_ms: float | None


class GroupCosts(msgspec.Struct, kw_only=True):
    """What one group adds to a period."""

    group: str
    calls: int
    cost_usd: Decimal
    input_tokens: int
    output_tokens: int
    unpriced_calls: int
    avg_latency_ms: float | None
    success_rate: float | None


class PointCosts(msgspec.Struct, kw_only=True):
    """What one step of a series adds; `at` is its start."""

    at: datetime
    calls: int
    cost_usd: Decimal
    input_tokens: int
    output_tokens: int


class Summary(msgspec.Struct, kw_only=True):
    """A period's costs: in sum, by model, by the group that was asked for, and step by step."""

    period: str
    since: datetime
    until: datetime
    summary: Summed
    by_model: list[ModelCosts]
    groups: list[GroupCosts]
    series: list[PointCosts]


class DayCosts(msgspec.Struct, kw_only=True):
    """A day's costs in the project's time zone; `unique_runs` were active on it."""

    date: date
    total_cost_usd: Decimal
    total_calls: int
    unique_runs: int


def booked(run: Run) -> tuple[dict[str, Decimal], int]:
    """What the run cost by model or tool, and how many calls that were; reads the days of the run alone."""
    entries = LedgerEntry.objects.filter(
        project_id=run.project_id, run_id=run.run_id, occurred_at__gte=run.first_at, occurred_at__lte=run.last_at
    )
    by_model: dict[str, Decimal] = defaultdict(Decimal)
    calls = 0
    for model, tool, cost, count in entries.values_list("model", "tool").annotate(Sum("cost_usd"), Sum("calls")):
        by_model[model or tool] += cost
        calls += count
    return dict(sorted(by_model.items())), calls


def run_costs(project_id: int, run_id: str) -> RunCosts:
    """What a run cost so far. Raises Run.DoesNotExist."""
    run = Run.objects.get(project_id=project_id, run_id=run_id)
    by_model, _ = booked(run)
    return RunCosts(
        run_id=run.run_id,
        total_cost_usd=run.cost_usd,
        reported_cost_usd=run.reported_usd,
        computed_cost_usd=run.computed_usd,
        total_calls=run.calls,
        failed_calls=run.failed_calls,
        tool_calls=run.tool_calls,
        unpriced_calls=run.unpriced_calls,
        cost_by_model=by_model,
        input_tokens=run.input_tokens,
        output_tokens=run.output_tokens,
        avg_latency_ms=run.latency_ms / run.calls if run.calls else None,
        duration_ms=max(0, round((run.last_at - run.first_at).total_seconds() * 1000)),
        started_at=run.first_at,
        ended_at=run.last_at,
        tripped=run.tripped_at is not None,
    )


def summary(
    project_id: int,
    period: Period,
    *,
    now: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
    group_by: GroupBy = "model",
) -> Summary:
    """A period's costs, `since` (inclusive) to `until` (exclusive); its steps follow the project's calendar."""
    until = until or now + timedelta(minutes=1)
    since = since or until - BACK[period]
    models, tools = _by(project_id, "model", since, until)
    calendar = CALENDARS.get(period)
    zone = time_zone(project_id) if calendar else "UTC"
    steps = rollups.series(
        project_id,
        since=since,
        until=until,
        calendar=calendar,
        time_zone=zone,
        kinds=(*CALLS, *TOOLS),
        group_by="kind",
    )
    if group_by == "run":
        groups = _runs(project_id, since, until)
    else:
        groups = _groups(*(_by(project_id, group_by, since, until) if group_by != "model" else (models, tools)))
    paid_tools = [one for one in tools if one.cost_usd]
    return Summary(
        period=period,
        since=since,
        until=until,
        summary=_summed(_total(models, since), _total(tools, since)),
        by_model=[
            ModelCosts(model=one.group, calls=one.count, cost_usd=one.cost_usd, avg_latency_ms=one.avg_ms)
            for one in sorted([*models, *paid_tools], key=lambda one: (-one.cost_usd, one.group))
        ],
        groups=groups,
        series=_points(
            (one for one in steps if one.group in CALLS),
            {one.at: one.cost_usd for one in steps if one.group in TOOLS},
        ),
    )


def daily(project_id: int, *, since: datetime, until: datetime) -> list[DayCosts]:
    """Each day's costs, oldest first; days without a run are left out."""
    zone = time_zone(project_id)
    here = ZoneInfo(zone)
    costs: dict[date, Decimal] = defaultdict(Decimal)
    calls: dict[date, int] = defaultdict(int)
    for one in rollups.series(
        project_id, since=since, until=until, calendar="day", time_zone=zone, kinds=("llm", "tool"), group_by="kind"
    ):
        day = one.at.astimezone(here).date()
        costs[day] += one.cost_usd
        calls[day] += one.count if one.group == "llm" else 0
    first, last = (at.astimezone(here).date() for at in (since, until - timedelta(microseconds=1)))
    return [
        DayCosts(date=day, total_cost_usd=costs[day], total_calls=calls[day], unique_runs=runs)
        for day, runs in rundays.active(project_id, first, last, time_zone=zone).items()
        if runs or day in costs
    ]


def time_zone(project_id: int) -> str:
    """The project's time zone."""
    return Project.objects.values_list("time_zone", flat=True).get(pk=project_id)


def _by(
    project_id: int, group_by: rollups.GroupBy, since: datetime, until: datetime
) -> tuple[list[Totals], list[Totals]]:
    """What calls and what tools add up to, by group."""
    calls, tools = (
        rollups.totals(project_id, since=since, until=until, kinds=kinds, group_by=group_by) for kinds in (CALLS, TOOLS)
    )
    return calls, tools


def _total(groups: Sequence[Totals], since: datetime) -> Totals:
    """All groups together."""
    if not groups:
        return Totals(at=since)
    return Totals(at=since, **{name: sum(getattr(one, name) for one in groups) for name in rollups.SUMS})


def _summed(calls: Totals, tools: Totals) -> Summed:
    cost = calls.cost_usd + tools.cost_usd
    return Summed(
        total_calls=calls.count,
        total_cost_usd=cost,
        reported_cost_usd=calls.reported_usd + tools.reported_usd,
        computed_cost_usd=calls.computed_usd + tools.computed_usd,
        avg_cost_usd=(cost / calls.count).quantize(Decimal("1e-10")) if calls.count else None,
        input_tokens=calls.input_tokens,
        output_tokens=calls.output_tokens,
        cache_read_tokens=calls.cache_read_tokens,
        total_tokens=calls.input_tokens + calls.output_tokens,
        unpriced_calls=calls.unpriced,
        avg_latency_ms=calls.avg_ms,
        success_rate=_success_rate(calls),
    )


def _success_rate(totals: Totals) -> float | None:
    return None if totals.error_rate is None else 1 - totals.error_rate


def _groups(called: Iterable[Totals], used: Iterable[Totals]) -> list[GroupCosts]:
    calls, tools = ({one.group: one for one in found} for found in (called, used))
    groups = []
    for name in calls.keys() | {name for name, one in tools.items() if one.cost_usd}:
        one = calls[name] if name in calls else Totals(at=tools[name].at)
        groups.append(
            GroupCosts(
                group=name,
                calls=one.count,
                cost_usd=one.cost_usd + (tools[name].cost_usd if name in tools else ZERO),
                input_tokens=one.input_tokens,
                output_tokens=one.output_tokens,
                unpriced_calls=one.unpriced,
                avg_latency_ms=one.avg_ms,
                success_rate=_success_rate(one),
            )
        )
    return sorted(groups, key=lambda one: (-one.cost_usd, one.group))[:MOST_GROUPS]


def _runs(project_id: int, since: datetime, until: datetime) -> list[GroupCosts]:
    """The dearest runs that were active in the period, each with all that it cost."""
    runs = Run.objects.filter(project_id=project_id, last_at__gte=since, first_at__lt=until)
    return [
        GroupCosts(
            group=run.run_id,
            calls=run.calls,
            cost_usd=run.cost_usd,
            input_tokens=run.input_tokens,
            output_tokens=run.output_tokens,
            unpriced_calls=run.unpriced_calls,
            avg_latency_ms=run.latency_ms / run.calls if run.calls else None,
            success_rate=1 - run.failed_calls / run.calls if run.calls else None,
        )
        for run in runs.order_by("-cost_usd", "-run_id")[:MOST_GROUPS]
    ]


def _points(calls: Iterable[Totals], tools: dict[datetime, Decimal]) -> list[PointCosts]:
    by_step = {one.at: one for one in calls}
    return [
        PointCosts(
            at=at,
            calls=by_step[at].count if at in by_step else 0,
            cost_usd=(by_step[at].cost_usd if at in by_step else ZERO) + tools.get(at, ZERO),
            input_tokens=by_step[at].input_tokens if at in by_step else 0,
            output_tokens=by_step[at].output_tokens if at in by_step else 0,
        )
        for at in sorted(by_step.keys() | tools.keys())
    ]
