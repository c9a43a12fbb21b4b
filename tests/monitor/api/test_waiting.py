"""The web process itself: waiting, streaming, and ending, over real sockets."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from django.conf import settings
from django.db import connection

from launcher.child import Child
from monitor import events
from monitor.models import Project
from monitor.tenancy import tenant
from tests.monitor.api.conftest import make_key, make_project

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Web:
    url: str
    child: Child


def start(redis_url: str) -> Web:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "tests.monitor.api.sample_waiting:application"]
        command += ["--fd", str(listener.fileno()), "--no-access-log", "--log-level", "warning"]
        command += ["--timeout-graceful-shutdown", "2"]
        child = Child(command, env=os.environ | {"REDIS_URL": redis_url}, pass_fds=(listener.fileno(),), grace_s=5)
        return Web(f"http://127.0.0.1:{port}", child)


@pytest.fixture
def web(committed_db: None) -> Iterator[Web]:
    started = start(settings.REDIS_URL)
    yield started
    started.child.stop()


@pytest.fixture
def web_without_redis(committed_db: None, tmp_path: Path) -> Iterator[Web]:
    started = start(f"unix://{tmp_path}/nobody.sock")
    yield started
    started.child.stop()


def announce(project: Project, kind: str) -> int:
    with tenant(project.pk):
        return events.announce(project.pk, kind, now=datetime.now(UTC))


def announce_soon(project: Project, kind: str) -> threading.Thread:
    """Once the waiter listens: when its process has subscribed, or a moment later without Redis."""

    def later() -> None:
        time.sleep(0.7)
        announce(project, kind)
        connection.close()

    thread = threading.Thread(target=later)
    thread.start()
    return thread


def test_smoke(web: Web) -> None:
    north = make_project("north")
    headers = {"Authorization": f"Bearer {make_key(north)[1]}"}
    with httpx.Client(base_url=web.url, headers=headers, timeout=30) as client:
        print(client.get("/api/v1/sample/who/x").text)
        t = time.monotonic()
        print(client.get("/api/v1/sample/events?wait=1").text, time.monotonic() - t)
        announce_soon(north, "said")
        t = time.monotonic()
        r = client.get("/api/v1/sample/events?wait=20")
        print(r.text, r.headers, time.monotonic() - t)
        t = time.monotonic()
        print(client.get("/api/v1/sample/events?after=0").text, time.monotonic() - t)
        print(client.get("/api/v1/sample/events?wait=99").text, time.monotonic() - t)
        with client.stream("GET", "/api/v1/sample/events", headers={"Accept": "text/event-stream"}) as r:
            print(r.status_code, r.headers)
            it = r.iter_lines()
            for _ in range(6):
                print(next(it))
            announce_soon(north, "said")
            for _ in range(3):
                print(next(it))
            t = time.monotonic()
            web.child.stop()
            print("stopped", time.monotonic() - t, web.child.exit_code())
    assert 0
