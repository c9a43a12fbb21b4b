"""One running Handrail as a user starts it, on a port and a state folder of its own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import redis

from config.shedding import KEY as SHED
from launcher.places import Places
from launcher.up import web_answers

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = ("postgres", "valkey", "web", "worker", "beat")
WORDS = {
    "postgres": "bin/postgres -D",
    "valkey": "valkey-server unixsocket",
    "web": "-m uvicorn",
    "worker": "config worker",
    "beat": "config beat",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition: Callable[[], bool], what: str, *, within_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what}"
        time.sleep(0.05)


def clean_environment(**settings: object) -> dict[str, str]:
    """The environment of a user's shell: nothing of the test run's own servers."""
    ours = ("HANDRAIL_", "DATABASE_URL", "REDIS_URL", "DJANGO_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {name: str(value) for name, value in settings.items()}


class Instance:
    def __init__(self, home: Path, *, port: int | None = None, **settings: object) -> None:
        self.home = home
        self.settings = settings
        self.port = port or free_port()
        self.output = home.with_suffix(".out")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return clean_environment(HANDRAIL_HOME=self.home, HANDRAIL_PORT=self.port, **self.settings)

    def begin(self) -> "Instance":
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self

    def ready(self, *, within_s: float = 150) -> "Instance":
        assert self.process is not None
        process = self.process
        until(lambda: "is ready after" in self.text() or process.poll() is not None, "ready", within_s=within_s)
        assert process.poll() is None, self.text()[-3000:]
        return self

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def complaints(self) -> str:
        """What its processes warned of, and the requests that were shed: why somebody was refused."""
        valkey = redis.Redis(unix_socket_path=str(Places(self.home).sockets / "valkey.sock"))
        lines = [line for line in self.text().splitlines() if re.search("WARN|ERROR|Traceback", line)]
        return "\n".join([f"shed: {valkey.hgetall(SHED)}", *lines[-40:]])

    def answers(self) -> bool:
        return web_answers("127.0.0.1", self.port)

    def processes(self) -> dict[int, str]:
        """Every process with this state folder in its command line, environment or working folder."""
        mark = os.fsencode(self.home)
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes()
                places = [command, (entry / "environ").read_bytes(), os.fsencode(os.readlink(entry / "cwd"))]
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state != "Z" and any(mark in place for place in places):
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
        return found

    def pid_of(self, part: str, *, leash: bool = False) -> int | None:
        """The part's own first process, or the leash beside it."""
        found = [
            pid
            for pid, command in sorted(self.processes().items())
            if WORDS[part].split()[0] in command
            and all(word in command for word in WORDS[part].split())
            and ("leash.py" in command) == leash
        ]
        return found[0] if found else None

    def parts(self) -> dict[str, int | None]:
        return {part: self.pid_of(part) for part in PARTS}

    def stop(self, *, within_s: float = 20.0) -> None:
        """SIGTERM, and wait until it has ended. Raises subprocess.TimeoutExpired."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(within_s)

    def end(self) -> None:
        """Whatever happened in the test, nothing stays."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        until(lambda: not self.processes(), f"nothing left: {self.processes()}", within_s=15)

    def copy_of(self, other: "Instance") -> "Instance":
        """Begin from the state of another, stopped instance: a first start is slow."""
        shutil.copytree(other.home, self.home, symlinks=True, ignore=shutil.ignore_patterns("run"))
        return self


def send(pid: int | None, number: signal.Signals) -> None:
    assert pid is not None
    os.kill(pid, number)


def send_all(pids: Iterable[int], number: signal.Signals) -> None:
    """To each that still is: a backend or a job may end by itself after it was listed."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
