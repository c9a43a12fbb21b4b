"""What happens next, for each state and each clock of an execution."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dashboard.plan import Plan, Step, plan
from monitor.models import Execution

NOW = datetime(2026, 11, 20, 13, 59, 5, tzinfo=UTC)


@dataclass
class Move:
    at: datetime
    from_state: str
    to_state: str
    cause: str
    note: str = ""
    attempt: int | None = None


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def an_execution(**fields: Any) -> Execution:
    usual: dict[str, Any] = {
        "agent": "planner",
        "status": "running",
        "attempt": 1,
        "max_retries": 2,
        "heartbeat_s": 30,
        "timeout_s": 600,
        "started_at": ago(100),
        "attempt_started_at": ago(100),
        "last_heartbeat_at": ago(27),
        "deadline_at": ago(27) + timedelta(seconds=45),
    }
    return Execution(**(usual | fields))


def told(made: Plan) -> list[tuple[str, float | None, str]]:
    """(when, seconds from now, word) of each step."""
    return [(one.when, one.at and (one.at - NOW).total_seconds(), one.word) for one in made.steps]


def said(step: Step) -> str:
    return step.detail.replace("\u00a0", " ")


def test_a_silent_try_with_tries_left_becomes_a_zombie_and_is_tried_again() -> None:
    made = plan(an_execution(progress=60.0), [Move(ago(100), "", "running", "registered", attempt=1)], now=NOW)
    assert told(made) == [
        ("past", -100, "Try 1 started"),
        ("past", -27, "Last beat"),
        ("now", 0, "Now"),
        ("planned", 18, "Zombie"),
        ("planned", 20, "Try 2 may start"),
        ("planned", 500, "Times out"),
    ]
    assert [said(one) for one in made.steps[1:4]] == ["progress 60 %", "silent for 27 s", "unless it beats in 18 s"]
    assert (made.headline, made.unless) == ("Zombie in", "unless it beats")
    assert (made.due_at, made.from_at) == (NOW + timedelta(seconds=18), ago(27))


def test_the_last_try_ends_with_a_person_and_an_alert() -> None:
    made = plan(an_execution(attempt=3), [], now=NOW)
    planned = [one for one in made.steps if one.when == "planned"]
    assert [(one.word, said(one), one.tone) for one in planned[:3]] == [
        ("Zombie", "unless it beats in 18 s", "amber"),
        ("Pauses for a person", "3 of 3 tries are spent", "red"),
        ("Alert goes out", "critical, to whoever is on call", ""),
    ]


def test_a_try_that_a_person_ordered_beyond_the_last_is_one_more() -> None:
    made = plan(an_execution(attempt=5), [], now=NOW)
    assert [said(one) for one in made.steps if one.word == "Pauses for a person"] == ["5 of 5 tries are spent"]


def test_the_earlier_clock_is_the_timeout() -> None:
    started = ago(590)
    made = plan(an_execution(attempt_started_at=started, deadline_at=started + timedelta(seconds=600)), [], now=NOW)
    assert (made.headline, made.unless) == ("Times out in", "unless it has ended")
    assert (made.due_at, made.from_at) == (NOW + timedelta(seconds=10), started)
    assert [word for _, _, word in told(made)].count("Times out") == 1


def test_a_verdict_that_is_due_waits_for_the_watchdog() -> None:
    made = plan(an_execution(last_heartbeat_at=ago(50), deadline_at=ago(5)), [], now=NOW)
    assert (made.headline, made.unless, made.due_at) == ("Zombie at the watchdog’s next turn", "unless it beats", None)
    _, here, zombie, *_ = made.steps
    assert (here.word, said(here), here.tone) == ("Now", "silent for 50 s", "amber")
    assert (zombie.word, zombie.at, zombie.when_words) == ("Zombie", None, "due")


def test_a_retry_waits_to_be_picked_up() -> None:
    made = plan(
        an_execution(
            status="retrying",
            attempt=2,
            verdict="error",
            attempt_started_at=None,
            retry_at=NOW + timedelta(seconds=3),
            deadline_at=NOW + timedelta(seconds=48),
        ),
        [
            Move(ago(100), "", "running", "registered", attempt=1),
            Move(ago(1), "running", "retrying", "error", "HTTP 503", 1),
        ],
        now=NOW,
    )
    assert told(made) == [
        ("past", -100, "Try 1 started"),
        ("past", -27, "Last beat"),
        ("past", -1, "Try 1 failed"),
        ("now", 0, "Now"),
        ("planned", 3, "Try 2 may start"),
        ("planned", 48, "Try 2 is spent"),
        ("planned", 52, "Try 3 may start"),
    ]
    assert made.steps[2].detail == "HTTP 503"
    assert (made.headline, made.unless) == ("Try 2 is spent in", "unless the agent starts it")


def test_back_off_is_never_longer_than_a_minute() -> None:
    made = plan(an_execution(attempt=9, max_retries=20), [], now=NOW)
    assert ("planned", 78.0, "Try 10 may start") in told(made)


def test_nothing_happens_by_itself_while_a_person_is_waited_for() -> None:
    paused = plan(an_execution(status="paused", deadline_at=None, timeout_left_ms=90_000), [], now=NOW)
    assert paused.headline == "Nothing until a person resumes, retries or cancels it."
    assert (paused.steps[-1].word, paused.steps[-1].at) == ("Goes on", None)
    assert said(paused.steps[-1]) == "with 1 min 30 s of its timeout left"

    waits = plan(an_execution(status="hitl_paused", attempt=3, deadline_at=None, verdict="zombie"), [], now=NOW)
    assert [(one.word, said(one)) for one in waits.steps[-4:]] == [
        ("Now", "waits for a person"),
        ("Resume", "try 3 goes on"),
        ("Retry", "try 4 may start at once"),
        ("Cancel", "ends it as timed out"),
    ]
    failed = plan(an_execution(status="hitl_paused", deadline_at=None, verdict="error"), [], now=NOW)
    assert failed.steps[-1].detail == "ends it as failed"


def test_a_pending_one_has_no_clock() -> None:
    never_began = {"attempt_started_at": None, "last_heartbeat_at": None, "deadline_at": None}
    made = plan(an_execution(status="pending", **never_began), [], now=NOW)
    assert told(made) == [("now", 0, "Now"), ("planned", None, "Starts")]


def test_what_has_ended_has_only_a_past() -> None:
    made = plan(
        an_execution(status="completed", deadline_at=None, ended_at=ago(10), duration_ms=90_000),
        [
            Move(ago(100), "", "running", "registered", attempt=1),
            Move(ago(60), "running", "running", "stale_report", attempt=0),
            Move(ago(50), "running", "paused", "paused", "lunch", 1),
            Move(ago(40), "paused", "running", "resumed", "", 1),
            Move(ago(10), "running", "completed", "completed", "", 1),
        ],
        now=NOW,
    )
    assert told(made) == [
        ("past", -100, "Try 1 started"),
        ("past", -50, "Paused"),
        ("past", -40, "Resumed"),
        ("past", -10, "Completed"),
    ]
    assert made.steps[-1].tone == "green"
    assert made.headline == "Completed. Nothing more happens to it."


def test_a_try_that_may_stall_says_when_and_what_follows() -> None:
    usual = {"last_heartbeat_at": ago(2), "deadline_at": ago(2) + timedelta(seconds=45), "stall_s": 300}
    for on_stall, follows in (("warn", "a warning, and it goes on"), ("retry", "the next try is asked for")):
        made = plan(an_execution(**usual, stall_due_at=ago(-10), on_stall=on_stall), [], now=NOW)
        assert told(made)[1:4] == [("now", 0, "Now"), ("planned", 10, "Stalls"), ("planned", 43, "Zombie")]
        assert made.steps[2].detail == f"unless it makes progress: {follows}"
    late = plan(an_execution(**usual, stall_due_at=ago(1)), [], now=NOW)
    assert (late.steps[2].word, late.steps[2].when_words) == ("Stalls", "due")


def test_a_stalled_try_beats_and_is_amber_until_it_moves() -> None:
    stalled = an_execution(stall_s=60, stalled_at=ago(20), last_progress_at=ago(80), last_heartbeat_at=ago(2))
    change = Move(ago(20), "running", "running", "stalled", "alive but makes no progress for 60 s", 1)
    made = plan(stalled, [change], now=NOW)
    now = next(step for step in made.steps if step.when == "now")
    assert (said(now), now.tone) == ("beats, no progress for 1 min 20 s", "amber")
    assert ("past", -20, "Made no progress") in told(made)
    moved = an_execution(stall_s=60, last_heartbeat_at=ago(0))
    made = plan(moved, [change, Move(ago(5), "running", "running", "progressing", "moves again", 1)], now=NOW)
    assert ("past", -5, "Moved again") in told(made)
    assert next(step for step in made.steps if step.when == "now").tone == "blue"


def test_what_comes_first_is_the_headline_a_stall_before_a_silence() -> None:
    waits = an_execution(stall_s=40, stall_due_at=NOW + timedelta(seconds=10), last_progress_at=ago(30))
    made = plan(waits, [], now=NOW)
    assert (made.headline, made.unless) == ("Stalls in", "unless it makes progress")
    assert (made.due_at, made.from_at) == (NOW + timedelta(seconds=10), ago(30))
    later = plan(an_execution(stall_s=99, stall_due_at=NOW + timedelta(seconds=70)), [], now=NOW)
    assert later.headline == "Zombie in"
    stalled = plan(an_execution(stall_s=40, stalled_at=ago(10)), [], now=NOW)
    assert stalled.headline == "Alive, but makes no progress, and people were told. Zombie in"
    assert stalled.unless == "unless it beats"


def test_what_was_told_afterwards_began_and_ended_before_it_was_told() -> None:
    done = an_execution(
        status="completed", deadline_at=None, last_heartbeat_at=None, ended_at=ago(60), duration_ms=40_000
    )
    made = plan(done, [Move(ago(1), "", "completed", "tracked", attempt=1)], now=NOW)
    assert told(made) == [("past", -100, "Started"), ("past", -60, "Completed")]


def test_a_long_note_is_cut_and_says_so() -> None:
    note = "The supplier answers " + "again " * 20
    made = plan(an_execution(), [Move(ago(50), "running", "running", "stalled", note, 1)], now=NOW)
    detail = made.steps[0].detail
    assert (len(detail), detail[-1]) == (80, "…")
    assert note.startswith(detail[:-1])
