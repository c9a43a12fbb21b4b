"""The line to the server: who may speak now, and when to try again. Shared by the threads of a client."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from handrail._transport import Answer, Transport, Unreachable

log = logging.getLogger("handrail")

FIRST_BACKOFF_S = 0.5
MOST_BACKOFF_S = 15.0
# A key that is refused may be put right while the program runs.
REFUSED_FOR_S = 60.0
BUSY_FOR_S = 5.0
# A proxy that lets some batches through and others not is news so often at most.
UNHEARD_EVERY_S = 60.0

T = TypeVar("T")


class Away(Exception):
    """The server can't be asked now; `status` is its answer where that may be this request's own fault, else 0."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


class Line:
    """What a batch is answered says nothing of heartbeats, which ask for themselves; if nobody answers, nobody asks."""

    def __init__(self, transport: Transport, *, on_gone: Callable[[], None] = lambda: None) -> None:
        self._transport = transport
        self._on_gone = on_gone
        self._failing = threading.Lock()
        self._failures = 0
        # Until when batches are away, and everything is.
        self._away_until_s = 0.0
        self._silent_until_s = 0.0
        self._was_told_when = False
        self._busy_until_s = 0.0
        # Whether only batches were refused: then only one that is taken is the end of that.
        self._is_of_batches = False
        # Whether something before the server refuses batches, and since when, for the one line in the log.
        self._is_unheard = False
        self._unheard_at_s = -math.inf
        # Why nobody answers, "" while all is well; and whether the log has its one line of it.
        self.trouble = ""
        self._is_told = False

    @property
    def is_away(self) -> bool:
        """Whether nothing of what happened can be told now."""
        return time.monotonic() < self._away_until_s

    @property
    def is_silent(self) -> bool:
        """Whether nobody may be asked anything now."""
        return time.monotonic() < self._silent_until_s

    def free_in_s(self) -> float:
        """Seconds until a batch may be sent; 0 for now."""
        return max(0.0, max(self._away_until_s, self._busy_until_s) - time.monotonic())

    def post(
        self, path: str, body: Mapping[str, Any] | bytes, *, urgent: bool = False, timeout_s: float | None = None
    ) -> Answer:
        """An answer that says something about this very request. Raises Away."""
        return self._ask(lambda: self._transport.post(path, body, timeout_s=timeout_s), urgent=urgent)

    def get(self, path: str, params: Mapping[str, Any], *, timeout_s: float) -> Answer:
        """A long-poll, whose failure says little about the rest. Raises Away."""
        if self.is_silent:
            raise Away(self.trouble)
        try:
            answer = self._transport.get(path, params, timeout_s=timeout_s)
        except Unreachable as error:
            raise Away(str(error)) from error
        if not answer.is_good:
            raise Away(answer.detail, answer.status)
        if answer.body is None:
            raise Away("the word of some other server")
        return answer

    def once_more(self) -> None:
        """A program that ends asks a silent server again, however early; one that said when is heeded."""
        if not self._was_told_when:
            self._away_until_s = self._silent_until_s = 0.0

    def close(self) -> None:
        self._transport.close()

    def _ask(self, ask: Callable[[], Answer], *, urgent: bool) -> Answer:
        if self.is_silent if urgent else self.free_in_s() > 0:
            raise Away(self.trouble)
        try:
            answer = ask()
        except Unreachable as error:
            raise self._gone(str(error)) from error
        if answer.status == 429:
            self.rest(answer.retry_after_s)
            raise Away("too many requests")
        if answer.status == 500:
            # Perhaps only this request's fault: what others say goes on.
            with self._failing:
                if self.free_in_s() == 0:
                    self._busy_until_s = time.monotonic() + self._backoff_s()
            raise Away("status 500", 500)
        # A body that isn't an object is the word of some other server, or of a proxy in between.
        is_foreign = answer.body is None
        if answer.status in (401, 403) and not is_foreign:
            why = f"the key is refused ({answer.detail})"
            raise self._gone(why, for_s=REFUSED_FOR_S, is_refusal=True, is_of_batches=not urgent)
        if is_foreign and not urgent and 400 <= answer.status < 500 and answer.status not in (408, 413):
            raise self.unheard(f"status {answer.status}", answer.status)
        if answer.status >= 500 or answer.status == 408 or (is_foreign and answer.status != 413):
            raise self._gone(f"status {answer.status}", for_s=answer.retry_after_s, is_of_batches=not urgent)
        if not urgent:
            self._is_unheard = self._is_of_batches = False
        if self._is_of_batches:
            return answer
        self.trouble = ""
        if self._is_told:
            log.info("handrail: the server answers again")
            self._is_told = False
        self._failures = 0
        return answer

    def rest(self, for_s: float | None = None) -> None:
        """Batches wait, as long as the server said if it did."""
        self._busy_until_s = time.monotonic() + (for_s or BUSY_FOR_S)

    def unheard(self, why: str, status: int = 0) -> Away:
        """Batches rest: what a proxy has against one says nothing of heartbeats."""
        self._is_of_batches = True
        self._busy_until_s = time.monotonic() + self._backoff_s()
        if not self._is_unheard and time.monotonic() >= self._unheard_at_s + UNHEARD_EVERY_S:
            self._unheard_at_s = time.monotonic()
            log.warning("handrail: no batch gets through to the server, events are kept until one does: %s", why)
        self._is_unheard = True
        return Away(why, status)

    def _gone(
        self, why: str, *, for_s: float | None = None, is_refusal: bool = False, is_of_batches: bool = False
    ) -> Away:
        with self._failing:
            was_away = self.is_away
            if self.is_silent or (is_of_batches and was_away):
                # Who asked at the same time has found out already: that is one failure.
                return Away(why)
            until_s = time.monotonic() + (for_s or self._backoff_s())
            self._away_until_s = max(self._away_until_s, until_s)
            if not is_of_batches:
                self._silent_until_s = until_s
            self._is_of_batches = is_of_batches
            self._was_told_when = for_s is not None
            # A server that has too much to do for a moment says when to come back; it is news only if it says so again.
            is_news = for_s is None or is_refusal or (bool(self.trouble) and not was_away)
            if is_news and not self._is_told:
                log.warning("handrail: no answer from the server, events are kept until there is one: %s", why)
                self._is_told = True
            self.trouble = why
        self._on_gone()
        return Away(why)

    def _backoff_s(self) -> float:
        self._failures += 1
        backoff_s: float = min(MOST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._failures - 1, 10))
        return backoff_s * (1 - 0.5 * random.random())
