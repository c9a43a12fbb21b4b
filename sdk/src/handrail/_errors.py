"""What this package raises, and only where a program asks for it.

HandrailError
└── Stopped              the work is to stop here; `command` says why
    ├── Cancelled        for good
    ├── Paused           until a person has answered: `wait()`
    └── Superseded       this attempt was given up; `attempt` is the next
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from handrail._execution import Execution


class Command(NamedTuple):
    """What the server, or a person through it, wants. `name` is `cancel`, `pause` or `retry`."""

    name: str
    reason: str
    attempt: int
    # The attempt begins in so many seconds after `heard_at_s` of the monotonic clock.
    in_s: float
    heard_at_s: float
    # The state of the execution there: `paused` by a person, `hitl_paused` because retries are spent, …
    status: str
    seq: int | None = None


class HandrailError(Exception):
    """Everything that this package raises."""


class Stopped(HandrailError):
    """The work is to stop here."""

    def __init__(self, execution: Execution, command: Command) -> None:
        super().__init__(f"{execution.agent}: {command.name}: {command.reason or 'no reason given'}")
        self.execution = execution
        self.command = command

    @property
    def reason(self) -> str:
        return self.command.reason


class Cancelled(Stopped):
    """Stop for good: somebody cancelled it, or it has ended in another way."""


class Paused(Stopped):
    """Stop until a person has answered."""

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when the work may go on where it stopped.

        Raises Superseded when it is to begin anew, Cancelled when it is to end, and TimeoutError.
        """
        self.execution._wait_for_answer(timeout_s)

    def wait_async(self, timeout_s: float | None = None) -> Awaitable[None]:
        """The same for a coroutine."""
        return self.execution._wait_for_answer_async(timeout_s)


class Superseded(Stopped):
    """This attempt was given up, and the next takes its place."""

    @property
    def attempt(self) -> int:
        """The number of the attempt that takes its place."""
        return self.command.attempt


KINDS: dict[str, type[Stopped]] = {"cancel": Cancelled, "pause": Paused, "retry": Superseded}
