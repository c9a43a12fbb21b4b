"""The embedded Valkey: broker, cache and live fan-out, reached by a unix socket only."""

import signal
import socket

from launcher import binaries
from launcher.folders import make_private
from launcher.places import Places
from launcher.survivors import end_survivors

STOP_SIGNAL = signal.SIGTERM


class Valkey:
    """The server of one state folder. `durable=False` keeps nothing on disk, for throw-away servers."""

    def __init__(self, places: Places, *, durable: bool = True) -> None:
        self.data = places.valkey_data
        self.socket = places.sockets / "valkey.sock"
        self.durable = durable

    def prepare(self) -> None:
        """Make the folders, and end a server that outlived its supervisor: two would write one file."""
        make_private(self.data.parent)
        make_private(self.data)
        make_private(self.socket.parent)
        end_survivors(self.data, "valkey-server", STOP_SIGNAL)
        self.socket.unlink(missing_ok=True)

    def command(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "warning",
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return [binaries.valkey_server(), *options]

    def is_ready(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(1)
                line.connect(str(self.socket))
                line.sendall(b"PING\r\n")
                return line.recv(16).startswith(b"+PONG")
        except OSError:
            return False
