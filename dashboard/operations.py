"""Named operations of an execution, as rows below its tools."""

from dataclasses import dataclass
from datetime import datetime

from dashboard.traces import SLACK
from monitor import operations
from monitor.models import Execution
from monitor.operations import OperationStatistics


@dataclass(frozen=True)
class Operation:
    """One operation with its durations in seconds."""

    told: OperationStatistics
    mean_s: float
    p50_s: float
    p95_s: float

    @classmethod
    def of(cls, told: OperationStatistics) -> "Operation":
        return cls(told, told.average_ms / 1000, told.p50_ms / 1000, told.p95_ms / 1000)


def of_execution(execution: Execution, *, now: datetime) -> list[Operation]:
    """The execution's operations, the most frequent first."""
    since, until = execution.started_at - SLACK, (execution.ended_at or now) + SLACK
    named = operations.statistics(execution.project_id, since=since, until=until, execution_id=execution.id)
    return [Operation.of(one) for one in named.results]
