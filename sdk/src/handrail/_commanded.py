"""What an execution is told, and how that reaches the code that works."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any, cast

from handrail._bell import Bell
from handrail._errors import KINDS, Command, Stopped

if TYPE_CHECKING:
    from handrail._client import Client
    from handrail._execution import Execution

NEW, OPEN, BETWEEN, OVER = "new", "open", "between attempts", "over"
# Forked away from: it is the parent process's.
ELSEWHERE = "of the parent process"


class Commanded:
    """The part of an execution that listens."""

    _client: Client
    _state: str
    attempt: int

    def __init__(self, *, interrupts: bool) -> None:
        self._interrupts = interrupts
        self._bell = Bell()
        self._command: Command | None = None
        self._heard_seq: int | None = None
        self._known_seqs: set[int] = set()
        self._heeded: set[int] = set()
        self._waits = 0
        self._task: asyncio.Task[Any] | None = None
        self._interrupted = False

    @property
    def command(self) -> Command | None:
        """What is wanted of the work; None when it may go on."""
        return self._command

    @property
    def cancelled(self) -> bool:
        """Whether the work is to stop for good."""
        command = self._command
        return command is not None and command.name == "cancel"

    def check(self, *, wait: bool = False) -> None:
        """Raise Cancelled, Paused or Superseded when the work is to stop here.

        With `wait` a pause is waited out, however long it takes.
        """
        self._touched()
        if wait and self._is_paused():
            self._wait_for_answer(None)
        self._raise_if_told()

    async def acheck(self, *, wait: bool = False) -> None:
        """The same for a coroutine; gives others a turn."""
        await asyncio.sleep(0)
        self._touched()
        if wait and self._is_paused():
            await self._wait_for_answer_async(None)
        self._raise_if_told()

    def _hear(self, attempt: int, command: Command | None, seq: int | None) -> None:
        """From the thread that beats: what the server wants of this attempt."""
        if self._state != OPEN or attempt != self.attempt:
            return
        before, self._command, self._heard_seq = self._command, command, seq
        if seq is not None and seq not in self._known_seqs:
            self._known_seqs.add(seq)
            if command is None:
                self._heed("goes on")
            else:
                # What comes of it is told when that is known.
                self._client._acknowledge(self._itself, seq, "")
        if (before and before.name) == (command and command.name):
            return
        if command is not None and self._interrupts:
            self._interrupt()
        self._bell.ring()

    def _heed(self, effect: str) -> None:
        """Acknowledge the command in force, once, with what came of it."""
        seq = self._heard_seq
        if seq is not None and seq not in self._heeded:
            self._heeded.add(seq)
            self._client._acknowledge(self._itself, seq, effect)

    def _take_task(self) -> None:
        """Take the task that runs here as the one to interrupt; without asyncio there is none."""
        try:
            self._task = asyncio.current_task()
        except RuntimeError:
            self._task = None

    def _raise_if_told(self) -> None:
        command = self._command
        if command is not None:
            if command.name == "pause":
                self._heed("stopped at a safe point and waits")
            raise KINDS[command.name](self._itself, command)

    def _interrupt(self) -> None:
        task = self._task
        if task is None or self._waits:
            return
        try:
            task.get_loop().call_soon_threadsafe(self._cancel, task)
        except RuntimeError:
            pass

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if self._task is task and self._command is not None and not self._waits and not task.done():
            self._interrupted = True
            task.cancel()

    def _own_interruption(self, error: BaseException | None) -> Stopped | None:
        """What to raise in the place of a cancellation that was ours."""
        if not self._interrupted or not isinstance(error, asyncio.CancelledError):
            return None
        self._interrupted = False
        task = asyncio.current_task()
        if sys.version_info >= (3, 11) and task is not None and task.uncancel() > 0:
            # Somebody else cancelled it, too.
            return None
        command = self._command or Command("cancel", "", self.attempt, 0, time.monotonic(), "")
        return KINDS[command.name](self._itself, command)

    def _is_answered(self) -> bool:
        return self._state != OPEN or not self._is_paused()

    def _is_paused(self) -> bool:
        # The thread that beats may take the command back at any moment.
        command = self._command
        return command is not None and command.name == "pause"

    def _wait_for_answer(self, timeout_s: float | None) -> None:
        self._before_wait()
        try:
            self._after_wait(self._bell.wait(self._is_answered, timeout_s), timeout_s)
        finally:
            self._waits -= 1

    async def _wait_for_answer_async(self, timeout_s: float | None) -> None:
        self._before_wait()
        try:
            self._after_wait(await self._bell.wait_async(self._is_answered, timeout_s), timeout_s)
        finally:
            self._waits -= 1

    def _before_wait(self) -> None:
        self._waits += 1
        self._heed("stopped at a safe point and waits")
        self._client._listen(self._itself)

    def _after_wait(self, answered: bool, timeout_s: float | None) -> None:
        self._touched()
        if not answered:
            raise TimeoutError(f"no answer within {timeout_s} s")
        self._raise_if_told()

    def _touched(self) -> None:
        raise NotImplementedError

    @property
    def _itself(self) -> Execution:
        return cast("Execution", self)
