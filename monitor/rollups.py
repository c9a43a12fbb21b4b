"""Rollups: sums and latency histograms by minute, exact at commit, and by hour, recomputed from the minutes."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from monitor import latency, pipeline, tallies
from monitor.latency import Histogram
from monitor.pipeline import Statement
from monitor.tenancy import crossing

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
HOURS_AT_ONCE = 200
MINUTE = timedelta(minutes=1)
ZERO = Decimal(0)

_TYPES = {"cost_usd": "numeric", "reported_usd": "numeric", "computed_usd": "numeric"}
_SUM_ARRAYS = ", ".join(f"%({name})s::{_TYPES.get(name, 'bigint')}[]" for name in SUMS)
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
_SUMMED = ", ".join(f"sum({name})::{_TYPES.get(name, 'bigint')} AS {name}" for name in SUMS)
# The update locks the mark: whoever closes the hour passes it over until this transaction has ended.
MARK = """
INSERT INTO monitor_dirtyhour (project_id, hour, marked_at)
SELECT %(project_id)s, hour, %(now)s FROM unnest(%(hours)s::timestamptz[]) AS hour
ON CONFLICT (project_id, hour) DO UPDATE SET marked_at = excluded.marked_at
"""
CLAIM = """
DELETE FROM monitor_dirtyhour AS mark USING (
    SELECT project_id, hour FROM monitor_dirtyhour
     WHERE hour < date_trunc('hour', %(now)s::timestamptz, 'UTC')
     ORDER BY project_id, hour LIMIT %(most)s FOR UPDATE SKIP LOCKED
) AS due
 WHERE mark.project_id = due.project_id AND mark.hour = due.hour
RETURNING mark.project_id, mark.hour
"""
FORGET = """
DELETE FROM monitor_hourrollup USING unnest(%(projects)s::int[], %(hours)s::timestamptz[]) AS claimed (project_id, at)
 WHERE monitor_hourrollup.project_id = claimed.project_id AND hour = at
"""
_JOINED = f"""
    SELECT bin, {{labels}}, array_agg((n << {latency.SHIFT}) + bucket ORDER BY bucket) AS latency
      FROM (SELECT bin, {{labels}}, number & {latency.MASK} AS bucket, sum(number >> {latency.SHIFT})::bigint AS n
              FROM facts, unnest(latency) AS number GROUP BY bin, {{labels}}, bucket) AS counted
     WHERE n <> 0 GROUP BY bin, {{labels}}
"""  # noqa: S608
RECOMPUTE = f"""
WITH facts AS MATERIALIZED (
    SELECT claimed.project_id, at AS bin, {", ".join(KEY)}, {", ".join(SUMS)}, latency
      FROM unnest(%(projects)s::int[], %(hours)s::timestamptz[]) AS claimed (project_id, at)
      JOIN monitor_minuterollup AS minutes
        ON minutes.project_id = claimed.project_id AND minute >= at AND minute < at + interval '1 hour'
), sums AS (
    SELECT project_id, bin, {", ".join(KEY)}, {_SUMMED} FROM facts GROUP BY project_id, bin, {", ".join(KEY)}
), joined AS ({_JOINED.format(labels=", ".join(("project_id", *KEY)))})
INSERT INTO monitor_hourrollup (project_id, hour, {", ".join(KEY)}, {", ".join(SUMS)}, latency)
SELECT project_id, bin, {", ".join(KEY)}, {", ".join(SUMS)}, coalesce(latency, '{{}}')
  FROM sums LEFT JOIN joined USING (project_id, bin, {", ".join(KEY)})
"""  # noqa: S608
STEPS = {
    "none": "%(since)s::timestamptz",
    "seconds": "date_bin(make_interval(secs => %(step_s)s), at, '1970-01-01 00:00Z')",
    "calendar": "date_trunc(%(calendar)s, at, %(time_zone)s)",
}
GROUPS = ("", "agent", "department", "provider", "model", "kind")


def _reading(step: str, group: str, *, with_latency: bool) -> str:
    """Whole hours come from the hour rollups but those marked dirty; those, and what sticks out, from the minutes."""
    columns = ", ".join((*SUMS, "latency") if with_latency else SUMS)
    chosen = """kind = ANY(%(kinds)s) AND (%(only_agent)s::text IS NULL OR agent = %(only_agent)s)
       AND (%(only_department)s::text IS NULL OR department = %(only_department)s)"""
    facts = f"""
WITH dirty AS MATERIALIZED (
    SELECT hour FROM monitor_dirtyhour
     WHERE project_id = %(project_id)s AND hour >= %(first_hour)s AND hour < %(last_hour)s
), found AS (
    SELECT hour AS at, {group or "''"} AS label, {columns} FROM monitor_hourrollup
     WHERE project_id = %(project_id)s AND hour >= %(first_hour)s AND hour < %(last_hour)s
       AND hour NOT IN (SELECT hour FROM dirty) AND {chosen}
    UNION ALL
    SELECT minute, {group or "''"}, {columns} FROM monitor_minuterollup
     WHERE project_id = %(project_id)s
       AND (minute >= %(since)s AND minute < %(first_hour)s OR minute >= %(last_hour)s AND minute < %(until)s)
       AND {chosen}
    UNION ALL
    SELECT minute, {group or "''"}, {columns} FROM dirty JOIN monitor_minuterollup
        ON project_id = %(project_id)s AND minute >= hour AND minute < hour + interval '1 hour'
       AND {chosen}
), facts AS (SELECT {STEPS[step]} AS bin, label, {columns} FROM found
), sums AS (
    SELECT bin, label, {_SUMMED} FROM facts GROUP BY bin, label HAVING sum(count) <> 0 OR sum(cost_usd) <> 0
)"""  # noqa: S608
    if not with_latency:
        return f"{facts} SELECT bin, label, {columns} FROM sums ORDER BY bin, label"  # noqa: S608
    return f"""{facts}, joined AS ({_JOINED.format(labels="label")})
SELECT bin, label, {columns} FROM sums LEFT JOIN joined USING (bin, label) ORDER BY bin, label"""  # noqa: S608


READS = {
    (step, group, with_latency): _reading(step, group, with_latency=with_latency)
    for step in STEPS
    for group in GROUPS
    for with_latency in (False, True)
}
GroupBy = Literal["", "agent", "department", "provider", "model", "kind"]
Calendar = Literal["day", "week", "month"]
ALL_KINDS = ("execution", "llm", "tool")


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
    pipeline.flush(folding(project_id, deltas, now=now))


def folding(project_id: int, deltas: Iterable[RollupDelta], *, now: datetime) -> list[Statement]:
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


def close_hours(*, now: datetime) -> int:
    """Recompute marked hours that are over, in every project; return how many.

    Each is claimed, so that any number of processes may do this at once, and set, never added to.
    """
    with crossing():
        (claimed,) = pipeline.flush([Statement(CLAIM, {"now": now, "most": HOURS_AT_ONCE})])
        if claimed:
            parameters = {
                "projects": pipeline.array(project_id for project_id, _ in claimed),
                "hours": pipeline.times(hour for _, hour in claimed),
            }
            pipeline.flush([Statement(FORGET, parameters), Statement(RECOMPUTE, parameters)])
            tallies.unsettle((hour for _, hour in claimed), now=now)
    return len(claimed)


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What a period adds up to; `at` is its start, `group` the value grouped by ("" without one).

    `histogram` is there for those who asked for it.
    """

    at: datetime
    group: str = ""
    count: int = 0
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
    histogram: Histogram = latency.NOTHING

    @property
    def avg_ms(self) -> float | None:
        """The mean duration in ms; None when nothing happened."""
        return self.duration_ms / self.count if self.count else None

    @property
    def p95_ms(self) -> float | None:
        """The duration in ms that 95 of 100 did not exceed, within 2 %; None when nothing happened."""
        return latency.percentile(self.histogram, 0.95)

    @property
    def error_rate(self) -> float | None:
        """The share that failed, 0 to 1; None when nothing happened."""
        return self.failed / self.count if self.count else None


def series(
    project_id: int,
    *,
    since: datetime,
    until: datetime,
    step_s: int = 3600,
    calendar: Calendar | None = None,
    time_zone: str = "UTC",
    kinds: Sequence[str] = ALL_KINDS,
    group_by: GroupBy = "",
    agent: str | None = None,
    department: str | None = None,
    with_latency: bool = False,
) -> list[Totals]:
    """Totals of each step of `step_s` seconds (or day, week or month of the time zone), by time, then group.

    `since` (inclusive) and `until` (exclusive) are rounded down to the minute. Steps without a row are left out.
    """
    by_hours = _whole_hours(since, time_zone) if calendar else step_s % 3600 == 0
    return _read(
        "calendar" if calendar else "seconds",
        group_by,
        _bounds(since, until, by_hours=by_hours)
        | {"project_id": project_id, "kinds": list(kinds), "only_agent": agent, "only_department": department}
        | ({"calendar": calendar, "time_zone": time_zone} if calendar else {"step_s": step_s}),
        with_latency=with_latency,
    )


def totals(
    project_id: int,
    *,
    since: datetime,
    until: datetime,
    kinds: Sequence[str] = ALL_KINDS,
    group_by: GroupBy = "",
    agent: str | None = None,
    department: str | None = None,
    with_latency: bool = False,
) -> list[Totals]:
    """One row of totals for each group of the whole period, by group; without `group_by` at most one row."""
    return _read(
        "none",
        group_by,
        _bounds(since, until, by_hours=True)
        | {"project_id": project_id, "kinds": list(kinds), "only_agent": agent, "only_department": department},
        with_latency=with_latency,
    )


def _read(step: str, group_by: GroupBy, parameters: Mapping[str, Any], *, with_latency: bool) -> list[Totals]:
    (rows,) = pipeline.flush([Statement(READS[step, group_by, with_latency], dict(parameters))])
    first = 2 + len(SUMS)
    return [
        Totals(
            at=row[0],
            group=row[1],
            **dict(zip(SUMS, row[2:first], strict=True)),
            histogram=(row[first] or latency.NOTHING) if with_latency else latency.NOTHING,
        )
        for row in rows
    ]


def _bounds(since: datetime, until: datetime, *, by_hours: bool) -> dict[str, datetime]:
    """The period and the whole hours within it."""
    since, until = (moment.replace(second=0, microsecond=0) for moment in (since, until))
    first_hour = since.replace(minute=0) + (timedelta(hours=1) if since.minute else timedelta(0))
    last_hour = until.replace(minute=0)
    if not by_hours or first_hour >= last_hour:
        first_hour = last_hour = until
    return {"since": since, "until": until, "first_hour": first_hour, "last_hour": last_hour}


def _whole_hours(at: datetime, time_zone: str) -> bool:
    """Whether the days of a time zone begin at a full hour of UTC."""
    offset = at.astimezone(ZoneInfo(time_zone)).utcoffset()
    return offset is not None and offset.total_seconds() % 3600 == 0
