"""What the supervisor hears, from the server, from the command and from whoever sits at the terminal."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any, NamedTuple, Union

from handrail._run.command import End
from handrail._transport import Answer

# A clock that goes wrong, theirs or ours, delays no restart for longer than the longest backoff.
MOST_WAIT_S = 60.0
COMMANDS = {"running": "continue", "retrying": "retry", "paused": "pause", "hitl_paused": "pause"}


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


class Sent(NamedTuple):
    """The report whose answer came last waits no more."""


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


News = Union[Beaten, Reported, Sent, Refused, Away, Back, Commanded, Ended, Signalled]


def order_of_beat(answer: Answer) -> Order | None:
    """None when it is no answer to a heartbeat."""
    told = answer.body
    if not answer.is_good or not isinstance(told, dict):
        return None
    return _order(told, answer, str(told.get("command")), "status", "reason")


def order_of_state(answer: Answer) -> Order | None:
    """The order that the state of an execution amounts to, also as a 409 tells it; None when it tells none."""
    told = answer.body
    field, reason = ("status", "error") if answer.is_good else ("state", "detail")
    if not isinstance(told, dict) or field not in told:
        return None
    return _order(told, answer, COMMANDS.get(str(told[field]), "cancel"), field, reason)


def _order(told: Any, answer: Answer, command: str, status: str, reason: str) -> Order | None:
    try:
        retry_at_s, seq = _retry_at_s(told.get("retry_at"), answer), told.get("command_seq")
        return Order(command, str(told[status]), int(told["attempt"]), str(told.get(reason) or ""), retry_at_s, seq)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _retry_at_s(retry_at: str | None, answer: Answer) -> float | None:
    """As far ahead as the server's clock says it is."""
    if not retry_at:
        return None
    at = datetime.fromisoformat(retry_at.replace("Z", "+00:00"))
    ahead_s = (at - (answer.at or datetime.now(timezone.utc))).total_seconds()
    return time.monotonic() + min(max(0.0, ahead_s), MOST_WAIT_S)
