"""How many requests were shed, added up in Redis over all web processes and machines; without Redis nobody counts."""

import logging
import threading
from collections import Counter
from typing import cast

import redis

log = logging.getLogger(__name__)

KEY = "handrail:shed"
PATIENCE_S = 0.25
EVERY_S = 1.0


class ShedCounts:
    """Counts in this process, brought to Redis at most once a second."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S)
        self._new: Counter[tuple[str, str]] = Counter()
        self._is_due = False
        self._lock = threading.Lock()

    def add(self, room: str, reason: str) -> None:
        """Count one; costs no waiting."""
        with self._lock:
            self._new[room, reason] += 1
            if self._is_due:
                return
            self._is_due = True
        timer = threading.Timer(EVERY_S, self._bring)
        timer.daemon = True
        timer.start()

    def _bring(self) -> None:
        with self._lock:
            new, self._new, self._is_due = self._new, Counter(), False
        try:
            with self._redis.pipeline(transaction=True) as steps:
                for (room, reason), count in new.items():
                    steps.hincrby(KEY, f"{room}:{reason}", count)
                steps.execute()
        except redis.RedisError as error:
            log.warning("requests that were shed are not counted: %s: %s", error, dict(new))

    def totals(self) -> dict[tuple[str, str], int]:
        """By room and reason, since Redis was emptied; nothing when it is away."""
        try:
            found = cast(dict[bytes, bytes], self._redis.hgetall(KEY))
        except redis.RedisError:
            return {}
        named = ((name.decode().partition(":"), int(count)) for name, count in sorted(found.items()))
        return {(room, reason): count for (room, _, reason), count in named}
