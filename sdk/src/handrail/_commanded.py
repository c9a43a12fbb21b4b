"""What an execution is told, and how that reaches the code that works."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

from handrail._bell import Bell
from handrail._errors import KINDS, Command, Stopped

if TYPE_CHECKING:
    from handrail._client import Client
    from handrail._execution import Execution

NEW, OPEN, BETWEEN, OVER = "new", "open", "between attempts", "over"
# Forked away from: it is the parent process's.
ELSEWHERE = "of the parent process"
# What came of a pause.
STOPPED = "stopped at a safe point and waits"


class Commanded:
    """The part of an execution that listens."""

    _client: Client
    _state: str
    attempt: int

    def __init__(self, *, interrupts: bool) -> None:
        self._interrupts = interrupts
        self._bell = Bell()
        # One thread hears of commands while others obey them or end the work: what came of each is told once.
        # Reentrant for signal handlers.
        self._heeding = threading.RLock()
        self._command: Command | None = None
        self._heard_seq: int | None = None
        self._known_seqs: set[int] = set()
        # What came of these was left open.
        self._untold: set[int] = set()
        # These have reached the work, which may not have stopped by them yet.
        self._raised: set[int] = set()
        self._waits = 0
        self._waits_how = ""
        self._task: asyncio.Task[Any] | None = None
        self._interrupted: Command | None = None

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
        with self._heeding:
            if attempt != self.attempt:
                return
            if self._state == OVER:
                # The answer was on its way when the work ended.
                self._acknowledge(seq, "its work had ended")
            if self._state != OPEN:
                return
            before, self._command = self._command, command
            if seq is None and command is not None and before is not None and before.name == command.name:
                # The same command, which has no number any more where its execution has moved on.
                seq = self._heard_seq
            overtaken, self._heard_seq = self._heard_seq, seq
            if overtaken != seq and overtaken not in self._raised:
                self._say(overtaken, f"{'went on' if command is None else 'another command came'} before it looked")
            if command is None:
                self._acknowledge(seq, "goes on")
            elif command.name == "pause" and self._waits:
                self._acknowledge(seq, self._waits_how)
            else:
                # What comes of it is told when that is known.
                self._acknowledge(seq, "")
        if (before and before.name) == (command and command.name):
            return
        if command is not None and self._interrupts:
            self._interrupt()
        self._bell.ring()

    def _acknowledge(self, seq: int | None, effect: str) -> None:
        """Tell that a command was heard, unless that is told; without an effect what comes of it is left open."""
        if seq is not None and seq not in self._known_seqs:
            self._known_seqs.add(seq)
            if not effect:
                self._untold.add(seq)
            self._client._acknowledge(self._itself, seq, effect)

    def _heed(self, effect: str) -> None:
        """Tell what came of every command of which that was left open."""
        with self._heeding:
            for seq in sorted(self._untold):
                self._say(seq, effect)

    def _say(self, seq: int | None, effect: str) -> None:
        """Tell what came of this command, if that was left open."""
        if seq is not None and seq in self._untold:
            self._untold.discard(seq)
            self._client._acknowledge(self._itself, seq, effect)

    def _take_answer(self) -> Command | None:
        """What there is to do after the wait, and tell that it is done; None is to go on."""
        with self._heeding:
            command = self._command
            self._heed("begins again" if command is None or command.name == "retry" else "stopped its work")
            return command

    def _take_task(self) -> None:
        """Take the task that runs here as the one to interrupt; without asyncio there is none."""
        try:
            self._task = asyncio.current_task()
        except RuntimeError:
            self._task = None

    def _raise_if_told(self) -> None:
        with self._heeding:
            command = self._command
            if command is None:
                return
            if command.name == "pause":
                self._say(self._heard_seq, STOPPED)
            elif self._heard_seq is not None:
                self._raised.add(self._heard_seq)
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
        with self._heeding:
            if self._task is not task or self._command is None or self._waits or task.done():
                return
            self._interrupted = self._command
            if self._heard_seq is not None:
                self._raised.add(self._heard_seq)
        task.cancel()

    def _own_interruption(self, error: BaseException | None) -> Stopped | None:
        """What to raise in the place of a cancellation that was ours."""
        interrupted_by = self._interrupted
        if interrupted_by is None or not isinstance(error, asyncio.CancelledError):
            return None
        self._interrupted = None
        task = asyncio.current_task()
        if sys.version_info >= (3, 11) and task is not None and task.uncancel() > 0:
            # Somebody else cancelled it, too.
            return None
        command = self._command or interrupted_by
        return KINDS[command.name](self._itself, command)

    def _is_answered(self) -> bool:
        return self._state != OPEN or not self._is_paused()

    def _is_paused(self) -> bool:
        # The thread that beats may take the command back at any moment.
        command = self._command
        return command is not None and command.name == "pause"

    def _wait_for_answer(self, timeout_s: float | None) -> None:
        self._begin_wait(STOPPED)
        try:
            self._after_wait(self._bell.wait(self._is_answered, timeout_s), timeout_s)
        finally:
            self._end_wait()

    async def _wait_for_answer_async(self, timeout_s: float | None) -> None:
        self._begin_wait(STOPPED)
        try:
            self._after_wait(await self._bell.wait_async(self._is_answered, timeout_s), timeout_s)
        finally:
            self._end_wait()

    def _begin_wait(self, effect: str) -> None:
        """Whoever waits is not told of another pause; `effect` is what came of each."""
        with self._heeding:
            self._waits += 1
            self._waits_how = effect
            if self._is_paused():
                self._say(self._heard_seq, effect)
        self._client._listen(self._itself)

    def _end_wait(self) -> None:
        with self._heeding:
            self._waits -= 1

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
