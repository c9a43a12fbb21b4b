"""Rate limits: GCRA (the virtual scheduling form of a leaky bucket) in one Lua script on Redis.

Without Redis there are no limits: the service goes on, and asks Redis again a little later.
"""

from math import ceil
from typing import Literal, NamedTuple

from django.conf import settings

from monitor.api.caller import Caller
from monitor.redisline import RedisLine

Bucket = Literal["general", "ingest"]

# KEYS[1] holds the theoretical arrival time in microseconds; ARGV: requests per minute.
# Answers {allowed, remaining, microseconds until allowed, microseconds until full}.
GCRA = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local limit = tonumber(ARGV[1])
local interval = 60000000 / limit
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local left = 60000000 - (arrival - now)
if left < interval then
    return {0, 0, math.ceil(interval - left), math.ceil(arrival - now)}
end
arrival = arrival + interval
redis.call('SET', KEYS[1], string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000) + 1)
return {1, math.floor((left - interval) / interval + 0.000001), 0, math.ceil(arrival - now)}
"""

_line = RedisLine("rate limits are off")
_script = _line.client.register_script(GCRA)


class Toll(NamedTuple):
    """What one request cost: whether it may pass, and what the caller has left."""

    allowed: bool
    per_minute: int
    remaining: int
    retry_after_s: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.per_minute),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
        }


def limit_of(caller: Caller, bucket: Bucket) -> int:
    """Requests a minute; 0 is no limit."""
    if bucket == "ingest":
        own, default = caller.ingest_per_minute, settings.INGEST_PER_MINUTE
    else:
        own, default = caller.general_per_minute, settings.GENERAL_PER_MINUTE
    return default if own is None else own


def take(caller: Caller, bucket: Bucket) -> Toll | None:
    """Count one request; None when there is no limit, or no Redis to count in."""
    per_minute = limit_of(caller, bucket)
    if per_minute <= 0:
        return None
    key = f"handrail:rate:{bucket}:{caller.rate_key}"
    counted = _line.ask(lambda _: _script(keys=[key], args=[per_minute]))
    if counted is None:
        return None
    allowed, remaining, wait_us, reset_us = counted
    return Toll(bool(allowed), per_minute, remaining, ceil(wait_us / 1e6), ceil(reset_us / 1e6))
