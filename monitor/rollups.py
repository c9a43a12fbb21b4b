"""Rollups: sums and latency histograms by minute, exact at commit; read with the hours and days that closing makes."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from monitor import latency, pipeline
from monitor.latency import Histogram
from monitor.pipeline import Statement
from monitor.together import Together

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
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
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
SUMMED = ", ".join(f"sum({name})::{_TYPES.get(name, 'bigint')} AS {name}" for name in SUMS)
# The update locks the mark: whoever closes the hour passes it over until this transaction has ended.
MARK = """
INSERT INTO monitor_dirtyhour (project_id, hour, marked_at)
SELECT %(project_id)s, hour, %(now)s FROM unnest(%(hours)s::timestamptz[]) AS hour
ON CONFLICT (project_id, hour) DO UPDATE SET marked_at = excluded.marked_at
"""
JOINED = f"""
    SELECT bin, {{labels}}, array_agg((n << {latency.SHIFT}) + bucket ORDER BY bucket) AS latency
      FROM (SELECT bin, {{labels}}, number & {latency.MASK} AS bucket, sum(number >> {latency.SHIFT})::bigint AS n
              FROM facts, unnest(latency) AS number GROUP BY bin, {{labels}}, bucket) AS counted
     WHERE n <> 0 GROUP BY bin, {{labels}}
"""  # noqa: S608
STEPS = {
    "none": "%(since)s::timestamptz",
    "seconds": "date_bin(make_interval(secs => %(step_s)s), at, '1970-01-01 00:00Z')",
    "calendar": "date_trunc(%(calendar)s, at, %(time_zone)s)",
}
GROUPS = ("", "agent", "department", "provider", "model", "kind")


_ITS_ZONE = "(SELECT time_zone FROM monitor_project WHERE id = %(project_id)s)"
# Days are those of the project's calendar: what is cut by another one they don't add up to.
_IN_ITS_ZONE = {
    "none": f"time_zone = {_ITS_ZONE}",
    "calendar": f"time_zone = {_ITS_ZONE} AND time_zone = %(time_zone)s",
}


def _reading(step: str, group: str, *, by_days: bool, with_latency: bool) -> str:
    """Closed days come from their rollup, whole hours beside them from theirs, the rest from the minutes.

    Hours marked dirty are read from the minutes, and so no day that holds one is taken whole.
    """
    columns = ", ".join((*SUMS, "latency") if with_latency else SUMS)
    label = group or "''"
    chosen = """kind = ANY(%(kinds)s) AND (%(only_agent)s::text IS NULL OR agent = %(only_agent)s)
       AND (%(only_department)s::text IS NULL OR department = %(only_department)s)"""
    dirty = """
WITH dirty AS MATERIALIZED (
    SELECT hour FROM monitor_dirtyhour
     WHERE project_id = %(project_id)s AND hour >= %(first_hour)s AND hour < %(last_hour)s
)"""
    whole_hours = f"""
    SELECT hour AS at, {label} AS label, {columns} FROM monitor_hourrollup
     WHERE project_id = %(project_id)s AND hour >= %(first_hour)s AND hour < %(last_hour)s
       AND hour NOT IN (SELECT hour FROM dirty) AND {chosen}"""  # noqa: S608
    if by_days:
        dirty += f""", days AS MATERIALIZED (
    SELECT starts_at, ends_at FROM monitor_rolledday
     WHERE project_id = %(project_id)s AND starts_at >= %(first_hour)s AND ends_at <= %(last_hour)s
       AND closed_at IS NOT NULL AND {_IN_ITS_ZONE[step]}
       AND NOT EXISTS (SELECT FROM dirty WHERE hour >= starts_at AND hour < ends_at)
), gaps AS MATERIALIZED (
    SELECT * FROM (
        SELECT lag(ends_at, 1, %(first_hour)s::timestamptz) OVER (ORDER BY starts_at) AS opens_at,
               starts_at AS closes_at FROM days
        UNION ALL
        SELECT coalesce(max(ends_at), %(first_hour)s::timestamptz), %(last_hour)s::timestamptz FROM days
    ) AS gap WHERE opens_at < closes_at
)"""  # noqa: S608
        # By their ends alone the planner takes any gap for a large one: hence LATERAL, day by day and gap by gap.
        whole_hours = f"""
    SELECT starts_at AS at, part.* FROM days, LATERAL (
        SELECT {label} AS label, {columns} FROM monitor_dayrollup
         WHERE project_id = %(project_id)s AND day = starts_at AND {chosen}
        OFFSET 0
    ) AS part
    UNION ALL
    SELECT part.* FROM gaps, LATERAL (
        SELECT hour, {label}, {columns} FROM monitor_hourrollup
         WHERE project_id = %(project_id)s AND hour >= opens_at AND hour < closes_at
           AND hour NOT IN (SELECT hour FROM dirty) AND {chosen}
        OFFSET 0
    ) AS part"""  # noqa: S608
    facts = f"""{dirty}, found AS ({whole_hours}
    UNION ALL
    SELECT minute, {label}, {columns} FROM monitor_minuterollup
     WHERE project_id = %(project_id)s
       AND (minute >= %(since)s AND minute < %(first_hour)s OR minute >= %(last_hour)s AND minute < %(until)s)
       AND {chosen}
    UNION ALL
    SELECT minute, {label}, {columns} FROM dirty JOIN monitor_minuterollup
        ON project_id = %(project_id)s AND minute >= hour AND minute < hour + interval '1 hour'
       AND {chosen}
), facts AS (SELECT {STEPS[step]} AS bin, label, {columns} FROM found
), sums AS (
    SELECT bin, label, {SUMMED} FROM facts GROUP BY bin, label HAVING sum(count) <> 0 OR sum(cost_usd) <> 0
)"""  # noqa: S608
    if not with_latency:
        return f"{facts} SELECT bin, label, {columns} FROM sums ORDER BY bin, label"  # noqa: S608
    return f"""{facts}, joined AS ({JOINED.format(labels="label")})
SELECT bin, label, {columns} FROM sums LEFT JOIN joined USING (bin, label) ORDER BY bin, label"""  # noqa: S608


READS = {
    (step, group, by_days, with_latency): _reading(step, group, by_days=by_days, with_latency=with_latency)
    for step in STEPS
    for group in GROUPS
    for by_days in ((False, True) if step in _IN_ITS_ZONE else (False,))
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
    within: Together | None = None,
) -> list[Totals]:
    """Totals of each step of `step_s` seconds (or day, week or month of the time zone), by time, then group.

    `since` (inclusive) and `until` (exclusive) are rounded down to the minute. Steps without a row are left out.
    `within` others it is asked together with them.
    """
    by_hours = _whole_hours(since, time_zone) if calendar else step_s % 3600 == 0
    return _read(
        "calendar" if calendar else "seconds",
        group_by,
        _bounds(since, until, by_hours=by_hours)
        | {"project_id": project_id, "kinds": list(kinds), "only_agent": agent, "only_department": department}
        | ({"calendar": calendar, "time_zone": time_zone} if calendar else {"step_s": step_s}),
        with_latency=with_latency,
        within=within,
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
    within: Together | None = None,
) -> list[Totals]:
    """One row of totals for each group of the whole period, by group; without `group_by` at most one row."""
    return _read(
        "none",
        group_by,
        _bounds(since, until, by_hours=True)
        | {"project_id": project_id, "kinds": list(kinds), "only_agent": agent, "only_department": department},
        with_latency=with_latency,
        within=within,
    )


def _read(
    step: str, group_by: GroupBy, parameters: Mapping[str, Any], *, with_latency: bool, within: Together | None
) -> list[Totals]:
    by_days = step in _IN_ITS_ZONE and parameters["last_hour"] - parameters["first_hour"] >= DAY
    statement = Statement(READS[step, group_by, by_days, with_latency], dict(parameters))
    if within is not None:
        return within.ask(statement, partial(_totals, with_latency=with_latency))
    (rows,) = pipeline.flush([statement])
    return _totals(rows, with_latency=with_latency)


def _totals(rows: Iterable[tuple[Any, ...]], *, with_latency: bool) -> list[Totals]:
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
