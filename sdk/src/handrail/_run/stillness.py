"""Whether a command still moves: it writes, or it uses the processor."""

from __future__ import annotations

# Less than this, since it last moved, is what a thread in the background uses that only says it is alive.
MATTERS_CPU_S = 0.05


class Stillness:
    """The clock of a hang. Times are those of the monotonic clock, in seconds."""

    def __init__(self, *, now_s: float) -> None:
        self.moved_at_s = now_s
        self._cpu_s = 0.0

    def look(self, *, cpu_s: float, wrote_at_s: float, is_excused: bool, now_s: float) -> None:
        """Take note of what the command has used and written so far.

        Excused is what could not move if it wanted to: it is paused, or waits for the reader of its output.
        """
        if cpu_s < self._cpu_s:
            self._cpu_s = cpu_s  # A child went whose time nobody took over.
        used = cpu_s - self._cpu_s >= MATTERS_CPU_S
        if used or is_excused:
            self._cpu_s = cpu_s
            self.moved_at_s = now_s
        elif wrote_at_s > self.moved_at_s:
            self._cpu_s = cpu_s
            self.moved_at_s = wrote_at_s

    def still_for_s(self, now_s: float) -> float:
        return now_s - self.moved_at_s
