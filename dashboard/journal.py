"""The journal of an execution, in words, and the tries that it tells of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import QuerySet

from dashboard.commands import actor_names
from dashboard.states import Look, look_of
from monitor.changes import journal_of
from monitor.models import Command, Execution, StateChange
from monitor.models.executions import Status, Verdict

MOST_MOVES = 500
CAUSES = {
    "registered": "The agent registered it",
    "traced": "Its trace told of it",
    "trace_silent": "Nothing came of its trace",
    "trace_heard": "Its trace was heard of again",
    "end_never_sent": "Its end was never sent",
    "tracked": "The agent reported it when it was done",
    "started": "The agent started it",
    "picked_up": "The agent picked up the next try",
    "completed": "The agent finished it",
    "error": "The try failed",
    "zombie": "The try went silent",
    "timed_out": "The try outlived its timeout",
    "not_picked_up": "Nobody picked the try up",
    "stalled": "The try beats, but makes no progress",
    "progressing": "The try makes progress again",
    "goes_on": "The agent beat again after it was resumed",
    "came_back": "The agent came back with a try that was given up",
    "stale_report": "A try that was given up reported, and was refused",
    "paused": "Paused",
    "resumed": "Resumed",
    "retried": "Told to try again",
    "cancelled": "Cancelled",
    "parent_cancelled": "Cancelled with the work above it",
    "budget_tripped": "Stopped by a budget",
}


@dataclass(frozen=True)
class Line:
    """One move, as the tab shows it, with the command that told the agent of it."""

    at: datetime
    before: Look | None
    after: str
    what: str
    who: str
    attempt: int | None
    note: str
    command: Command | None = None


@dataclass(frozen=True)
class Try:
    """One attempt: when it ran and why it ended; `ended_at` is None while it runs."""

    number: int
    started_at: datetime
    ended_at: datetime | None
    status: str
    word: str
    reason: str


def moves(execution: Execution) -> list[StateChange]:
    """The execution's newest MOST_MOVES moves, oldest first."""
    return list(newest(execution))[::-1]


def newest(execution: Execution) -> QuerySet[StateChange]:
    """The same, the newest first, for whoever asks for them together with others."""
    return journal_of(execution).order_by("-id")[:MOST_MOVES]


def lines(changes: Sequence[StateChange], told: Iterable[Command] = ()) -> list[Line]:
    """The moves in words, newest first; one query for the names.

    A move and the command that it led to bear the same time; no two commands of one execution do.
    """
    names = actor_names([one.actor for one in changes])
    by_time = {one.issued_at: one for one in told}
    return [
        Line(
            at=one.at,
            before=look_of(one.from_state) if one.from_state and one.from_state != one.to_state else None,
            after="stalled" if one.cause == "stalled" and one.to_state == Status.RUNNING else one.to_state,
            what=CAUSES.get(one.cause, one.cause.replace("_", " ").capitalize()),
            who=names.get(one.actor, ""),
            attempt=one.attempt,
            note=one.note,
            command=by_time.get(one.at) if one.from_state != one.to_state else None,
        )
        for one in reversed(changes)
    ]


def tries(execution: Execution, changes: Iterable[StateChange]) -> list[Try]:
    """The attempts in order, from the moves that begin and give them up."""
    begun: dict[int, datetime] = {1: execution.started_at}
    ended: dict[int, tuple[datetime, str, str]] = {}
    for one in changes:
        number = one.attempt or 1
        if one.cause in ("picked_up", "started"):
            begun[number] = one.at
        elif one.cause in Verdict.values and one.from_state != one.to_state:
            ended[number] = (one.at, one.cause, one.note)
        elif one.cause == "retried":
            ended.setdefault(number - 1, (one.at, one.cause, one.note))
        elif one.cause == "resumed" and number in ended:
            del ended[number]
    last = max(begun)
    if execution.ended_at is not None and last not in ended:
        ended[last] = (execution.ended_at, execution.status, execution.error.partition("\n")[0])
    return [_try(number, at, ended.get(number), execution.status) for number, at in sorted(begun.items())]


WORDS: dict[str, str] = {
    Verdict.ZOMBIE: "went silent",
    Verdict.TIMED_OUT: "ran out of time",
    Verdict.NOT_PICKED_UP: "not picked up",
    Verdict.STALLED: "made no progress",
    Verdict.ERROR: "failed",
    "retried": "given up for the next",
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.TIMEOUT: "timed out",
    Status.CANCELLED: "cancelled",
}


def _try(number: int, started_at: datetime, end: tuple[datetime, str, str] | None, status: str) -> Try:
    if end is None:
        return Try(number, started_at, None, status, look_of(status).word.lower(), "")
    ended_at, cause, note = end
    good = cause in (Status.COMPLETED, Status.CANCELLED)
    return Try(number, started_at, max(ended_at, started_at), "ok" if good else "error", WORDS.get(cause, cause), note)


def pauses(changes: Iterable[StateChange], *, now: datetime) -> list[tuple[datetime, datetime]]:
    """When its clocks stood still."""
    found, since = [], None
    for one in changes:
        if one.from_state == one.to_state:
            continue
        if one.to_state in (Status.PAUSED, Status.HITL_PAUSED):
            since = since or one.at
        elif since is not None:
            found.append((since, one.at))
            since = None
    if since is not None:
        found.append((since, now))
    return found
