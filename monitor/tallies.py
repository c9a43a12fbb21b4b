"""Totals since the first day, over all projects: counters for Prometheus, which never go back.

Days of more than a week ago seldom change: they are summed once a day and kept in the cache, until a late span changes
one of their hours. The rest is read from the rollups.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import uuid4

from django.core.cache import cache
from redis import RedisError

from monitor import latency, pipeline
from monitor.latency import Histogram
from monitor.pipeline import Statement
from monitor.tenancy import crossing

log = logging.getLogger(__name__)

# Most of what arrives occurred within this time; what is older drops the kept sums.
SETTLED_AFTER = timedelta(days=8)
KEPT_FOR_S = 8 * 24 * 3600
EDITION = "tallies:edition"
SUMS = ("count", "failed", "cancelled", "duration_ms", "input_tokens", "cache_read_tokens", "output_tokens", "cost_usd")
_COLUMNS = ", ".join(SUMS)
_SUMMED = ", ".join(f"sum({name}) AS {name}" for name in SUMS)
_HOURS = f"SELECT kind, agent, model, {_COLUMNS}, latency FROM monitor_hourrollup AS hours"  # noqa: S608
# Nobody asks for the latency of model calls.
_TALLIED = f"""
), sums AS (
    SELECT kind, agent, model, {_SUMMED} FROM facts GROUP BY kind, agent, model
), counted AS (
    SELECT kind, agent, model, number & {latency.MASK} AS bucket, sum(number >> {latency.SHIFT})::bigint AS n
      FROM facts, unnest(latency) AS number WHERE kind <> 'llm' GROUP BY kind, agent, model, bucket
), joined AS (
    SELECT kind, agent, model, array_agg((n << {latency.SHIFT}) + bucket) AS latency
      FROM counted WHERE n <> 0 GROUP BY kind, agent, model
)
SELECT kind, agent, model, {_COLUMNS}, latency FROM sums LEFT JOIN joined USING (kind, agent, model)
"""  # noqa: S608
SETTLED = f"WITH facts AS ({_HOURS} WHERE hour >= %(since)s AND hour < %(until)s {_TALLIED}"
# Marked hours from their minutes, the others from their rollup.
RECENT = f"""
WITH facts AS (
    {_HOURS}
     WHERE hour >= %(since)s AND NOT EXISTS (
         SELECT FROM monitor_dirtyhour AS mark WHERE mark.project_id = hours.project_id AND mark.hour = hours.hour)
    UNION ALL
    SELECT kind, agent, model, {_COLUMNS}, latency FROM monitor_dirtyhour AS mark
      JOIN monitor_minuterollup AS minutes ON minutes.project_id = mark.project_id
       AND minute >= mark.hour AND minute < mark.hour + interval '1 hour'
     WHERE mark.hour >= %(since)s
{_TALLIED}"""  # noqa: S608


class Key(NamedTuple):
    """`kind` is execution, llm or tool; of a tool `model` is the tool's name."""

    kind: str
    agent: str
    model: str


@dataclass(frozen=True, slots=True)
class Tally:
    count: int
    failed: int
    cancelled: int
    duration_ms: int
    input_tokens: int
    cache_read_tokens: int
    output_tokens: int
    cost_usd: Decimal
    histogram: Histogram

    def plus(self, other: "Tally") -> "Tally":
        return Tally(
            self.count + other.count,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            self.duration_ms + other.duration_ms,
            self.input_tokens + other.input_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_usd + other.cost_usd,
            latency.joined((self.histogram, other.histogram)),
        )


Tallies = dict[Key, Tally]


def tallies(*, now: datetime) -> Tallies:
    """Everything that was ever counted, by kind, agent and model."""
    settled_until = now - SETTLED_AFTER
    oldest = _oldest_mark()
    if oldest is not None:
        # Hours that nobody has closed yet, because the job that does was dead.
        settled_until = min(settled_until, oldest)
    day = settled_until.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    total = _settled(day, _recall(EDITION) or "")
    for key, tally in _read(RECENT, since=day).items():
        total[key] = total[key].plus(tally) if key in total else tally
    return total


def unsettle(hours: Iterable[datetime], *, now: datetime) -> None:
    """Forget kept sums that hold one of these hours. Call it before the hours' marks are gone for all to see.

    Whoever still sees the marks keeps no sum of those hours, and whoever does not sees the new edition.
    """
    if any(hour < now - SETTLED_AFTER for hour in hours):
        try:
            # It outlives every sum that was kept before it.
            cache.set(EDITION, uuid4().hex, 2 * KEPT_FOR_S)
        except RedisError as error:
            log.warning("sums of old days stay as they were kept: %s", error)


def _oldest_mark() -> datetime | None:
    with crossing():
        ((oldest,),) = pipeline.flush([Statement("SELECT min(hour) FROM monitor_dirtyhour", {})])[0]
    return oldest


def _settled(day: datetime, edition: str) -> Tallies:
    """All that was counted before this day; from the day before, where the cache still knows it."""
    known = _recall(_name(day, edition))
    if known is not None:
        return known
    before = day - timedelta(days=1)
    total = _recall(_name(before, edition))
    newer = _read(SETTLED, since=before if total is not None else datetime.min.replace(tzinfo=UTC), until=day)
    total = total or {}
    for key, tally in newer.items():
        total[key] = total[key].plus(tally) if key in total else tally
    try:
        cache.set(_name(day, edition), total, KEPT_FOR_S)
    except RedisError:
        pass  # Then it is summed again the next time.
    return total


def _recall(name: str) -> Any:
    try:
        return cache.get(name)
    except RedisError:
        return None


def _name(day: datetime, edition: str) -> str:
    return f"tallies:sums:{day:%Y%m%d}:{edition}"


def _read(sql: str, **parameters: datetime) -> Tallies:
    with crossing():
        (rows,) = pipeline.flush([Statement(sql, dict(parameters))])
    first = 3 + len(SUMS)
    return {Key(*row[:3]): Tally(*_sums(row[3:first]), row[first] or latency.NOTHING) for row in rows}


def _sums(row: tuple[Decimal, ...]) -> tuple[int, int, int, int, int, int, int, Decimal]:
    *counted, cost_usd = row
    return (*map(int, counted), cost_usd)  # type: ignore[return-value]
