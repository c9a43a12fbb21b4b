"""Figures about alerts: how many, how loud, how fast they were answered."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Avg, Count, F, Q, QuerySet

from alerts.models import OPEN_ALERTS, Alert, AlertStatus, Level

NONE = {"open": 0, "critical": 0}
UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Figures:
    """Means are in milliseconds, None when nothing was answered."""

    total: int
    open: int
    by_level: dict[str, int]
    by_status: dict[str, int]
    mean_time_to_acknowledge_ms: int | None
    mean_time_to_resolve_ms: int | None


def window(text: str) -> timedelta:
    """The length that `90m`, `24h` or `7d` names."""
    return timedelta(**{UNITS[text[-1]]: int(text[:-1])})


def unanswered(project_id: int, *, now: datetime) -> dict[str, int]:
    """How many alerts wait for somebody now (`open`), and how many of those are `critical`; snoozed ones don't."""
    return next(iter(firing(project_id, now=now)), NONE)


def firing(project_id: int, *, now: datetime) -> QuerySet[Alert, Any]:
    """The one row of `unanswered`, for whoever asks it together with others; no row where there is none."""
    loud = Q(snoozed_until=None) | Q(snoozed_until__lte=now)
    found = Alert.objects.filter(loud, project_id=project_id, status=AlertStatus.FIRING).values("project_id")
    return found.annotate(open=Count("pk"), critical=Count("pk", filter=Q(level=Level.CRITICAL))).order_by()


def figures(project_id: int, *, since: datetime) -> Figures:
    """About the alerts that were seen since; `open` counts all that are open now."""
    of_project = Alert.objects.filter(project_id=project_id)
    seen = of_project.filter(last_seen_at__gte=since)
    levels: Counter[str] = Counter({str(level): 0 for level in Level.values})
    statuses: Counter[str] = Counter({str(status): 0 for status in AlertStatus.values})
    for level, status, count in seen.values_list("level", "status").annotate(count=Count("pk")):
        levels[level] += count
        statuses[status] += count
    means = seen.aggregate(
        acknowledge=Avg(F("acknowledged_at") - F("first_seen_at")), resolve=Avg(F("resolved_at") - F("first_seen_at"))
    )
    return Figures(
        total=levels.total(),
        open=of_project.filter(status__in=OPEN_ALERTS).count(),
        by_level=dict(levels),
        by_status=dict(statuses),
        mean_time_to_acknowledge_ms=_ms(means["acknowledge"]),
        mean_time_to_resolve_ms=_ms(means["resolve"]),
    )


def _ms(length: timedelta | None) -> int | None:
    return None if length is None else length // timedelta(milliseconds=1)
