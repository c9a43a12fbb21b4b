"""A client: the threads, the outbox and the open executions of one server and key."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import httpx

from handrail import _attempts, _ids, _settings
from handrail._attempts import Attempts
from handrail._beats import Beater, Pace
from handrail._execution import OPEN, Execution
from handrail._line import Line
from handrail._outbox import FAILED, Outbox
from handrail._plain import plain, text
from handrail._sender import Sender
from handrail._transport import Answer, Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from handrail._options import ExecutionOptions, SettingsOptions

log = logging.getLogger("handrail")
F = TypeVar("F", bound=Callable[..., Any])

MOST_NAME = 200
MOST_TASK = 500
LONGEST_S = 30 * 86_400
# What a server takes of each.
CLOCKS = {"timeout_s": (1, LONGEST_S), "heartbeat_s": (1, 86_400), "max_retries": (0, 100), "stall_s": (0, LONGEST_S)}
LEFT_OPEN = "the program ended before its work did"
_clients: weakref.WeakSet[Client] = weakref.WeakSet()


class Client:
    """Everything the module offers, for one server and key. Without both it is inert: the program just runs.

    Settings that are left out come from the environment; docs/client.md names them all.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        api_key: str | None = None,
        spool: str | os.PathLike[str] | None = None,
        transport: httpx.BaseTransport | None = None,
        pace: Pace | None = None,
        haste: float = 1.0,
        **settings: Unpack[SettingsOptions],
    ) -> None:
        self.settings = _settings.read(url=url, api_key=api_key, spool=spool, **settings)
        self._over = transport
        self._pace = pace or Pace()
        self._haste = haste
        self._is_shut = False
        self._open: dict[str, Execution] = {}
        self._judged: dict[str, Execution] = {}
        self._make()
        _clients.add(self)
        if not self.is_active:
            # One without the other is no wish for silence.
            level = logging.WARNING if self.settings.url or self.settings.api_key else logging.INFO
            log.log(level, "handrail: nothing is reported: HANDRAIL_URL and HANDRAIL_API_KEY are not both set")

    @property
    def is_active(self) -> bool:
        """Whether anything is reported."""
        return self.settings.is_complete and not self._is_shut

    @property
    def dropped(self) -> int:
        """Events that will never reach the server: no room, or refused."""
        return self._sender.intake.dropped

    @property
    def pending(self) -> int:
        """Events that the server has not taken yet."""
        return self._sender.pending

    def execution(
        self,
        agent: str,
        *,
        run_id: str | None = None,
        task: str | None = None,
        id: UUID | str | None = None,
        parent_id: UUID | str | None = None,
        conversation_id: str | None = None,
        crew_id: str | None = None,
        department: str | None = None,
        mode: str | None = None,
        timeout_s: int | None = None,
        heartbeat_s: int | None = None,
        max_retries: int | None = None,
        stall_s: int | None = None,
        on_stall: str | None = None,
        inputs: Any = None,
        metadata: Mapping[str, Any] | None = None,
        interrupts: bool = False,
        retryable: bool = False,
    ) -> Execution:
        """One supervised piece of work, to be entered by `with` or `async with`.

        Raises ValueError or TypeError without an agent, or with a clock that no server takes. Clocks that are left
        out are the agent's or the project's. `interrupts`: commands are raised from whatever is called on it, and
        cancel the task that entered it. `retryable`: an exception that leaves the block fails the attempt and not
        the execution, because somebody will begin it again.
        """
        clocks = {"timeout_s": timeout_s, "heartbeat_s": heartbeat_s, "max_retries": max_retries, "stall_s": stall_s}
        need_sense(agent, {**clocks, "on_stall": on_stall})
        identity = _ids.uuid7() if id is None else UUID(str(id))
        said = {
            "run_id": _name(run_id),
            "task": None if task is None else text(task, MOST_TASK),
            "parent_id": None if parent_id is None else str(UUID(str(parent_id))),
            "conversation_id": _name(conversation_id),
            "crew_id": _name(crew_id),
            "department": _name(department),
            "mode": _name(mode),
            **{name: None if value is None else int(value) for name, value in clocks.items()},
            "on_stall": on_stall,
            "inputs": plain(inputs),
            "metadata": plain(metadata),
        }
        told = {name: value for name, value in said.items() if value is not None}
        told.update(id=str(identity), agent=text(agent, MOST_NAME))
        return Execution(self, told, interrupts=interrupts, retryable=retryable)

    def attempts(
        self,
        agent: str,
        *,
        attempts: int | None = None,
        retry_on: type[BaseException] | Sequence[type[BaseException]] = Exception,
        human_wait_s: float | None = 86_400.0,
        **options: Unpack[ExecutionOptions],
    ) -> Attempts:
        """The same work until it succeeds: `for attempt in …: with attempt as ex:`, or `async for`, `async with`.

        After an error in `retry_on` the server says when the next attempt begins; while it is away the program does
        so itself. When retries are spent a person is waited for, at most `human_wait_s` seconds. Raises the last
        error, or Cancelled. `options` are those of `execution`.
        """
        if attempts is not None and attempts < 1:
            raise ValueError("there is at least one attempt")
        kinds = (retry_on,) if isinstance(retry_on, type) else tuple(retry_on)
        if attempts == 1:
            kinds = ()
        elif attempts is not None:
            # Beyond what a server counts a person is asked all the same.
            options.setdefault("max_retries", min(attempts - 1, CLOCKS["max_retries"][1]))
        execution = self.execution(agent, **options)
        return Attempts(execution, attempts=attempts, retry_on=kinds, human_wait_s=human_wait_s)

    def supervised(
        self,
        agent: str,
        *,
        attempts: int = 1,
        retry_on: type[BaseException] | Sequence[type[BaseException]] = Exception,
        human_wait_s: float | None = 86_400.0,
        **options: Unpack[ExecutionOptions],
    ) -> Callable[[F], F]:
        """A decorator for functions and coroutine functions: each call is an execution, tried so many times.

        `retry_on` and `human_wait_s` are those of `attempts`: with more than one a call may wait a day for a person.
        """
        need_sense(agent, options)

        def begin(task: str) -> Attempts:
            named: ExecutionOptions = {"task": task, **options}
            return self.attempts(agent, attempts=attempts, retry_on=retry_on, human_wait_s=human_wait_s, **named)

        return _attempts.supervised(begin)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until the server has everything; whether it has. True of an inert client."""
        return not self.is_active or self._sender.flush(timeout_s)

    def shutdown(self, timeout_s: float | None = None) -> None:
        """Send what can be sent within this time, keep the rest for the next program, and end.

        What is still open failed: the program ends before its work.
        """
        if self._is_shut:
            return
        until_s = time.monotonic() + (self.settings.exit_s if timeout_s is None else timeout_s)
        for one in list(self._open.values()):
            one.fail(LEFT_OPEN)
        self._is_shut = True
        self._beater.stop(max(0.0, until_s - time.monotonic()))
        self._sender.stop(max(0.0, until_s - time.monotonic()))
        self._beater.join(max(0.0, until_s - time.monotonic()))
        self._line.close()

    def _make(self) -> None:
        settings = self.settings
        self._line = Line(Transport(settings, over=self._over), on_gone=self._ring)
        spool = settings.spool / settings.account if settings.spool and settings.is_complete else None
        outbox = Outbox(spool, most_bytes=settings.spool_bytes, most_events=settings.spool_events)
        self._sender = Sender(
            self._line, outbox, most=settings.queue_events, heard=self._heard, linger_s=self._pace.linger_s
        )
        self._beater = Beater(self._line, self._open, settings, self._pace, self._lost)

    def _tell(self, event: dict[str, Any], *, answered: bool = False) -> None:
        if self.is_active:
            self._sender.intake.tell(event, answered=answered)

    def _began(self, execution: Execution) -> None:
        if self.is_active:
            self._open[execution.id] = execution
            self._beater.wake()

    def _ended(self, execution: Execution) -> None:
        self._open.pop(execution.id, None)

    def _listen(self, execution: Execution) -> None:
        if self.is_active:
            self._beater.listen(execution)

    def _acknowledge(self, execution: Execution, seq: int, effect: str) -> None:
        if self.is_active:
            self._beater.acknowledge(execution, seq, effect)

    @contextmanager
    def _awaiting_verdict(self, execution: Execution) -> Iterator[None]:
        self._judged[execution.id] = execution
        try:
            yield
        finally:
            self._judged.pop(execution.id, None)

    def _heard(self, kind: int, execution_id: str, answer: Answer | None) -> None:
        """From the thread that sends: an execution is registered, or what its failure came to."""
        if kind == FAILED:
            judged = self._judged.get(execution_id)
            if judged is not None:
                judged._verdict = answer
                judged._bell.ring()
            return
        found = self._open.get(execution_id) or self._judged.get(execution_id)
        if found is not None:
            found._is_registered = True
            found._beat_at_s = 0.0
            self._beater.wake()

    def _lost(self, execution: Execution) -> None:
        """The server does not know it (any more): register it once again."""
        if execution._is_registered and not execution._was_lost and execution._state == OPEN:
            execution._was_lost, execution._is_registered = True, False
            self._tell({"type": "execution.started", **execution._said})

    def _ring(self) -> None:
        for one in list(self._judged.values()):
            one._bell.ring()

    def _after_fork(self) -> None:
        """In the child: threads, connections and what is open are the parent's."""
        outbox = self._sender.outbox
        for one in (*self._open.values(), *self._judged.values()):
            one._disown()
        self._open, self._judged = {}, {}
        outbox.abandon()
        self._make()
        # Children of multiprocessing end without running what atexit knows.
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.register_after_fork(self, _end_with_child)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


def need_sense(agent: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError or TypeError for what no server would take."""
    if callable(agent):
        raise TypeError('an execution needs the name of its agent: @handrail.supervised("name")')
    if not isinstance(agent, str) or not agent.strip():
        raise ValueError("an execution needs the name of its agent")
    for name, (least, most) in CLOCKS.items():
        value = options.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
            raise TypeError(f"{name} is a whole number, not {value!r}")
        if not least <= value <= most:
            raise ValueError(f"{name} lies between {least} and {most}, {value!r} does not")
    if options.get("on_stall") not in (None, "warn", "retry"):
        raise ValueError(f"on_stall is 'warn' or 'retry', not {options['on_stall']!r}")


def _end_with_child(client: Client) -> None:
    util = sys.modules["multiprocessing.util"]
    util.Finalize(client, client.shutdown, exitpriority=10)


def _name(value: str | None) -> str | None:
    return None if value is None else text(value, MOST_NAME)


def _shut_all() -> None:
    for one in list(_clients):
        try:
            one.shutdown()
        except Exception:
            log.exception("handrail: the end of the program was not told")


def _fork_all() -> None:
    for one in list(_clients):
        try:
            one._after_fork()
        except Exception:
            log.exception("handrail: a forked program has lost its client")


atexit.register(_shut_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork_all)
