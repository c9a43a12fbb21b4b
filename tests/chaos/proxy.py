"""A road to a server that can be cut: bytes go through until then; afterwards nobody answers and nobody hangs up."""

import socket
import threading
from selectors import EVENT_READ, DefaultSelector
from types import TracebackType

CHUNK = 65_536


class Road:
    """Carries TCP connections from `port` to `target_port` on this machine, in a thread, while it is not cut.

    A cut road is one whose network went away: open connections fall silent without an end, new ones are taken
    by the kernel and never served.
    """

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._other: dict[socket.socket, socket.socket] = {}
        self._open = threading.Event()
        self._open.set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="road", daemon=True)

    def __enter__(self) -> "Road":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._open.set()
        self._thread.join()
        for one in (self._listener, *self._other):
            one.close()

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        """Serve again; what was under way when it was cut is lost."""
        self._open.set()

    def _carry(self) -> None:
        with DefaultSelector() as selector:
            selector.register(self._listener, EVENT_READ)
            while not self._ended.is_set():
                if not self._open.is_set():
                    self._open.wait()
                    for one in list(self._other):
                        self._drop(selector, one)
                    continue
                for key, _ in selector.select(timeout=0.1):
                    one = key.fileobj
                    if one is self._listener:
                        self._begin(selector)
                    elif isinstance(one, socket.socket) and one in self._other:
                        self._pass_on(selector, one)

    def _begin(self, selector: DefaultSelector) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._target, timeout=10)
        except OSError:
            near.close()
            return
        for one, other in ((near, far), (far, near)):
            self._other[one] = other
            selector.register(one, EVENT_READ)

    def _pass_on(self, selector: DefaultSelector, one: socket.socket) -> None:
        try:
            data = one.recv(CHUNK)
            if data:
                self._other[one].sendall(data)
                return
        except OSError:
            pass
        self._drop(selector, one)

    def _drop(self, selector: DefaultSelector, one: socket.socket) -> None:
        """Close both ends."""
        for end in (one, self._other.get(one)):
            if end is not None and self._other.pop(end, None) is not None:
                selector.unregister(end)
                end.close()
