"""The module's own client: `handrail.execution(…)` and its like, for programs with one server."""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from handrail import _attempts
from handrail._attempts import Attempts
from handrail._client import Client, need_sense
from handrail._execution import Execution

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from handrail._options import ExecutionOptions, SettingsOptions

F = TypeVar("F", bound=Callable[..., Any])

_lock = threading.Lock()
_default: Client | None = None


def client() -> Client:
    """The default client; made from the environment when nobody has configured it."""
    global _default
    found = _default
    if found is None:
        with _lock:
            found = _default = _default or Client()
    return found


def configure(
    *,
    url: str | None = None,
    api_key: str | None = None,
    spool: str | os.PathLike[str] | None = None,
    **settings: Unpack[SettingsOptions],
) -> Client:
    """Make the default client anew; the one before sends what it has. Settings left out are the environment's."""
    return replace(Client(url=url, api_key=api_key, spool=spool, **settings))


def _unlock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    # Another thread of the parent may have held it.
    os.register_at_fork(after_in_child=_unlock)


def replace(new: Client) -> Client:
    """Make this the default client."""
    global _default
    with _lock:
        before, _default = _default, new
    if before is not None and before is not new:
        before.shutdown()
    return new


def swap(new: Client | None) -> Client | None:
    """Make this the default client for a while; the one before is answered and goes on."""
    global _default
    with _lock:
        before, _default = _default, new
    return before


def execution(agent: str, **options: Unpack[ExecutionOptions]) -> Execution:
    """One supervised piece of work; see `Client.execution`."""
    return client().execution(agent, **options)


def attempts(
    agent: str,
    *,
    attempts: int | None = None,
    retry_on: type[BaseException] | Sequence[type[BaseException]] = Exception,
    human_wait_s: float | None = 86_400.0,
    **options: Unpack[ExecutionOptions],
) -> Attempts:
    """The same work until it succeeds; see `Client.attempts`."""
    rules: dict[str, Any] = {"attempts": attempts, "retry_on": retry_on, "human_wait_s": human_wait_s}
    return client().attempts(agent, **rules, **options)


def supervised(
    agent: str,
    *,
    attempts: int = 1,
    retry_on: type[BaseException] | Sequence[type[BaseException]] = Exception,
    human_wait_s: float | None = 86_400.0,
    **options: Unpack[ExecutionOptions],
) -> Callable[[F], F]:
    """A decorator; the client is the default one at the time of each call. See `Client.supervised`."""
    need_sense(agent, options)

    def begin(task: str) -> Attempts:
        named: ExecutionOptions = {"task": task, **options}
        return client().attempts(agent, attempts=attempts, retry_on=retry_on, human_wait_s=human_wait_s, **named)

    return _attempts.supervised(begin)


def flush(timeout_s: float = 5.0) -> bool:
    return client().flush(timeout_s)


def shutdown(timeout_s: float | None = None) -> None:
    client().shutdown(timeout_s)


def carried(function: F) -> F:
    """The function for another thread: it runs in the execution, and the trace, in which `carried` was called."""
    context = contextvars.copy_context()

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        # A context is entered once at a time, and an executor may call this from several threads.
        return context.copy().run(function, *args, **named)

    return cast(F, call)
