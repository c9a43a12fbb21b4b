"""The bridge from the event loop to threads, over real sockets."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.test import Client

from config.admission import Admission
from config.bridge import Bridge
from monitor.models import Membership, Person, Project
from monitor.tenancy import crossing
from tests.config.server import running
from tests.monitor.api.conftest import make_key
from tests.monitor.api.web import Web

CALLS = "/api/v1/sample/calls"


def test_a_body_sent_in_chunks_arrives_whole(web: Web, north: Project) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"calls":['
        yield b'{"model":"a"}'
        yield b"]}"

    with web.client(north) as client:
        answer = client.post(CALLS, content=pieces(), headers={"Content-Type": "application/json"})
        assert answer.json()["count"] == 1


def test_a_large_body_is_taken_and_a_larger_one_refused(web: Web, north: Project) -> None:
    with web.client(north) as client:
        for size, status in ((settings.MAX_BODY_BYTES, 201), (settings.MAX_BODY_BYTES + 1, 413)):
            body = b'{"calls":[]' + b" " * (size - 12) + b"}"
            headers = {"Content-Type": "application/json"}
            assert client.post(CALLS, content=body, headers=headers).status_code == status
            assert client.post(CALLS, content=iter([body]), headers=headers).status_code == status


def test_a_body_that_is_announced_too_large_is_not_awaited(web: Web, north: Project) -> None:
    _, key = make_key(north)
    with socket.create_connection(("127.0.0.1", httpx.URL(web.url).port or 0), timeout=10) as line:
        line.sendall(
            f"POST {CALLS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 99999999\r\n\r\n".encode()
        )
        assert line.recv(20).startswith(b"HTTP/1.1 413")


def test_slow_senders_hold_no_thread(web: Web, north: Project) -> None:
    port = httpx.URL(web.url).port or 0
    slow = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
    try:
        for line in slow:
            line.sendall(f"POST {CALLS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{".encode())
        with web.client(north) as client:
            assert client.get("/api/v1/sample/who/x").status_code == 200
    finally:
        for line in slow:
            line.close()


def a_call(size: int) -> bytes:
    return b'{"calls":[]' + b" " * (size - 12) + b"}"


def begin(line: socket.socket, key: str, body: bytes, *, but: int) -> None:
    """Send all of a call but its last bytes."""
    head = f"POST {CALLS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    line.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    with suppress(ConnectionError):
        line.sendall(body[:-but])


def test_made_up_keys_that_stop_amid_their_bodies_keep_nobody_out(web: Web, north: Project) -> None:
    port = httpx.URL(web.url).port or 0
    size = settings.STRANGER_BYTES
    large = {"content": a_call(settings.MAX_BODY_BYTES - 1000), "headers": {"Content-Type": "application/json"}}
    strangers: list[socket.socket] = []
    with ExitStack() as lines, web.client(north) as known, web.client(north) as new:
        # The first request of a key is a stranger's, and comes through as long as there is no flood.
        assert known.post(CALLS, **large).status_code == 201
        for n in range(2 * settings.STRANGERS_BYTES // size):
            line = lines.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            begin(line, f"made-up-{n}", a_call(size), but=100)
            strangers.append(line)
        # They are so many that the first had to make room for the last.
        assert strangers[0].recv(20).startswith(b"HTTP/1.1 503")
        for client in (known, new, known):
            assert client.post(CALLS, **large).status_code == 201


def test_large_bodies_of_made_up_keys_are_not_read_and_the_answer_comes_at_once(web: Web, north: Project) -> None:
    port = httpx.URL(web.url).port or 0
    with ExitStack() as lines, web.client(north) as new:
        for n in range(20):
            line = lines.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            begin(line, f"hr_{n:012x}_made-up", a_call(settings.MAX_BODY_BYTES), but=settings.MAX_BODY_BYTES)
            assert line.recv(20).startswith(b"HTTP/1.1 401")
        # And by those who send all of it, whatever comes back; the connection is good for more.
        body = a_call(settings.MAX_BODY_BYTES)
        headers = {"Content-Type": "application/json"}
        made_up = httpx.Client(
            base_url=web.url, headers={"Authorization": "Bearer hr_000000000000_made-up"}, timeout=20
        )
        lines.enter_context(made_up)
        for content in (body, iter([body]), body):
            answer = made_up.post(CALLS, content=content, headers=headers)
            assert (answer.status_code, answer.json()["detail"][:21]) == (401, "This key is not valid")
        assert new.post(CALLS, content=body, headers=headers).status_code == 201


def test_a_session_that_was_let_in_is_known(web: Web, north: Project) -> None:
    key = make_key(north)[1]
    for headers, known_by in (
        ({"authorization": f"Bearer {key}"}, "authorization"),
        ({"authorization": "Bearer hr_000000000000_x"}, None),
        ({}, None),
    ):
        answer = Client(headers=headers).get("/api/v1/agents")
        assert answer.wsgi_request.META.get("handrail.known_by") == known_by
    with crossing():
        person = Person.objects.create(email="ada@example.com", name="Ada")
        Membership.objects.create(project=north, person=person, role="viewer")
    for path in ("/", "/api/v1/agents"):
        client = Client()
        assert "handrail.known_by" not in client.get(path).wsgi_request.META
        client.force_login(person)
        assert client.get(path).wsgi_request.META["handrail.known_by"] == "session"


def test_a_long_answer_arrives_whole(web: Web, north: Project) -> None:
    data = "é" * 1_000_000
    with web.client(north) as client:
        assert client.post(CALLS, json={"calls": [], "data": data}).json()["data"] == data


def test_who_does_not_take_a_long_answer_keeps_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.bridge.TAKEN_WITHIN_S", 1.0)
    monkeypatch.setattr("config.bridge.SLOWEST_BYTES_S", 1024**3)
    pieces, piece = 40, b"x" * 1024 * 1024
    told: list[str] = []

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        start("200 OK", [])
        if environ["PATH_INFO"] == "/long":
            yield from [piece] * pieces
        yield b"end"

    limits = {"most_waiting": 9, "most_bytes": 1000, "strangers_bytes": 1000, "stranger_bytes": 1000}
    admission = Admission(
        threads=2, ingest_threads=1, most_listening=1, **limits, tell=lambda *what: told.append(what[1])
    )
    bridge = Bridge(answer, threads=2, max_body_bytes=1000, max_otlp_bytes=1000, admission=admission)
    with running(bridge) as (port, _), socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(20)
        slow.connect(("127.0.0.1", port))
        slow.sendall(b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(15) == b"HTTP/1.1 200 OK"
        # There is one thread for all but reports.
        assert httpx.get(f"http://127.0.0.1:{port}/short").text == "end"
        # Nobody takes what came until then for the whole.
        rest = b""
        while got := slow.recv(1024 * 1024):
            rest += got
        assert not rest.endswith(b"0\r\n\r\n")
        assert len(rest) < pieces * len(piece)
        assert httpx.get(f"http://127.0.0.1:{port}/long").text == "x" * (pieces * len(piece)) + "end"
    assert told == []


def test_paths_and_queries_keep_their_letters(web: Web, north: Project) -> None:
    with web.client(north) as client:
        assert client.get("/api/v1/sample/who/a%C3%A9%20%3F").json()["name"] == "aé ?"
        assert client.get("/api/v1/sample/who/%FF").json()["name"] == "%FF"
        assert client.get("/api/v1/sample/agents?name=%C3%A9").json() == {"results": [], "next": None}


def test_a_head_has_no_body(web: Web, north: Project) -> None:
    with web.client(north) as client:
        answer = client.head("/api/v1/sample/agents")
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_header_with_an_underscore_passes_for_no_other(web: Web, north: Project) -> None:
    _, key = make_key(north)
    answer = httpx.get(
        f"{web.url}/api/v1/sample/who/x", headers={"Authorization_": "x", "AUTHORIZATION": f"Bearer {key}"}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/sample/who/x?x=1", "/api/v1/sample/events?wait=0", "/events/?x=1"])
def test_a_charset_decides_nothing(web: Web, north: Project, path: str) -> None:
    with web.client(north) as client:
        plain = client.get(path).status_code
        for charset in ("hex", "undefined", "punycode", "latin-1", "no-such"):
            answer = client.get(path, headers={"Content-Type": f"application/json; charset={charset}"})
            assert answer.status_code == plain < 500, charset
