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
WITH chosen AS MATERIALIZED (
    SELECT agent, name, failed, extract(epoch FROM ended_at - started_at) * 1000 AS took_ms, started_at
      FROM monitor_span
     WHERE project_id = %(project_id)s AND kind = 'operation' AND started_at >= %(since)s AND started_at < %(until)s
       AND ended_at IS NOT NULL AND (%(agent)s::text IS NULL OR agent = %(agent)s)
       AND (%(operation)s::text IS NULL OR name = %(operation)s)
       AND (%(execution_id)s::uuid IS NULL OR execution_id = %(execution_id)s)
     ORDER BY started_at DESC LIMIT %(most)s
)
SELECT agent, name, count(*), count(*) FILTER (WHERE failed), avg(took_ms)::float8,
       percentile_disc(0.5) WITHIN GROUP (ORDER BY took_ms)::float8,
       percentile_disc(0.95) WITHIN GROUP (ORDER BY took_ms)::float8, max(took_ms)::float8, max(started_at),
       (SELECT count(*) FROM chosen) = %(most)s
  FROM chosen GROUP BY agent, name ORDER BY count(*) DESC, agent, name LIMIT %(rows)s
"""


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
) -> Operations:
    """What the operations that started in the window were like; `execution_id` narrows it to one execution."""
    asked = {"agent": agent, "operation": operation, "execution_id": execution_id}
    window: dict[str, Any] = {"project_id": project_id, "since": since, "until": until}
    with connection.cursor() as cursor:
        cursor.execute(STATISTICS, {**asked, **window, "most": MOST_SPANS, "rows": MOST_ROWS})
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
        for name, done, count, failed, average, p50, p95, longest, last_at, _ in rows
    ]
    return Operations(results, any(row[-1] for row in rows))
