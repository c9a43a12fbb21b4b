"""What time alone makes of an alert: an unanswered warning becomes critical, a snoozed one comes back."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from django.db.models import Q

from alerts import lifecycle
from alerts.models import OPEN_ALERTS, Alert, AlertStatus, Level
from monitor.tenancy import crossing


def escalate_due(*, now: datetime, limit: int = 500) -> int:
    """Escalate and wake what is due, each once however many do this at a time; returns how many moved here."""
    unanswered = Q(escalate_at__lte=now, status=AlertStatus.FIRING, level=Level.WARNING, snoozed_until=None)
    slept = Q(snoozed_until__lte=now, status__in=OPEN_ALERTS)
    return _each(slept, lifecycle.wake, now=now, limit=limit) + _each(
        unanswered, lifecycle.escalate, now=now, limit=limit
    )


def _each(due: Q, verb: Callable[..., Alert | None], *, now: datetime, limit: int) -> int:
    """Each in a transaction of its own; the verb's guarded update decides who does it."""
    with crossing():
        found: list[tuple[int, UUID]] = list(Alert.objects.filter(due).values_list("project_id", "pk")[:limit])
    moved = 0
    for project_id, alert_id in found:
        with crossing():
            moved += verb(project_id, alert_id, now=now) is not None
    return moved
