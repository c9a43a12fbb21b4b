"""Where one instance of Handrail keeps its state: every path follows from HANDRAIL_HOME."""

import hashlib
import os
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

SOCKET_PATH_BYTES = 107  # what sockaddr_un holds on Linux, without the closing zero
PLAIN_CHARACTERS = frozenset(string.ascii_letters + string.digits + "/._-+")
LONGEST_SOCKET_NAME = "/.s.PGSQL.5432"


@dataclass(frozen=True)
class Places:
    """The files and folders below one state folder."""

    home: Path

    @classmethod
    def from_environment(cls) -> "Places":
        root = Path(__file__).resolve().parent.parent
        return cls(Path(os.environ.get("HANDRAIL_HOME") or root / ".handrail").absolute())

    @property
    def postgres_data(self) -> Path:
        return self.home / "postgres"

    @property
    def valkey_data(self) -> Path:
        return self.home / "valkey"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def lock_file(self) -> Path:
        return self.home / "lock"

    @property
    def secret_key_file(self) -> Path:
        return self.home / "secret_key"

    @property
    def sockets(self) -> Path:
        """The folder of the unix sockets: a short one under the temp dir when HOME is too deep or reads
        otherwise inside a URL or a list of hosts.
        """
        inside = self.home / "run"
        short_enough = len(os.fsencode(inside)) + len(LONGEST_SOCKET_NAME) <= SOCKET_PATH_BYTES
        if short_enough and PLAIN_CHARACTERS.issuperset(str(inside)):
            return inside
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"handrail-{os.getuid()}-{digest}"

    @property
    def database_url(self) -> str:
        """The embedded PostgreSQL, as the role that owns the tables."""
        return f"postgresql://handrail@{quote(str(self.sockets), safe='')}/handrail"

    @property
    def redis_url(self) -> str:
        """The embedded Valkey."""
        return f"unix://{self.sockets}/valkey.sock"
