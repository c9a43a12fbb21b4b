"""What clients report in JSON, as spans."""

from datetime import UTC, timedelta, timezone

import pytest

from monitor.reports import Call, Operation, Report, Step, ToolCall
from tests.monitor.spending import NOW

AT = NOW - timedelta(minutes=10)
LASTED = timedelta(seconds=5)


@pytest.mark.parametrize(
    "report",
    [
        Call(model="gpt-4o", latency_ms=5000, occurred_at=AT),
        ToolCall(tool="search", duration_ms=5000, occurred_at=AT),
        Operation(agent="planner", operation="embed", duration_ms=5000, occurred_at=AT),
        Step(agent="planner", success=True, tool_duration_ms=5000, occurred_at=AT),
    ],
    ids=["call", "tool call", "operation", "step"],
)
@pytest.mark.parametrize("late", [timedelta(0), LASTED, timedelta(hours=5)], ids=["at once", "soon", "late"])
def test_a_report_says_the_same_however_late_it_comes(report: Report, late: timedelta) -> None:
    span = report.span(now=AT + late)
    assert (span.started_at, span.ended_at) == (AT - LASTED, AT)


def test_without_a_time_it_was_over_when_it_came() -> None:
    span = Call(model="gpt-4o", latency_ms=5000).span(now=NOW)
    assert (span.started_at, span.ended_at) == (NOW - LASTED, NOW)


@pytest.mark.parametrize("hours", [-12, -3.5, 5.5, 5.75, 14], ids=lambda hours: f"{hours:+} h")
def test_whatever_clock_tells_a_time_it_is_kept_in_utc(hours: float) -> None:
    there = AT.astimezone(timezone(timedelta(hours=hours)))
    span = Call(model="gpt-4o", latency_ms=5000, occurred_at=there).span(now=NOW)
    assert (span.started_at, span.started_at.tzinfo, span.ended_at) == (AT - LASTED, UTC, AT)
