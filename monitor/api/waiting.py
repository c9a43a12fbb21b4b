"""Long-polls: calls that answer when there is something to say, holding neither a thread nor a connection.

    class AgentEvents(LongPoll):
        scope, query_type = "read", EventsQuery

        def look(self, caller, query, now): ...     # a result, or None: nothing yet

The same call is a stream for `Accept: text/event-stream`, where `following` says what comes after a result.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, ParamSpec, TypeVar

import msgspec
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from monitor.api import bodies, problems, throttles
from monitor.api.caller import KNOWN_BY, Caller, Request, attach_person, identify, require
from monitor.api.door import Contract, dumps, respond
from monitor.api.problems import Problem, Throttled
from monitor.listen import ears
from monitor.tenancy import tenant

P = ParamSpec("P")
R = TypeVar("R")

EVENT_STREAM = "text/event-stream"
# Where the gate of the web process hears, in the scope of a request, by what its sender was let in.
LET_IN = "handrail.let_in"
PING_S = 15.0
RETRY_MS = 2000
# A stream asks again who its caller is, so that a revoked key or a signed-out person hears no more.
RECHECK_S = 30.0
LONGEST_STREAM_S = 3600.0


class WaitQuery(msgspec.Struct, kw_only=True):
    """`wait` is how long to wait for an answer, in seconds; the server's setting caps it."""

    wait: Annotated[float, msgspec.Meta(ge=0, le=25)] = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event; `id` is where a client that reconnects goes on."""

    data: Any
    id: str = ""
    name: str = ""

    def encode(self) -> bytes:
        head = (f"id: {self.id}\n" if self.id else "") + (f"event: {self.name}\n" if self.name else "")
        return head.encode() + b"data: " + dumps(self.data) + b"\n\n"


class Looking:
    """Where looks into the database run: the web process gives them a few threads of their own."""

    pool: ClassVar[ThreadPoolExecutor | None] = None

    @classmethod
    def give_threads(cls, count: int) -> None:
        cls.pool = ThreadPoolExecutor(count, thread_name_prefix="look")

    @classmethod
    async def run(cls, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function that uses the database. Without a pool it runs in the thread that waits for this loop."""
        if cls.pool is None:
            return await sync_to_async(function)(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(cls.pool, lambda: tidily(function, *args, **kwargs))


def tidily(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that uses the database, in a thread that no request of Django's tidies up."""
    close_old_connections()
    try:
        return function(*args, **kwargs)
    finally:
        close_old_connections()


def let_in(request: HttpRequest) -> None:
    """Tell the gate of the web process that it is known whose this is. Raises Problem when they hold too many open."""
    tell = getattr(request, "scope", {}).get(LET_IN)
    if tell is not None:
        tell(request.META[KNOWN_BY])


def may_wait(request: HttpRequest) -> bool:
    """Whether a call is in the event loop. One in a thread does not wait: heartbeats need the thread.

    Which it is was decided before, by what the request looked like; here it may be read in another way.
    """
    return isinstance(request, ASGIRequest)


@contextmanager
def until_refused() -> Iterator[None]:
    """For streams: one ends where it is refused or the database is away. Whoever asks again is told which it is."""
    try:
        yield
    except Exception as error:
        if problems.of(error) is None:
            raise


class LongPoll(View):
    """A GET that waits. Subclasses say who may call (`scope`), what they ask, and how to look once."""

    scope: ClassVar[Any] = "read"
    rate: ClassVar[throttles.Bucket] = "ingest"
    query_type: ClassVar[type[WaitQuery]] = WaitQuery
    answer: ClassVar[Any] = None
    http_method_names = ["get"]

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        # It changes nothing, and another method is a 405 for everybody.
        return csrf_exempt(super().as_view(**initkwargs))

    def look(self, caller: Caller, query: Any, now: datetime, **path: Any) -> Any | None:
        """One short look, inside `tenant`; None when there is nothing to say yet. May raise Problem."""
        raise NotImplementedError

    def nothing(self, query: Any) -> Any:
        """What is answered when the wait is over."""
        return {"events": [], "cursor": getattr(query, "after", 0)}

    def following(self, query: Any, result: Any) -> Any | None:
        """For streams: the query that goes on behind a result; None when this call is no stream."""
        return None

    def resumed(self, query: Any, last_event_id: str) -> Any:
        """For streams: the query of a client that comes back with the id of the last event it saw."""
        return query

    def events(self, result: Any) -> Iterable[Event]:
        """For streams: a result as events."""
        yield Event(result)

    async def get(self, request: HttpRequest, **path: Any) -> HttpResponseBase:
        toll: throttles.Toll | None = None
        response: HttpResponseBase
        try:
            query = bodies.decode_query(request, self.query_type)
            caller, toll = await Looking.run(self._admit, request)
            let_in(request)
            waits = may_wait(request)
            if waits and self._streams(request):
                query = self.resumed(query, request.headers.get("Last-Event-ID", ""))
                stream = self._stream(request, caller, query, path)
                return StreamingHttpResponse(stream, content_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})
            wait_s = min(query.wait, settings.MAX_WAIT_S) if waits else 0.0
            response = respond(await self._poll(caller, query, path, wait_s=wait_s), 200)
        except Exception as error:
            problem = problems.of(error)
            if problem is None:
                raise
            response = problems.render(problem)
        for name, value in (toll.headers() if toll else {}).items():
            response.headers[name] = value
        response.headers["Cache-Control"] = "no-store"
        return response

    async def http_method_not_allowed(  # type: ignore[override]
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        return problems.render(Problem(405, "Method not allowed", headers={"Allow": "GET"}))

    def _streams(self, request: HttpRequest) -> bool:
        wanted = request.headers.get("Accept", "").partition(",")[0].partition(";")[0].strip()
        return wanted == EVENT_STREAM and type(self).following is not LongPoll.following

    def _admit(self, request: HttpRequest) -> tuple[Caller, throttles.Toll | None]:
        caller = self._identify(request)
        toll = throttles.take(caller, self.rate)
        if toll is not None and not toll.allowed:
            raise Throttled(self.rate, toll.per_minute, toll.retry_after_s)
        return caller, toll

    def _identify(self, request: HttpRequest) -> Caller:
        attach_person(request)
        caller = identify(request, now=datetime.now(UTC))
        require(caller, self.scope)
        return caller

    def _look(self, caller: Caller, query: Any, path: dict[str, Any]) -> Any | None:
        with tenant(caller.project_id):
            return self.look(caller, query, datetime.now(UTC), **path)

    async def _poll(self, caller: Caller, query: WaitQuery, path: dict[str, Any], *, wait_s: float) -> Any:
        """The first result within the wait, or `nothing`."""
        until = time.monotonic() + wait_s
        if wait_s <= 0:
            result = await Looking.run(self._look, caller, query, path)
            return self.nothing(query) if result is None else result
        with ears.of(caller.project_id) as ear:
            while True:
                ear.take()
                result = await Looking.run(self._look, caller, query, path)
                if result is not None:
                    return result
                left_s = until - time.monotonic()
                if left_s <= 0 or ear.closing:
                    return self.nothing(query)
                await ear.wait(min(left_s, ear.patience_s))

    async def _stream(
        self, request: HttpRequest, caller: Caller, query: Any, path: dict[str, Any]
    ) -> AsyncIterator[bytes]:
        pulse = Pulse(lambda: self._identify(request))
        yield f"retry: {RETRY_MS}\n\n".encode()
        with until_refused(), ears.of(caller.project_id) as ear:
            while not ear.closing and await pulse.is_welcome():
                ear.take()
                result = await Looking.run(self._look, caller, query, path)
                if result is not None:
                    for event in self.events(result):
                        yield event.encode()
                    pulse.sent()
                    query = self.following(query, result)
                    continue
                await ear.wait(min(ear.patience_s, pulse.ping_in_s()))
                if pulse.ping_in_s() <= 0:
                    yield b": ping\n\n"
                    pulse.sent()


class Pulse:
    """The clocks of one stream: when to ping, when to ask again who listens, when to end."""

    def __init__(self, identify_again: Callable[[], object]) -> None:
        self._identify_again = identify_again
        self._began_s = self._checked_s = self._sent_s = time.monotonic()

    def sent(self) -> None:
        self._sent_s = time.monotonic()

    def ping_in_s(self) -> float:
        return self._sent_s + PING_S - time.monotonic()

    async def is_welcome(self) -> bool:
        """Whether the stream may go on; asks the database every RECHECK_S. Raises Problem for who may not listen."""
        now_s = time.monotonic()
        if now_s - self._began_s > LONGEST_STREAM_S:
            return False
        if now_s - self._checked_s < RECHECK_S:
            return True
        self._checked_s = now_s
        await Looking.run(self._identify_again)
        return True


def contract_of(view: type[LongPoll]) -> Contract:
    """A long-poll as the OpenAPI document sees it."""
    return Contract(view.scope, view.rate, None, view.query_type, view.answer, 200, bodies.JSON, (), True)


__all__ = ["Event", "LongPoll", "Looking", "Pulse", "Request", "WaitQuery"]
