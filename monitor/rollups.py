"""Reading the rollups: what a period adds up to, from the minutes that folding keeps and what closing makes of them.

A whole hour counts where its middle is. Where a day begins within an hour, or the period does, the minutes beyond that
moment are counted on their own side and taken off the hour's. So all is exact for as long as there are minutes; later
such an hour counts whole on the side of its middle, and whatever is read together still adds up.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import pairwise
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from monitor import calendars, latency, pipeline
from monitor.calendars import Calendar
from monitor.folding import SUMS, TYPES, ZERO
from monitor.latency import Histogram
from monitor.pipeline import Statement
from monitor.together import Together

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
HALF_AN_HOUR = HOUR / 2
DAY = timedelta(days=1)

SUMMED = ", ".join(f"sum({name})::{TYPES.get(name, 'bigint')} AS {name}" for name in SUMS)
JOINED = f"""
    SELECT bin, {{labels}}, array_agg((n << {latency.SHIFT}) + bucket ORDER BY bucket) AS latency
      FROM (SELECT bin, {{labels}}, number & {latency.MASK} AS bucket, sum(number >> {latency.SHIFT})::bigint AS n
              FROM facts, unnest(latency) AS number GROUP BY bin, {{labels}}, bucket) AS counted
     WHERE n <> 0 GROUP BY bin, {{labels}}
"""  # noqa: S608
STEPS = {
    "none": "%(since)s::timestamptz",
    "seconds": "date_bin(make_interval(secs => %(step_s)s), at, '1970-01-01 00:00Z')",
    "calendar": "(%(starts)s::timestamptz[])[width_bucket(at, %(starts)s::timestamptz[])]",
}
GROUPS = ("", "agent", "department", "provider", "model", "kind")


_ITS_ZONE = "(SELECT time_zone FROM monitor_project WHERE id = %(project_id)s)"
# Days are those of the project's calendar: what is cut by another one they don't add up to.
_IN_ITS_ZONE = {
    "none": f"time_zone = {_ITS_ZONE}",
    "calendar": f"time_zone = {_ITS_ZONE} AND time_zone = %(time_zone)s",
}
# Of an hour that reaches beyond the period.
_WITHIN = " WHERE at >= %(since)s AND at < %(until)s"


def _reading(step: str, group: str, *, by_days: bool, in_pieces: bool, with_latency: bool) -> str:
    """Closed days come from their rollup, whole hours beside them from theirs, the rest from the minutes.

    Hours marked dirty are read from the minutes, and so no day that holds one is taken whole. With `in_pieces` hours
    are read that the steps or the ends of the period divide.
    """
    columns = ", ".join((*SUMS, "latency") if with_latency else SUMS)
    label = group or "''"
    middle = " + interval '30 minutes'" if in_pieces else ""
    chosen = """kind = ANY(%(kinds)s) AND (%(only_agent)s::text IS NULL OR agent = %(only_agent)s)
       AND (%(only_department)s::text IS NULL OR department = %(only_department)s)"""
    named = """
WITH dirty AS MATERIALIZED (
    SELECT hour FROM monitor_dirtyhour
     WHERE project_id = %(project_id)s AND hour >= %(first_hour)s AND hour < %(last_hour)s
)"""
    whole_hours = f"""
    SELECT hour{middle} AS at, {label} AS label, {columns} FROM monitor_hourrollup
     WHERE project_id = %(project_id)s AND hour >= %(first_hour)s AND hour < %(last_hour)s
       AND hour NOT IN (SELECT hour FROM dirty) AND {chosen}"""  # noqa: S608
    if by_days:
        named += f""", days AS MATERIALIZED (
    SELECT starts_at, ends_at FROM monitor_rolledday
     WHERE project_id = %(project_id)s AND starts_at >= %(since)s AND ends_at <= %(until)s
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
        SELECT hour{middle}, {label}, {columns} FROM monitor_hourrollup
         WHERE project_id = %(project_id)s AND hour >= opens_at AND hour < closes_at
           AND hour NOT IN (SELECT hour FROM dirty) AND {chosen}
        OFFSET 0
    ) AS part"""  # noqa: S608
    if in_pieces:
        # What has left the hours can't be taken off them. Where all may be asked for, OFFSET 0 keeps it one by one.
        named += f""", divided AS MATERIALIZED (
    SELECT * FROM (
        SELECT begins_at, ends_at, date_trunc('hour', begins_at, 'UTC') AS its_hour
          FROM unnest(%(begins)s::timestamptz[], %(ends)s::timestamptz[]) AS piece (begins_at, ends_at)
    ) AS piece
     WHERE its_hour NOT IN (SELECT hour FROM dirty) AND EXISTS (
         SELECT FROM monitor_hourrollup WHERE project_id = %(project_id)s AND hour = its_hour OFFSET 0)
), pieces AS MATERIALIZED (
    SELECT its_hour, part.* FROM divided, LATERAL (
        SELECT minute, {label} AS label, {columns} FROM monitor_minuterollup
         WHERE project_id = %(project_id)s AND minute >= begins_at AND minute < ends_at AND {chosen}
        OFFSET 0
    ) AS part
)"""  # noqa: S608
        taken = ", ".join(f"-{name}" for name in SUMS)
        taken += f", {latency.taken_back('latency')}" if with_latency else ""
        beside = f"""
    SELECT minute, label, {columns} FROM pieces
    UNION ALL
    SELECT its_hour{middle}, label, {taken} FROM pieces"""  # noqa: S608
    else:
        beside = f"""
    SELECT minute, {label}, {columns} FROM monitor_minuterollup
     WHERE project_id = %(project_id)s
       AND (minute >= %(since)s AND minute < %(first_hour)s OR minute >= %(last_hour)s AND minute < %(until)s)
       AND {chosen}"""  # noqa: S608
    facts = f"""{named}, found AS ({whole_hours}
    UNION ALL{beside}
    UNION ALL
    SELECT minute, {label}, {columns} FROM dirty JOIN monitor_minuterollup
        ON project_id = %(project_id)s AND minute >= hour AND minute < hour + interval '1 hour'
       AND {chosen}
), facts AS (
    SELECT {STEPS[step]} AS bin, label, {columns} FROM found{_WITHIN if in_pieces else ""}
), sums AS (
    SELECT bin, label, {SUMMED} FROM facts GROUP BY bin, label HAVING sum(count) <> 0 OR sum(cost_usd) <> 0
)"""  # noqa: S608
    if not with_latency:
        return f"{facts} SELECT bin, label, {columns} FROM sums ORDER BY bin, label"  # noqa: S608
    return f"""{facts}, joined AS ({JOINED.format(labels="label")})
SELECT bin, label, {columns} FROM sums LEFT JOIN joined USING (bin, label) ORDER BY bin, label"""  # noqa: S608


READS = {
    (step, group, by_days, in_pieces, with_latency): _reading(
        step, group, by_days=by_days, in_pieces=in_pieces, with_latency=with_latency
    )
    for step in STEPS
    for group in GROUPS
    for by_days in ((False, True) if step in _IN_ITS_ZONE else (False,))
    for in_pieces in (False, True)
    for with_latency in (False, True)
}
GroupBy = Literal["", "agent", "department", "provider", "model", "kind"]
ALL_KINDS = ("execution", "llm", "tool")


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
    since, until = _minute(since), _minute(until)
    steps: dict[str, Any] = {"step_s": step_s}
    bounds = _bounds(since, until, by_hours=step_s % 3600 == 0)
    if calendar:
        starts = list(calendars.starts(calendar, since, until, ZoneInfo(time_zone)))
        steps = {"starts": pipeline.times(starts), "time_zone": time_zone}
        bounds = _in_pieces(since, until, starts)
    return _read(
        "calendar" if calendar else "seconds",
        group_by,
        {**bounds, **steps, "project_id": project_id}
        | {"kinds": list(kinds), "only_agent": agent, "only_department": department},
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
        _bounds(_minute(since), _minute(until), by_hours=True)
        | {"project_id": project_id, "kinds": list(kinds), "only_agent": agent, "only_department": department},
        with_latency=with_latency,
        within=within,
    )


def _read(
    step: str, group_by: GroupBy, parameters: Mapping[str, Any], *, with_latency: bool, within: Together | None
) -> list[Totals]:
    by_days = step in _IN_ITS_ZONE and parameters["until"] - parameters["since"] >= DAY
    statement = Statement(READS[step, group_by, by_days, "begins" in parameters, with_latency], dict(parameters))
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


def _minute(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(second=0, microsecond=0)


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _bounds(since: datetime, until: datetime, *, by_hours: bool) -> dict[str, Any]:
    """The period and the hours that are read for it."""
    if by_hours and until - since >= DAY:
        return _in_pieces(since, until, ())
    # Of less than a day the ends are read from their minutes.
    first_hour, last_hour = _hour(since + HOUR - MINUTE), _hour(until)
    if not by_hours or first_hour >= last_hour:
        first_hour = last_hour = until
    return {"since": since, "until": until, "first_hour": first_hour, "last_hour": last_hour}


def _in_pieces(since: datetime, until: datetime, starts: Sequence[datetime]) -> dict[str, Any]:
    """The period, all hours that have a part in it, and of those that are divided what is beyond their middle."""
    bounds: dict[str, Any] = {"since": since, "until": until}
    bounds |= {"first_hour": _hour(since), "last_hour": _hour(until + HOUR - MINUTE)}
    divided: dict[datetime, list[datetime]] = {}
    for cut in (since, *(at for at in starts if since < at < until), until):
        if cut != _hour(cut):
            divided.setdefault(_hour(cut), []).append(cut)
    if not divided:
        return bounds
    pieces = [
        (begin, end)
        for hour, cuts in divided.items()
        for begin, end in pairwise((hour, *cuts, hour + HOUR))
        if not begin <= hour + HALF_AN_HOUR < end
    ]
    begins, ends = zip(*pieces, strict=True)
    return bounds | {"begins": pipeline.times(begins), "ends": pipeline.times(ends)}
