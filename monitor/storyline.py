"""What an execution did, in order, in a line each: steps, tool calls, warnings."""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from monitor.models import Execution, Span, StateChange, Subject
from monitor.models.spans import Kind

MOST_LINES = 500
TOLD = (Kind.STEP, Kind.TOOL, Kind.OPERATION)
# A span may begin a little before its execution was registered, and arrive after it has ended.
AROUND = timedelta(hours=1)


class Line(msgspec.Struct, kw_only=True, frozen=True):
    at: datetime
    kind: Literal["step", "tool", "operation", "transition", "warning"]
    name: str
    success: bool
    message: str
    duration_ms: int | None = None


def of(execution: Execution, *, now: datetime) -> list[Line]:
    """The first 500 lines of the execution's story."""
    return sorted([*_spans(execution, now=now), *_moves(execution, now=now)], key=lambda line: line.at)[:MOST_LINES]


def _spans(execution: Execution, *, now: datetime) -> list[Line]:
    spans = Span.objects.filter(
        project_id=execution.project_id,
        execution_id=execution.id,
        kind__in=TOLD,
        started_at__gte=execution.started_at - AROUND,
        started_at__lte=(execution.ended_at or now) + AROUND,
    )
    columns = ("started_at", "ended_at", "kind", "name", "tool", "failed", "error")
    return [
        Line(
            at=span.started_at,
            kind=span.kind,  # type: ignore[arg-type]
            name=span.tool or span.name,
            success=not span.failed,
            message=span.error,
            duration_ms=(span.ended_at - span.started_at) // timedelta(milliseconds=1) if span.ended_at else None,
        )
        for span in spans.only("pk", *columns).order_by("started_at")[:MOST_LINES]
    ]


def _moves(execution: Execution, *, now: datetime) -> list[Line]:
    moves = StateChange.objects.filter(
        project_id=execution.project_id,
        subject=Subject.EXECUTION,
        subject_id=str(execution.id),
        at__gte=execution.started_at - AROUND,
        at__lte=(execution.ended_at or now) + AROUND,
    )
    return [
        Line(
            at=move.at,
            kind="transition" if move.from_state != move.to_state else "warning",
            name=f"{move.from_state} → {move.to_state}" if move.from_state else move.to_state,
            success=move.to_state not in ("failed", "timeout", "hitl_paused"),
            message=move.note or move.cause,
        )
        for move in moves.order_by("id")[:MOST_LINES]
    ]
