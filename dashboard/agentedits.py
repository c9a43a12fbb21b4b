"""What holds for an agent and where it comes from, and who has said what of it, in words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet

from dashboard import words
from monitor.agents import DEFAULTS
from monitor.models import Agent, Project, StateChange, Subject

# The journal is read by days.
BACK = timedelta(days=30)
SHOWN = 10
WORDS = {
    "description": "description",
    "type": "type",
    "capabilities": "what it can do",
    "supported_models": "models",
    "default_model": "usual model",
    "cost_tier": "cost tier",
    "mode": "mode",
    "timeout_s": "time for an attempt",
    "heartbeat_s": "heartbeat",
    "max_retries": "retries",
    "stall_s": "time without progress",
    "expected_every_s": "what is expected",
}
MEANINGS = {
    "timeout_s": "then an attempt is out of time",
    "heartbeat_s": "1.5 times that without a sign, and it is silent",
    "max_retries": "then a person is asked",
    "stall_s": "then it has stalled, however it beats",
}
DONE = {
    "entered": "entered it",
    "silent": "missed it",
    "heard": "heard it again",
    "excused": "took the miss back",
    "forgotten": "forgot it",
}
OURSELVES = "watchdog"


@dataclass(frozen=True)
class Default:
    """`time for an attempt`, `5 min`, what it means, and whether it is the agent's own."""

    word: str
    value: str
    meaning: str
    is_own: bool
    of_project: str


def defaults(agent: Agent, project: Project) -> list[Default]:
    """What the agent's next execution gets where it says nothing itself."""
    found = []
    for name in DEFAULTS:
        own, shared = getattr(agent, name), getattr(project, name)
        value = shared if own is None else own
        found.append(Default(WORDS[name], _held(name, value), MEANINGS[name], own is not None, _held(name, shared)))
    return found


def _held(name: str, value: int | None) -> str:
    return "no clock" if name == "stall_s" and not value else said(name, value)


@dataclass(frozen=True)
class Line:
    at: datetime
    who: str
    what: str


def newest(project_id: int, name: str, *, now: datetime) -> QuerySet[StateChange]:
    """The last things said or found about an agent within 30 days, newest first."""
    found = StateChange.objects.filter(
        project_id=project_id, subject=Subject.AGENT, subject_id=name, at__gte=now - BACK, at__lte=now + BACK
    )
    return found.order_by("-at", "-id")[:SHOWN]


def lines(changes: Iterable[StateChange]) -> list[Line]:
    """The same in words."""
    return [_line(change) for change in changes]


def _line(change: StateChange) -> Line:
    who = "Handrail" if change.actor == OURSELVES else change.actor
    what = DONE.get(change.to_state, "")
    if edited := _edited(change.data.get("was", {}), change.data.get("is", {})):
        what = f"{what}, with {edited}" if what else f"changed {edited}"
    return Line(change.at, who, what)


def _edited(was: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    parts = []
    for name in (name for name in WORDS if name in told):
        value = told[name]
        before = "" if was.get(name) in (None, "", []) else f" instead of {said(name, was[name])}"
        parts.append(WORDS[name] if name == "description" else f"{WORDS[name]}: {said(name, value)}{before}")
    return ", ".join(parts)


def said(name: str, value: Any) -> str:
    """A value in words; nothing is the project's default, or nothing at all."""
    if name == "expected_every_s":
        return f"a sign every {words.period(value)}" if value else "nothing"
    if value is None:
        return "the project’s"
    if name == "stall_s" and not value:
        return "no clock"
    if name.endswith("_s"):
        return words.period(value)
    if isinstance(value, list):
        return ", ".join(value) or "nothing"
    return str(value) or "nothing"
