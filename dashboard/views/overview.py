"""The overview: what is wrong now, what waits for a person, and how the fleet is doing."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Count, Min, Q, QuerySet
from django.http import Http404, HttpResponse
from django.template.response import TemplateResponse

from alerts.models import Alert, AlertStatus, Level
from dashboard import charts, feed, waiting
from dashboard.access import PageRequest, page
from dashboard.arrival import is_empty
from dashboard.frame import Range, range_of
from dashboard.spending import reached_at
from dashboard.views.first_run import first_run
from monitor import calendars, rollups, standstill
from monitor.models import Budget, BudgetWindow, Execution, HumanAgent, Project, QueueItem
from monitor.models.executions import WATCHED, Status
from monitor.models.money import BudgetScope, Period
from monitor.models.queue import ItemStatus
from monitor.rollups import Totals
from monitor.standstill import Still
from monitor.together import Together

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
    if part is not None and not any(part in parts for parts in PARTS):
        raise Http404
    context: dict[str, Any] = {"part": part, "query": f"range={span.key}"}
    for parts in PARTS:
        wanted = [build for name, build in parts.items() if part in (None, name)]
        with Together() as asked:
            answered = [build(request, span, asked) for build in wanted]
        for shown in answered:
            context |= shown()
    template = "overview/page.html" if part is None else f"overview/_{part}.html"
    return TemplateResponse(request, template, context)


Shown = Callable[[], dict[str, Any]]


def needs(request: PageRequest, span: Range, asked: Together) -> Shown:
    """What waits for a person, most urgent first, and the sentence above it."""
    project_id, now = request.visitor.project.pk, request.now
    human = request.visitor.human
    pending = QueueItem.objects.filter(project_id=project_id, status=ItemStatus.PENDING)
    counted = asked.rows(pending.values("project_id").annotate(total=Count("pk")))
    first = asked.rows(
        pending.select_related("conversation", "assignee__person").order_by("-priority", "requested_at")[:NEEDS_SHOWN]
    )
    firing = asked.rows(
        _firing(project_id).annotate(total=Count("pk"), critical=Count("pk", filter=Q(level=Level.CRITICAL)))
    )

    def shown() -> dict[str, Any]:
        rows = waiting.rows(first, me=human)
        total = counted[0]["total"] if counted else 0
        return {
            "needs": rows,
            "needs_total": total,
            "needs_more": total - len(rows),
            "why": f"{rows[0].sentence(now=now)} {waiting.threatens(rows[0], now=now)}" if rows else "",
            "quiet": None if rows else quiet(request.visitor.project, human, now=now),
            "firing": firing[0] if firing else {"total": 0, "critical": 0},
        }

    return shown


def _firing(project_id: int) -> QuerySet[Alert, Any]:
    return Alert.objects.filter(project_id=project_id, status=AlertStatus.FIRING).order_by().values("project_id")


@dataclass(frozen=True)
class Quiet:
    """Nothing waits: since when, what was last, what today brought."""

    since: datetime | None
    last: str
    finished_today: int
    running: int


def quiet(project: Project, human: HumanAgent | None, *, now: datetime) -> Quiet:
    """What is said where nothing waits; today is the project's."""
    project_id = project.pk
    today, _ = calendars.bounds(now, ZoneInfo(project.time_zone))
    closed = QueueItem.objects.filter(project_id=project_id, closed_at__isnull=False)
    running = Execution.objects.of(project_id).filter(status=Status.RUNNING)
    with Together() as asked:
        last = asked.rows(closed.select_related("conversation", "assignee__person").order_by("-closed_at")[:1])
        finished = rollups.totals(project_id, since=today, until=_up_to(now), kinds=["execution"], within=asked)
        counted = asked.rows(running.order_by().values("project_id").annotate(count=Count("id")))
    words_of_last = ""
    if last:
        row = waiting.rows(last, me=human)[0]
        words_of_last = f"{row.kind_word}: {row.name}, {last[0].get_status_display().lower()}"
    return Quiet(
        since=last[0].closed_at if last else None,
        last=words_of_last,
        finished_today=finished[0].count if finished else 0,
        running=counted[0]["count"] if counted else 0,
    )


NO_ALERTS = {"critical": 0, "warning": 0, "info": 0}
NOTHING_OPEN = {"running": 0, "stalled": 0, "silent": 0, "retrying": 0}


def strip(request: PageRequest, span: Range, asked: Together) -> Shown:
    """The six figures: waiting, alerts, running, error rate, p95, spend today; each leads to its rows."""
    project, now = request.visitor.project, request.now
    pending = QueueItem.objects.filter(project=project, status=ItemStatus.PENDING).order_by().values("project_id")
    waits = asked.rows(pending.annotate(count=Count("pk"), oldest=Min("requested_at")))
    alerts = asked.rows(
        _firing(project.pk).annotate(
            critical=Count("pk", filter=Q(level=Level.CRITICAL)),
            warning=Count("pk", filter=Q(level=Level.WARNING)),
            info=Count("pk", filter=Q(level=Level.INFO)),
        )
    )
    silent = standstill.chosen([Still.SILENT], now=now)
    watched = Execution.objects.of(project.pk).filter(status__in=WATCHED).order_by().values("project_id")
    watched_now: list[Any] = asked.rows(
        watched.annotate(
            running=Count("id", filter=Q(status=Status.RUNNING)),
            stalled=Count("id", filter=standstill.chosen([Still.STALLED], now=now) & ~silent),
            silent=Count("id", filter=silent),
            retrying=Count("id", filter=Q(status=Status.RETRYING) & ~silent),
        )
    )
    of_work: dict[str, Any] = {"kinds": ["execution"], "within": asked}
    last_hour = rollups.totals(project.pk, since=now - AN_HOUR, until=_up_to(now), with_latency=True, **of_work)
    week_ago = rollups.totals(project.pk, since=now - A_WEEK - AN_HOUR, until=now - A_WEEK, **of_work)
    steps = rollups.series(
        project.pk, since=now - AN_HOUR * 24, until=_up_to(now), step_s=3600, with_latency=True, **of_work
    )
    spend = spend_today(asked, project.pk, project.time_zone, now=now)

    def shown() -> dict[str, Any]:
        hour, before = _one(last_hour), _one(week_ago)
        open_now = watched_now[0] if watched_now else NOTHING_OPEN
        alert_counts = {name: alerts[0][name] for name in NO_ALERTS} if alerts else NO_ALERTS
        return {
            "waits": waits[0] if waits else {"count": 0, "oldest": None},
            "alert_counts": alert_counts,
            "alerts_open": sum(alert_counts.values()),
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
            "spend": spend(),
            "spark_count": [one.count for one in steps],
            "spark_errors": [one.error_rate or 0 for one in steps],
            "spark_p95": [one.p95_ms or 0 for one in steps],
        }

    return shown


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


def spend_today(asked: Together, project_id: int, time_zone: str, *, now: datetime) -> Callable[[], Spend]:
    """What the project has spent since midnight of its time zone, and when that reaches the limit at this rate."""
    midnight, next_midnight = calendars.bounds(now, ZoneInfo(time_zone))
    of_day: dict[str, Any] = {"project_id": project_id, "scope": BudgetScope.PROJECT, "period": Period.DAY}
    windows = asked.rows(BudgetWindow.objects.filter(starts_at=midnight, **of_day)[:1])
    limits = asked.rows(Budget.objects.filter(**of_day).order_by("pk").values_list("limit_usd", flat=True)[:1])
    of_calls: dict[str, Any] = {"until": _up_to(now), "kinds": ["llm", "tool"], "within": asked}
    last_hour = rollups.totals(project_id, since=now - AN_HOUR, **of_calls)
    hours = rollups.series(project_id, since=midnight, step_s=3600, **of_calls)

    def spend() -> Spend:
        spent = windows[0].spent_usd if windows else Decimal(0)
        limit = limits[0] if limits else None
        if limit is not None and windows:
            limit += windows[0].top_up_usd
        rate = last_hour[0].cost_usd if last_hour else Decimal(0)
        reaches = None
        if limit is not None and spent < limit:
            reaches = reached_at(limit - spent, rate, now=now, until=next_midnight)
        running, by_hour = Decimal(0), []
        for one in hours:
            running += one.cost_usd
            by_hour.append(float(running))
        return Spend(spent, limit, rate, reaches, by_hour)

    return spend


def chart(request: PageRequest, span: Range, asked: Together) -> Shown:
    """Executions over the range, failed ones on top, last week dotted."""
    step = charts.step_for(span.until - span.since)
    grid = charts.grid(span.since, span.until, step)
    since, until = grid.since, grid.until
    of_work: dict[str, Any] = {"step_s": step, "kinds": ["execution"], "within": asked}
    now = rollups.series(request.visitor.project.pk, since=since, until=until, **of_work)
    past = rollups.series(request.visitor.project.pk, since=since - A_WEEK, until=until - A_WEEK, **of_work)
    return lambda: {
        "throughput": charts.throughput(grid, now, past, shift=A_WEEK),
        "throughput_step": charts.step_words(step),
        "throughput_summary": f"{sum(one.count for one in now)} executions, {sum(one.failed for one in now)} failed",
    }


def news(request: PageRequest, span: Range, asked: Together) -> Shown:
    """The newest moves of anything, in words."""
    project_id = request.visitor.project.pk
    changes = asked.rows(feed.newest(project_id))
    return lambda: {"feed": feed.lines(project_id, changes)}


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


def agents(request: PageRequest, span: Range, asked: Together) -> Shown:
    """The dearest agents of today, with errors and latency of the last hour."""
    return agents_today(request.visitor.project, asked, now=request.now)


def agents_today(project: Project, asked: Together, *, now: datetime) -> Shown:
    """The same for a project, at any time."""
    midnight, _ = calendars.bounds(now, ZoneInfo(project.time_zone))
    by_agent: dict[str, Any] = {"until": _up_to(now), "group_by": "agent", "within": asked}
    calls = rollups.totals(project.pk, since=midnight, kinds=["llm", "tool"], **by_agent)
    today = rollups.totals(project.pk, since=min(midnight, now - AN_HOUR), kinds=["execution"], **by_agent)
    last_hour = rollups.totals(project.pk, since=now - AN_HOUR, kinds=["execution"], with_latency=True, **by_agent)
    return lambda: _agents(project.pk, *({one.group: one for one in found} for found in (calls, today, last_hour)))


def _agents(
    project_id: int, money: dict[str, Totals], work: dict[str, Totals], hour: dict[str, Totals]
) -> dict[str, Any]:
    names = sorted(money.keys() | work.keys(), key=lambda name: (-_cost(money.get(name)), name))
    shown = [name for name in names if name][:AGENTS_SHOWN]
    models = dict(
        Execution.objects.of(project_id)
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


# What each part asks for, and then shows. Those in one place are asked in one trip; the heavier ones have their own.
PARTS: tuple[dict[str, Callable[[PageRequest, Range, Together], Shown]], ...] = (
    {"needs": needs, "chart": chart, "feed": news},
    {"strip": strip},
    {"agents": agents},
)


def _up_to(now: datetime) -> datetime:
    """The end of the running minute: rollups are read up to whole minutes, and this one counts too."""
    return now + timedelta(minutes=1)


def _one(found: list[Totals]) -> Totals | None:
    return found[0] if found else None


def _cost(total: Totals | None) -> Decimal:
    return total.cost_usd if total else Decimal(0)


def _seconds(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else duration_ms / 1000


def _errors_tone(total: Totals | None) -> str:
    rate = total.error_rate if total else None
    if rate is None or rate <= ERRORS_AMBER:
        return ""
    return "red" if rate > ERRORS_RED else "amber"


def _against(hour: Totals | None, before: Totals | None) -> str:
    """This hour's error rate against the same hour a week ago, in percentage points."""
    if hour is None or hour.error_rate is None:
        return "no executions ended"
    if before is None or before.error_rate is None:
        return f"{hour.failed} of {hour.count} failed"
    points = (hour.error_rate - before.error_rate) * 100
    if abs(points) < 0.1:
        return "as last week"
    return f"{abs(points):.1f} pt {'above' if points > 0 else 'below'} last week"
