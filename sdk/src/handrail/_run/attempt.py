"""One attempt: the command while it runs, its clocks, and why it is being ended."""

from __future__ import annotations

import enum
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from handrail._run.command import Command, End
from handrail._run.stillness import Stillness
from handrail._run.tail import Tail

LOOKS_PER_HANG = 10
MOST_BETWEEN_LOOKS_S = 5.0


class Why(enum.Enum):
    """Why an attempt is ended by us."""

    HUNG = "it hung"
    OUT_OF_TIME = "it ran out of time"
    RETRY = "the server gave it up"
    CANCEL = "it was cancelled"
    PAUSE = "it was paused"
    SPENT = "retries are spent and nobody is waited for"
    INTERRUPTED = "somebody signalled the supervisor"


class Attempt:
    """Started when it is made; `ended` is called once, from a thread, when nothing of it is left."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        hang_after_s: float,
        tells_stillness: bool,
        grace_s: float,
        ended: Callable[[End], object],
    ) -> None:
        now_s = time.monotonic()
        self.why: Why | None = None
        # As of the last look.
        self.is_progressing, self.hangs = True, False
        self.is_paused = False
        self.tail = Tail()
        self._hang_after_s = hang_after_s
        self._tells_stillness = tells_stillness
        self._stillness = Stillness(now_s=now_s)
        self._look_at_s = self._clock_from_s = now_s
        self._ran_s = 0.0
        self._command = Command(command, environ=environ, grace_s=grace_s, tail=self.tail, ended=ended)

    @property
    def look_at_s(self) -> float:
        """When `look` is due again, on the monotonic clock."""
        return self._look_at_s if self._hang_after_s else float("inf")

    def look(self, *, now_s: float) -> None:
        """Look whether it moves; after half of the time of a hang it counts as standing still, if that is told."""
        self._look_at_s = now_s + min(MOST_BETWEEN_LOOKS_S, self._hang_after_s / LOOKS_PER_HANG)
        self._stillness.look(
            cpu_s=self._command.cpu_s,
            wrote_at_s=self._command.wrote_at_s,
            is_excused=self.is_paused or self._command.is_held_up,
            now_s=now_s,
        )
        still_s = self._stillness.still_for_s(now_s)
        self.is_progressing = not self._tells_stillness or still_s < self._hang_after_s / 2
        self.hangs = still_s >= self._hang_after_s

    def ran_s(self, *, now_s: float) -> float:
        """How long it has run, pauses taken out."""
        return self._ran_s + (0.0 if self.is_paused else now_s - self._clock_from_s)

    def pause(self, *, stops: bool) -> None:
        """Stop its clocks; with `stops` its processes, too."""
        self._ran_s, self.is_paused = self.ran_s(now_s=time.monotonic()), True
        if stops:
            self._command.signal(signal.SIGSTOP)

    def go_on(self, *, anew: bool) -> None:
        """End the pause; `anew` gives it a whole timeout, else it has what was left."""
        self.is_paused, self._clock_from_s = False, time.monotonic()
        if anew:
            self._ran_s = 0.0
        self._command.signal(signal.SIGCONT)

    def end(self, why: Why) -> None:
        self.why = why
        self._command.end()

    def interrupt(self, number: int) -> None:
        """Hand a signal on: Ctrl-C waits for the command's own end, any other is followed by the kill."""
        self.why = Why.INTERRUPTED
        if number == signal.SIGINT:
            self._command.signal(number)
            self._command.signal(signal.SIGCONT)
        else:
            self._command.end()

    def kill(self) -> None:
        self._command.kill()
