"""Who watches the watcher: every periodic job and every process leaves a sign of life.

The signs are written outside the job's own transaction, so that a job that fails leaves one too.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.db import InterfaceError, OperationalError, connection
from django.db.models import F, Q

from monitor import changes, faults
from monitor.listening import EARS
from monitor.models import JobHeartbeat, Project, Subject
from monitor.tenancy import crossing

log = logging.getLogger(__name__)

# A job is silent after this many of its periods, but never before MIN_SILENCE.
SILENT_PERIODS = 3
MIN_SILENCE = timedelta(seconds=15)
SILENT, ALIVE = "silent", "alive"
# The crank's own row: `last_ok_at` is the last turn, `last_started_at` the first of the unbroken stretch it belongs to.
CRANK = "crank"
# A longer pause ends a stretch: what did not run meanwhile could not have. A job that ran up to its period, 5 s,
# before the pause must not seem silent after it.
CRANK_GAP_S = MIN_SILENCE.total_seconds() - 5
PROCESS = "process:"
FORGET_PROCESSES_AFTER = timedelta(hours=1)
# Beats come a little early or late; a job is due when this share of its period has passed.
SLACK = 0.8

TURNING = """
INSERT INTO monitor_jobheartbeat AS row (name, every_s, last_started_at, last_ok_at, error, runs, node)
VALUES (%(name)s, %(every_s)s, %(now)s, %(now)s, '', 1, %(node)s)
ON CONFLICT (name) DO UPDATE SET
    last_started_at = CASE WHEN row.last_ok_at > %(now)s - make_interval(secs => %(gap_s)s)
                           THEN row.last_started_at ELSE excluded.last_ok_at END,
    last_ok_at = greatest(row.last_ok_at, excluded.last_ok_at), runs = row.runs + 1, node = excluded.node
"""
SIGN = """
INSERT INTO monitor_jobheartbeat AS row (name, every_s, last_started_at, last_ok_at, error, runs, node)
VALUES (%(name)s, %(every_s)s, %(now)s, %(now)s, '', 1, %(node)s)
ON CONFLICT (name) DO UPDATE SET
    every_s = excluded.every_s, last_ok_at = excluded.last_ok_at, runs = row.runs + 1, node = excluded.node
"""


def node() -> str:
    """This process, as the rows name it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def database_now() -> datetime:
    """The database's clock, which decides for all nodes. For doors."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (now,) = cursor.fetchone()
        return now


def expect(periods: dict[str, float]) -> None:
    """Make a row for each periodic job ({name: period in seconds}), so that one that never runs is seen as well."""
    rows = [JobHeartbeat(name=name, every_s=every_s) for name, every_s in sorted(periods.items())]
    with crossing():
        JobHeartbeat.objects.bulk_create(rows, update_conflicts=True, unique_fields=["name"], update_fields=["every_s"])


def take(name: str, every_s: float, *, now: datetime) -> bool:
    """Begin a run, if one is due: of all that try at a time one may."""
    due_before = now - timedelta(seconds=every_s * SLACK)
    due = Q(last_started_at=None) | Q(last_started_at__lte=due_before)
    with crossing():
        JobHeartbeat.objects.bulk_create([JobHeartbeat(name=name, every_s=every_s)], ignore_conflicts=True)
        return bool(JobHeartbeat.objects.filter(due, name=name).update(last_started_at=now, node=node()))


def turning(*, now: datetime) -> None:
    """Somebody turns the crank, here and now."""
    with crossing(), connection.cursor() as cursor:
        cursor.execute(TURNING, {"name": CRANK, "every_s": 5, "now": now, "gap_s": CRANK_GAP_S, "node": node()})


def last_turn() -> tuple[datetime | None, str]:
    """When the crank was last turned, and by whom."""
    row = JobHeartbeat.objects.filter(name=CRANK).values_list("last_ok_at", "node").first()
    return row or (None, "")


def sign_of_life(name: str, every_s: float, *, now: datetime) -> None:
    """A process says that it lives: `process:worker@node`, `process:beat`."""
    with crossing(), connection.cursor() as cursor:
        cursor.execute(SIGN, {"name": name[:100], "every_s": every_s, "now": now, "node": node()})


def gone(name: str, *, now: datetime) -> None:
    """A process ends on purpose: nobody has to miss it, nor goes on to if it was told to be silent."""
    with crossing():
        for row in JobHeartbeat.objects.filter(name=name[:100]):
            _report(row, ALIVE, now=now)
            row.delete()


@contextmanager
def ran(name: str, every_s: float, *, now: datetime) -> Iterator[None]:
    """Leave the signs of one run: when it began, whether it went well, how long it took. Errors pass through."""
    row = JobHeartbeat.objects.filter(name=name)
    with crossing():
        JobHeartbeat.objects.bulk_create([JobHeartbeat(name=name, every_s=every_s)], ignore_conflicts=True)
        row.update(every_s=every_s, last_started_at=now, node=node())
    began_s = time.monotonic()
    try:
        yield
    except BaseException as error:
        with crossing():
            row.update(last_error_at=_after(now, began_s), error=faults.said(error)[:2000], runs=F("runs") + 1)
        raise
    took_s = time.monotonic() - began_s
    with crossing():
        row.update(last_ok_at=_after(now, began_s), error="", took_ms=round(took_s * 1000), runs=F("runs") + 1)


def last_good_began_at(name: str) -> datetime | None:
    """When the last run that went well began; None when none has."""
    row = JobHeartbeat.objects.filter(name=name).values_list("last_ok_at", "took_ms").first()
    if row is None or row[0] is None:
        return None
    return row[0] - timedelta(milliseconds=row[1] or 0)


@contextmanager
def alone(name: str) -> Iterator[bool]:
    """True for one process at a time, by a lock that ends with its connection; the others get False."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended('job:' || %s, 0))", [name])
        (locked,) = cursor.fetchone()
    try:
        yield locked
    finally:
        if locked:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(hashtextextended('job:' || %s, 0))", [name])


def one_by_one(act: Callable[..., bool], found: Iterable[tuple[Any, ...]], *, now: datetime) -> int:
    """Act on each in turn, `act` in a transaction of its own; returns how often it did something.

    One that fails is logged and holds up nobody behind it. A database that does not answer ends it all.
    """
    done = 0
    for one in found:
        try:
            done += act(*one, now=now)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            log.exception("%s failed for %s", act.__qualname__, one)
    return done


def is_periodic(row: JobHeartbeat) -> bool:
    """Whether a row is of a job, and not of a process, of their ears or of the crank."""
    return not row.name.startswith(PROCESS) and row.name not in (EARS, CRANK)


def silent(*, now: datetime) -> list[JobHeartbeat]:
    """What has given no good sign for 3 periods, counted from when somebody was able to notice."""
    return silent_of(list(JobHeartbeat.objects.order_by("name")), now=now)


def silent_of(rows: Sequence[JobHeartbeat], *, now: datetime) -> list[JobHeartbeat]:
    """Which of all the rows are silent."""
    crank = next((row for row in rows if row.name == CRANK), None)
    listening_since = crank.last_started_at if crank else None
    return [row for row in rows if row.name != CRANK and _is_silent(row, listening_since, now=now)]


def report_silence(*, now: datetime) -> int:
    """Write a state change for whatever fell silent or came back since the last report; returns how many.

    They belong to the whole instance and are told once: in its first project.
    """
    with crossing():
        quiet = {row.name for row in silent(now=now)}
        rows = JobHeartbeat.objects.exclude(name=CRANK)
        reported = sum(_report(row, SILENT if row.name in quiet else ALIVE, now=now) for row in rows)
        _forget_processes(now=now)
    return reported


def _report(row: JobHeartbeat, state: str, *, now: datetime) -> bool:
    """Tell of the row's state unless that was told last, or there is no project to tell it in."""
    was = row.reported_state
    if was == state:
        return False
    project_id = Project.objects.order_by("pk").values_list("pk", flat=True).first()
    told = JobHeartbeat.objects.filter(name=row.name, reported_state=was)
    if project_id is None or not told.update(reported_state=state):
        return False
    changes.record(
        project_id,
        Subject.JOB,
        row.name,
        from_state=was,
        to_state=state,
        cause="heartbeat",
        actor="crank",
        now=now,
        data={
            "every_s": row.every_s,
            "last_ok_at": row.last_ok_at.isoformat() if row.last_ok_at else None,
            "error": row.error,
            "node": row.node,
        },
    )
    return True


def _forget_processes(*, now: datetime) -> None:
    """A node that is long gone is no longer missed, as long as another of its kind lives."""
    rows = list(JobHeartbeat.objects.filter(name__startswith=PROCESS))
    kinds = {row.name.partition("@")[0] for row in rows if row.last_ok_at and row.last_ok_at > now - MIN_SILENCE}
    for row in rows:
        old = row.last_ok_at is not None and row.last_ok_at < now - FORGET_PROCESSES_AFTER
        if old and row.name.partition("@")[0] in kinds:
            _report(row, ALIVE, now=now)
            row.delete()


def _is_silent(row: JobHeartbeat, listening_since: datetime | None, *, now: datetime) -> bool:
    allowed = max(MIN_SILENCE, timedelta(seconds=row.every_s * SILENT_PERIODS))
    seen = [moment for moment in (row.last_ok_at, listening_since) if moment is not None]
    return bool(seen) and now - max(seen) > allowed


def _after(now: datetime, began_s: float) -> datetime:
    return now + timedelta(seconds=time.monotonic() - began_s)
