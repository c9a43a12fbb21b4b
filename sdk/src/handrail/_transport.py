"""Requests to the server: one answer or one error, nothing of the protocol beyond this file."""

from __future__ import annotations

import json
import logging
import platform
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import httpx
from opentelemetry import context

from handrail._settings import Settings

# What instrumentations look for before they tell of a request: ours are none of the program's business.
QUIET = ("suppress_instrumentation", "suppress_http_instrumentation")
CONNECT_S = 3.0
MOST_RETRY_AFTER_S = 300.0
# No answer of the server's comes near; whoever sends more is another.
MOST_BYTES = 16 * 1024 * 1024
# Longer than any clock of the server's, and short enough for every wait.
MOST_AHEAD_S = 200_000.0
MOST_ATTEMPTS = 32_767
# As many as there are threads that ask, so that none connects anew each time.
CONNECTIONS = httpx.Limits(max_keepalive_connections=32)

try:
    VERSION = version("handrail")
except PackageNotFoundError:
    VERSION = "0"


# Nor does a program that keeps a log want a line in it for each of our requests.
_is_ours: ContextVar[bool] = ContextVar("handrail_is_ours", default=False)
logging.getLogger("httpx").addFilter(lambda record: not _is_ours.get())


class Unreachable(Exception):
    """No answer: whether the server took the request can't be known."""


class Answer(NamedTuple):
    """What the server said. `body` is the decoded JSON, None where that is no object."""

    status: int
    body: dict[str, Any] | None
    retry_after_s: float | None = None
    # The server's clock, to the second; None when it did not say.
    at: datetime | None = None

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def detail(self) -> str:
        """Why it was refused, in the server's words."""
        said = self.body or {}
        return str(said.get("detail") or said.get("title") or self.status)


class Transport:
    """A pool of connections to one server with one key. Safe for threads, not for forks: make a new one."""

    def __init__(self, settings: Settings, *, over: httpx.BaseTransport | None = None) -> None:
        self._settings = settings
        self._over = over
        self._made: httpx.Client | None = None
        self._making = threading.Lock()

    @property
    def _client(self) -> httpx.Client:
        # Made by the first request, for reading certificates takes time that a program need not wait.
        with self._making:
            if self._made is None:
                settings = self._settings
                self._made = httpx.Client(
                    base_url=settings.url,
                    headers={
                        "authorization": f"Bearer {settings.api_key}",
                        "user-agent": f"handrail-python/{VERSION} ({platform.python_version()})",
                    },
                    limits=CONNECTIONS,
                    transport=self._over,
                )
            return self._made

    def post(self, path: str, body: Mapping[str, Any] | bytes, *, timeout_s: float | None = None) -> Answer:
        """Send JSON, encoded already when it is bytes. Raises Unreachable."""
        # Half a surrogate pair is no character to any server.
        content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        return self._send("POST", path, content=content, timeout_s=timeout_s)

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, timeout_s: float | None = None) -> Answer:
        """Raises Unreachable."""
        return self._send("GET", path, params=dict(params or {}), timeout_s=timeout_s)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def _send(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float | None,
        content: bytes | None = None,
        params: dict[str, Any] | None = None,
    ) -> Answer:
        limit_s = timeout_s or self._settings.timeout_s
        until_s = time.monotonic() + limit_s
        headers = {"content-type": "application/json"} if content is not None else None
        token, ours = context.attach(_quiet()), _is_ours.set(True)
        try:
            with self._client.stream(
                method,
                path,
                content=content,
                params=params,
                headers=headers,
                timeout=httpx.Timeout(limit_s, connect=min(CONNECT_S, limit_s)),
            ) as answer:
                said = _read(answer, until_s=until_s)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError, ValueError) as error:
            # RuntimeError: the pool was closed meanwhile. ValueError: no header can carry the key.
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        finally:
            context.detach(token)
            _is_ours.reset(ours)
        return Answer(
            answer.status_code,
            _json(said),
            _seconds(answer.headers.get("retry-after")),
            _time(answer.headers.get("date")),
        )


def _quiet() -> context.Context:
    quiet = context.Context()
    for name in QUIET:
        # Instrumentations before and after the keys became part of the API.
        key = getattr(context, f"_{name.upper()}_KEY", name)
        quiet = context.set_value(name, True, context.set_value(key, True, quiet))
    return quiet


def _read(answer: httpx.Response, *, until_s: float) -> bytes:
    """The whole body. Raises Unreachable when it is larger, or comes more slowly, than any answer of the server's."""
    said = bytearray()
    for part in answer.iter_bytes():
        said += part
        if len(said) > MOST_BYTES:
            raise Unreachable(f"an answer of more than {MOST_BYTES:,} bytes")
        if time.monotonic() > until_s:
            raise Unreachable("an answer that does not end")
    return bytes(said)


def _json(said: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _seconds(retry_after: str | None) -> float | None:
    """Seconds to wait; the header holds them or a date. None for what is neither."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        at = _time(retry_after)
        if at is None:
            return None
        seconds = (at - datetime.now(timezone.utc)).total_seconds()
    return min(max(0.0, seconds), MOST_RETRY_AFTER_S)


def _time(date: str | None) -> datetime | None:
    try:
        at = parsedate_to_datetime(date) if date else None
    except (TypeError, ValueError, OverflowError):
        return None
    return at.replace(tzinfo=timezone.utc) if at is not None and at.tzinfo is None else at


def number(value: object, *, least: int = 1, most: int = 2**63 - 1) -> int | None:
    """A number of the server's; None for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if least <= value <= most else None


def ahead_s(at: object, now: datetime | None) -> float | None:
    """How far a time of the server lies ahead of its own clock, in seconds, 0 to MOST_AHEAD_S; None for no time."""
    if not isinstance(at, str):
        return None
    try:
        moment = datetime.fromisoformat(at.replace("Z", "+00:00"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        ahead = (moment - (now or datetime.now(timezone.utc))).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, ahead), MOST_AHEAD_S)
