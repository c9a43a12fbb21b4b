"""How many runs were active on each day, from how many began and were last heard of in each quarter of an hour.

Days begin at a full quarter of an hour in every time zone. Whatever was active on a day began before its end and was
not last heard of before its start, so two sums tell it, however many runs there are.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection

from monitor.pipeline import Statement, array, times
from monitor.tenancy import crossing
from monitor.windows import EPOCH

COUNT = """
INSERT INTO monitor_runquarter AS held (project_id, at, begun, ended)
SELECT %(project_id)s, * FROM unnest(%(at)s::timestamptz[], %(begun)s::bigint[], %(ended)s::bigint[])
ON CONFLICT (project_id, at) DO UPDATE SET begun = held.begun + excluded.begun, ended = held.ended + excluded.ended
"""
ACTIVE = """
WITH counted AS (
    SELECT CASE WHEN at < %(since)s THEN %(first)s::date - 1 ELSE (at AT TIME ZONE %(time_zone)s)::date END AS day,
           sum(begun)::bigint AS begun, sum(ended)::bigint AS ended
      FROM monitor_runquarter WHERE project_id = %(project_id)s AND at < %(until)s GROUP BY 1
)
SELECT day, active FROM (
    SELECT day, coalesce(sum(begun) OVER (ORDER BY day), 0)::bigint
                - coalesce(sum(ended) OVER (ORDER BY day ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint
                AS active
      FROM (SELECT %(first)s::date + n AS day FROM generate_series(-1, %(last)s::date - %(first)s::date) AS n) AS series
      LEFT JOIN counted USING (day)
) AS days
 WHERE day >= %(first)s ORDER BY day
"""
# What is old goes into one quarter: who began before it and was heard of after it is active still. Taken in the order
# in which everybody takes them.
FOLD = """
WITH old AS MATERIALIZED (
    SELECT project_id, at FROM monitor_runquarter WHERE {whose} AND at < %(before)s ORDER BY project_id, at FOR UPDATE
), gone AS (
    DELETE FROM monitor_runquarter AS one USING old WHERE one.project_id = old.project_id AND one.at = old.at
    RETURNING one.project_id, one.begun, one.ended
)
INSERT INTO monitor_runquarter AS held (project_id, at, begun, ended)
SELECT project_id, %(before)s, sum(begun) - sum(ended), 0 FROM gone
 GROUP BY project_id HAVING sum(begun) <> sum(ended)
ON CONFLICT (project_id, at) DO UPDATE SET begun = held.begun + excluded.begun
"""


QUARTER = timedelta(minutes=15)

# From when to when a run reached, and reaches now; None where there was or is none.
Move = tuple[datetime | None, datetime | None, datetime | None, datetime | None]


def counting(project_id: int, moves: Iterable[Move]) -> list[Statement]:
    """The statement that counts what the runs of a batch moved; none when they stayed within their quarters.

    Every batch with a new run writes the present quarter: whoever counts does it once, as the last of its locks.
    """
    begun: Counter[int] = Counter()
    ended: Counter[int] = Counter()
    for was_first_at, was_last_at, first_at, last_at in moves:
        for counter, was_at, at in ((begun, was_first_at, first_at), (ended, was_last_at, last_at)):
            if was_at is not None:
                counter[(was_at - EPOCH) // QUARTER] -= 1
            if at is not None:
                counter[(at - EPOCH) // QUARTER] += 1
    quarters = sorted(number for number in begun.keys() | ended.keys() if begun[number] or ended[number])
    if not quarters:
        return []
    counts = {
        "begun": array(begun[number] for number in quarters),
        "ended": array(ended[number] for number in quarters),
    }
    at_quarters = times(EPOCH + number * QUARTER for number in quarters)
    return [Statement(COUNT, {"project_id": project_id, "at": at_quarters, **counts})]


def active(project_id: int, first: date, last: date, *, time_zone: str) -> dict[date, int]:
    """How many runs were active on each day of the time zone, `first` to `last`; 0 where none was."""
    here = ZoneInfo(time_zone)
    values: dict[str, Any] = {
        "project_id": project_id,
        "time_zone": time_zone,
        "first": first,
        "last": last,
        "since": _midnight(first, here),
        "until": _midnight(last + timedelta(days=1), here),
    }
    with connection.cursor() as cursor:
        cursor.execute(ACTIVE, values)
        return dict(cursor.fetchall())


def fold(whose: str, values: Mapping[str, Any], *, before: datetime) -> None:
    """Make one quarter of those before the day of `before` (UTC), of the projects that the condition names."""
    midnight = before.replace(hour=0, minute=0, second=0, microsecond=0)
    with crossing(), connection.cursor() as cursor:
        cursor.execute(FOLD.format(whose=whose), {**values, "before": midnight})


def _midnight(day: date, here: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=here)
