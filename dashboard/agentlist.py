"""The list of agents: what the address asks for, and the rows that answer it. The registry is read whole."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, get_args
from urllib.parse import urlencode

from django.db.models import F, Q, QuerySet
from django.http import QueryDict

from dashboard.frame import Range
from monitor.models import Agent
from monitor.registry import DEGRADED_ABOVE, FAILING_FROM, Health, Standing

# Of more than these the ones that were heard last are shown, and it is said.
MOST_AGENTS = 1000
PAGE_ROWS = 100
CHOICES_SHOWN = 50
# What needs a look comes first.
HEALTHS: tuple[Health, ...] = ("silent", "failing", "degraded", "healthy", "idle", "never_seen")
assert set(HEALTHS) == set(get_args(Health))
LONG_AGO = datetime.min.replace(tzinfo=UTC)


def _most(value: Callable[[Standing], Any]) -> Callable[[Standing], Any]:
    """A key that puts the greatest first and what is unknown last."""
    return lambda one: -(value(one) if value(one) is not None else -1)


ORDERS: dict[str, Callable[[Standing], Any]] = {
    "health": lambda one: (HEALTHS.index(one.health), -one.executions),
    "name": lambda one: one.agent.name.lower(),
    "running": _most(lambda one: one.now.running),
    "executions": _most(lambda one: one.executions),
    "errors": _most(lambda one: one.error_rate),
    "avg": _most(lambda one: one.avg_ms),
    "p95": _most(lambda one: one.p95_ms),
    "cost": _most(lambda one: one.cost_usd),
    "success": _most(lambda one: one.cost_per_success_usd),
    "heard": lambda one: -(one.heard_at or LONG_AGO).timestamp(),
}


@dataclass(frozen=True)
class Asked:
    """What the address asks for; empty is everything. `page` counts from 1."""

    span: Range
    health: str = ""
    capability: str = ""
    cost_tier: str = ""
    q: str = ""
    order: str = "health"
    page: int = 1

    @classmethod
    def of(cls, query: QueryDict, span: Range) -> "Asked":
        """What an address asks for; what it says wrongly is left out."""
        health, order, page = query.get("health", ""), query.get("order", ""), query.get("page", "")
        return cls(
            span=span,
            health=health if health in HEALTHS else "",
            capability=query.get("capability", "")[:100],
            cost_tier=query.get("cost_tier", "")[:20],
            q=query.get("q", "").strip()[:200],
            order=order if order in ORDERS else "health",
            page=int(page) if page.isascii() and page.isdigit() and len(page) < 5 and int(page) > 0 else 1,
        )

    @property
    def is_filtered(self) -> bool:
        return bool(self.health or self.capability or self.cost_tier or self.q)

    def address(self, **changes: Any) -> str:
        """The query string of this list, with `changes` to its fields; a new list starts at its first page."""
        asked = replace(self, **({"page": 1} | changes))
        pairs = [
            (name, value) for name in ("health", "capability", "cost_tier", "q") if (value := getattr(asked, name))
        ]
        pairs += [("order", asked.order)] if asked.order != "health" else []
        pairs += span_pairs(asked.span)
        pairs += [("page", str(asked.page))] if asked.page > 1 else []
        return urlencode(pairs)

    def matching(self, project_id: int) -> QuerySet[Agent]:
        """The agents that the address asks for, but for their health, which no row knows."""
        found = Agent.objects.filter(project_id=project_id)
        if self.capability:
            found = found.filter(capabilities__contains=[self.capability])
        if self.cost_tier:
            found = found.filter(cost_tier=self.cost_tier)
        if self.q:
            found = found.filter(
                Q(name__icontains=self.q) | Q(type__icontains=self.q) | Q(description__icontains=self.q)
            )
        return found


@dataclass(frozen=True)
class Row(Standing):
    """One agent as it is shown."""

    @classmethod
    def of(cls, one: Standing) -> "Row":
        return cls(one.agent, one.now, one.worked, one.called, one.day)

    @property
    def errors_tone(self) -> str:
        if self.error_rate is None or self.error_rate <= DEGRADED_ABOVE:
            return ""
        return "red" if self.error_rate >= FAILING_FROM else "amber"

    @property
    def avg_s(self) -> float | None:
        return None if self.avg_ms is None else self.avg_ms / 1000

    @property
    def p95_s(self) -> float | None:
        return None if self.p95_ms is None else self.p95_ms / 1000


def span_pairs(span: Range) -> list[tuple[str, str]]:
    """The range as an address says it."""
    if span.key != "custom":
        return [("range", span.key)]
    return [("range", "custom"), ("from", span.since.isoformat()), ("to", span.until.isoformat())]


def newest(found: QuerySet[Agent]) -> tuple[list[Agent], int]:
    """The agents that were heard last, at most MOST_AGENTS, and how many there are."""
    rows = list(found.order_by(F("last_seen_at").desc(nulls_last=True), "name")[: MOST_AGENTS + 1])
    return rows[:MOST_AGENTS], found.count() if len(rows) > MOST_AGENTS else len(rows)


def ordered(standings: Iterable[Standing], asked: Asked) -> list[Standing]:
    """Those of the health that is asked for, in the order that is asked for."""
    chosen = [one for one in standings if not asked.health or one.health == asked.health]
    return sorted(sorted(chosen, key=ORDERS["name"]), key=ORDERS[asked.order])


def count_by_health(standings: Iterable[Standing]) -> dict[str, int]:
    counts = Counter(one.health for one in standings)
    return {health: counts[health] for health in HEALTHS}


def capabilities_of(agents: Sequence[Agent]) -> list[str]:
    """What the agents can do, the commonest first."""
    counts = Counter(each for one in agents for each in one.capabilities)
    return [each for each, _ in counts.most_common(CHOICES_SHOWN)]


def tiers_of(agents: Sequence[Agent]) -> list[str]:
    return sorted({one.cost_tier for one in agents if one.cost_tier})[:CHOICES_SHOWN]
