"""The web processes: how one is started, and the port that several share."""

import os
import socket
import sys
import tempfile

# The server with the product's own protocol, which holds no more of a request than it should.
SERVE = ["-m", "uvicorn", "--http", "config.protocol:Protocol", "--ws", "none"]
# Of several, each with the event loop that looks at what the others have: see config/sharing.py.
SHARED = ["--loop", "config.sharing:Loop"]
# A process that has written no count yet has none to share.
NO_COUNT = b"\xff\xff\xff\xff"


class Port:
    """A listening socket, and how many connections each of the `processes` has of it, in a file that they map."""

    def __init__(self, listener: socket.socket, processes: int) -> None:
        self._listener = listener
        self._counts: int | None = None
        if processes > 1:
            self._counts, name = tempfile.mkstemp()
            os.unlink(name)
            os.write(self._counts, NO_COUNT * processes)

    def __enter__(self) -> "Port":
        return self

    def __exit__(self, *_: object) -> None:
        if self._counts is not None:
            os.close(self._counts)

    def command(self, app: str = "config.asgi:application", *, log_level: str) -> list[str]:
        """What starts any of the processes."""
        shared = [] if self._counts is None else SHARED
        command = [sys.executable, *SERVE, *shared, app, "--fd", str(self._listener.fileno())]
        return [*command, "--no-access-log", "--log-level", log_level, "--timeout-graceful-shutdown", "2"]

    def env(self, number: int) -> dict[str, str]:
        """What tells process `number`, from 0, where its count is."""
        return {} if self._counts is None else {"HANDRAIL_WEB_COUNTS": f"{self._counts} {number}"}

    def ended(self, number: int) -> None:
        """Process `number` takes no connections any more: nobody leaves it any."""
        if self._counts is not None:
            os.pwrite(self._counts, NO_COUNT, number * len(NO_COUNT))

    @property
    def fds(self) -> tuple[int, ...]:
        return (self._listener.fileno(),) if self._counts is None else (self._listener.fileno(), self._counts)
