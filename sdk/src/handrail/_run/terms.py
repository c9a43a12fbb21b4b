"""The clocks that hold for an execution: ours until the server says what it has for this agent or project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from handrail._run.options import Options
from handrail._transport import number

TIMEOUT_S, HEARTBEAT_S, RETRIES = 60, 30, 3
FIRST_BACKOFF_S, MOST_BACKOFF_S = 2.0, 60.0
BEATS_PER_INTERVAL = 3
# What the server takes, and so the most that it says.
MOST_TIMEOUT_S, MOST_HEARTBEAT_S, MOST_RETRIES = 30 * 86_400, 86_400, 100


class Terms(NamedTuple):
    timeout_s: int
    heartbeat_s: int
    retries: int
    # Whether the server gives an attempt up as soon as it is told that its work stands still.
    ends_stalled: bool = False

    @property
    def beat_every_s(self) -> float:
        """So often that two may be lost without a verdict."""
        return self.heartbeat_s / BEATS_PER_INTERVAL

    def backoff_s(self, lost: int) -> float | None:
        """What the attempt after the lost one waits; None when retries are spent."""
        return min(FIRST_BACKOFF_S * 2.0 ** min(lost - 1, 10), MOST_BACKOFF_S) if lost <= self.retries else None

    def as_registered(self, told: Mapping[str, Any]) -> Terms:
        """The server's, as far as it says them."""
        retries = number(told.get("max_retries"), least=0, most=MOST_RETRIES)
        return Terms(
            number(told.get("timeout_s"), most=MOST_TIMEOUT_S) or self.timeout_s,
            number(told.get("heartbeat_s"), most=MOST_HEARTBEAT_S) or self.heartbeat_s,
            self.retries if retries is None else retries,
            told.get("on_stall") == "retry",
        )


def wanted(options: Options) -> Terms:
    retries = RETRIES if options.retries is None else options.retries
    return Terms(options.timeout_s or TIMEOUT_S, options.heartbeat_s or HEARTBEAT_S, retries)
