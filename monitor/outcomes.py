"""Outcomes: each execution that ended, counted in the rollup of the minute in which it ended."""

from collections.abc import Iterable
from datetime import datetime

from monitor import folding
from monitor.folding import RollupDelta
from monitor.models import Execution
from monitor.models.executions import Status

FAILED = (Status.FAILED, Status.TIMEOUT)


def expect(project_id: int, *, now: datetime) -> None:
    """Lock the hour in which something is about to end, until commit: before that something, as everybody does."""
    folding.mark(project_id, [now], now=now)


def count(project_id: int, ended: Iterable[Execution], *, now: datetime) -> None:
    """Count executions that have just ended; a cancelled one is neither a success nor a failure."""
    folding.fold(project_id, [_delta(execution, now=now) for execution in ended], now=now)


def delta(
    *,
    at: datetime,
    agent: str,
    department: str,
    failed: bool,
    duration_ms: int,
    cancelled: bool = False,
    model: str = "",
    sign: int = 1,
) -> RollupDelta:
    """What one execution that ended adds, or with `sign` -1 takes back."""
    # Cost and tokens are those of its calls, which count themselves.
    return RollupDelta(
        at=at,
        kind="execution",
        agent=agent,
        department=department,
        model=model,
        count=sign,
        failed=failed * sign,
        cancelled=cancelled * sign,
        duration_ms=duration_ms * sign,
    )


def _delta(execution: Execution, *, now: datetime) -> RollupDelta:
    return delta(
        at=execution.ended_at or now,
        agent=execution.agent,
        department=execution.department,
        model=execution.model,
        failed=execution.status in FAILED,
        cancelled=execution.status == Status.CANCELLED,
        duration_ms=execution.duration_ms or 0,
    )
