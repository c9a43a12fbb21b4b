"""The decision trail of a conversation: steps, tool calls and moves in the order of time, with durations."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from dashboard.moves import Move
from dashboard.talk import took_s
from monitor.models import Span
from monitor.models.spans import Kind

SHOWN = 40
WORDS = {
    "claimed": ("{who} claimed, AI fenced off", "accent"),
    "transferred": ("{who} transferred it", "accent"),
    "handed_over": ("Handed over to a person", "red"),
    "handed_back": ("{who} gave it back to the AI", "accent"),
    "released": ("{who} put it back", "grey"),
    "returned": ("Back in the queue by itself", "amber"),
    "resolved": ("{who} resolved it", "green"),
    "reopened": ("The customer wrote again", "grey"),
}


@dataclass(frozen=True)
class Step:
    """One line; equal tool calls in a row are one, `times` over."""

    at: datetime
    text: str
    is_tool: bool = False
    tone: str = ""
    took_s: float | None = None
    times: int = 1


@dataclass(frozen=True)
class Trail:
    """The last steps, and how many there were: what the agent did, and how long that took in sum."""

    steps: list[Step]
    total: int
    agent_steps: int
    took_s: float

    @property
    def is_cut(self) -> bool:
        return self.total > len(self.steps)


def trail(spans: Iterable[Span], moves: Sequence[Move]) -> Trail:
    """Lay what the agent did and what became of the turn into one line."""
    done = [step for span in spans if (step := _of_span(span))]
    turns = [
        Step(move.at, words.format(who=move.who), tone=tone)
        for move in moves
        if (known := WORDS.get(move.kind)) and (words := known[0]) and (tone := known[1])
    ]
    steps: list[Step] = []
    for step in sorted(done + turns, key=lambda one: one.at):
        last = steps[-1] if steps else None
        if last and step.is_tool and last.is_tool and (last.text, last.tone) == (step.text, step.tone):
            took = (last.took_s or 0) + (step.took_s or 0)
            steps[-1] = replace(last, times=last.times + 1, took_s=took)
        else:
            steps.append(step)
    return Trail(steps[-SHOWN:], len(steps), len(done), sum(step.took_s or 0 for step in done))


def _of_span(span: Span) -> Step | None:
    tone = "amber" if span.failed else ""
    if span.kind == Kind.TOOL:
        return Step(span.started_at, span.tool or span.name, is_tool=True, tone=tone, took_s=took_s(span))
    if span.kind == Kind.LLM:
        return Step(
            span.started_at, f"Asked {span.model or span.request_model or 'a model'}", tone=tone, took_s=took_s(span)
        )
    return Step(span.started_at, span.name, tone=tone, took_s=took_s(span))
