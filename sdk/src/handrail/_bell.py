"""Waiting for what another thread does, from a thread or from a coroutine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable


class Bell:
    """Rings when something may have changed; who waits looks for itself."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._futures: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        with self._condition:
            self._condition.notify_all()
            futures, self._futures = self._futures, []
        for one in futures:
            try:
                one.get_loop().call_soon_threadsafe(_end, one)
            except RuntimeError:
                # Its loop is closed: nobody waits any more.
                pass

    def wait(self, until: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until it is true; False when the time is over first."""
        with self._condition:
            return self._condition.wait_for(until, timeout_s)

    async def wait_async(self, until: Callable[[], bool], timeout_s: float | None) -> bool:
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        loop = asyncio.get_running_loop()
        while True:
            future: asyncio.Future[None] = loop.create_future()
            with self._condition:
                if until():
                    return True
                self._futures.append(future)
            left_s = None if end_s is None else end_s - time.monotonic()
            try:
                if left_s is not None and left_s <= 0:
                    return until()
                await asyncio.wait([future], timeout=left_s)
            finally:
                with self._condition:
                    if future in self._futures:
                        self._futures.remove(future)


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
