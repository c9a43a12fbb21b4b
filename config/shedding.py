"""Requests that are not worked at: what their senders are told, and how many there were.

The counts are added up in Redis over all web processes and machines; without Redis nobody counts.
"""

from monitor.api.problems import RETRY_AFTER_S, Problem, Unauthenticated, unavailable
from monitor.doorcounts import Counts

KEY = "handrail:shed"
BODY_WITHIN_S = 60.0


class Shed(Exception):
    """A request that is not worked at; `reason` is a word for the metrics."""

    def __init__(self, reason: str, problem: Problem) -> None:
        super().__init__(problem.title)
        self.reason = reason
        self.problem = problem


def busy(reason: str) -> Shed:
    """For a request that finds no place."""
    return Shed(reason, unavailable("More is asked of this server than it can do at the moment; nothing was stored."))


def greedy() -> Shed:
    """For one of a key that has its share."""
    detail = "This key has half of what may wait here; nothing was stored. Let what it sent before be answered first."
    return Shed("greedy", Problem(429, "Too many requests", detail, headers={"Retry-After": str(RETRY_AFTER_S)}))


def late() -> Shed:
    """For a request that is still worked at when its sender would give up."""
    return Shed("late", unavailable("The answer takes too long; send it again, nothing is counted twice."))


def slow() -> Shed:
    """For a body that does not come to its end."""
    return Shed("slow", Problem(408, "Request timeout", f"The body took longer than {BODY_WITHIN_S:.0f} s."))


def nobody(detail: str) -> Shed:
    """For a body too large to be held for somebody who has neither a valid key nor a session."""
    return Shed("nobody", Unauthenticated(detail))


def ending() -> Shed:
    """For one that a process which stops has not answered yet."""
    return Shed("ending", unavailable("This server is told to stop before the answer is there; it may be stored."))


class ShedCounts:
    """Counts by room and reason."""

    def __init__(self) -> None:
        self._counts = Counts(KEY)

    def add(self, room: str, reason: str) -> None:
        """Count one; costs no waiting."""
        self._counts.add({f"{room}:{reason}": 1})

    def totals(self) -> dict[tuple[str, str], int]:
        """By room and reason, since Redis was emptied; nothing when it is away."""
        named = ((name.partition(":"), count) for name, count in sorted(self._counts.totals().items()))
        return {(room, reason): count for (room, _, reason), count in named}
