"""Totals since the first day, over all projects: counters for Prometheus.

They are kept beside the rollups of hours, and changed in the transaction that closes an hour by what it changes there.
So they go back neither when old hours leave nor when a late span comes, and a scrape reads no more than them and the
hours that are not closed. Only what was told wrongly and is told again takes anything back.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from monitor import latency, pipeline
from monitor.latency import Histogram
from monitor.pipeline import Statement
from monitor.tenancy import crossing

KEY = ("kind", "agent", "model")
SUMS = ("count", "failed", "cancelled", "duration_ms", "input_tokens", "cache_read_tokens", "output_tokens", "cost_usd")
_KEY, _COLUMNS = ", ".join(KEY), ", ".join(SUMS)
# Nobody asks for the latency of model calls.
_LATENCY = "CASE WHEN kind <> 'llm' THEN latency ELSE '{}' END AS latency"


def _changes(marks: str) -> str:
    """What closing the marked hours changes: it adds their minutes and takes back what their rollup held before."""
    return f"""
    SELECT part.*, 1 AS sign FROM {marks} AS mark, LATERAL (
        SELECT {_KEY}, {_COLUMNS}, {_LATENCY} FROM monitor_minuterollup AS held
         WHERE held.project_id = mark.project_id AND minute >= mark.hour AND minute < mark.hour + interval '1 hour'
        OFFSET 0
    ) AS part
    UNION ALL
    SELECT part.*, -1 FROM {marks} AS mark, LATERAL (
        SELECT {_KEY}, {_COLUMNS}, {_LATENCY} FROM monitor_hourrollup AS held
         WHERE held.project_id = mark.project_id AND held.hour = mark.hour
        OFFSET 0
    ) AS part"""  # noqa: S608


_TALLIED = f"""
), sums AS (
    SELECT {_KEY}, {", ".join(f"sum(sign * {name}) AS {name}" for name in SUMS)} FROM facts GROUP BY {_KEY}
), counted AS (
    SELECT {_KEY}, number & {latency.MASK} AS bucket, sum(sign * (number >> {latency.SHIFT}))::bigint AS n
      FROM facts, unnest(latency) AS number GROUP BY {_KEY}, bucket
), joined AS (
    SELECT {_KEY}, array_agg((n << {latency.SHIFT}) + bucket ORDER BY bucket) AS latency
      FROM counted WHERE n <> 0 GROUP BY {_KEY}
)"""  # noqa: S608
# In the order of their keys, so that two who close at once don't wait for each other.
KEEP = f"""
WITH marks AS (
    SELECT * FROM unnest(%(projects)s::int[], %(hours)s::timestamptz[]) AS closed (project_id, hour)
), facts AS ({_changes("marks")}
{_TALLIED}
INSERT INTO monitor_lifetimetally AS held ({_KEY}, {_COLUMNS}, latency)
SELECT {_KEY}, {_COLUMNS}, coalesce(latency, '{{}}') FROM sums LEFT JOIN joined USING ({_KEY})
 WHERE latency IS NOT NULL OR {" OR ".join(f"{name} <> 0" for name in SUMS)}
 ORDER BY {_KEY}
ON CONFLICT ({_KEY}) DO UPDATE SET {", ".join(f"{name} = held.{name} + excluded.{name}" for name in SUMS)},
       latency = {latency.added_up("held.latency || excluded.latency")}
"""  # noqa: S608
READ = f"""
WITH facts AS (
    SELECT {_KEY}, {_COLUMNS}, latency, 1 AS sign FROM monitor_lifetimetally
    UNION ALL{_changes("monitor_dirtyhour")}
{_TALLIED}
SELECT {_KEY}, {_COLUMNS}, latency FROM sums LEFT JOIN joined USING ({_KEY})
"""  # noqa: S608


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


def tallies() -> Tallies:
    """Everything that was ever counted, by kind, agent and model; of model calls without a histogram."""
    with crossing():
        (rows,) = pipeline.flush([Statement(READ, {})])
    first = len(KEY) + len(SUMS)
    return {Key(*row[:3]): Tally(*_sums(row[len(KEY) : first]), row[first] or latency.NOTHING) for row in rows}


def keeping(hours: Collection[tuple[int, datetime]]) -> Statement:
    """Keep what closing these hours of projects changes; for whoever closes them, before their rollups change."""
    projects, at = zip(*hours, strict=True)
    return Statement(KEEP, {"projects": pipeline.array(projects), "hours": pipeline.times(at)})


def _sums(row: tuple[Decimal, ...]) -> tuple[int, int, int, int, int, int, int, Decimal]:
    *counted, cost_usd = row
    return (*map(int, counted), cost_usd)  # type: ignore[return-value]
