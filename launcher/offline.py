"""The embedded PostgreSQL alone, for commands on an instance that is stopped: its backup, and its restore."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.child import Child
from launcher.fault import Fault
from launcher.folders import make_private
from launcher.places import Places
from launcher.postgres import STOP_SIGNAL, Postgres
from launcher.throwaway import await_ready
from launcher.up import write_secret_key

GRACE_S = 30.0  # A checkpoint after much was written.


@contextmanager
def server_for(argv: list[str]) -> Iterator[None]:
    """The database that the command `backup` or `restore` works on, running: started and stopped here unless it is.

    Raises Fault E020 for a restore into an instance that runs, and E021 where there is nothing to back up.
    """
    places = Places.from_environment()
    if "--check" in argv:  # Of files alone: nothing is started or made for it.
        os.environ.setdefault("HANDRAIL_SECRET_KEY", "signs-nothing")
        yield
        return
    if os.environ.get("DATABASE_URL"):
        if argv[0] == "restore":
            _take_secret_key(places, argv)
        yield
        return
    if argv[0] == "backup" and not places.postgres_data.exists():
        raise Fault("E021", f"there is no database in {places.home}. Set HANDRAIL_HOME or DATABASE_URL.")
    make_private(places.home)
    make_private(places.logs)
    lock = os.open(places.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if argv[0] == "restore":
                raise Fault("E020", f"Handrail runs in {places.home}. Stop it, then restore.") from None
            yield
            return
        _take_secret_key(places, argv)
        with _running(Postgres(places), places.logs / "postgres.log"):
            yield
    finally:
        os.close(lock)


@contextmanager
def _running(server: Postgres, log: Path) -> Iterator[None]:
    server.prepare()
    with log.open("ab") as output:
        child = Child(server.command(), output=output, stop_signal=STOP_SIGNAL, grace_s=GRACE_S)
    try:
        await_ready("PostgreSQL", child, server.is_ready, log)
        server.make_owner()
        yield
    finally:
        child.stop()


def _take_secret_key(places: Places, argv: list[str]) -> None:
    """The key that signs sessions: the one that is there, else the backup's if it was put there, else a new one."""
    if os.environ.get("HANDRAIL_SECRET_KEY") or places.secret_key_file.exists():
        return
    make_private(places.home)
    for word in argv[1:] if argv[0] == "restore" else []:
        kept = Path(word) / "secret_key"
        if not word.startswith("-") and kept.is_file():
            new = places.secret_key_file.with_suffix(".new")
            shutil.copyfile(kept, new)
            new.chmod(0o600)
            new.rename(places.secret_key_file)
            return
    write_secret_key(places)
