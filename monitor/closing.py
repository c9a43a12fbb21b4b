"""Closing: ended hours are summed from their minutes, ended days from their hours; set, never added to.

An hour is marked by whoever changes its minutes. A closed hour opens its day again, and a day that has ended is closed
once none of its hours is marked. Days are those of the project's time zone, as calendars.py cuts them; of a day that
begins or ends within an hour of UTC the whole hours, and whoever reads finds that hour beside them.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from monitor import calendars, pipeline, tallies
from monitor.folding import KEY, SUMS
from monitor.pipeline import Statement
from monitor.rollups import JOINED, SUMMED
from monitor.tenancy import crossing

HOURS_AT_ONCE = 200
DAYS_AT_ONCE = 100
HOUR = timedelta(hours=1)

CLAIM_HOURS = """
DELETE FROM monitor_dirtyhour AS mark USING (
    SELECT project_id, hour FROM monitor_dirtyhour
     WHERE hour < date_trunc('hour', %(now)s::timestamptz, 'UTC')
     ORDER BY project_id, hour LIMIT %(most)s FOR UPDATE SKIP LOCKED
) AS due
 WHERE mark.project_id = due.project_id AND mark.hour = due.hour
RETURNING mark.project_id, mark.hour
"""
ZONES = "SELECT id, time_zone FROM monitor_project WHERE id = ANY(%(projects)s::int[])"
# Days that were cut before their time zone changed its rules, in the place of those that are opened.
FORGET_OTHERS = """
WITH others AS (
    DELETE FROM monitor_rolledday AS day
     USING unnest(%(projects)s::int[], %(begin)s::timestamptz[], %(end)s::timestamptz[], %(zones)s::text[])
           AS opened (project_id, at, until, zone)
     WHERE day.project_id = opened.project_id AND time_zone = zone
       AND starts_at > at - interval '2 days' AND starts_at < until
       AND ends_at > at AND (starts_at, ends_at) <> (at, until)
    RETURNING day.project_id, starts_at
)
DELETE FROM monitor_dayrollup AS held USING others
 WHERE held.project_id = others.project_id AND held.day = others.starts_at
"""
# The update locks the day: whoever closes it passes it over until this transaction has ended.
OPEN_DAYS = """
INSERT INTO monitor_rolledday (project_id, starts_at, ends_at, time_zone)
SELECT opened.project_id, starts_at, ends_at, opened.time_zone
  FROM unnest(%(projects)s::int[], %(begin)s::timestamptz[], %(end)s::timestamptz[], %(zones)s::text[])
       AS opened (project_id, starts_at, ends_at, time_zone)
  JOIN monitor_project AS project ON project.id = opened.project_id
 ORDER BY opened.project_id, starts_at
ON CONFLICT (project_id, starts_at) DO UPDATE SET
    ends_at = excluded.ends_at, time_zone = excluded.time_zone, closed_at = NULL
"""
CLAIM_DAYS = """
SELECT project_id, starts_at, ends_at FROM monitor_rolledday AS day
 WHERE closed_at IS NULL AND ends_at <= date_trunc('hour', %(now)s::timestamptz, 'UTC')
   AND NOT EXISTS (SELECT FROM monitor_dirtyhour AS mark
                    WHERE mark.project_id = day.project_id AND hour >= starts_at AND hour < ends_at)
 ORDER BY project_id, starts_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
"""
CLOSE_DAYS = """
UPDATE monitor_rolledday AS day SET closed_at = %(now)s
  FROM unnest(%(projects)s::int[], %(begin)s::timestamptz[]) AS claimed (project_id, at)
 WHERE day.project_id = claimed.project_id AND day.starts_at = claimed.at
"""
# Days of a time zone that their project no longer has.
STALE_DAYS = """
WITH stale AS (
    DELETE FROM monitor_rolledday AS day USING monitor_project AS project
     WHERE project.id = day.project_id AND project.time_zone <> day.time_zone
    RETURNING day.project_id, starts_at, ends_at
), sums AS (
    DELETE FROM monitor_dayrollup AS held USING stale
     WHERE held.project_id = stale.project_id AND held.day = stale.starts_at
)
SELECT project_id, starts_at, ends_at FROM stale
"""


def _forgetting(table: str, unit: str) -> str:
    return f"""
DELETE FROM {table} AS held USING unnest(%(projects)s::int[], %(begin)s::timestamptz[]) AS claimed (project_id, at)
 WHERE held.project_id = claimed.project_id AND held.{unit} = claimed.at
"""  # noqa: S608


def _summing(table: str, unit: str, parts: str, part: str) -> str:
    """Sum the parts between `begin` (inclusive) and `end` (exclusive) into one row of each key."""
    return f"""
WITH facts AS MATERIALIZED (
    SELECT claimed.project_id, at AS bin, {", ".join(KEY)}, {", ".join(SUMS)}, latency
      FROM unnest(%(projects)s::int[], %(begin)s::timestamptz[], %(end)s::timestamptz[])
           AS claimed (project_id, at, until)
      JOIN {parts} AS parts ON parts.project_id = claimed.project_id AND {part} >= at AND {part} < until
), sums AS (
    SELECT project_id, bin, {", ".join(KEY)}, {SUMMED} FROM facts GROUP BY project_id, bin, {", ".join(KEY)}
), joined AS ({JOINED.format(labels=", ".join(("project_id", *KEY)))})
INSERT INTO {table} (project_id, {unit}, {", ".join(KEY)}, {", ".join(SUMS)}, latency)
SELECT project_id, bin, {", ".join(KEY)}, {", ".join(SUMS)}, coalesce(latency, '{{}}')
  FROM sums LEFT JOIN joined USING (project_id, bin, {", ".join(KEY)})
"""  # noqa: S608


HOURS = (
    _forgetting("monitor_hourrollup", "hour"),
    _summing("monitor_hourrollup", "hour", "monitor_minuterollup", "minute"),
)
DAYS = _forgetting("monitor_dayrollup", "day"), _summing("monitor_dayrollup", "day", "monitor_hourrollup", "hour")


def close(*, now: datetime) -> int:
    """Close marked hours and opened days that are over, in every project; return how many hours and days."""
    return close_hours(now=now) + close_days(now=now)


def close_hours(*, now: datetime) -> int:
    """Recompute marked hours that are over and open their days; return how many hours.

    Each is claimed, so that any number of processes may do this at once.
    """
    with crossing():
        (claimed,) = pipeline.flush([Statement(CLAIM_HOURS, {"now": now, "most": HOURS_AT_ONCE})])
        if claimed:
            spans = [(project_id, hour, hour + HOUR) for project_id, hour in claimed]
            pipeline.flush([tallies.keeping(claimed)])
            _sum_up(HOURS, spans)
            _open(spans)
    return len(claimed)


def close_days(*, now: datetime) -> int:
    """Recompute opened days that are over and hold no marked hour; return how many.

    Where a project changed its time zone, its days are cut anew first.
    """
    with crossing():
        (stale,) = pipeline.flush([Statement(STALE_DAYS, {})])
        if stale:
            _open(stale)
        (claimed,) = pipeline.flush([Statement(CLAIM_DAYS, {"now": now, "most": DAYS_AT_ONCE})])
        if claimed:
            _sum_up(DAYS, claimed)
            pipeline.flush([Statement(CLOSE_DAYS, _spans(claimed) | {"now": now})])
    return len(claimed)


def _sum_up(statements: tuple[str, str], claimed: Iterable[tuple[int, datetime, datetime]]) -> None:
    parameters = _spans(claimed)
    pipeline.flush([Statement(sql, parameters) for sql in statements])


def _spans(claimed: Iterable[tuple[int, datetime, datetime]]) -> dict[str, object]:
    projects, begin, end = zip(*claimed, strict=True)
    return {"projects": pipeline.array(projects), "begin": pipeline.times(begin), "end": pipeline.times(end)}


def _open(changed: Collection[tuple[int, datetime, datetime]]) -> None:
    """Open the days whose whole hours have a part in what changed."""
    projects = pipeline.array({project_id for project_id, _, _ in changed})
    (found,) = pipeline.flush([Statement(ZONES, {"projects": projects})])
    zones = dict(found)
    days = set()
    for project_id, begin, end in changed:
        if project_id in zones:
            here = ZoneInfo(zones[project_id])
            for at in calendars.starts("day", begin, end, here):
                starts_at, ends_at = _whole_hours(*calendars.bounds(at, here))
                if starts_at < end and begin < ends_at:
                    days.add((project_id, starts_at, ends_at))
    if days:
        opened = sorted(days)
        parameters = _spans(opened) | {"zones": pipeline.texts(zones[project_id] for project_id, _, _ in opened)}
        pipeline.flush([Statement(FORGET_OTHERS, parameters), Statement(OPEN_DAYS, parameters)])


def _whole_hours(starts_at: datetime, ends_at: datetime) -> tuple[datetime, datetime]:
    first, last = (at.replace(minute=0, second=0) for at in (starts_at, ends_at))
    return (first if first == starts_at else first + HOUR), last
