"""One thin task per periodic job, and the workers' signs of life. Late or twice, a task does no harm."""

import logging
import time
from typing import Any

from celery import Task, signals
from django.db import Error, connection

from config import crank
from config.celery import app
from config.schedule import JOBS, Job, task_name
from monitor import jobs

log = logging.getLogger(__name__)
SIGN_EVERY_S = 5.0


def _task(job: Job) -> Task:
    def run() -> str | None:
        return crank.run(job, now=jobs.database_now())

    return app.task(name=task_name(job), ignore_result=True)(run)


TASKS = {job.name: _task(job) for job in JOBS}


class Sign:
    """The worker's own loop says that it lives, every few seconds; its pool may be busy meanwhile."""

    def __init__(self) -> None:
        self._last_s = float("-inf")

    def give(self, sender: Any, **_: Any) -> None:
        if time.monotonic() - self._last_s < SIGN_EVERY_S:
            return
        self._last_s = time.monotonic()
        try:
            jobs.sign_of_life(_name(sender.eventer.hostname), SIGN_EVERY_S, now=jobs.database_now())
        except Error as error:
            log.warning("no sign of life: %s", error)
            # Nobody else closes what the database has left, and what is closed opens again.
            connection.close()


def _name(hostname: str) -> str:
    return f"process:worker@{hostname}"


def _leave(sender: Any, **_: Any) -> None:
    """A worker that is stopped on purpose is not missed."""
    try:
        jobs.gone(_name(sender.hostname), now=jobs.database_now())
    except Error as error:
        log.warning("not signed off: %s", error)


sign = Sign()
signals.heartbeat_sent.connect(sign.give)
signals.worker_shutdown.connect(_leave)
