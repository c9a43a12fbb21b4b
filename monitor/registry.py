"""The registry read: each agent with what it does now, what it did, and how that adds up to its health."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from django.db.models import Count, Max, Q

from monitor import rollups
from monitor.models import Agent, Execution
from monitor.models.executions import OPEN, Status
from monitor.rollups import Totals

HEALTH_WINDOW = timedelta(hours=24)
# Rollups read up to the beginning of a minute.
THIS_MINUTE = timedelta(minutes=1)
# The rates at which the shipped rules warn, and turn critical.
DEGRADED_ABOVE = 0.10
FAILING_FROM = 0.25
# Of fewer executions no share is called a failure.
FEWEST_TO_FAIL = 5
CALLS = ("llm", "tool")
NOTHING = Decimal(0)

Health = Literal["healthy", "degraded", "failing", "silent", "idle", "never_seen"]
HeardFrom = Literal["on_time", "silent", "never", "unwatched"]


@dataclass(frozen=True)
class Now:
    """What is open of an agent's work, how much of that waits for a person, and its last heartbeat."""

    running: int = 0
    open: int = 0
    waiting: int = 0
    beat_at: datetime | None = None


@dataclass(frozen=True)
class Standing:
    """An agent with the figures of a period; `day` is its work of the last 24 hours, whatever the period."""

    agent: Agent
    now: Now
    worked: Totals | None
    called: Totals | None
    day: Totals | None

    @property
    def heard_at(self) -> datetime | None:
        """When we last heard from it, by whatever it sent; None for one that never did."""
        signs = [at for at in (self.agent.last_seen_at, self.now.beat_at) if at is not None]
        return max(signs, default=None)

    @property
    def heard_from(self) -> HeardFrom:
        if self.agent.missed_at is not None:
            return "silent"
        if self.heard_at is None:
            return "never"
        return "unwatched" if self.agent.expected_every_s is None else "on_time"

    @property
    def health(self) -> Health:
        """Silence first, then how much of the last 24 hours' work failed; idle when nothing ended in them.

        What waits for a person because its retries are spent counts as failed until somebody decides.
        """
        if self.agent.missed_at is not None:
            return "silent"
        if self.heard_at is None:
            return "never_seen"
        ended, failed = (self.day.count, self.day.failed) if self.day else (0, 0)
        judged, bad = ended + self.now.waiting, failed + self.now.waiting
        if not judged:
            return "healthy" if self.now.running else "idle"
        if bad / judged >= FAILING_FROM and judged >= FEWEST_TO_FAIL:
            return "failing"
        return "degraded" if bad / judged > DEGRADED_ABOVE else "healthy"

    @property
    def executions(self) -> int:
        return self.worked.count if self.worked else 0

    @property
    def failed(self) -> int:
        return self.worked.failed if self.worked else 0

    @property
    def succeeded(self) -> int:
        return self.worked.count - self.worked.failed - self.worked.cancelled if self.worked else 0

    @property
    def error_rate(self) -> float | None:
        return self.worked.error_rate if self.worked else None

    @property
    def avg_ms(self) -> float | None:
        return self.worked.avg_ms if self.worked else None

    @property
    def p95_ms(self) -> float | None:
        return self.worked.p95_ms if self.worked else None

    @property
    def cost_usd(self) -> Decimal:
        return self.called.cost_usd if self.called else NOTHING

    @property
    def tokens(self) -> int:
        return self.called.input_tokens + self.called.output_tokens if self.called else 0

    @property
    def cost_per_success_usd(self) -> Decimal | None:
        """What a piece of work that ended well has cost, the others' cost included; None without any."""
        return self.cost_usd / self.succeeded if self.succeeded else None


def standings(
    project_id: int, agents: Sequence[Agent], *, since: datetime, until: datetime, now: datetime
) -> list[Standing]:
    """Each agent with its figures from `since` to `until`, in the order given."""
    only = agents[0].name if len(agents) == 1 else None

    def by_agent(kinds: Sequence[str], start: datetime, end: datetime, with_latency: bool = False) -> dict[str, Totals]:
        found = rollups.totals(
            project_id,
            since=start,
            until=end + THIS_MINUTE,
            kinds=kinds,
            group_by="agent",
            agent=only,
            with_latency=with_latency,
        )
        return {one.group: one for one in found}

    worked, called = by_agent(["execution"], since, until, with_latency=True), by_agent(CALLS, since, until)
    is_day = (since, until) == (now - HEALTH_WINDOW, now)
    day = worked if is_day else by_agent(["execution"], now - HEALTH_WINDOW, now)
    open_now = _open(project_id, only)
    idle = Now()
    return [
        Standing(one, open_now.get(one.name, idle), worked.get(one.name), called.get(one.name), day.get(one.name))
        for one in agents
    ]


def _open(project_id: int, only: str | None) -> dict[str, Now]:
    found = Execution.objects.of(project_id).filter(status__in=OPEN)
    if only is not None:
        found = found.filter(agent=only)
    rows = found.values("agent").annotate(
        running=Count("id", filter=Q(status=Status.RUNNING)),
        open=Count("id"),
        waiting=Count("id", filter=Q(status=Status.HITL_PAUSED)),
        beat_at=Max("last_heartbeat_at"),
    )
    return {row["agent"]: Now(row["running"], row["open"], row["waiting"], row["beat_at"]) for row in rows.order_by()}
