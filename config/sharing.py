"""How several web processes share what comes: a new connection goes to one that has the fewest.

All listen on one socket, and an event loop takes whatever waits there at once. The connections that an exporter opens
together and keeps would be one process's for good, and the others had nothing to do.
"""

import asyncio
import logging
import mmap
import os
import socket
from collections.abc import Callable
from typing import Any

import uvloop

from config.protocol import Protocol

log = logging.getLogger(__name__)

# Of a process that takes none.
NO_COUNT = 2**32 - 1
# So often, and so long each time, one that has more leaves a connection to those that have fewer. They may be busy, or
# stand still: then it takes it.
TURNS, TURN_S = 10, 0.001
# After what the system can't give at the moment, such as another open file.
REST_S = 1.0


class Counts:
    """How many connections each of the processes has, in memory that they share; each writes its own."""

    def __init__(self, fd: int, own: int) -> None:
        self._all = memoryview(mmap.mmap(fd, 0)).cast("I")
        self._own = own

    def say(self, count: int) -> None:
        self._all[self._own] = count

    def is_ahead(self) -> bool:
        """Whether this process has more than the one with the fewest: by one, and of many by an eighth."""
        least = min(self._all)
        return self._all[self._own] > least + least // 8


class Loop(uvloop.Loop):
    """The event loop of one of several web processes, which the launcher told where their counts are."""

    async def create_server(
        self, protocol_factory: Any, host: Any = None, port: Any = None, *, sock: Any = None, **options: Any
    ) -> Any:
        told = os.environ.get("HANDRAIL_WEB_COUNTS")
        if sock is None or told is None:
            return await super().create_server(protocol_factory, host, port, sock=sock, **options)
        fd, own = map(int, told.split())
        return Listening(self, protocol_factory, sock, Counts(fd, own))


class Listening:
    """What uvicorn needs of a server: takes connections, when it is this process's turn, until it is closed."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, make: Callable[[], Protocol], sock: socket.socket, counts: Counts
    ) -> None:
        self._loop = loop
        self._make = make
        # Its family is what the system says, whatever the socket was made from.
        self._listener = socket.socket(fileno=sock.detach())
        self._listener.setblocking(False)
        self._counts = counts
        self._count = 0
        self._listens = True
        self._beginning: set[asyncio.Task[Any]] = set()
        counts.say(0)
        self._work = loop.create_task(self._take_all())

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return (self._listener,)

    def close(self) -> None:
        """Take no more; those that are open stay so."""
        self._listens = False
        self._counts.say(NO_COUNT)
        self._work.add_done_callback(lambda _: self._listener.close())
        self._work.cancel()

    async def wait_closed(self) -> None:
        await asyncio.wait({self._work})

    async def _take_all(self) -> None:
        while True:
            await self._something()
            for _ in range(TURNS):
                if not self._counts.is_ahead():
                    break
                await asyncio.sleep(TURN_S)
            try:
                self._take_some()
            except OSError as error:
                log.error("No connection could be taken: %s", error)
                await asyncio.sleep(REST_S)

    async def _something(self) -> None:
        """Until a connection waits, which any of the processes may take."""
        comes = asyncio.Event()
        self._loop.add_reader(self._listener, comes.set)
        try:
            await comes.wait()
        finally:
            self._loop.remove_reader(self._listener)

    def _take_some(self) -> None:
        """One, and others for as long as no process has fewer."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            connection.setblocking(False)
            self._more(1)
            begin = self._loop.create_task(self._loop.connect_accepted_socket(self._made, connection))
            self._beginning.add(begin)
            begin.add_done_callback(self._began)
            if self._counts.is_ahead():
                return

    def _made(self) -> Protocol:
        protocol = self._make()
        protocol.on_end = self._ended
        return protocol

    def _began(self, begin: "asyncio.Task[Any]") -> None:
        self._beginning.discard(begin)
        if not begin.cancelled() and begin.exception() is not None:
            log.error("A connection could not be begun: %s", begin.exception())
            self._ended()

    def _ended(self) -> None:
        self._more(-1)

    def _more(self, connections: int) -> None:
        self._count += connections
        if self._listens:
            self._counts.say(self._count)
