"""WSGI inside ASGI: a pool of threads for synchronous code, one hop there and one hop back.

The body is read before a thread is taken, so a slow sender holds no thread; a short answer is sent in one piece. Only
a stranger's body that is more than a little waits until a thread has looked whose it is.
"""

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

from django.core.handlers.wsgi import WSGIRequest

from config.admission import OTLP_PREFIXES, Admission
from config.protocol import SLOWEST_BYTES_S
from config.rooms import Visit
from config.shedding import BODY_WITHIN_S, Shed, ending, late, nobody, slow
from monitor.api import problems
from monitor.api.caller import INVALID_KEY, KNOWN_BY, NO_KEY, known_by
from monitor.api.waiting import tidily

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
# Says by which of its headers a request is somebody's, None for nobody's.
Look = Callable[[dict[str, Any]], str | None]

IN_ONE_PIECE_BYTES = 256 * 1024
# So long a thread waits for a client to take a piece of a long answer, and longer by what that takes at a slow pace.
TAKEN_WITHIN_S = 10.0


class Disconnected(Exception):
    """The client left before its request was complete, or does not take the answer."""


def look(environ: dict[str, Any]) -> str | None:
    """Ask the database whose a request is."""
    return tidily(known_by, WSGIRequest(environ), now=datetime.now(UTC))


class Bridge:
    """An ASGI application for http scopes that runs a WSGI application in its threads."""

    def __init__(
        self,
        app: WsgiApp,
        *,
        threads: int,
        max_body_bytes: int,
        max_otlp_bytes: int,
        admission: Admission,
        look: Look = look,
    ) -> None:
        self._app = app
        self._look = look
        self._admission = admission
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="web")
        self._max_body_bytes = max_body_bytes
        self._max_otlp_bytes = max_otlp_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shed = await self._work(scope, receive, send)
        if shed is not None:
            await self._admission.refuse(shed, scope["path"], send)

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> Shed | None:
        """Answer a request, or say why it was shed. Then nothing of it is held, for it may take long to tell."""
        visit = self._admission.visit(scope["path"], scope["headers"])
        is_at_work = False
        call: _Call | None = None
        try:
            body, length = await self._body(scope, receive, visit)
            await visit.turn()
            loop = asyncio.get_running_loop()
            call = _Call(self._app, environ(scope, body, length), loop, send)
            working = loop.run_in_executor(self._pool, call.run)
            # A thread that is told of as late goes on, and holds its place until it is done.
            working.add_done_callback(visit.leave)
            working.add_done_callback(lambda _: self._remember(call, scope))
            is_at_work = True
            await self._answer(call, working, visit.left_s(), send)
        except Disconnected:
            return None
        except Shed as shed:
            # Another one, for the frames that it came through hold the body.
            return Shed(shed.reason, shed.problem)
        except asyncio.CancelledError:
            # Left to itself this is a 500, which no exporter sends again.
            if call is not None:
                if call.started:
                    raise
                call.is_late = True
            return ending()
        finally:
            if not is_at_work:
                visit.leave()
        return None

    def _remember(self, call: "_Call", scope: Scope) -> None:
        if call.known_by is not None:
            self._admission.accepted(call.known_by, scope["path"], scope["headers"])

    @staticmethod
    async def _answer(call: "_Call", working: "asyncio.Future[None]", within_s: float | None, send: Send) -> None:
        """Await the thread and send what it has not sent yet. Raises Shed."""
        await asyncio.wait({working}, timeout=within_s)
        if not working.done() and not call.started:
            call.is_late = True
            raise late()
        await working
        if call.rest is not None:
            if not call.started:
                await send(call.start)
            await send({"type": "http.response.body", "body": call.rest})

    async def _body(self, scope: Scope, receive: Receive, visit: Visit) -> tuple[bytes, int | None]:
        """The body and its length. Raises Disconnected and Shed."""
        try:
            async with asyncio.timeout(BODY_WITHIN_S) as patience:
                visit.reads(patience)
                read = await self._read(scope, receive, visit)
        except TimeoutError:
            visit.has_read()
            raise slow() from None
        visit.has_read()
        return read

    async def _read(self, scope: Scope, receive: Receive, visit: Visit) -> tuple[bytes, int | None]:
        """The body and its length. One that is too large is not read: its length alone is told."""
        most = self._max_otlp_bytes if scope["path"].startswith(OTLP_PREFIXES) else self._max_body_bytes
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if declared is not None and (not declared.isdigit() or int(declared) > most):
            return b"", most + 1
        if declared is not None and visit.is_a_strangers(int(declared)):
            await self._introduce(scope, visit)
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            if piece := message.get("body", b""):
                if visit.is_a_strangers(size + len(piece)):
                    await self._introduce(scope, visit)
                visit.hold(len(piece))
                pieces.append(piece)
                size += len(piece)
            if not message.get("more_body", False):
                break
            if size > most:
                return b"", size
        # A body sent in chunks has no length of its own, and WSGI knows no body without one.
        return b"".join(pieces), size if pieces or declared is not None else None

    async def _introduce(self, scope: Scope, visit: Visit) -> None:
        """Ask whose the key or session is that a stranger shows, in a stranger's turn. Raises Shed."""
        admission, path, headers = self._admission, scope["path"], scope["headers"]
        if admission.shows_nothing(path, headers):
            raise nobody(NO_KEY)
        asking = admission.visit(path, headers)
        is_at_work = False
        try:
            await asking.turn()
            # Meanwhile another request with the same key may have been let in.
            if admission.recognise(visit, path, headers):
                return
            looking = asyncio.get_running_loop().run_in_executor(self._pool, self._look, environ(scope, b"", None))
            looking.add_done_callback(asking.leave)
            is_at_work = True
            await asyncio.wait({looking})
        finally:
            if not is_at_work:
                asking.leave()
        try:
            by = looking.result()
        except Exception as error:
            problem = problems.of(error)
            if problem is None:
                raise
            raise Shed("unknown", problem) from error
        if by is None:
            raise nobody(INVALID_KEY)
        admission.accepted(by, path, headers)
        admission.recognise(visit, path, headers)


class _Call:
    """One request in its thread."""

    def __init__(self, app: WsgiApp, environ: dict[str, Any], loop: asyncio.AbstractEventLoop, send: Send) -> None:
        self._app = app
        self._environ = environ
        self._loop = loop
        self._send = send
        self.start: Message = {}
        self.started = False
        self.is_late = False  # It has been answered for.
        self.known_by: str | None = None
        self.rest: bytes | None = None

    def run(self) -> None:
        held: list[bytes] = []
        size = 0
        answer: Iterable[bytes] = ()
        try:
            answer = self._app(self._environ, self._start_response)
            for piece in answer:
                held.append(piece)
                size += len(piece)
                if size > IN_ONE_PIECE_BYTES:
                    self._push(b"".join(held))
                    held, size = [], 0
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()
            self.known_by = self._environ.get(KNOWN_BY)
            # A view and its request refer to each other until the garbage collector comes by: not so long the body.
            self._environ["wsgi.input"].close()
        self.rest = b"".join(held)

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.start = {
            "type": "http.response.start",
            "status": int(status[:3]),
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        }
        return self._push

    def _push(self, piece: bytes) -> None:
        """Send a piece of a long answer; waits until the client has taken it. Raises Disconnected."""

        async def deliver() -> None:
            if self.is_late:
                return
            try:
                async with asyncio.timeout(TAKEN_WITHIN_S + len(piece) / SLOWEST_BYTES_S):
                    if not self.started:
                        await self._send(self.start)
                        self.started = True
                    await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            except TimeoutError:
                raise Disconnected from None

        asyncio.run_coroutine_threadsafe(deliver(), self._loop).result()


def environ(scope: Scope, body: bytes, length: int | None) -> dict[str, Any]:
    """PEP 3333's view of an ASGI http scope."""
    raw_path = scope.get("raw_path")
    path = unquote_to_bytes(raw_path.partition(b"?")[0]) if raw_path else scope["path"].encode()
    server, client = scope.get("server") or ("localhost", 80), scope.get("client") or ("", 0)
    made: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": scope.get("root_path", ""),
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or 0),
        "REMOTE_ADDR": client[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        # A name with an underscore could pass for another one.
        if b"_" in name:
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        if key == "CONTENT_TYPE":
            made[key] = in_utf8(value).decode("latin-1")
        elif key not in ("CONTENT_LENGTH", "TRANSFER_ENCODING"):
            full = f"HTTP_{key}"
            joint = "; " if key == "COOKIE" else ","
            made[full] = f"{made[full]}{joint}{value.decode('latin-1')}" if full in made else value.decode("latin-1")
    if length is not None:
        made["CONTENT_LENGTH"] = str(length)
    return made


def in_utf8(content_type: bytes) -> bytes:
    """The media type without a charset: all text is UTF-8 here, and Django would read addresses by any other name."""
    media_type, *parameters = content_type.split(b";")
    kept = [one for one in parameters if not one.strip().lower().startswith(b"charset")]
    return b";".join([media_type, *kept])
