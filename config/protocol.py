"""HTTP as the web process hears it: uvicorn's, with an end to what it holds before anybody knows whose it is.

uvicorn keeps as many headers as come, of any size, and as many requests one behind the other, and waits for ever: for
the rest of a head, and for whoever does not read what is sent.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

# The address and the headers of one request. The largest that browsers and proxies send have a quarter of it.
MOST_HEAD_BYTES = 64 * 1024
MOST_HEADERS = 200
# So many requests may come before those in front of them have been answered. Nearly nobody sends a second one.
MOST_BEHIND = 100
# So long a connection may be without a whole head, and without the end of a body that has been answered; and so long
# what is sent may wait for its reader, and longer by what that takes at a slow pace.
WITHIN_S = 20.0
SLOWEST_BYTES_S = 128 * 1024
WORDS = b"The address and the headers of this request are too large.\n"
REFUSAL = STATUS_LINE[431] + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
REFUSAL += b"content-length: %d\r\n\r\n" % len(WORDS) + WORDS


class TooMuch(Exception):
    """Ends the reading of a connection."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_end: Callable[[], None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._was_closing = False
        self._is_refused = False
        # uvicorn's own is the newest request, which may wait behind this one.
        self._working: RequestResponseCycle | None = None
        # What came since the last whole head or piece of a body: more of a head, of what follows a body, or nothing.
        self._useless = 0
        self._was_useful = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_more()
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._expect_no_reader()
        if self._next_look is not None:
            self._next_look.cancel()
        # It is told to the request at work, and those behind it are nobody's any more.
        self.pipeline.clear()
        if self._working is not None:
            self.cycle = self._working
        super().connection_lost(exc)
        if self.on_end is not None:
            self.on_end()

    def data_received(self, data: bytes) -> None:
        self._useless += len(data)
        self._was_useful = False
        super().data_received(data)
        if self._was_useful:
            self._useless = 0
        elif self._useless > MOST_HEAD_BYTES and not self.transport.is_closing():
            self._refuse()
        if self._deadline is None and not self._is_at_work():
            self._expect_more()

    def on_headers_complete(self) -> None:
        self._was_useful = True
        if self._deadline is not None:
            self._expect_nothing()
        is_too_large = self._useless > MOST_HEAD_BYTES and self._head() > MOST_HEAD_BYTES
        if is_too_large or len(self.headers) > MOST_HEADERS or len(self.pipeline) >= MOST_BEHIND:
            self._is_refused = True
            raise TooMuch
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            # What follows a body comes as headers too, and would be taken for some that stood before it.
            self.headers = []

    def on_body(self, body: bytes) -> None:
        self._was_useful = True
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        if self._is_refused:
            self._refuse()
        else:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        super().pause_writing()
        within_s = WITHIN_S + self.transport.get_write_buffer_size() / SLOWEST_BYTES_S
        self._reader = self.loop.call_later(within_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._was_closing = False
        self._expect_no_reader()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._working = cycle
        super()._start_asgi_task(cycle, app)

    def _head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def _is_at_work(self) -> bool:
        return self._working is not None and not self._working.response_complete

    def _refuse(self) -> None:
        # An answer may be half sent.
        if not self._is_at_work():
            self.transport.write(REFUSAL)
        self.pipeline.clear()
        self.transport.close()

    def _expect_more(self) -> None:
        self._deadline = self.loop.call_later(WITHIN_S, self._give_up)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()

    def _expect_no_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _look_later(self) -> None:
        self._next_look = self.loop.call_later(WITHIN_S, self._look)

    def _look(self) -> None:
        """End a connection that was closed before the last look, by whomever: it waits for what is still unsent."""
        if not self.flow.write_paused:
            if self._was_closing:
                self.transport.abort()
            self._was_closing = self.transport.is_closing()
        self._look_later()
