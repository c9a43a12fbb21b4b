"""What the web process takes from anybody, before it knows who that is, over real sockets."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path

import httpx
import psutil
import pytest
from django.conf import settings

from monitor.models import Project
from tests.conftest import Slate
from tests.launcher.instance import until
from tests.monitor.api.conftest import make_key, make_project
from tests.monitor.api.web import Web, serving

MIB = 1024 * 1024
EVENTS = "/api/v1/sample/events"


@pytest.fixture(scope="module")
def web(slate: Slate) -> Iterator[Web]:
    with serving(settings.REDIS_URL) as started:
        yield started
    # It says that somebody listens until it has ended, after the last test has cleaned up.
    slate.wipe()


@pytest.fixture
def north(committed_db: None) -> Project:
    return make_project("north")


@contextmanager
def line_to(web: Web) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", httpx.URL(web.url).port or 0), timeout=20) as line:
        yield line


def status_of(line: socket.socket) -> int:
    """The status of the next answer on a line."""
    answer = HTTPResponse(line)
    answer.begin()
    answer.read()
    return answer.status


def a_chunk(size: int) -> bytes:
    return b"%x\r\n" % size + b"x" * size + b"\r\n"


def written_down(web: Web) -> list[str]:
    """The files without a name that the web process has open."""
    process = psutil.Process(web.child.pid)
    found = [f"/proc/{one.pid}/fd" for one in (process, *process.children(recursive=True))]
    names = [os.readlink(file) for folder in found for file in Path(folder).iterdir() if file.is_symlink()]
    return [name for name in names if name.startswith("/") and name.endswith("(deleted)")]


def test_whether_it_is_up_is_answered_before_a_body_has_ended(web: Web) -> None:
    with line_to(web) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(8):
            line.sendall(a_chunk(MIB))
        assert status_of(line) == 200
        # What still comes is nobody's, and after its end the line is good for more.
        for _ in range(8):
            line.sendall(a_chunk(MIB))
        line.sendall(b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_of(line) == 200


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_who_waits_has_no_body_and_is_missed_when_they_leave(web: Web, north: Project, accept: str) -> None:
    def waiting() -> int:
        return int(httpx.get(f"{web.url}/api/v1/sample/waiting", timeout=20).text)

    with line_to(web) as line:
        line.sendall(
            f"GET {EVENTS}?wait=25 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {make_key(north)[1]}\r\n"
            f"Accept: {accept}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        until(lambda: waiting() == 1, "it waits", within_s=10)
        before = written_down(web)
        # More than Django holds in memory.
        for _ in range(8):
            line.sendall(a_chunk(MIB))
        assert written_down(web) == before
        assert waiting() == 1
    until(lambda: waiting() == 0, "nobody waits", within_s=10)
