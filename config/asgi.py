"""The web process: streams and long-polls wait in the event loop, all else runs in a pool of threads."""

import gc
import os
import signal
import threading
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django

django.setup(set_prefix=False)

from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler

from config.admission import LISTENING, Admission
from config.bridge import Bridge, Message, Receive, Scope, Send
from config.crank import start_standby
from config.hearing import start_signing
from config.shedding import Shed, ShedCounts
from config.waits import waits
from monitor.api.caller import with_one_cookie
from monitor.api.waiting import LET_IN, Looking
from monitor.checks import role_problems
from monitor.listen import ears

LOOKING_THREADS = 4
# So many more objects that hold others than were let go make the collector look; Python's own 700 come with every
# few spans, and nearly none of them is in a ring.
COLLECT_AFTER = 50_000
# What a request says of its body. A call that waits has none; its type decides only how Django would read an address.
OF_BODIES = frozenset({b"content-type", b"content-length", b"transfer-encoding"})


class WaitingHandler(ASGIHandler):
    """Django for calls that wait: without what would hold a thread for as long as the call lasts."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Django's own gives each call a thread for what is synchronous about it. These share one: what begins and ends
        # a request finds nothing to tidy there, and looks into the database have threads of their own.
        await self.handle(scope, receive, send)

    def load_middleware(self, is_async: bool = False) -> None:
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        self._middleware_chain = convert_exception_to_response(self._get_response_async)  # type: ignore[attr-defined]


class Application:
    """One process, one port."""

    def __init__(self) -> None:
        self._waiting = WaitingHandler()
        self._admission = Admission(
            threads=settings.WEB_THREADS,
            ingest_threads=settings.INGEST_THREADS,
            most_waiting=settings.MOST_WAITING,
            most_bytes=settings.MOST_WAITING_BYTES,
            strangers_bytes=settings.STRANGERS_BYTES,
            stranger_bytes=settings.STRANGER_BYTES,
            most_listening=settings.MOST_LISTENING,
            tell=ShedCounts().add,
        )
        self._working = Bridge(
            WSGIHandler(),
            threads=settings.WEB_THREADS,
            max_body_bytes=settings.MAX_BODY_BYTES,
            max_otlp_bytes=settings.MAX_OTLP_BYTES,
            admission=self._admission,
        )
        Looking.give_threads(LOOKING_THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http" if waits(scope):
                await self._wait(scope, receive, send)
            case "http":
                await self._working(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1000})

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        headers = [(name, value) for name, value in scope["headers"] if name not in OF_BODIES]
        headers = with_one_cookie(path, headers)
        scope, receive = {**scope, "headers": headers}, _without_body(receive)
        if path == "/health":
            await self._waiting(scope, receive, send)
            return
        try:
            listener = self._admission.listener(path, headers)
        except Shed as shed:
            await self._admission.refuse(shed, path, send, LISTENING)
            return
        scope[LET_IN] = lambda known_by: self._admission.let_in(listener, known_by, path, headers)

        async def tell(message: Message) -> None:
            # Who has the whole answer may ask again at once, while Django still tidies up.
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                listener.leave()
            await send(message)

        try:
            await self._waiting(scope, receive, tell)
        finally:
            listener.leave()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        if problems := await Looking.run(role_problems):
            message = " ".join(f"{problem.id}: {problem.msg} {problem.hint}" for problem in problems)
            await send({"type": "lifespan.startup.failed", "message": message})
            return
        _collect_seldom()
        _end_streams_on_signal()
        start_signing()
        if settings.STANDBY:
            start_standby()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        ears.close()
        await send({"type": "lifespan.shutdown.complete"})


def _without_body(receive: Receive) -> Receive:
    """What a call that waits hears: an empty body at once, and then only that its client left.

    Django would first write down the whole of a body, however long it is; here it is let go of as it comes.
    """
    is_asked = False

    async def hear() -> Message:
        nonlocal is_asked
        if not is_asked:
            is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await receive())["type"] != "http.disconnect":
            pass
        return message

    return hear


def _collect_seldom() -> None:
    """Leave what lives as long as the process out of the garbage collector's rounds, and make them rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])


def _end_streams_on_signal() -> None:
    """Let streams end when the process is told to stop: the server says so only after they have ended."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        server = signal.getsignal(number)

        def end(received: int, frame: Any, server: Any = server) -> None:
            # Not in the handler itself: what it interrupted may hold the lock that closing takes.
            threading.Thread(target=ears.close).start()
            if callable(server):
                server(received, frame)

        signal.signal(number, end)


application = Application()
