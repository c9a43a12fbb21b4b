"""What the web process takes from anybody, before it knows who that is, over real sockets."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from django.conf import settings

from monitor.models import Project
from tests.config.server import running
from tests.conftest import Slate
from tests.launcher.instance import until
from tests.monitor.api.conftest import make_key
from tests.monitor.api.web import Web, serving

MIB = 1024 * 1024
EVENTS = "/api/v1/sample/events"


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
    with line_to(web) as line:
        line.sendall(
            f"GET {EVENTS}?wait=25 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {make_key(north)[1]}\r\n"
            f"Accept: {accept}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        until(lambda: web.waiting() == 1, "it waits", within_s=10)
        before = written_down(web)
        # More than Django holds in memory.
        for _ in range(8):
            line.sendall(a_chunk(MIB))
        assert written_down(web) == before
        assert web.waiting() == 1
    until(lambda: web.waiting() == 0, "nobody waits", within_s=10)


@pytest.fixture
def small_web(slate: Slate) -> Iterator[Web]:
    """A web process in which four may listen, two of each key."""
    with serving(settings.REDIS_URL, HANDRAIL_MOST_LISTENING="4") as started:
        yield started
    slate.wipe()


def test_who_listens_too_often_is_told_to_come_back(small_web: Web, north: Project) -> None:
    def are_waiting(number: int) -> None:
        until(lambda: small_web.waiting() == number, f"{number} listen", within_s=10)

    def listen(line: socket.socket, key: str, accept: str) -> None:
        head = f"GET {EVENTS}?wait=25 HTTP/1.1\r\nHost: localhost\r\nAuthorization: bearer {key}\r\nAccept: {accept}"
        line.sendall(f"{head}\r\n\r\n".encode())

    greedy = make_key(north)[1]
    with ExitStack() as lines, small_web.client(north) as polite:
        first = lines.enter_context(line_to(small_web))
        for number, accept in enumerate(("text/event-stream", "application/json"), 1):
            listen(first if number == 1 else lines.enter_context(line_to(small_web)), greedy, accept)
            are_waiting(number)
        answer = httpx.get(f"{small_web.url}{EVENTS}?wait=25", headers={"Authorization": f"Bearer {greedy}"})
        assert (answer.status_code, answer.headers["Retry-After"], answer.json()["status"]) == (429, "2", 429)
        # Others come in, whoever is made up among them.
        made_up = {"Authorization": "Bearer hr_000000000000_made-up"}
        assert httpx.get(f"{small_web.url}{EVENTS}?wait=25", headers=made_up).status_code == 401
        assert polite.get(f"{EVENTS}?wait=0.1").status_code == 200
        first.close()
        are_waiting(1)
        with line_to(small_web) as again:
            listen(again, greedy, "application/json")
            are_waiting(2)


ENDLESS = {
    "headers": (b"GET /api/v1/sample/who/x HTTP/1.1\r\nHost: localhost\r\n", b"X-One: %s\r\n" % (b"x" * 1000)),
    "a header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-One: ", b"x" * 1000),
    "a name": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"x" * 1000),
    "an address": (b"GET /health?", b"x" * 1000),
    "empty lines": (b"", b"\r\n" * 500),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_head_without_an_end_is_refused(web: Web, what: str) -> None:
    begin, more = ENDLESS[what]
    with line_to(web) as line:
        sent = send_until_refused(line, begin, more)
        assert status_of(line) == 431
    # Most of it was on its way.
    assert sent < 16 * MIB


def send_until_refused(line: socket.socket, begin: bytes, more: bytes) -> int:
    """How much could be sent, at most 64 MiB."""
    sent = 0
    with suppress(ConnectionError):
        line.sendall(begin)
        while sent < 64 * MIB:
            line.sendall(more * 64)
            sent += 64 * len(more)
    return sent


def test_what_follows_a_body_is_no_header_and_has_an_end(web: Web, north: Project) -> None:
    begin = b"POST /api/v1/sample/calls HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    begin += b"Transfer-Encoding: chunked\r\n\r\n" + b"c\r\n" + b'{"calls":[]}' + b"\r\n0\r\n"
    key = make_key(north)[1]
    with line_to(web) as line:
        line.sendall(begin + f"Authorization: Bearer {key}\r\n\r\n".encode())
        assert status_of(line) == 401
    with line_to(web) as line:
        assert send_until_refused(line, begin, b"X-One: %s\r\n" % (b"x" * 1000)) < 16 * MIB


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Cookie: a=" + b"x" * 8 * 1024, 200),
        (b"\r\n".join(b"X-%d: x" % n for n in range(150)), 200),
        (b"\r\n".join(b"X-%d: x" % n for n in range(250)), 431),
        (b"Cookie: a=" + b"x" * 64 * 1024, 431),
    ],
)
def test_a_head_may_be_as_large_as_browsers_make_them(web: Web, head: bytes, status: int) -> None:
    with line_to(web) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
        assert status_of(line) == status


@pytest.mark.parametrize(
    ("begin", "answers"),
    [
        (b"", 0),
        (b"GET /health HTTP/1.1\r\nHost: local", 0),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal", 1),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n", 1),
    ],
    ids=["nothing", "half a head", "half of the next head", "no body"],
)
def test_who_does_not_go_on_is_left(web: Web, begin: bytes, answers: int) -> None:
    with line_to(web) as line:
        line.sendall(begin)
        for _ in range(answers):
            assert status_of(line) == 200
        # One more byte: from now on no line between two requests is meant, which is let go of after some seconds.
        with suppress(ConnectionError):
            line.sendall(b"x" if begin else b"")
            assert line.recv(1) == b""


def test_requests_one_behind_the_other_have_an_end(web: Web) -> None:
    one, many = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 20_000
    with line_to(web) as line:
        sending = threading.Thread(target=send_or_lose, args=(line, one * many))
        sending.start()
        got = all_of(line)
        sending.join()
    assert got.count(b"HTTP/1.1 200") < many / 2


def send_or_lose(line: socket.socket, what: bytes) -> None:
    with suppress(ConnectionError):
        line.sendall(what)


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_who_leaves_is_missed_whatever_they_sent_behind(web: Web, north: Project, accept: str) -> None:
    with line_to(web) as line:
        line.sendall(
            f"GET {EVENTS}?wait=25 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {make_key(north)[1]}\r\n"
            f"Accept: {accept}\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        until(lambda: web.waiting() == 1, "it waits", within_s=10)
    until(lambda: web.waiting() == 0, "nobody waits", within_s=10)


def answering(size: int) -> Callable[..., Any]:
    """An application whose answers are so long, in one piece."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    return answer


ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@contextmanager
def small_line_to(port: int, what: bytes) -> Iterator[socket.socket]:
    """A line of which the system keeps no more than a little for its reader."""
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(20)
        line.connect(("127.0.0.1", port))
        line.sendall(what)
        yield line


@pytest.mark.parametrize(
    ("what", "size"),
    [(ASK, 300_000), (ASK * 50, 300_000), (LAST, 300_000), (ASK, 40_000), (LAST, 40_000)],
    ids=["a long answer", "many", "a long one and the end", "a short one", "a short one and the end"],
)
def test_who_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch, what: bytes, size: int) -> None:
    monkeypatch.setattr("config.protocol.WITHIN_S", 0.5)
    with (
        running(answering(size), timeout_keep_alive=1) as (port, connections),
        small_line_to(port, what) as line,
    ):
        assert line.recv(15) == b"HTTP/1.1 200 OK"
        assert len(connections) == 1
        until(lambda: not connections, "it is let go of", within_s=10)
        # What it did not read is not there any more.
        assert len(all_of(line)) < size


def all_of(line: socket.socket) -> bytes:
    """What comes until a line ends, however it does."""
    got = b""
    with suppress(ConnectionError):
        while more := line.recv(MIB):
            got += more
    return got


@pytest.mark.parametrize("what", [ASK, LAST])
def test_who_reads_slowly_gets_all(monkeypatch: pytest.MonkeyPatch, what: bytes) -> None:
    # Nobody reads that slowly, but all of it takes many times as long as a connection may rest.
    monkeypatch.setattr("config.protocol.SLOWEST_BYTES_S", 1000)
    monkeypatch.setattr("config.protocol.WITHIN_S", 0.5)
    size = 300_000
    with running(answering(size)) as (port, _), small_line_to(port, what) as line:
        got = b""
        while not got.endswith(b"x" * 1000) or len(got) < size:
            got += line.recv(4096) or pytest.fail(f"only {len(got)} bytes came")
            # Nothing is awaited: slowness is what is tried.
            time.sleep(0.02)
    assert got.startswith(b"HTTP/1.1 200")
    assert got.endswith(b"\r\n\r\n" + b"x" * size)


def test_a_line_is_good_for_many_requests_one_after_the_other(web: Web) -> None:
    with line_to(web) as line:
        for _ in range(5):
            line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert status_of(line) == 200
        # Of many that come at once each is counted by itself.
        line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-One: %s\r\n\r\n" % (b"x" * 1000) * 100)
        got = b""
        while got.count(b"HTTP/1.1 200") < 100:
            got += line.recv(MIB) or pytest.fail(f"only {got.count(b'HTTP/1.1 200')} answers")
