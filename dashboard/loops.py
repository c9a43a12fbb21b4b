"""Loops as pages show them: the evidence on an execution's page, and a mark in the list."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import QuerySet

from monitor.models import Execution, Loop

MOST_LOOPS = 20


@dataclass(frozen=True)
class Evidence:
    """One finding in words; `spans` leads to each named call in the waterfall, the first ones and the last."""

    headline: str
    cycle: tuple[tuple[str, str], ...]
    answers: str
    first_at: datetime
    last_at: datetime
    end: str
    is_open: bool
    first_span: str
    last_span: str

    @classmethod
    def of(cls, loop: Loop) -> "Evidence":
        tools = " and ".join(one["tool"] for one in loop.cycle)
        round_words = "the same call" if len(loop.cycle) == 1 else f"the same {len(loop.cycle)} calls"
        return cls(
            headline=f"{tools}: {round_words} {loop.rounds} times in a row",
            cycle=tuple((one["tool"], one["arguments"]) for one in loop.cycle),
            answers="Equal calls got different answers." if loop.answers_differ else "Equal calls got equal answers.",
            first_at=loop.first_at,
            last_at=loop.last_at,
            end=loop.end,
            is_open=loop.ended_at is None,
            first_span=loop.spans[0],
            last_span=loop.spans[-1],
        )


def of_execution(execution: Execution) -> QuerySet[Loop]:
    """The execution's findings, the newest first."""
    found = Loop.objects.filter(project_id=execution.project_id, execution_id=execution.id)
    return found.order_by("-last_at", "-id")[:MOST_LOOPS]


def told(found: Iterable[Loop]) -> list[Evidence]:
    """Findings in words, the open ones first."""
    return [Evidence.of(one) for one in sorted(found, key=lambda one: one.ended_at is not None)]


def marks(project_id: int, ids: Iterable[UUID]) -> dict[UUID, bool]:
    """Which of the executions looped, and whether one of them still does."""
    found: dict[UUID, bool] = {}
    looped = Loop.objects.filter(project_id=project_id, execution_id__in=list(ids))
    for execution_id, ended_at in looped.values_list("execution_id", "ended_at"):
        if execution_id is not None:
            found[execution_id] = found.get(execution_id, False) or ended_at is None
    return found
