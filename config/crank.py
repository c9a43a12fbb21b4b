"""The crank: every periodic job, in order, each when it is due. Anybody may turn it; the database decides who does.

Celery's beat and workers turn it, `manage.py tick` does, and the web processes do when nobody else has for 15 s.
"""

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import Error, close_old_connections, connection
from django.utils.module_loading import import_string

from config.schedule import JOBS, Job
from monitor import faults, jobs

log = logging.getLogger(__name__)

FUNCTIONS: dict[str, Callable[..., object]] = {job.name: import_string(job.function) for job in JOBS}
BY_NAME = {job.name: job for job in JOBS}
PERIODS = {job.name: job.every_s for job in JOBS}
STANDBY_AFTER = timedelta(seconds=15)
STANDBY_LOOKS_EVERY_S = 5.0


def turn(*, now: datetime, only_due: bool = True, only_quick: bool = False) -> dict[str, str]:
    """Run every job that is due, or all; returns what became of each that ran: "ok", or its error.

    `only_quick` leaves out those that take minutes.
    """
    jobs.expect(PERIODS)
    chosen = [job for job in JOBS if not (only_quick and job.takes_minutes)]
    outcomes = {job.name: run(job, now=now, only_due=only_due) for job in chosen}
    return {name: outcome for name, outcome in outcomes.items() if outcome is not None}


def run(job: Job, *, now: datetime, only_due: bool = True) -> str | None:
    """Run one job if it is due: "ok", or its error, which stands in its heartbeat too. None when it is not our turn.

    What the job held up runs after it, if it is due.
    """
    jobs.turning(now=now)
    try:
        if job.alone:
            # The lock before the turn: a turn that is taken and can't be used is lost until the next.
            with jobs.alone(job.name) as locked:
                outcome = _run(job, now=now, only_due=only_due) if locked else None
        else:
            outcome = _run(job, now=now, only_due=only_due)
    except Exception as error:
        log.exception("job %s failed", job.name)
        outcome = faults.said(error)
    if job.holds_up and outcome is not None:
        run(BY_NAME[job.holds_up], now=jobs.database_now())
    return outcome


def _run(job: Job, *, now: datetime, only_due: bool) -> str | None:
    if only_due and not jobs.take(job.name, job.every_s, now=now):
        return None
    with jobs.ran(job.name, job.every_s, now=now):
        FUNCTIONS[job.name](now=now)
    return "ok"


class Standby:
    """A thread of a web process that turns the crank while nobody else does."""

    def __init__(self, *, after: timedelta = STANDBY_AFTER, looks_every_s: float = STANDBY_LOOKS_EVERY_S) -> None:
        self._after = after
        self._looks_every_s = looks_every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="crank standby", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when the turn that may be under way has ended."""
        self._stop.set()
        self._thread.join()

    def look(self, *, now: datetime) -> bool:
        """Turn the crank if nobody else does; True when it was turned."""
        last, by = jobs.last_turn()
        if last is not None and by != jobs.node() and now - last < self._after:
            return False
        turn(now=now, only_quick=True)
        return True

    def _watch(self) -> None:
        while not self._stop.wait(self._looks_every_s):
            try:
                close_old_connections()
                if self.look(now=jobs.database_now()):
                    log.debug("the web process turned the crank")
            except Error as error:
                log.warning("the crank could not be turned: %s", error)
            except Exception:
                log.exception("the crank broke")
            finally:
                connection.close()


_standby: Standby | None = None
_starting = threading.Lock()


def start_standby() -> Standby:
    """Start this process's standby, once."""
    global _standby
    with _starting:
        if _standby is None:
            _standby = Standby()
            _standby.start()
        return _standby
