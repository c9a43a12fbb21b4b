"""Servers that somebody else runs: named by DATABASE_URL and REDIS_URL, and asked once before the start."""

import socket
import subprocess
import time
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from launcher import binaries
from launcher.fault import Fault
from launcher.postgres import without_libpq_settings

PATIENCE_S = 5.0
NO_ATTEMPT = 3  # pg_isready's exit code for a URL that it cannot read


def await_postgres(url: str, rest: Callable[[float], None]) -> None:
    """Return when it accepts connections; Fault E002 for what is no URL, E016 when nothing answers."""
    if urlsplit(url).scheme not in {"postgresql", "postgres"}:
        raise _not_a_url("it must begin with postgresql://")
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        asked = subprocess.run(
            [binaries.postgres("pg_isready"), "-t", "3", "-d", url],
            capture_output=True,
            text=True,
            check=False,
            env=without_libpq_settings(),
        )
        if asked.returncode == 0:
            return
        if asked.returncode == NO_ATTEMPT:
            raise _not_a_url("PostgreSQL's own client cannot read it")
        if time.monotonic() > deadline_s:
            place = asked.stdout.split(" - ")[0].strip()
            raise Fault("E016", f"no PostgreSQL answers at {place}. Start it, or correct DATABASE_URL.")
        rest(0.5)


def await_redis(url: str, rest: Callable[[float], None]) -> None:
    """Return when something listens there; Fault E017 when nothing does."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not _listens(url):
        if time.monotonic() > deadline_s:
            parts = urlsplit(url)
            place = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
            raise Fault("E017", f"no Redis or Valkey answers at {place}. Start it, or correct REDIS_URL.")
        rest(0.5)


def _listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        if parts.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(unquote(parts.path))
        else:
            socket.create_connection((parts.hostname or "localhost", parts.port or 6379), timeout=3).close()
    except (OSError, ValueError):
        return False
    return True


def _not_a_url(reason: str) -> Fault:
    return Fault(
        "E002",
        f"DATABASE_URL is not a PostgreSQL URL: {reason}. "
        "Give postgresql://user:password@host:5432/name, or unset it for the embedded server.",
    )
