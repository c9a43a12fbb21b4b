"""Does the work move? Looked at from another thread, by the place in the code alone, never by its values."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import threading
import time
from types import FrameType

MOST_FRAMES = 60
# Work counts as hanging only when it was looked at so often.
TURNS = 6
LONGEST_TURN_S = 5.0
_paths = sysconfig.get_paths()
FOREIGN = tuple({_paths["stdlib"], _paths["platstdlib"], _paths["purelib"], _paths["platlib"]})
OWN = __file__.rsplit("_hangs", 1)[0]


class ThreadWatch:
    """Whether the code of a thread is where it was."""

    def __init__(self, thread_id: int, every_s: float) -> None:
        self._thread_id = thread_id
        self._every_s = every_s
        self._seen: object = None
        self._stands_s = 0.0
        self._looked_at_s = time.monotonic()

    def stands_for_s(self) -> float:
        """Seconds since its stack was last seen to be another; time in which nobody looked counts little."""
        now = time.monotonic()
        frame = sys._current_frames().get(self._thread_id)
        seen = None if frame is None else _signature(frame)
        if seen == self._seen:
            # A process that was suspended did not hang.
            self._stands_s += min(now - self._looked_at_s, self._every_s)
        else:
            self._seen, self._stands_s = seen, 0.0
        self._looked_at_s = now
        return self._stands_s

    def place(self) -> str:
        return where(self._thread_id)


class LoopWatch:
    """Whether an event loop gives turns to those who ask for one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread_id: int, every_s: float) -> None:
        self._loop = loop
        self._thread_id = thread_id
        self._every_s = every_s
        self._stands_s = 0.0
        self._looked_at_s = self._asked_at_s = time.monotonic()
        self._asks = False

    def stands_for_s(self) -> float:
        """Seconds that the loop keeps us waiting; 0 when it is closed."""
        now = time.monotonic()
        passed_s, self._looked_at_s = now - self._looked_at_s, now
        if self._asks:
            self._stands_s += min(passed_s, self._every_s)
            return self._stands_s
        self._stands_s = 0.0
        if now - self._asked_at_s >= min(LONGEST_TURN_S, self._every_s):
            self._asks, self._asked_at_s = True, now
            try:
                self._loop.call_soon_threadsafe(self._turn)
            except RuntimeError:
                self._asks = False
        return 0.0

    def place(self) -> str:
        return where(self._thread_id)

    def _turn(self) -> None:
        self._asks = False


def where(thread_id: int) -> str:
    """The function and line at which a thread is: the program's own, and what it waits in."""
    frame = sys._current_frames().get(thread_id)
    if frame is None:
        return "a thread that has ended"
    inner = mine = frame
    for _ in range(MOST_FRAMES):
        if not mine.f_code.co_filename.startswith((*FOREIGN, OWN, "<frozen")):
            break
        if mine.f_back is None:
            mine = inner
            break
        mine = mine.f_back
    place = _named(mine)
    return place if mine is inner else f"{place}, inside {_named(inner)}"


def _named(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_name} ({code.co_filename.replace(chr(92), '/').rsplit('/', 1)[-1]}:{frame.f_lineno})"


def _signature(frame: FrameType) -> int:
    parts: list[int] = []
    at: FrameType | None = frame
    while at is not None and len(parts) < 2 * MOST_FRAMES:
        parts += (id(at.f_code), at.f_lasti)
        at = at.f_back
    return hash(tuple(parts))


def watch_of_here(every_s: float) -> ThreadWatch | LoopWatch:
    """A watch over whoever calls this: the loop when there is one that runs, else the thread."""
    try:
        return LoopWatch(asyncio.get_running_loop(), threading.get_ident(), every_s)
    except RuntimeError:
        return ThreadWatch(threading.get_ident(), every_s)
