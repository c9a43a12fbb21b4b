"""The health of our own parts, service by service."""

from datetime import datetime
from typing import Literal

import msgspec
import redis
from django.conf import settings

from monitor import jobs
from monitor.models import JobHeartbeat

ServiceStatus = Literal["healthy", "unhealthy", "connected", "disconnected", "not_configured"]
PATIENCE_S = 0.5
_redis = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S)


class Service(msgspec.Struct, kw_only=True, frozen=True):
    name: str
    status: ServiceStatus
    details: str = ""


class SystemHealth(msgspec.Struct, kw_only=True, frozen=True):
    """`unhealthy`: nobody watches the agents. `degraded`: something is silent; others do its work, or it waits."""

    overall_status: Literal["healthy", "degraded", "unhealthy"]
    timestamp: datetime
    service_statuses: list[Service]


def examine(*, now: datetime) -> SystemHealth:
    """Look at everything. That the database answers is shown by this having an answer at all."""
    silent = {row.name for row in jobs.silent(now=now)}
    rows = list(JobHeartbeat.objects.order_by("name"))
    turned_at, turned_by = jobs.last_turn()
    cranked = turned_at is not None and now - turned_at <= jobs.MIN_SILENCE
    services = [
        Service(name="database", status="connected"),
        _of_redis(),
        _of_processes("worker", rows, silent, now=now),
        _of_processes("beat", rows, silent, now=now),
        Service(
            name="crank",
            status="healthy" if cranked else "unhealthy",
            details=f"turned {_ago(turned_at, now)} by {turned_by}" if turned_at else "never turned",
        ),
        *(
            Service(
                name=row.name,
                status="unhealthy" if row.name in silent or row.error else "healthy",
                details=row.error or f"last good run {_ago(row.last_ok_at, now)}",
            )
            for row in rows
            if row.name != jobs.CRANK and not row.name.startswith(jobs.PROCESS)
        ),
    ]
    if settings.BACKUP_DIR is None:
        services.append(Service(name="backup.write", status="not_configured", details="HANDRAIL_BACKUP_DIR is not set"))
    bad = {service.name for service in services if service.status in ("unhealthy", "disconnected")}
    overall: Literal["healthy", "degraded", "unhealthy"] = "degraded" if bad else "healthy"
    if not cranked:
        overall = "unhealthy"
    return SystemHealth(overall_status=overall, timestamp=now, service_statuses=services)


def _of_redis() -> Service:
    try:
        _redis.ping()
    except redis.RedisError as error:
        return Service(name="redis", status="disconnected", details=type(error).__name__)
    return Service(name="redis", status="connected")


def _of_processes(kind: str, rows: list[JobHeartbeat], silent: set[str], *, now: datetime) -> Service:
    """All processes of a kind together: healthy while one of them lives."""
    mine = [row for row in rows if row.name.removeprefix(jobs.PROCESS).partition("@")[0] == kind]
    alive = [row for row in mine if row.name not in silent]
    if alive:
        return Service(name=kind, status="healthy", details=f"{len(alive)} alive")
    last_at = max((row.last_ok_at for row in mine if row.last_ok_at), default=None)
    return Service(name=kind, status="unhealthy", details=f"last seen {_ago(last_at, now)}")


def _ago(at: datetime | None, now: datetime) -> str:
    return f"{max((now - at).total_seconds(), 0):.0f} s ago" if at else "never"
