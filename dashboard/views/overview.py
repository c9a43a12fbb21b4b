"""The overview: what is wrong now, what waits for a person, and how the fleet is doing."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Count, Min, Q
from django.http import Http404, HttpResponse
from django.template.response import TemplateResponse

from alerts.models import Alert, AlertStatus, Level
from dashboard import charts, feed, waiting
from dashboard.access import PageRequest, page
from dashboard.arrival import is_empty
from dashboard.frame import Range, range_of
from dashboard.spending import reached_at
from dashboard.views.first_run import first_run
from monitor import rollups, standstill
from monitor.models import Budget, BudgetWindow, Execution, HumanAgent, QueueItem
from monitor.models.executions import WATCHED, Status
from monitor.models.money import BudgetScope, Period
from monitor.models.queue import ItemStatus
from monitor.standstill import Still

NEEDS_SHOWN = 6
AGENTS_SHOWN = 6
A_WEEK = timedelta(days=7)
AN_HOUR = timedelta(hours=1)
ERRORS_AMBER, ERRORS_RED = 0.10, 0.25


@page
def overview(request: PageRequest) -> HttpResponse:
    """The whole page, or with `?part=` one of its live parts; a project without any data shows how to send some."""
    span = range_of(request.GET, now=request.now)
    part = request.GET.get("part")
    if part is None and is_empty(request.visitor.project.pk):
        return first_run(request)
    if part is not None and part not in PARTS:
        raise Http404
    context: dict[str, Any] = {"part": part, "query": f"range={span.key}"}
    for name, build in PARTS.items():
        if part in (None, name):
            context |= build(request, span)
    template = "overview/page.html" if part is None else f"overview/_{part}.html"
    return TemplateResponse(request, template, context)


def needs(request: PageRequest, span: Range) -> dict[str, Any]:
    """What waits for a person, most urgent first, and the sentence above it."""
    project_id = request.visitor.project.pk
    human = request.visitor.human
    pending = QueueItem.objects.filter(project_id=project_id, status=ItemStatus.PENDING)
    total = pending.count()
    first = pending.select_related("conversation", "assignee__person").order_by("-priority", "requested_at")
    rows = waiting.rows(first[:NEEDS_SHOWN], me=human)
    quiet = None if rows else _quiet(project_id, human, now=request.now)
    return {
        "needs": rows,
        "needs_total": total,
        "needs_more": total - len(rows),
        "why": f"{rows[0].sentence(now=request.now)} {waiting.threatens(rows[0], now=request.now)}" if rows else "",
        "quiet": quiet,
        "firing": Alert.objects.filter(project_id=project_id, status=AlertStatus.FIRING).aggregate(
            total=Count("pk"), critical=Count("pk", filter=Q(level=Level.CRITICAL))
        ),
    }


@dataclass(frozen=True)
class Quiet:
    """Nothing waits: since when, what was last, what today brought."""

    since: datetime | None
    last: str
    finished_today: int
    running: int


def _quiet(project_id: int, human: HumanAgent | None, *, now: datetime) -> Quiet:
    last = (
        QueueItem.objects.filter(project_id=project_id, closed_at__isnull=False)
        .select_related("conversation", "assignee__person")
        .order_by("-closed_at")
        .first()
    )
    words_of_last = ""
    if last is not None:
        row = waiting.rows([last], me=human)[0]
        words_of_last = f"{row.kind_word}: {row.name}, {last.get_status_display().lower()}"
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    finished = _one(rollups.totals(project_id, since=today, until=_up_to(now), kinds=["execution"]))
    executions = Execution.objects.of(project_id)
    return Quiet(
        since=last.closed_at if last else None,
        last=words_of_last,
        finished_today=finished.count if finished else 0,
        running=executions.filter(status=Status.RUNNING).count(),
    )


def strip(request: PageRequest, span: Range) -> dict[str, Any]:
    """The six figures: waiting, alerts, running, error rate, p95, spend today; each leads to its rows."""
    project, now = request.visitor.project, request.now
    waits = QueueItem.objects.filter(project=project, status=ItemStatus.PENDING).aggregate(
        count=Count("pk"), oldest=Min("requested_at")
    )
    alerts = Alert.objects.filter(project=project, status=AlertStatus.FIRING).aggregate(
        critical=Count("pk", filter=Q(level=Level.CRITICAL)),
        warning=Count("pk", filter=Q(level=Level.WARNING)),
        info=Count("pk", filter=Q(level=Level.INFO)),
    )
    silent = standstill.chosen([Still.SILENT], now=now)
    open_now = (
        Execution.objects.of(project.pk)
        .filter(status__in=WATCHED)
        .aggregate(
            running=Count("id", filter=Q(status=Status.RUNNING)),
            stalled=Count("id", filter=standstill.chosen([Still.STALLED], now=now) & ~silent),
            silent=Count("id", filter=silent),
            retrying=Count("id", filter=Q(status=Status.RETRYING) & ~silent),
        )
    )
    hour = _one(
        rollups.totals(project.pk, since=now - AN_HOUR, until=_up_to(now), kinds=["execution"], with_latency=True)
    )
    before = _one(rollups.totals(project.pk, since=now - A_WEEK - AN_HOUR, until=now - A_WEEK, kinds=["execution"]))
    steps = rollups.series(
        project.pk,
        since=now - AN_HOUR * 24,
        until=_up_to(now),
        step_s=3600,
        kinds=["execution"],
        with_latency=True,
    )
    return {
        "waits": waits,
        "alert_counts": alerts,
        "alerts_open": sum(alerts.values()),
        "open_now": open_now,
        "troubled": ", ".join(
            f"{open_now[name]} {word}"
            for name, word in (("stalled", "stalled"), ("silent", "zombie"), ("retrying", "retrying"))
            if open_now[name]
        ),
        "hour": hour,
        "p95_s": _seconds(hour.p95_ms if hour else None),
        "errors_against_last_week": _against(hour, before),
        "errors_tone": _errors_tone(hour),
        "spend": spend_today(project.pk, project.time_zone, now=now),
        "spark_count": [one.count for one in steps],
        "spark_errors": [one.error_rate or 0 for one in steps],
        "spark_p95": [one.p95_ms or 0 for one in steps],
    }


@dataclass(frozen=True)
class Spend:
    """Today's spend against the project's daily budget; `per_hour_usd` is the rate of the last hour."""

    spent_usd: Decimal
    limit_usd: Decimal | None
    per_hour_usd: Decimal
    reaches_limit_at: datetime | None
    by_hour: list[float]

    @property
    def tone(self) -> str:
        if self.limit_usd is None or self.limit_usd <= 0:
            return ""
        share = self.spent_usd / self.limit_usd
        return "red" if share >= 1 else "amber" if share >= Decimal("0.8") or self.reaches_limit_at else ""


def spend_today(project_id: int, time_zone: str, *, now: datetime) -> Spend:
    """What the project has spent since midnight of its time zone, and when that reaches the limit at this rate."""
    midnight = now.astimezone(ZoneInfo(time_zone)).replace(hour=0, minute=0, second=0, microsecond=0)
    window = BudgetWindow.objects.filter(
        project_id=project_id, scope=BudgetScope.PROJECT, period=Period.DAY, starts_at=midnight
    ).first()
    limit = (
        Budget.objects.filter(project_id=project_id, scope=BudgetScope.PROJECT, period=Period.DAY)
        .values_list("limit_usd", flat=True)
        .first()
    )
    spent = window.spent_usd if window else Decimal(0)
    if limit is not None and window is not None:
        limit += window.top_up_usd
    last_hour = _one(rollups.totals(project_id, since=now - AN_HOUR, until=_up_to(now), kinds=["llm", "tool"]))
    rate = last_hour.cost_usd if last_hour else Decimal(0)
    reaches = None
    if limit is not None and spent < limit:
        reaches = reached_at(limit - spent, rate, now=now, until=midnight + timedelta(days=1))
    hours = rollups.series(project_id, since=midnight, until=_up_to(now), step_s=3600, kinds=["llm", "tool"])
    running, by_hour = Decimal(0), []
    for one in hours:
        running += one.cost_usd
        by_hour.append(float(running))
    return Spend(spent, limit, rate, reaches, by_hour)


def chart(request: PageRequest, span: Range) -> dict[str, Any]:
    """Executions over the range, failed ones on top, last week dotted."""
    project_id = request.visitor.project.pk
    step = charts.step_for(span.until - span.since)
    grid = charts.grid(span.since, span.until, step)
    now = rollups.series(project_id, since=grid.since, until=grid.until, step_s=step, kinds=["execution"])
    past = rollups.series(
        project_id, since=grid.since - A_WEEK, until=grid.until - A_WEEK, step_s=step, kinds=["execution"]
    )
    return {
        "throughput": charts.throughput(grid, now, past, shift=A_WEEK),
        "throughput_step": charts.step_words(step),
        "throughput_summary": f"{sum(one.count for one in now)} executions, {sum(one.failed for one in now)} failed",
    }


def news(request: PageRequest, span: Range) -> dict[str, Any]:
    """The newest moves of anything, in words."""
    return {"feed": feed.newest(request.visitor.project.pk)}


@dataclass(frozen=True)
class AgentRow:
    name: str
    model: str
    executions: int
    error_rate: float | None
    errors_tone: str
    p95_s: float | None
    cost_usd: Decimal
    share: float


def agents(request: PageRequest, span: Range) -> dict[str, Any]:
    """The dearest agents of today, with errors and latency of the last hour."""
    project, now = request.visitor.project, request.now
    midnight = now.astimezone(ZoneInfo(project.time_zone)).replace(hour=0, minute=0, second=0, microsecond=0)
    since = min(midnight, now - AN_HOUR)

    def by_agent(kinds: list[str], start: datetime, with_latency: bool = False) -> dict[str, rollups.Totals]:
        found = rollups.totals(
            project.pk, since=start, until=_up_to(now), kinds=kinds, group_by="agent", with_latency=with_latency
        )
        return {one.group: one for one in found}

    money, work = by_agent(["llm", "tool"], midnight), by_agent(["execution"], since)
    hour = by_agent(["execution"], now - AN_HOUR, with_latency=True)
    names = sorted(money.keys() | work.keys(), key=lambda name: (-_cost(money.get(name)), name))
    shown = [name for name in names if name][:AGENTS_SHOWN]
    models = dict(
        Execution.objects.of(project.pk)
        .filter(agent__in=shown, model__gt="")
        .order_by("agent", "-started_at")
        .distinct("agent")
        .values_list("agent", "model")
    )
    most = max((_cost(money.get(name)) for name in shown), default=Decimal(0))
    return {
        "agents": [
            AgentRow(
                name=name,
                model=models.get(name, ""),
                executions=work[name].count if name in work else 0,
                error_rate=hour[name].error_rate if name in hour else None,
                errors_tone=_errors_tone(hour.get(name)),
                p95_s=_seconds(hour[name].p95_ms) if name in hour else None,
                cost_usd=_cost(money.get(name)),
                share=float(_cost(money.get(name)) / most) if most else 0.0,
            )
            for name in shown
        ],
        "agents_total": len([name for name in names if name]),
    }


PARTS: dict[str, Callable[[PageRequest, Range], dict[str, Any]]] = {
    "needs": needs,
    "strip": strip,
    "chart": chart,
    "feed": news,
    "agents": agents,
}


def _up_to(now: datetime) -> datetime:
    """The end of the running minute: rollups are read up to whole minutes, and this one counts too."""
    return now + timedelta(minutes=1)


def _one(found: list[rollups.Totals]) -> rollups.Totals | None:
    return found[0] if found else None


def _cost(total: rollups.Totals | None) -> Decimal:
    return total.cost_usd if total else Decimal(0)


def _seconds(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else duration_ms / 1000


def _errors_tone(total: rollups.Totals | None) -> str:
    rate = total.error_rate if total else None
    if rate is None or rate <= ERRORS_AMBER:
        return ""
    return "red" if rate > ERRORS_RED else "amber"


def _against(hour: rollups.Totals | None, before: rollups.Totals | None) -> str:
    """This hour's error rate against the same hour a week ago, in percentage points."""
    if hour is None or hour.error_rate is None:
        return "no executions ended"
    if before is None or before.error_rate is None:
        return f"{hour.failed} of {hour.count} failed"
    points = (hour.error_rate - before.error_rate) * 100
    if abs(points) < 0.1:
        return "as last week"
    return f"{abs(points):.1f} pt {'above' if points > 0 else 'below'} last week"
