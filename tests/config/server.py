"""A web server in the process of the tests, with the product's own protocol."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from config.protocol import Protocol


@contextmanager
def running(app: Any, **options: Any) -> Iterator[tuple[int, set[Any]]]:
    """Its port, and the connections that it has."""
    config = uvicorn.Config(app, http=Protocol, lifespan="off", log_config=None, timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # What connections have of it: a few pieces and no more wait in the system.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1], server.server_state.connections
        finally:
            server.should_exit = True
            thread.join()
