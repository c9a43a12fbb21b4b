"""Live news for open pages: server-sent events, one stream a browser, fanned out to its tabs by a worker."""

import asyncio
from collections.abc import AsyncIterator

from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.views import View

from monitor.api import problems
from monitor.api.caller import Caller, attach_person, identify_person, require
from monitor.api.waiting import EVENT_STREAM, RETRY_MS, Looking, Pulse, let_in, until_refused
from monitor.listen import ears

# News of a busy moment goes out together.
GATHER_S = 0.2
ALONE_S = 3.0
# The question was on its way as well.
TRAVEL_S = 1.0
# Tells pages to fetch everything again: some news was missed, or there is no Redis to hear it from.
EVERYTHING = b'{"topic":"*","id":""}'

# A comment would keep the line open as well, but a page cannot hear comments.
BEAT = b"event: beat\ndata: {}\n\n"


class Events(View):
    """`GET /events/?project=<name>&ago_ms=<ms>`: messages `{"topic", "id"}` for signed-in people.

    An event `beat` comes first and then every 15 s. What was told in the last `ago_ms` milliseconds, while the page
    was on its way, comes as well; should that not be known any more, the page is told to look at everything.
    Ends when they have signed out, when their membership has ended, and when the server stops.
    """

    http_method_names = ["get"]

    async def get(self, request: HttpRequest) -> HttpResponseBase:
        try:
            caller = await Looking.run(self._identify, request)
            let_in(request)
        except Exception as error:
            problem = problems.of(error)
            if problem is None:
                raise
            return problems.render(problem)
        try:
            ago_s = max(0, int(request.GET.get("ago_ms", "0"))) / 1000 + TRAVEL_S
        except (ValueError, OverflowError):
            return problems.render(problems.Problem(400, "Bad request", "ago_ms is a number of milliseconds."))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingHttpResponse(self._stream(request, caller, ago_s), content_type=EVENT_STREAM, headers=headers)

    def _identify(self, request: HttpRequest) -> Caller:
        attach_person(request)
        caller = identify_person(request, request.GET.get("project"))
        require(caller, "read")
        return caller

    async def _stream(self, request: HttpRequest, caller: Caller, ago_s: float) -> AsyncIterator[bytes]:
        pulse = Pulse(lambda: self._identify(request))
        yield f"retry: {RETRY_MS}\n\n".encode()
        with until_refused(), ears.of(caller.project_id, ago_s=ago_s) as ear:
            yield BEAT
            while not ear.closing and await pulse.is_welcome():
                patience_s = ear.patience_s if ear.hears else ALONE_S
                if await ear.wait(min(patience_s, pulse.ping_in_s())):
                    if ear.closing:
                        return
                    heard = ear.take()
                    messages = [EVERYTHING] if heard is None else heard
                elif pulse.ping_in_s() <= 0:
                    messages = []
                    yield BEAT
                    pulse.sent()
                else:
                    messages = [] if ear.hears else [EVERYTHING]
                for message in messages:
                    yield b"data: " + message + b"\n\n"
                if messages:
                    pulse.sent()
                    await asyncio.sleep(GATHER_S)
