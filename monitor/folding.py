"""Folding what happened into the rollups: sums and latency histograms by minute, exact at commit; see rollups.py."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

import msgspec

from monitor import latency, pipeline
from monitor.pipeline import Statement

KEY = ("agent", "department", "provider", "model", "kind")
SUMS = (
    "count",
    "failed",
    "duration_ms",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
    "cost_usd",
    "reported_usd",
    "computed_usd",
    "unpriced",
    "cancelled",
)
ZERO = Decimal(0)

TYPES = {"cost_usd": "numeric", "reported_usd": "numeric", "computed_usd": "numeric"}
_SUM_ARRAYS = ", ".join(f"%({name})s::{TYPES.get(name, 'bigint')}[]" for name in SUMS)
_KEY_ARRAYS = ", ".join(f"%({name})s::text[]" for name in KEY)
UPSERT = f"""
INSERT INTO monitor_minuterollup AS held (project_id, minute, {", ".join(KEY)}, {", ".join(SUMS)}, latency)
SELECT %(project_id)s, minute, {", ".join(KEY)}, {", ".join(SUMS)}, latency::bigint[]
  FROM unnest(%(minute)s::timestamptz[], {_KEY_ARRAYS}, {_SUM_ARRAYS}, %(latency)s::text[])
    AS delta (minute, {", ".join(KEY)}, {", ".join(SUMS)}, latency)
ON CONFLICT (project_id, minute, {", ".join(KEY)}) DO UPDATE SET
       {", ".join(f"{name} = held.{name} + excluded.{name}" for name in SUMS)},
       latency = CASE WHEN cardinality(held.latency) < {latency.LONGEST_LIST} THEN held.latency || excluded.latency
                      ELSE {latency.added_up("held.latency || excluded.latency")} END
"""  # noqa: S608
# The update locks the mark: whoever closes the hour passes it over until this transaction has ended.
MARK = """
INSERT INTO monitor_dirtyhour (project_id, hour, marked_at)
SELECT %(project_id)s, hour, %(now)s FROM unnest(%(hours)s::timestamptz[]) AS hour
ON CONFLICT (project_id, hour) DO UPDATE SET marked_at = excluded.marked_at
"""


class RollupDelta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one finished execution, call or tool call adds to its minute; with `count` -1 what it takes back.

    `kind` is execution, llm or tool; of a tool `model` is the tool's name. Token sums are totals as billed,
    cache included. The latency histogram counts `duration_ms` as often as `count` says. A taken-back delta has
    every figure negative.
    """

    at: datetime
    kind: str
    agent: str = ""
    department: str = ""
    provider: str = ""
    model: str = ""
    count: int = 1
    failed: int = 0
    duration_ms: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = ZERO
    reported_usd: Decimal = ZERO
    computed_usd: Decimal = ZERO
    unpriced: int = 0
    cancelled: int = 0


def fold(project_id: int, deltas: Iterable[RollupDelta], *, now: datetime) -> None:
    """Add the deltas to their minutes and mark their hours, in the running transaction."""
    pipeline.flush(statements(project_id, deltas, now=now))


def statements(project_id: int, deltas: Iterable[RollupDelta], *, now: datetime) -> list[Statement]:
    """The statements of `fold`, rows in the order in which everybody locks them."""
    minutes = _by_minute(deltas)
    if not minutes:
        return []
    keys = sorted(minutes)
    parameters: dict[str, object] = {
        "project_id": project_id,
        "minute": pipeline.times(key[0] for key in keys),
        "latency": pipeline.texts(pipeline.array(latency.packed(minutes[key][1])) for key in keys),
    }
    for n, name in enumerate(KEY, start=1):
        parameters[name] = pipeline.texts(key[n] for key in keys)
    for n, name in enumerate(SUMS):
        parameters[name] = pipeline.array(minutes[key][0][n] for key in keys)
    return [_marking(project_id, (key[0] for key in keys), now=now), Statement(UPSERT, parameters)]


def mark(project_id: int, times: Iterable[datetime], *, now: datetime) -> None:
    """Mark the hours of these times, which locks them until commit."""
    pipeline.flush([_marking(project_id, times, now=now)])


def _marking(project_id: int, times: Iterable[datetime], *, now: datetime) -> Statement:
    hours = sorted({at.replace(minute=0, second=0, microsecond=0) for at in times})
    return Statement(MARK, {"project_id": project_id, "now": now, "hours": pipeline.times(hours)})


def _by_minute(deltas: Iterable[RollupDelta]) -> dict[tuple, tuple[list, dict[int, int]]]:
    """(minute, agent, department, provider, model, kind) -> sums, counts by bucket; without what adds up to nothing."""
    minutes: dict[tuple, tuple[list, dict[int, int]]] = {}
    for delta in deltas:
        minute = delta.at.replace(second=0, microsecond=0)
        key = (minute, delta.agent, delta.department, delta.provider, delta.model, delta.kind)
        held = minutes.get(key)
        if held is None:
            held = minutes[key] = ([0, 0, 0, 0, 0, 0, ZERO, ZERO, ZERO, 0, 0], {})
        sums, counts = held
        sums[0] += delta.count
        sums[1] += delta.failed
        sums[2] += delta.duration_ms
        sums[3] += delta.input_tokens
        sums[4] += delta.cache_read_tokens
        sums[5] += delta.output_tokens
        sums[6] += delta.cost_usd
        sums[7] += delta.reported_usd
        sums[8] += delta.computed_usd
        sums[9] += delta.unpriced
        sums[10] += delta.cancelled
        place = latency.bucket(abs(delta.duration_ms))
        counts[place] = counts.get(place, 0) + delta.count
    return {key: held for key, held in minutes.items() if any(held[0]) or any(held[1].values())}
