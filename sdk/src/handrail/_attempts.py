"""Again, when it failed: as often and as late as the server says, or a person."""

from __future__ import annotations

import functools
import inspect
import random
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, cast

from handrail._errors import Cancelled, Paused, Stopped, Superseded
from handrail._execution import BETWEEN, NEW, OPEN, Execution
from handrail._transport import MOST_ATTEMPTS, ahead_s, number

F = TypeVar("F", bound=Callable[..., Any])

# Without an answer to a failure for so long the program decides by itself.
PATIENCE_S = 5.0
FIRST_BACKOFF_S = 2.0
MOST_BACKOFF_S = 60.0
MOST_DOUBLINGS = 10
DEFAULT_ATTEMPTS = 4


class Until(NamedTuple):
    """What is waited for, by a thread or by a coroutine alike."""

    true: Callable[[], bool]
    timeout_s: float | None


Waits = Generator[Until, bool, bool]


class Attempts:
    """The attempts at one execution: `for attempt in …: with attempt as ex:`, or `async for` and `async with`."""

    def __init__(
        self,
        execution: Execution,
        *,
        attempts: int | None,
        retry_on: tuple[type[BaseException], ...],
        human_wait_s: float | None,
    ) -> None:
        self._execution = execution
        self._most = attempts or DEFAULT_ATTEMPTS
        self._retry_on = retry_on
        self._human_wait_s = human_wait_s
        self._is_over = False

    def __iter__(self) -> Iterator[Attempt]:
        while not self._is_over:
            # A block that is never entered, or left by `break`, ends the work.
            self._is_over = True
            yield Attempt(self)

    async def __aiter__(self) -> AsyncIterator[Attempt]:
        for one in self:
            yield one


class Attempt:
    """One attempt; its block swallows the error after which there will be another."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._execution = attempts._execution

    def __enter__(self) -> Execution:
        one = self._execution
        if one._state == NEW:
            one._begin()
        else:
            one._begin_again()
        return one

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._execution._leave()
        waits = self._afterwards(error)
        try:
            wait = next(waits)
            while True:
                wait = waits.send(self._execution._bell.wait(wait.true, wait.timeout_s))
        except StopIteration as end:
            return cast(bool, end.value)
        except BaseException as interruption:
            waits.close()
            self._execution._abandon(interruption)
            raise

    async def __aenter__(self) -> Execution:
        self.__enter__()
        self._execution._take_task()
        return self._execution

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._execution._leave()
        stopped = self._execution._own_interruption(error)
        waits = self._afterwards(stopped or error)
        try:
            wait = next(waits)
            while True:
                wait = waits.send(await self._execution._bell.wait_async(wait.true, wait.timeout_s))
        except StopIteration as end:
            if not end.value and stopped is not None:
                raise stopped from None
            return cast(bool, end.value)
        except BaseException as interruption:
            waits.close()
            self._execution._abandon(interruption)
            raise

    def _afterwards(self, error: BaseException | None) -> Waits:
        """Whether there will be another attempt, waiting for the time of it."""
        one = self._execution
        if not one._client.is_active:
            return (yield from self._locally(error))
        if isinstance(error, Stopped) and error.execution is one and one._state == OPEN:
            return (yield from self._stopped(error))
        is_retryable = isinstance(error, self._attempts._retry_on) and not isinstance(error, Stopped)
        if one._state != OPEN or error is None or not is_retryable:
            one._retryable = False
            one._conclude(error)
            return False
        one._heed("failed before it looked")
        if one._client._line.is_away and one.attempt >= self._attempts._most:
            # Nobody would be there for what a server or a person might order later.
            one.fail(error, retryable=False)
            return False
        one._end(state=BETWEEN)
        one._verdict = None
        with one._client._awaiting_verdict(one):
            one._tell_failure(error, True, attempt=one.attempt)
            yield Until(lambda: one._verdict is not None or one._client._line.is_away, PATIENCE_S)
        return (yield from self._judged(error))

    def _judged(self, error: BaseException) -> Waits:
        """After the server's word on a failure, or without it."""
        one = self._execution
        verdict = one._verdict
        if verdict is None:
            return (yield from self._locally(error))
        said = verdict.body or {}
        # A refusal's `status` is its own; the execution's is its `state`.
        status = said.get("status" if verdict.is_good else "state")
        if status == "retrying":
            in_s = ahead_s(said.get("retry_at"), verdict.at) or 0.0
            attempt = number(said.get("attempt"), most=MOST_ATTEMPTS) or one.attempt + 1
            return (yield from self._again(attempt, in_s))
        if status in ("paused", "hitl_paused"):
            return (yield from self._ask_a_person(error))
        one._end()
        return False

    def _ask_a_person(self, error: BaseException) -> Waits:
        one = self._execution
        # It beats on with the attempt that was given up, and hears `pause` until somebody answers.
        one._await_a_person()
        try:
            answered = yield Until(one._is_answered, self._attempts._human_wait_s)
        finally:
            one._end_wait()
        if not answered:
            one._end()
            # Nobody is left whom a person could tell to go on.
            one._tell_failure(error, False, attempt=one.attempt)
            return False
        return (yield from self._answered(error))

    def _answered(self, error: BaseException) -> Waits:
        one = self._execution
        command = one._take_answer()
        if command is None:
            return (yield from self._again(one.attempt, 0.0))
        if command.name == "retry":
            return (yield from self._again(command.attempt, command.in_s - (time.monotonic() - command.heard_at_s)))
        one._end()
        raise Cancelled(one, command) from error

    def _stopped(self, error: Stopped) -> Waits:
        one = self._execution
        if isinstance(error, Paused) and one._is_paused():
            return (yield from self._ask_a_person(error))
        if isinstance(error, (Superseded, Paused)):
            return (yield from self._answered(error))
        one._conclude(error)
        return False

    def _locally(self, error: BaseException | None) -> Waits:
        """Nobody says when: back off as the server would, as often as the program wants."""
        one = self._execution
        if not isinstance(error, self._attempts._retry_on) or one.attempt >= self._attempts._most:
            one._end()
            return False
        backoff_s = (
            min(MOST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(one.attempt - 1, MOST_DOUBLINGS)) * one._client._haste
        )
        return (yield from self._again(one.attempt + 1, backoff_s * (1 - 0.5 * random.random())))

    def _again(self, attempt: int, in_s: float) -> Waits:
        one = self._execution
        one._end(state=BETWEEN)
        if in_s > 0:
            yield Until(lambda: False, in_s)
        one.attempt = attempt
        self._attempts._is_over = False
        return True


def supervised(begin: Callable[[str], Attempts]) -> Callable[[F], F]:
    """A decorator that runs each call of a function or coroutine function as an execution of its own.

    `begin` makes its attempts, for the task of this name. Raises TypeError for a generator.
    """

    def decorate(function: F) -> F:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("a generator works only as long as it is read: open an execution where it is read")

        @functools.wraps(function)
        async def run_async(*args: Any, **named: Any) -> Any:
            result = None
            async for attempt in begin(function.__qualname__):
                async with attempt:
                    result = await function(*args, **named)
            return result

        @functools.wraps(function)
        def run(*args: Any, **named: Any) -> Any:
            result = None
            for attempt in begin(function.__qualname__):
                with attempt:
                    result = function(*args, **named)
            return result

        return cast(F, run_async if inspect.iscoroutinefunction(function) else run)

    return decorate
