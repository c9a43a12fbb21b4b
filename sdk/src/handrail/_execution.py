"""An execution as the program sees it: what it tells, and what it is told."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from handrail import _hangs, _spans
from handrail._bell import Bell
from handrail._commanded import BETWEEN, ELSEWHERE, NEW, OPEN, OVER, Commanded
from handrail._errors import Command, Stopped
from handrail._plain import plain, text, words
from handrail._reports import Reports
from handrail._transport import Answer

if TYPE_CHECKING:
    from handrail._client import Client

log = logging.getLogger("handrail")
F = TypeVar("F", bound=Callable[..., Any])

MOST_ERROR = 20_000
MOST_MESSAGE = 10_000
# Shorter work is told as it comes, even if its start is still on its way.
WHOLE_AFTER_S = 3.0

_current: ContextVar[Execution | None] = ContextVar("handrail_execution", default=None)


def current() -> Execution | None:
    """The execution within which this code runs, innermost first; None outside of any."""
    return _current.get()


def harmless(method: F) -> F:
    """Whatever goes wrong within, the program goes on; only what it asked to be told is raised."""

    @functools.wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return method(*args, **options)
        except Stopped:
            raise
        except Exception:
            log.exception("handrail: %s did not work", method.__name__)
            return None

    return cast(F, call)


class Execution(Reports, Commanded):
    """One supervised piece of work. Enter it by `with` or `async with`; or `start` it, and `complete` or `fail` it."""

    def __init__(
        self,
        client: Client,
        said: dict[str, Any],
        *,
        interrupts: bool = False,
        retryable: bool = False,
    ) -> None:
        super().__init__(interrupts=interrupts)
        self._client = client
        self._said = said
        self._retryable = retryable
        self.id: str = said["id"]
        self.agent: str = said["agent"]
        self.run_id: str = said.get("run_id", "")
        self.conversation_id: str = said.get("conversation_id", "")
        #: The number of the attempt at work, from 1.
        self.attempt = 1
        self._state = NEW
        self._parent: Execution | None = None
        self._place = _spans.Place(self.id)
        self._token: Token[Execution | None] | None = None
        self._watch: _hangs.ThreadWatch | _hangs.LoopWatch | None = None
        self._begun_s = self._touched_s = time.monotonic()
        # Whether it has told of anything since the last heartbeat.
        self._has_moved = False
        # For the thread that beats.
        self._is_registered = self._was_lost = False
        self._beat_at_s = 0.0
        self._beaten_at_s = 0.0
        self._answered_at_s = 0.0
        self._room_s = 0.0
        self._percent: float | None = None
        self._message: str | None = None
        self._told: dict[str, Any] = {}
        self._hangs_at: str | None = None
        # What the server said to the last failure; None while it has said nothing.
        self._verdict: Answer | None = None

    # -- what the program tells

    @harmless
    def progress(self, percent: float | None = None, message: str | None = None) -> None:
        """How far the work is, 0 to 100, and what it does just now; the latest goes with the next heartbeat."""
        if percent is not None:
            try:
                self._percent = min(100.0, max(0.0, float(percent)))
            except (TypeError, ValueError):
                log.info("handrail: progress is a number between 0 and 100, not %r", type(percent))
        if message is not None:
            self._message = text(message, MOST_MESSAGE)
        # Nobody is woken for it: the thread looks twice a second.
        self._beat_at_s = 0.0
        self._touch()

    @harmless
    def complete(self, output: Any = None) -> None:
        """It has ended well. Said twice, the first counts."""
        if self._state != OPEN:
            log.info("handrail: %s is not at work, so that it can't complete now", self.agent)
            return
        self._end("ended its work before it looked")
        end = {"attempt": self.attempt, "output": plain(output)}
        lasted_s = time.monotonic() - self._begun_s
        if not self._is_registered and self.attempt == 1 and lasted_s > WHOLE_AFTER_S:
            ended_at = datetime.now(timezone.utc)
            started_at = ended_at - timedelta(seconds=lasted_s)
            times = {"started_at": started_at.isoformat(), "ended_at": ended_at.isoformat()}
            whole = {**self._said, "type": "execution.tracked", "status": "completed", "output": end["output"], **times}
            self._client._sender.tell_whole(self.id, whole)
        self._tell_progress()
        self._client._tell({"type": "execution.completed", "execution_id": self.id, "agent": self.agent, **end})

    @harmless
    def fail(self, error: BaseException | str, *, retryable: bool | None = None) -> None:
        """This attempt met an error. Unless it is retryable that is the end of the execution."""
        if self._state != OPEN:
            log.info("handrail: %s is not at work, so that it can't fail now", self.agent)
            return
        self._end("failed before it looked")
        self._tell_failure(error, self._retryable if retryable is None else retryable, attempt=self.attempt)

    # -- its beginning and its end

    def start(self) -> Execution:
        """Begin without a block, so that it is `current` nowhere; the program says itself how it ends."""
        self._begin(is_block=False)
        return self

    def __enter__(self) -> Execution:
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        self._conclude(error)

    async def __aenter__(self) -> Execution:
        self._begin()
        self._take_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        stopped = self._own_interruption(error)
        self._conclude(stopped or error)
        if stopped is not None:
            raise stopped from None

    def __repr__(self) -> str:
        return f"<handrail.Execution {self.id} of {self.agent}, {self._state}>"

    @harmless
    def _begin(self, *, is_block: bool = True) -> None:
        if self._state != NEW:
            log.warning("handrail: an execution is entered once; this one is %s", self._state)
            return
        self._state = OPEN
        settings = self._client.settings
        inherited = {"parent_id": settings.within_id, "run_id": settings.within_run}
        parent = _current.get()
        if parent is not None and parent._client is self._client and parent._state in (OPEN, ELSEWHERE):
            self._parent = parent
            inherited = {"parent_id": parent.id, "run_id": parent.run_id, "conversation_id": parent.conversation_id}
        self._said = {**{name: value for name, value in inherited.items() if value}, **self._said}
        self.run_id = self._said.get("run_id", "")
        self.conversation_id = self._said.get("conversation_id", "")
        self._begun_s = self._touched_s = time.monotonic()
        if is_block:
            self._enter()
        self._said = {**self._said, **self._place.registered()}
        self._client._began(self)
        self._client._tell({"type": "execution.started", **self._said})

    def _enter(self) -> None:
        """Take this thread or task as the one that does the work."""
        self._begun_s = self._touched_s = time.monotonic()
        if not self._client.is_active:
            return
        self._place.enter()
        self._token = _current.set(self)
        if self._client.settings.hangs_after_s > 0:
            self._watch = _hangs.watch_of_here(self._client.settings.hangs_after_s / _hangs.TURNS)

    @harmless
    def _leave(self) -> None:
        token, self._token, self._task = self._token, None, None
        self._place.leave()
        if token is not None:
            try:
                _current.reset(token)
            except ValueError:
                # Left in another context than it was entered in, which has nothing to put back.
                pass

    @harmless
    def _conclude(self, error: BaseException | None) -> None:
        if self._state != OPEN:
            return
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.complete()
        elif isinstance(error, Stopped) and error.execution is self:
            self._end("stopped its work")
        else:
            self.fail(error)

    @harmless
    def _begin_again(self) -> None:
        """Another attempt, or the same one anew: its first heartbeat picks it up."""
        self._verdict = self._hangs_at = None
        with self._heeding:
            self._command, self._state = None, OPEN
        self._enter()
        self._beat_at_s = self._beaten_at_s = 0.0
        self._client._began(self)

    def _await_a_person(self) -> None:
        """Beat on, as an attempt that has stopped and may be told to go on."""
        if self._state != OPEN:
            with self._heeding:
                self._command = Command("pause", "", self.attempt, 0.0, time.monotonic(), "hitl_paused")
                self._heard_seq, self._state = None, OPEN
            self._beat_at_s = 0.0
            self._client._began(self)
        self._begin_wait("stopped its work and waits")

    @harmless
    def _abandon(self, error: BaseException) -> None:
        """The program was interrupted while it waited for its next attempt."""
        if self._state in (OPEN, BETWEEN):
            self._end()
            # Whichever attempt the server has ordered meanwhile: there will be none.
            self._tell_failure(error, False, attempt=None)

    def _end(self, effect: str = "its work had ended", *, state: str = OVER) -> None:
        """Hear no more; `effect` is what came of what was heard, which stays open between two attempts."""
        with self._heeding:
            self._state = state
            if state == OVER:
                self._heed(effect)
        self._client._ended(self)
        self._bell.ring()

    def _disown(self) -> None:
        """In a forked child: the parent goes on with it."""
        self._state = ELSEWHERE
        self._bell, self._heeding = Bell(), threading.RLock()
        self._untold = set()

    def _tell_progress(self) -> None:
        """What the last heartbeat did not carry any more."""
        said = {"progress": self._percent, "message": self._message}
        news = {name: value for name, value in said.items() if value is not None and value != self._told.get(name)}
        if news:
            event = {
                "type": "execution.heartbeat",
                "execution_id": self.id,
                "agent": self.agent,
                "attempt": self.attempt,
            }
            self._client._tell({**event, **news})

    def _tell_failure(self, error: BaseException | str, retryable: bool, *, attempt: int | None) -> None:
        """`attempt` is the one that failed, None for the server's present one."""
        self._tell_progress()
        failed = {"error": text(words(error), MOST_ERROR), "retryable": retryable}
        if attempt is not None:
            failed["attempt"] = attempt
        event = {"type": "execution.failed", "execution_id": self.id, "agent": self.agent, **failed}
        self._client._tell(event, answered=retryable)

    def _touched(self) -> None:
        """The work moves, and with it the work that it is a part of."""
        now = time.monotonic()
        at: Execution | None = self
        while at is not None:
            at._touched_s = now
            at = at._parent

    def _touch(self) -> None:
        self._touched()
        self._has_moved = True
        if self._interrupts:
            self._raise_if_told()


__all__ = ["BETWEEN", "NEW", "OPEN", "Execution", "current"]
