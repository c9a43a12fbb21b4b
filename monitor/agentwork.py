"""The execution that an agent's span is, as far as its trace alone tells of it."""

from datetime import datetime, timedelta

import msgspec

from monitor import outcomes
from monitor.folding import RollupDelta
from monitor.models.executions import Status
from monitor.spanrows import LONGEST_NAME, Row

LONGEST_TASK = 500


class AgentWork(msgspec.Struct, frozen=True, gc=False):
    """The columns of an execution that its span decides; ids as text. It runs while the span has no end."""

    id: str
    parent_id: str | None
    agent: str
    task: str
    run_id: str
    conversation_id: str
    department: str
    trace_id: str
    span_id: int
    status: str
    error: str
    started_at: datetime
    ended_at: datetime | None
    duration_ms: int | None

    def outcome(self, sign: int) -> RollupDelta | None:
        """What it adds to the minute in which it ended, or with -1 takes back; None while it runs."""
        if self.ended_at is None or self.duration_ms is None:
            return None
        return outcomes.delta(
            at=self.ended_at,
            agent=self.agent,
            department=self.department,
            failed=self.status == Status.FAILED,
            duration_ms=self.duration_ms,
            sign=sign,
        )


def of(row: Row, parent_id: str | None) -> AgentWork:
    """Return the execution that a placed agent's span is, as part of the execution above it."""
    assert row.execution_id is not None
    ended_at = row.ended_at
    status = Status.RUNNING if ended_at is None else Status.FAILED if row.failed else Status.COMPLETED
    return AgentWork(
        id=row.execution_id,
        parent_id=parent_id,
        agent=row.agent or row.name[:LONGEST_NAME],
        task=row.name[:LONGEST_TASK],
        run_id=row.run_id,
        conversation_id=row.conversation_id,
        department=row.department,
        trace_id=row.trace_id,
        span_id=row.span_id,
        status=status.value,
        error=row.error,
        started_at=row.started_at,
        ended_at=ended_at,
        duration_ms=None if ended_at is None else max(0, (ended_at - row.started_at) // timedelta(milliseconds=1)),
    )
