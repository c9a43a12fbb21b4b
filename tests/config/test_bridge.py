"""The bridge from the event loop to threads, over real sockets."""

import socket
from collections.abc import Iterator

import httpx
import pytest
from django.conf import settings

from monitor.models import Project
from tests.conftest import Slate
from tests.monitor.api.conftest import make_key, make_project
from tests.monitor.api.web import Web, serving

CALLS = "/api/v1/sample/calls"


@pytest.fixture(scope="module")
def web(slate: Slate) -> Iterator[Web]:
    with serving(settings.REDIS_URL) as started:
        yield started
    # It says that somebody listens until it has ended, after the last test has cleaned up.
    slate.wipe()


@pytest.fixture
def north(committed_db: None) -> Project:
    return make_project("north")


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


def test_a_long_answer_arrives_whole(web: Web, north: Project) -> None:
    data = "é" * 1_000_000
    with web.client(north) as client:
        assert client.post(CALLS, json={"calls": [], "data": data}).json()["data"] == data


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
