"""The metrics of a project in one answer, as the seed documents have them; computed at most once a minute."""

import logging
from datetime import datetime
from typing import Any

from django.core.cache import cache
from django.db import transaction
from django.db.models import Count
from redis import RedisError

from alerts.models import OPEN_ALERTS, Alert, Level
from monitor import figures

log = logging.getLogger(__name__)

KEPT_FOR_S = 60
RECENT = 10


def snapshot(project_id: int, *, now: datetime) -> dict[str, Any]:
    """Agents, system, costs and alerts, at most a minute old."""
    try:
        known = cache.get(_name(project_id))
    except RedisError:
        return _compute(project_id, now=now)
    if known is None:
        known = _compute(project_id, now=now)
        _keep(project_id, known)
    return known


def forget(project_id: int) -> None:
    """Once the running transaction has committed, have the next reader compute anew."""
    transaction.on_commit(lambda: _drop(project_id))


def _compute(project_id: int, *, now: datetime) -> dict[str, Any]:
    return {
        "agents": figures.of_agents(project_id, now=now),
        "system": figures.of_system(project_id, now=now),
        "costs": figures.of_costs(project_id, now=now),
        "alerts": _alerts(project_id),
        "generated_at": now,
    }


def _alerts(project_id: int) -> dict[str, Any]:
    opened = Alert.objects.filter(project_id=project_id, status__in=OPEN_ALERTS)
    by_level = {str(level): 0 for level in Level.values} | dict(opened.values_list("level").annotate(n=Count("pk")))
    newest = Alert.objects.filter(project_id=project_id).order_by("-last_seen_at", "-id")[:RECENT]
    recent = newest.values("id", "level", "type", "title", "status", "count", "first_seen_at", "last_seen_at")
    return {"open": sum(by_level.values()), "by_level": by_level, "recent": list(recent)}


def _keep(project_id: int, value: dict[str, Any]) -> None:
    try:
        cache.set(_name(project_id), value, KEPT_FOR_S)
    except RedisError as error:
        log.warning("metrics not cached: %s", error)


def _drop(project_id: int) -> None:
    try:
        cache.delete(_name(project_id))
    except RedisError as error:
        log.warning("cached metrics not dropped: %s", error)


def _name(project_id: int) -> str:
    return f"metrics:{project_id}"
