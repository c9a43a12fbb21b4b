"""What happens next to an execution, and what led here: steps computed from its row and its journal. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from dashboard import words
from dashboard.states import Tone, look_of
from monitor import attempts
from monitor.models import Execution
from monitor.models.executions import ENDED, OnStall, Status, Verdict

When = Literal["past", "now", "planned"]
PAST_STEPS = 3
LONGEST_NOTE = 80
VERDICT_STEPS = {
    Verdict.ZOMBIE: "went silent",
    Verdict.TIMED_OUT: "ran out of time",
    Verdict.NOT_PICKED_UP: "was not picked up",
    Verdict.STALLED: "made no progress",
    Verdict.ERROR: "failed",
}
# What is told of a try that goes on.
TOLD_ON_THE_WAY = ("stalled", "progressing")


class Change(Protocol):
    """What is read of a StateChange."""

    at: datetime
    from_state: str
    to_state: str
    cause: str
    note: str
    attempt: int | None


@dataclass(frozen=True)
class Step:
    """One point of the strip; `at` is None where no moment is fixed, then `when_words` says when."""

    when: When
    at: datetime | None
    word: str
    detail: str = ""
    tone: Tone | Literal[""] = ""
    when_words: str = ""


@dataclass(frozen=True)
class Plan:
    """The strip, and its headline: a countdown to `due_at` (begun at `from_at`), or the words alone."""

    steps: tuple[Step, ...]
    headline: str
    unless: str = ""
    due_at: datetime | None = None
    from_at: datetime | None = None


def plan(execution: Execution, changes: Iterable[Change], *, now: datetime) -> Plan:
    """What was, is and will be; `changes` are the execution's own, oldest first."""
    if execution.from_spans:
        return _as_traced(execution, now=now)
    told = [one for one in changes if one.from_state != one.to_state or one.cause in TOLD_ON_THE_WAY]
    past = _past(execution, told)
    headline, coming = _coming(execution, now=now)
    if execution.status in ENDED:
        return Plan(tuple(past), headline.words)
    here = Step("now", now, "Now", _present(execution, now=now), _tone_now(execution, now=now))
    return Plan((*past, here, *coming), headline.words, headline.unless, headline.due_at, headline.from_at)


def _as_traced(execution: Execution, *, now: datetime) -> Plan:
    """Only its trace tells of it: no clock runs, and the journal knows when it was told, not when it was."""
    began = Step("past", execution.started_at, "Started")
    if execution.status not in ENDED:
        if execution.silent_at is None or execution.last_heartbeat_at is None:
            here = Step("now", now, "Now", "its span has no end yet", "blue")
            return Plan(
                (began, here), "Runs until its trace tells of an end. People are told when nothing comes of it."
            )
        sign = Step("past", execution.last_heartbeat_at, "Newest span")
        told = Step("past", execution.silent_at, "Silent", "people were told", "amber")
        here = Step("now", now, "Now", f"silent for {words.took(now - execution.last_heartbeat_at)}", "amber")
        lost = Step(
            "planned", None, look_of(Status.TIMEOUT).word, "its end was never sent", "amber", when_words="later"
        )
        headline = "Nothing comes of its trace, and nobody can ask it. It counts as timed out when that goes on."
        return Plan((began, sign, told, here, lost), headline)
    look = look_of(execution.status)
    took = "" if execution.duration_ms is None else f"after {words.took(execution.duration_ms / 1000)}"
    ended = Step("past", execution.ended_at, look.word, _shown(execution.error) or took, look.tone)
    return Plan((began, ended), f"{look.word}, as its trace tells.")


@dataclass(frozen=True)
class Headline:
    words: str
    unless: str = ""
    due_at: datetime | None = None
    from_at: datetime | None = None


def _past(execution: Execution, moves: Sequence[Change]) -> list[Step]:
    steps = [step for move in moves if (step := _step_of(execution, move))]
    beat_at = execution.last_heartbeat_at
    if beat_at is not None and execution.status not in ENDED:
        progress = "" if execution.progress is None else f"progress {words.percent(execution.progress / 100)}"
        steps.append(Step("past", beat_at, "Last beat", progress or execution.message[:60]))
    if execution.status in ENDED and len(steps) == 1:
        steps.append(Step("past", execution.started_at, "Started"))
    # Sorting is stable: what the journal wrote first stays first.
    steps.sort(key=lambda step: step.at or datetime.min.replace(tzinfo=step.at.tzinfo if step.at else None))
    kept = PAST_STEPS + (3 if execution.status in ENDED else 0)
    return steps[-kept:]


def _step_of(execution: Execution, move: Change) -> Step | None:
    attempt = move.attempt or 1
    if move.from_state == move.to_state:
        stalled = move.cause == "stalled"
        word = "Made no progress" if stalled else "Moved again"
        return Step("past", move.at, word, _shown(move.note), "amber" if stalled else "")
    if move.cause in Verdict.values:
        what = VERDICT_STEPS[Verdict(move.cause)]
        # The journal's note of one that nobody picked up says no more than that.
        note = "" if move.cause == Verdict.NOT_PICKED_UP else _shown(move.note)
        return Step("past", move.at, f"Try {attempt} {what}", note, "amber")
    if move.cause in ("picked_up", "started"):
        return Step("past", move.at, f"Try {attempt} started")
    if move.cause == "registered":
        return Step("past", move.at, "Registered" if move.to_state == Status.PENDING else "Try 1 started")
    if move.to_state in ENDED:
        look = look_of(move.to_state)
        took = "" if execution.duration_ms is None else f"after {words.took(execution.duration_ms / 1000)}"
        # What was told afterwards ended before it was told.
        return Step("past", execution.ended_at or move.at, look.word, _shown(move.note) or took, look.tone)
    said = {"paused": "Paused", "resumed": "Resumed", "retried": f"Try {attempt} asked for"}.get(move.cause)
    return Step("past", move.at, said, _shown(move.note)) if said else None


def _shown(note: str) -> str:
    """What a step has room for."""
    return note if len(note) <= LONGEST_NOTE else f"{note[: LONGEST_NOTE - 1].rstrip()}…"


def _present(execution: Execution, *, now: datetime) -> str:
    sign = _last_sign(execution)
    if execution.status == Status.RUNNING:
        if execution.stalled_at is not None:
            return f"beats, no progress for {words.took(now - _last_progress(execution, execution.stalled_at))}"
        if sign is None or now - sign < timedelta(seconds=1):
            return "beats"
        return f"silent for {words.took(now - sign)}"
    return {
        Status.PENDING: "not started yet",
        Status.RETRYING: f"waits for try {execution.attempt} to start",
        Status.PAUSED: "paused, its clocks stand still",
        Status.HITL_PAUSED: "waits for a person",
    }[Status(execution.status)]


def _tone_now(execution: Execution, *, now: datetime) -> Tone:
    late = execution.deadline_at is not None and execution.deadline_at <= now
    if execution.status == Status.RUNNING:
        return "amber" if late or execution.stalled_at is not None else "blue"
    return look_of(execution.status).tone


def _last_sign(execution: Execution) -> datetime | None:
    """The last beat of this try, or its start."""
    signs = [one for one in (execution.last_heartbeat_at, execution.attempt_started_at) if one is not None]
    return max(signs) if signs else None


def _last_progress(execution: Execution, stalled_at: datetime) -> datetime:
    """When this try last moved, no later than it stalled or is due to."""
    moves = [one for one in (execution.last_progress_at, execution.attempt_started_at) if one is not None]
    return min(max(moves, default=stalled_at), stalled_at)


def _coming(execution: Execution, *, now: datetime) -> tuple[Headline, list[Step]]:
    status = Status(execution.status)
    if status == Status.RUNNING:
        return _while_running(execution, now=now)
    if status == Status.RETRYING:
        return _while_retrying(execution, now=now)
    if status == Status.PENDING:
        starts = Step("planned", None, "Starts", "with its first beat", when_words="any time")
        return Headline("Starts with its first beat. No clock runs until then."), [starts]
    if status == Status.PAUSED:
        goes_on = Step("planned", None, "Goes on", _left(execution), when_words="when resumed")
        return Headline("Nothing until a person resumes, retries or cancels it."), [goes_on]
    if status == Status.HITL_PAUSED:
        ends = {Verdict.ERROR: "ends it as failed"}.get(Verdict(execution.verdict or "error"), "ends it as timed out")
        decides = [
            Step("planned", None, "Resume", f"try {execution.attempt} goes on", when_words="if you"),
            Step("planned", None, "Retry", f"try {execution.attempt + 1} may start at once", when_words="if you"),
            Step("planned", None, "Cancel", ends, when_words="if you"),
        ]
        return Headline("Nothing until a person decides: its tries are spent and its clocks stand still."), decides
    look = look_of(execution.status)
    return Headline(f"{look.word}. Nothing more happens to it."), []


def _left(execution: Execution) -> str:
    if execution.timeout_left_ms is None:
        return "waits for its try to start"
    return f"with {words.took(execution.timeout_left_ms / 1000)} of its timeout left"


def _while_running(execution: Execution, *, now: datetime) -> tuple[Headline, list[Step]]:
    started, sign = execution.attempt_started_at, _last_sign(execution)
    if started is None or sign is None:
        return Headline("It runs, and no clock of it is known."), []
    times_out_at = started + timedelta(seconds=execution.timeout_s)
    silent_at = sign + attempts.alive_for(execution)
    due_at = execution.deadline_at or min(silent_at, times_out_at)
    is_timeout = times_out_at <= due_at
    word = "Times out" if is_timeout else "Zombie"
    unless = "unless it has ended" if is_timeout else "unless it beats"
    if due_at <= now:
        verdict = Step("planned", None, word, "at the watchdog's next turn", "amber", when_words="due")
        headline = Headline(f"{word} at the watchdog’s next turn", unless)
    else:
        verdict = Step("planned", due_at, word, f"{unless} in {words.took(due_at - now)}", "amber")
        moves = "" if execution.stalled_at is None else "Alive, but makes no progress, and people were told. "
        headline = Headline(f"{moves}{word} in", unless, due_at, started if is_timeout else sign)
    stalls_at = execution.stall_due_at
    if stalls_at is not None and now < stalls_at < due_at:
        moved_at = _last_progress(execution, stalls_at)
        headline = Headline("Stalls in", "unless it makes progress", stalls_at, moved_at)
    steps = [verdict, *_after_verdict(execution, execution.attempt, max(due_at, now))]
    if not is_timeout and times_out_at > now:
        steps.append(Step("planned", times_out_at, "Times out", "however often it beats"))
    if stalls_at is not None:
        steps.append(_stalls(execution, stalls_at, now=now))
        steps.sort(key=lambda step: step.at or now)
    return headline, steps


def _stalls(execution: Execution, due_at: datetime, *, now: datetime) -> Step:
    """What follows when a try that beats does not move."""
    follows = "the next try is asked for" if execution.on_stall == OnStall.RETRY else "a warning, and it goes on"
    if due_at <= now:
        return Step("planned", None, "Stalls", f"at the watchdog's next turn: {follows}", "amber", when_words="due")
    return Step("planned", due_at, "Stalls", f"unless it makes progress: {follows}", "amber")


def _while_retrying(execution: Execution, *, now: datetime) -> tuple[Headline, list[Step]]:
    attempt, retry_at, due_at = execution.attempt, execution.retry_at, execution.deadline_at
    steps = []
    if retry_at is not None:
        already = "since then" if retry_at <= now else "after its back-off"
        steps.append(Step("past" if retry_at <= now else "planned", retry_at, f"Try {attempt} may start", already))
    if due_at is None:
        return Headline(f"Try {attempt} may start."), steps
    unless = "unless the agent starts it"
    late = due_at <= now
    spent = f"Try {attempt} is spent"
    if late:
        steps.append(Step("planned", None, spent, "at the watchdog's next turn", "amber", when_words="due"))
    else:
        steps.append(Step("planned", due_at, spent, f"{unless} in {words.took(due_at - now)}", "amber"))
    steps += _after_verdict(execution, attempt, max(due_at, now))
    if late:
        return Headline(f"Try {attempt} is spent at the watchdog’s next turn", unless), _now_first(steps)
    return Headline(f"Try {attempt} is spent in", unless, due_at, retry_at or now), _now_first(steps)


def _now_first(steps: list[Step]) -> list[Step]:
    """What may have begun already is told by `Now`; only what is to come follows it."""
    return [one for one in steps if one.when == "planned"]


def _after_verdict(execution: Execution, attempt: int, at: datetime) -> list[Step]:
    """What a verdict on `attempt` at that moment leads to: the next try, or a person and an alert."""
    tries = execution.tries
    if attempt <= execution.max_retries:
        back_off_s = min(attempts.FIRST_BACKOFF_S * 2 ** (attempt - 1), attempts.MOST_BACKOFF_S)
        return [
            Step(
                "planned",
                at + timedelta(seconds=back_off_s),
                f"Try {attempt + 1} may start",
                f"after up to {words.took(back_off_s)} of back-off",
            ),
        ]
    spent = f"{tries} of {tries} tries are spent" if attempt == tries else f"all {tries} tries are spent"
    return [
        Step("planned", at, "Pauses for a person", spent, "red"),
        Step("planned", at, "Alert goes out", "critical, to whoever is on call"),
    ]
