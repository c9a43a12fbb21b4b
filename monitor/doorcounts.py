"""Counts of what comes in and what became of it, for `/metrics`, and what was refused of each project in the last day.

Kept in Redis, for all processes together. They are a help to see what senders send, and nothing hangs on them: without
Redis nothing is counted.
"""

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import redis

from monitor.redisline import RedisLine, client

log = logging.getLogger(__name__)

COUNTS = "handrail:doors"
REFUSED = "handrail:refused"
EVERY_S = 1.0
HOURS = 24
LONGEST_REASON = 200

_client = client()
_line = RedisLine("what was refused is not noted")


class Counts:
    """Counts by name in this process, brought to a hash in Redis at most once a second."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._new: Counter[str] = Counter()
        self._is_due = False
        self._lock = threading.Lock()
        # Held while they are on their way, so that no reader misses them.
        self._bringing = threading.Lock()

    def add(self, counts: Mapping[str, int]) -> None:
        """Add to the counts by name; costs no waiting."""
        with self._lock:
            self._new.update(counts)
            if self._is_due:
                return
            self._is_due = True
        timer = threading.Timer(EVERY_S, self._bring)
        timer.daemon = True
        timer.start()

    def totals(self) -> dict[str, int]:
        """The counts by name since Redis was emptied, this process's to the last; none when it is away."""
        self._bring()
        try:
            found: Mapping[bytes, bytes] = _client.hgetall(self._key)  # type: ignore[assignment]
        except redis.RedisError:
            return {}
        return {name.decode(): int(value) for name, value in found.items()}

    def _bring(self) -> None:
        with self._bringing:
            with self._lock:
                new, self._new, self._is_due = self._new, Counter(), False
            if new.total():
                self._send(new)

    def _send(self, new: Mapping[str, int]) -> None:
        try:
            with _client.pipeline(transaction=True) as pipe:
                for name, more in new.items():
                    if more:
                        pipe.hincrby(self._key, name, more)
                pipe.execute()
        except redis.RedisError as error:
            log.warning("what came in is not counted: %s: %s", error, dict(new))


class Refusals(NamedTuple):
    """What was refused of a project within a day, and why the newest was."""

    spans: int
    exports: int
    at: datetime
    reason: str


_doors = Counts(COUNTS)
count = _doors.add
counted = _doors.totals


def refuse(project_id: int, reason: str, *, spans: int = 0, exports: int = 0, now: datetime) -> None:
    """Note that spans, or exports as a whole, were refused. Of the reason stays what stands before a colon."""
    # Behind the colon may stand what was sent.
    why = reason.partition(":")[0][:LONGEST_REASON]
    for_s = HOURS * 3600

    def note(client: redis.Redis) -> None:
        with client.pipeline(transaction=False) as pipe:
            for what, more in (("spans", spans), ("exports", exports)):
                if more:
                    key = _key(project_id, what, now)
                    pipe.incrby(key, more)
                    pipe.expire(key, for_s)
            pipe.set(f"{REFUSED}:{project_id}:newest", msgspec.json.encode((now, why)), ex=for_s)
            pipe.execute()

    _line.ask(note)


def refused(project_id: int, *, now: datetime) -> Refusals | None:
    """What was refused of the project in the last 24 hours, None when nothing was or Redis is away."""
    hours = [now - timedelta(hours=n) for n in range(HOURS)]
    keys = [_key(project_id, what, hour) for what in ("spans", "exports") for hour in hours]
    try:
        found: list[Any] = _client.mget([f"{REFUSED}:{project_id}:newest", *keys])
    except redis.RedisError:
        return None
    newest, *numbers = found
    if newest is None:
        return None
    at, reason = msgspec.json.decode(newest, type=tuple[datetime, str])
    spans, exports = (sum(int(one or 0) for one in part) for part in (numbers[:HOURS], numbers[HOURS:]))
    return Refusals(spans, exports, at, reason)


def _key(project_id: int, what: str, at: datetime) -> str:
    return f"{REFUSED}:{project_id}:{what}:{at:%Y%m%d%H}"
