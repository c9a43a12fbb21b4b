"""How many runs were active on each day, from how many began and were last heard of in each quarter of an hour.

Days begin at a full quarter of an hour in every time zone. Whatever was active on a day began before its end and was
not last heard of before its start, so two sums tell it, however many runs there are.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection

from monitor.tenancy import crossing

# A new run comes from nowhere, and one that is taken away goes there. Most batches go on with runs within the quarter,
# and write nothing here.
_COUNT = """
INSERT INTO monitor_runquarter AS held (project_id, at, begun, ended)
SELECT %(project_id)s, date_bin('15 minutes', at, '2000-01-01 00:00Z') AS quarter, sum(begins), sum(ends)
  FROM moved, LATERAL (VALUES (was_first_at, -1, 0), (was_last_at, 0, -1), (first_at, 1, 0), (last_at, 0, 1))
    AS one (at, begins, ends)
 WHERE at IS NOT NULL GROUP BY quarter HAVING sum(begins) <> 0 OR sum(ends) <> 0 ORDER BY quarter
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
# What is old goes into one quarter: who began before it and was heard of after it is active still.
FOLD = """
WITH gone AS (
    DELETE FROM monitor_runquarter WHERE {whose} AND at < %(before)s RETURNING project_id, begun, ended
)
INSERT INTO monitor_runquarter AS held (project_id, at, begun, ended)
SELECT project_id, %(before)s, sum(begun) - sum(ended), 0 FROM gone
 GROUP BY project_id HAVING sum(begun) <> sum(ended)
ON CONFLICT (project_id, at) DO UPDATE SET begun = held.begun + excluded.begun
"""


def counting(statement: str) -> str:
    """The statement on `monitor_run`, made to count what it moves.

    It returns each run's `first_at` and `last_at`, and as `was_first_at` and `was_last_at` what they were before; NULL
    where there is or was no run.
    """
    return f"WITH moved AS ({statement}) {_COUNT}"


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
