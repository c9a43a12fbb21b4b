"""Celery's beat, saying every few seconds that its loop lives."""

import logging
import time
from typing import Any

from celery.beat import PersistentScheduler
from django.db import Error, connection

from monitor import jobs

log = logging.getLogger(__name__)
SIGN_EVERY_S = 5.0


class Scheduler(PersistentScheduler):
    """Gives the sign `process:beat` from the loop that sends the tasks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._signed_s = float("-inf")
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        wait_s = super().tick(*args, **kwargs)
        if time.monotonic() - self._signed_s >= SIGN_EVERY_S:
            self._signed_s = time.monotonic()
            try:
                jobs.sign_of_life("process:beat", SIGN_EVERY_S, now=jobs.database_now())
            except Error as error:
                log.warning("no sign of life: %s", error)
                # Nobody else closes what the database has left, and what is closed opens again.
                connection.close()
        return min(wait_s, SIGN_EVERY_S)
