"""The web process of the tests, over real sockets."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import psutil
from django.db import connection

from launcher.child import Child
from launcher.web import SERVE
from monitor import events
from monitor.models import Project
from monitor.tenancy import tenant
from tests.launcher.instance import until
from tests.monitor.api.conftest import make_key


@dataclass
class Web:
    url: str
    child: Child

    def client(self, project: Project, **options: object) -> httpx.Client:
        """A client with a key of the project."""
        headers = {"Authorization": f"Bearer {make_key(project, **options)[1]}"}  # type: ignore[arg-type]
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def waiting(self) -> int:
        """How many calls wait."""
        return int(httpx.get(f"{self.url}/api/v1/sample/waiting", timeout=20).text)

    def threads(self) -> int:
        """Of the system's."""
        return sum(part.num_threads() for part in self._family())

    def wait_for_callers(self, count: int) -> None:
        """Until so many connections have been taken up."""

        def callers() -> int:
            return sum(one.status == "ESTABLISHED" for part in self._family() for one in part.net_connections("tcp"))

        until(lambda: callers() >= count, f"{count} callers come", within_s=20)

    def _family(self) -> list[psutil.Process]:
        process = psutil.Process(self.child.pid)
        return [process, *process.children(recursive=True)]


@contextmanager
def serving(redis_url: str, *, patience_s: float | None = None, **settings: str) -> Iterator[Web]:
    """`patience_s` is after how long whoever hears no news looks by itself; `settings` are of the environment."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        command = [sys.executable, "-W", "ignore", *SERVE, "tests.monitor.api.sample_waiting:application"]
        command += ["--fd", str(listener.fileno()), "--no-access-log", "--log-level", "warning"]
        command += ["--timeout-graceful-shutdown", "2"]
        env = os.environ | {"REDIS_URL": redis_url, "HANDRAIL_DB_POOL": "5", "HANDRAIL_WEB_THREADS": "5"}
        # Nobody turns the crank behind a test's back.
        env |= {"HANDRAIL_STANDBY": "0"}
        env |= settings
        if patience_s is not None:
            env |= {"SAMPLE_PATIENCE_S": str(patience_s)}
        child = Child(command, env=env, pass_fds=(listener.fileno(),), grace_s=5)
        web = Web(f"http://127.0.0.1:{listener.getsockname()[1]}", child)
    try:
        # The socket listens already: the first answer comes when the process is up.
        httpx.get(f"{web.url}/api/v1/sample/who/x", timeout=60)
        yield web
    finally:
        child.stop()


def announce(project: Project, kind: str) -> int:
    with tenant(project.pk):
        return events.announce(project.pk, kind, now=datetime.now(UTC))


class Later:
    """Something done in a thread while the test waits."""

    def __init__(self, after_s: float, act: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=self._run, args=(after_s, act))
        self._thread.start()

    def _run(self, after_s: float, act: Callable[[], object]) -> None:
        time.sleep(after_s)
        act()
        connection.close()

    def join(self) -> None:
        self._thread.join()
