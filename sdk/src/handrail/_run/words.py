"""What the server is told of a command's output: enough to recognise it, never all of it."""

from __future__ import annotations

from handrail._run.tail import Tail

MESSAGE_LINES, MESSAGE_CHARACTERS = 3, 500
OUTPUT_LINES, OUTPUT_CHARACTERS = 20, 4000


def message(tail: Tail) -> str:
    """For a heartbeat."""
    return "\n".join(tail.lines(MESSAGE_LINES))[-MESSAGE_CHARACTERS:]


def output(tail: Tail) -> str:
    """For the end of an attempt."""
    return "\n".join(tail.lines(OUTPUT_LINES))[-OUTPUT_CHARACTERS:]


def first_line(reason: str) -> str:
    return reason.split("\n", 1)[0]
