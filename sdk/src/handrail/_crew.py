"""Threads that help where one alone could not keep up. They come when there is much to do, and leave by themselves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("handrail")

MOST = 19
IDLE_S = 30.0


class Crew:
    """Each calls `work` until that answers that nothing is left. Not for forks: make a new one."""

    def __init__(self, work: Callable[[], bool], *, name: str) -> None:
        self._work = work
        self._name = name
        self._called = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._stopped = False

    def call(self, hands: int) -> None:
        """So many are to look for work; they that sleep are woken first, and one that comes too late is no loss."""
        with self._called:
            hands = 0 if self._stopped else max(0, min(hands, MOST))
            self._called.notify(hands)
            while len(self._threads) < hands:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    # No more threads, or the program ends: who calls goes on alone.
                    return
                self._threads.add(thread)

    def leave(self) -> None:
        """Nobody is called any more; each ends when there is nothing left to do."""
        with self._called:
            self._stopped = True
            self._called.notify_all()

    def join(self, within_s: float) -> None:
        until_s = time.monotonic() + within_s
        for thread in list(self._threads):
            thread.join(max(0.0, until_s - time.monotonic()))

    def _run(self) -> None:
        while True:
            try:
                while self._work():
                    pass
            except Exception:
                log.exception("handrail: a thread that helps stumbled")
            with self._called:
                if self._stopped or not self._called.wait(IDLE_S):
                    self._threads.discard(threading.current_thread())
                    return
