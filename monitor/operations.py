"""Named operations of agents: how often, how well and how long, computed from their spans of a bounded time."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection

LONGEST = timedelta(days=31)
# The newest are computed with; a window that has more is told apart.
MOST_SPANS = 200_000
MOST_ROWS = 500

STATISTICS = """
WITH newest AS MATERIALIZED (
    SELECT kind, agent, name, failed, started_at, ended_at FROM monitor_span
     WHERE project_id = %(project_id)s AND {within} AND started_at >= %(since)s AND started_at < %(until)s
     ORDER BY started_at DESC LIMIT %(most)s
), chosen AS (
    SELECT agent, name, failed, extract(epoch FROM ended_at - started_at) * 1000 AS took_ms, started_at
      FROM newest
     WHERE kind = 'operation' AND ended_at IS NOT NULL AND (%(agent)s::text IS NULL OR agent = %(agent)s)
       AND (%(operation)s::text IS NULL OR name = %(operation)s)
), summed AS (
    SELECT agent, name, count(*) AS count, count(*) FILTER (WHERE failed) AS failed, avg(took_ms)::float8,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY took_ms)::float8,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY took_ms)::float8, max(took_ms)::float8, max(started_at)
      FROM chosen GROUP BY agent, name ORDER BY count(*) DESC, agent, name LIMIT %(rows)s
)
SELECT told.truncated, summed.*
  FROM (SELECT count(*) = %(most)s AS truncated FROM newest) AS told LEFT JOIN summed ON true
 ORDER BY summed.count DESC, summed.agent, summed.name
"""
# What bounds the spans that are read has an index; the other filters take from these.
OF_WINDOW = STATISTICS.format(within="kind = 'operation'")
OF_EXECUTION = STATISTICS.format(within="execution_id = %(execution_id)s")


class OperationStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of one agent in the window; durations in milliseconds."""

    agent: str
    operation: str
    count: int
    failed: int
    success_rate: float
    average_ms: float
    p50_ms: float
    p95_ms: float
    longest_ms: float
    last_at: datetime


class Operations(msgspec.Struct, frozen=True):
    """The most frequent first. `truncated`: the window has more than were computed with, the newest 200,000."""

    results: list[OperationStatistics]
    truncated: bool


def statistics(
    project_id: int,
    *,
    since: datetime,
    until: datetime,
    agent: str | None = None,
    operation: str | None = None,
    execution_id: UUID | None = None,
    most: int = MOST_SPANS,
) -> Operations:
    """What the operations that started in the window were like, of its newest `most` spans.

    `execution_id` narrows it to the spans of one execution.
    """
    asked = {"agent": agent, "operation": operation, "execution_id": execution_id}
    window: dict[str, Any] = {"project_id": project_id, "since": since, "until": until}
    with connection.cursor() as cursor:
        statement = OF_WINDOW if execution_id is None else OF_EXECUTION
        cursor.execute(statement, {**asked, **window, "most": most, "rows": MOST_ROWS})
        rows = cursor.fetchall()
    results = [
        OperationStatistics(
            agent=name,
            operation=done,
            count=count,
            failed=failed,
            success_rate=(count - failed) / count,
            average_ms=average,
            p50_ms=p50,
            p95_ms=p95,
            longest_ms=longest,
            last_at=last_at,
        )
        for _, name, done, count, failed, average, p50, p95, longest, last_at in rows
        if count is not None
    ]
    return Operations(results, rows[0][0])
