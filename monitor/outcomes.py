"""Outcomes: each execution that ended, counted in the rollup of the minute in which it ended."""

from collections.abc import Iterable
from datetime import datetime

from monitor import rollups
from monitor.models import Execution
from monitor.models.executions import Status
from monitor.rollups import RollupDelta

FAILED = (Status.FAILED, Status.TIMEOUT)


def count(project_id: int, ended: Iterable[Execution], *, now: datetime) -> None:
    """Count executions that have just ended; a cancelled one is no failure."""
    rollups.fold(project_id, [_delta(execution, now=now) for execution in ended], now=now)


def _delta(execution: Execution, *, now: datetime) -> RollupDelta:
    # Cost and tokens are those of its calls, which count themselves.
    return RollupDelta(
        at=execution.ended_at or now,
        kind="execution",
        agent=execution.agent,
        department=execution.department,
        model=execution.model,
        failed=int(execution.status in FAILED),
        duration_ms=execution.duration_ms or 0,
    )
