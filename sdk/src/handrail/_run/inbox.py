"""Where news waits for the one thread that decides."""

from __future__ import annotations

import os
import select
from collections import deque

from handrail._run.news import News


class Inbox:
    """Takes news from threads and from signal handlers: nothing here can be interrupted while it holds a lock."""

    def __init__(self) -> None:
        self._news: deque[News] = deque()
        self._woken, self._wake = os.pipe()
        for fd in (self._woken, self._wake):
            os.set_blocking(fd, False)

    def __bool__(self) -> bool:
        return bool(self._news)

    def put(self, told: News) -> None:
        self._news.append(told)
        try:
            os.write(self._wake, b"\0")
        except BlockingIOError:
            pass  # Whoever reads has been woken often enough.

    def get(self, within_s: float | None) -> News | None:
        """The oldest; None when nothing came within this time. None waits for as long as it takes."""
        if not self._news and select.select([self._woken], [], [], within_s)[0]:
            # Emptied before it is looked at: what comes in between wakes once more.
            os.read(self._woken, 4096)
        return self._news.popleft() if self._news else None
