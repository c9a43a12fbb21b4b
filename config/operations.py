"""For those who run it: is the process up, can this node serve, does everything that should turn still turn."""

from datetime import UTC, datetime
from functools import cache

from django.db import Error, connection
from django.db.migrations.loader import MigrationLoader
from django.http import HttpRequest, JsonResponse

from monitor import jobs
from monitor.models import JobHeartbeat

# What `up` starts beside the web; without one of them somebody should know.
EXPECTED_PROCESSES = ("beat", "worker")
NEVER_KEPT = {"Cache-Control": "no-store"}


def health(request: HttpRequest) -> JsonResponse:
    """The process is up; nothing else is asked. No middleware stands before it."""
    answer = JsonResponse({"status": "ok"}, headers=NEVER_KEPT)
    answer.headers["Content-Length"] = str(len(answer.content))
    return answer


def ready(request: HttpRequest) -> JsonResponse:
    """This node can serve: the database answers and is migrated. A dead scheduler drains no web node."""
    try:
        good = _is_migrated()
    except Error:
        good = False
    if good:
        return JsonResponse({"status": "ok"}, headers=NEVER_KEPT)
    return JsonResponse({"status": "unavailable"}, status=503, headers=NEVER_KEPT | {"Retry-After": "2"})


def watch(request: HttpRequest) -> JsonResponse:
    """For monitors outside: 503 with the names of what has been silent for three periods."""
    try:
        silent = silent_names(now=datetime.now(UTC))
    except Error:
        silent = ["database"]
    if not silent:
        return JsonResponse({"status": "ok", "silent": []}, headers=NEVER_KEPT)
    return JsonResponse({"status": "silent", "silent": silent}, status=503, headers=NEVER_KEPT)


def silent_names(*, now: datetime) -> list[str]:
    """Jobs and kinds of processes that are silent, and kinds that nobody has started; nodes are not named."""
    names = {_public(row.name) for row in jobs.silent(now=now)}
    alive = set(JobHeartbeat.objects.filter(name__startswith=jobs.PROCESS).values_list("name", flat=True))
    names |= set(EXPECTED_PROCESSES) - {_public(name) for name in alive}
    return sorted(names)


def _public(name: str) -> str:
    """`process:worker@node` is `worker` for strangers."""
    return name.removeprefix(jobs.PROCESS).partition("@")[0]


def _is_migrated() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT app, name FROM django_migrations")
        return _last_migrations() <= set(cursor.fetchall())


@cache
def _last_migrations() -> frozenset[tuple[str, str]]:
    return frozenset(MigrationLoader(None).graph.leaf_nodes())
