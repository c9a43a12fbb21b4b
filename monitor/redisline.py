"""Redis for what the service can do without: asked with little patience, and let be for a moment when it is away."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import redis
from django.conf import settings

T = TypeVar("T")
log = logging.getLogger(__name__)
PATIENCE_S = 0.25
AWAY_FOR_S = 2.0


def client() -> redis.Redis:
    """A client that gives up soon."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S)


class RedisLine:
    """One purpose that Redis serves; `without` says in the log what is missing while it is away."""

    def __init__(self, without: str) -> None:
        self.client = client()
        self._without = without
        self._away_until_s = 0.0

    def ask(self, question: Callable[[redis.Redis], T]) -> T | None:
        """The answer; None while Redis is away. A dead one must not cost every request its patience."""
        if time.monotonic() < self._away_until_s:
            return None
        try:
            return question(self.client)
        except redis.RedisError as error:
            self._away_until_s = time.monotonic() + AWAY_FOR_S
            log.warning("%s: %s", self._without, error)
            return None
