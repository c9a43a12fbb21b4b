"""A PostgreSQL and a Valkey that live as long as one test run or one command, and leave nothing behind.

python -m launcher.throwaway -- COMMAND…        runs COMMAND with their addresses in its environment
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from launcher.child import Child
from launcher.fault import Fault
from launcher.places import Places
from launcher.postgres import STOP_SIGNAL as POSTGRES_STOP_SIGNAL
from launcher.postgres import Postgres
from launcher.valkey import STOP_SIGNAL as VALKEY_STOP_SIGNAL
from launcher.valkey import Valkey

PREFIX = "handrail-throwaway-"
PATIENCE_S = 60.0


def await_ready(name: str, child: Child, is_ready: Callable[[], bool], log: Path) -> None:
    """Return when the server answers; Fault E015 with its last words when it ends or stays silent for a minute."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_ready():
        if not child.is_running() or time.monotonic() > deadline_s:
            words = log.read_text(errors="replace")[-1000:]
            raise Fault("E015", f"{name} did not start: {words}")
        time.sleep(0.02)


def start_postgres(places: Places) -> tuple[Postgres, Child]:
    """A cluster without fsync in `places`, with the role and the database of Handrail."""
    server = Postgres(places, durable=False)
    server.prepare()
    log = places.home / "postgres.log"
    with log.open("wb") as output:
        child = Child(server.command(), output=output, stop_signal=POSTGRES_STOP_SIGNAL, grace_s=5)
    await_ready("PostgreSQL", child, server.is_ready, log)
    server.make_owner()
    return server, child


def start_valkey(places: Places) -> Child:
    server = Valkey(places, durable=False)
    server.prepare()
    log = places.home / "valkey.log"
    with log.open("wb") as output:
        child = Child(server.command(), output=output, stop_signal=VALKEY_STOP_SIGNAL, grace_s=2)
    await_ready("Valkey", child, server.is_ready, log)
    return child


class ThrowawayHome:
    """A state folder below the temp folder; one that a killed process left behind is removed by the next."""

    def __init__(self) -> None:
        self._sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = _locked(self.path)

    def __enter__(self) -> "ThrowawayHome":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    @staticmethod
    def _sweep() -> None:
        for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
            try:
                if folder.stat().st_uid != os.geteuid() or time.time() - folder.stat().st_mtime < PATIENCE_S:
                    continue
                lock = _locked(folder)
            except OSError:
                continue
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _locked(folder: Path) -> int | None:
    """The open lock file of the folder, or None when another process holds it."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def environment(places: Places) -> dict[str, str]:
    """What a process needs to use the servers of `places` and no others."""
    return {
        "HANDRAIL_HOME": str(places.home),
        "HANDRAIL_SECRET_KEY": "throw-away-" + os.urandom(24).hex(),
        "DATABASE_URL": places.database_url,
        "REDIS_URL": places.redis_url,
    }


def main(argv: list[str]) -> int:
    command = argv[1:] if argv[:1] == ["--"] else argv
    with ExitStack() as stack:
        places = Places(stack.enter_context(ThrowawayHome()).path)
        _, postgres = start_postgres(places)
        stack.callback(postgres.stop)
        stack.callback(start_valkey(places).stop)
        return subprocess.run(command, env=os.environ | environment(places), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
