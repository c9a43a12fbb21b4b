"""Counts of what comes in and is not stored, for `/metrics`: kept in Redis, for all processes together.

They are a help to see what senders send, and nothing hangs on them: without Redis nothing is counted.
"""

import logging
import time
from collections.abc import Mapping

import redis
from django.conf import settings

log = logging.getLogger(__name__)

COUNTS = "handrail:doors"
PATIENCE_S = 0.25
AWAY_FOR_S = 2.0

_client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S)
_away_until = 0.0


def count(counts: Mapping[str, int]) -> None:
    """Add to the counts by name."""
    global _away_until
    if time.monotonic() < _away_until or not any(counts.values()):
        return
    try:
        with _client.pipeline(transaction=False) as pipe:
            for name, more in counts.items():
                if more:
                    pipe.hincrby(COUNTS, name, more)
            pipe.execute()
    except redis.RedisError as error:
        # A dead Redis must not cost every request its patience.
        _away_until = time.monotonic() + AWAY_FOR_S
        log.warning("what came in is not counted: %s", error)


def counted() -> dict[str, int]:
    """The counts by name; none without Redis."""
    try:
        found: Mapping[bytes, bytes] = _client.hgetall(COUNTS)  # type: ignore[assignment]
    except redis.RedisError:
        return {}
    return {name.decode(): int(value) for name, value in found.items()}
