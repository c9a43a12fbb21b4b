"""What the supervisor hears, from the server, from the command and from whoever sits at the terminal."""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Union

from handrail._run.command import End
from handrail._transport import MOST_ATTEMPTS, Answer, ahead_s, number

# A clock that goes wrong, theirs or ours, delays no restart for longer than the longest backoff.
MOST_WAIT_S = 60.0
COMMANDS = {"running": "continue", "retrying": "retry", "paused": "pause", "hitl_paused": "pause"}
KNOWN = {*COMMANDS.values(), "cancel"}


class Order(NamedTuple):
    """What the server wants of an attempt."""

    command: str
    status: str
    attempt: int
    reason: str = ""
    # When the next attempt may start, on our monotonic clock.
    retry_at_s: float | None = None
    # The number under which it wants to hear what was done.
    seq: int | None = None

    @property
    def why(self) -> str:
        """The reason in a line."""
        return self.reason.split("\n", 1)[0]


class Beaten(NamedTuple):
    """The answer to a heartbeat of `attempt`."""

    attempt: int
    order: Order


class Reported(NamedTuple):
    """The answer to a report; `said` is what was sent."""

    verb: str
    said: dict[str, Any]
    answer: Answer


class Refused(NamedTuple):
    """The server answers, but takes no heartbeats of this execution."""

    answer: Answer


class Away(NamedTuple):
    """One more try to reach the server went wrong."""

    reason: str


class Back(NamedTuple):
    """The server answers again."""


class Commanded(NamedTuple):
    """There is a new command on the agent's line of events; the next heartbeat says what holds."""

    command: str


class Ended(NamedTuple):
    """Nothing of the command is left."""

    end: End


class Signalled(NamedTuple):
    """Somebody signals the supervisor."""

    number: int


News = Union[Beaten, Reported, Refused, Away, Back, Commanded, Ended, Signalled]


def order_of_beat(answer: Answer) -> Order | None:
    """None when it is no answer to a heartbeat."""
    told = answer.body
    if not answer.is_good or told is None:
        return None
    return _order(told, answer, str(told.get("command")), "status", "reason")


def commanded(answer: Answer) -> list[str]:
    """The commands among the events of the agent's line, oldest first."""
    events = (answer.body or {}).get("events")
    if not isinstance(events, list):
        return []
    told = [one.get("data") for one in events if isinstance(one, dict) and one.get("kind") == "command"]
    return [str(one.get("command")) for one in told if isinstance(one, dict)]


def order_of_state(answer: Answer) -> Order | None:
    """The order that the state of an execution amounts to, also as a 409 tells it; None when it tells none."""
    told = answer.body
    field, reason = ("status", "error") if answer.is_good else ("state", "detail")
    if told is None or field not in told:
        return None
    return _order(told, answer, COMMANDS.get(str(told[field]), "cancel"), field, reason)


def _order(told: dict[str, Any], answer: Answer, command: str, status: str, reason: str) -> Order | None:
    attempt = number(told.get("attempt"), most=MOST_ATTEMPTS)
    if attempt is None or status not in told or command not in KNOWN:
        return None
    seq = number(told.get("command_seq"))
    # As far ahead as the server's clock says it is.
    in_s = ahead_s(told.get("retry_at"), answer.at)
    retry_at_s = None if in_s is None else time.monotonic() + min(in_s, MOST_WAIT_S)
    return Order(command, str(told[status]), attempt, str(told.get(reason) or ""), retry_at_s, seq)
