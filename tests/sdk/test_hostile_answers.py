"""Whatever answers in the server's place: the program hears no error of ours, and nothing of its news is lost."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import handrail
import httpx
import pytest
from handrail import _transport
from handrail._settings import Settings
from handrail._stand_in import until
from handrail._transport import Transport, Unreachable, ahead_s

from tests.sdk.answering import QUICK, Server, client, over, taken, tell

ODD: list[Any] = [None, 5, True, -1, "x", [1], {"a": 1}, 1e308, 10**400, "2026-01-01T00:00:00", "9999-12-31T23:59:59Z"]
WELL = {"command": "continue", "status": "running", "attempt": 1, "deadline_at": None, "retry_at": None}


class Boom(Exception):
    """The error of a test's work."""


@contextmanager
def of(**answers: Any) -> Iterator[tuple[handrail.Client, list[str]]]:
    """A client of a server that says these to a `heartbeat` or a `fail`; and the paths that it was asked."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        path = request.url.path.rsplit("/", 1)[1]
        asked.append(path)
        said = answers.get(path, taken() if path == "batch" else WELL)
        return said if isinstance(said, httpx.Response) else httpx.Response(200, content=json.dumps(said))

    transport = httpx.MockTransport(handle)
    with handrail.Client(
        url="http://x", api_key="k", transport=transport, spool="", hangs_after_s=0, pace=QUICK, exit_s=0.2
    ) as made:
        yield made, asked


@pytest.mark.parametrize("name", ["continue", "pause", "retry", "cancel"])
@pytest.mark.parametrize("field", ["command", "reason", "status", "attempt", "retry_at", "deadline_at", "command_seq"])
def test_an_odd_word_in_the_answer_to_a_heartbeat_harms_nothing(
    name: str, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    for odd in ODD:
        with of(heartbeat={**WELL, "command": name, "command_seq": 3, field: odd}) as (made, asked):
            try:
                with made.execution("clerk") as ex:
                    until(lambda: "heartbeat" in asked, "it is answered", 5)
                    for _ in range(3):
                        ex.progress(1)
                        ex.check()
                        time.sleep(0.005)  # the thread that hears has its turn: what it makes of this is the question
            except handrail.Stopped:
                assert field != "command"
    assert "stumbled" not in caplog.text


@pytest.mark.parametrize("said", [b"[]", b"5", b"null", b"[" * 100_000, b"\xff", b"", b'{"command": NaN}'])
def test_what_is_no_answer_to_a_heartbeat_harms_nothing(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with of(heartbeat=httpx.Response(200, content=said)) as (made, asked), made.execution("clerk") as ex:
        until(lambda: "heartbeat" in asked, "it is answered", 5)
        ex.check()
    assert "stumbled" not in caplog.text


@pytest.mark.parametrize("status", [200, 409])
@pytest.mark.parametrize("field", ["status", "state", "attempt"])
def test_an_odd_verdict_on_a_failure_is_no_error_of_ours(status: int, field: str) -> None:
    for odd in ODD:
        said = {"status": "retrying", "state": "retrying", "attempt": 2, "retry_at": None, field: odd}
        answer = httpx.Response(status, content=json.dumps(said))
        worked = 0
        with of(fail=answer) as (made, _), pytest.raises(Boom):
            for attempt in made.attempts("clerk", attempts=2):
                worked += 1
                with attempt:
                    raise Boom if worked < 3 else Boom("again")
                if worked == 3:
                    raise Boom
        assert worked in (1, 2, 3)


@pytest.mark.parametrize("at", ODD)
def test_a_time_is_one_that_can_be_waited_for_or_none(at: Any) -> None:
    found = ahead_s(at, None)
    assert found is None or 0 <= found <= threading.TIMEOUT_MAX


def test_the_ten_thousandth_attempt_waits_no_longer_than_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail._attempts.FIRST_BACKOFF_S", 1e-6)
    numbers: list[int] = []
    with handrail.Client(url="", api_key="") as inert, pytest.raises(Boom):
        for attempt in inert.attempts("clerk", attempts=10_001):
            with attempt as ex:
                ex.attempt = ex.attempt if numbers else 10_000
                numbers.append(ex.attempt)
                raise Boom
    assert numbers == [10_000, 10_001]


NO_ANSWERS: list[Any] = [
    {},
    {"rejected": None},
    {"rejected": 5},
    {"rejected": {"index": 0}},
    {"rejected": [5]},
    {"rejected": [{"errors": []}]},
    {"rejected": [{"index": "0"}]},
    {"rejected": [{"index": [1]}]},
]


@pytest.mark.parametrize("said", NO_ANSWERS)
def test_what_says_nothing_of_a_batch_takes_nothing_of_it(
    said: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "handrail")
    monkeypatch.setattr("handrail._line.FIRST_BACKOFF_S", 0.01)
    kept: list[str] = []
    answers = [httpx.Response(200, json=said), httpx.Response(200, json=said)]

    def handle(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/batch"):
            return httpx.Response(200, json=WELL)
        if answers:
            return answers.pop()
        kept.extend(one["type"] for one in json.loads(request.content)["events"])
        return taken()

    transport = httpx.MockTransport(handle)
    with handrail.Client(url="http://x", api_key="k", transport=transport, spool="", pace=QUICK) as made:
        with made.execution("clerk") as ex:
            ex.call(model="m")
        assert made.flush(5)
    assert kept == ["execution.started", "call", "execution.completed"]
    assert "stumbled" not in caplog.text


def test_reasons_that_are_none_refuse_an_event_all_the_same() -> None:
    server = Server(lambda _: taken({"index": 1, "errors": 5}), lambda _: taken())
    with client(server) as made:
        tell(made, 1)
        assert made.flush(5)
        assert made.dropped == 1


@contextmanager
def saying(head: bytes, part: bytes, *, every_s: float) -> Iterator[str]:
    """A server that never ends its answer; its address."""
    over = threading.Event()

    def speak(door: socket.socket) -> None:
        caller, _ = door.accept()
        with caller:
            try:
                caller.recv(65_536)
                caller.sendall(head)
                while not over.wait(every_s):
                    caller.sendall(part)
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=speak, args=(door,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"


def refused(url: str, timeout_s: float) -> str:
    transport = Transport(Settings(url=url, api_key="k", timeout_s=timeout_s))
    try:
        with pytest.raises(Unreachable) as caught:
            transport.post("/api/v1/batch", {})
    finally:
        transport.close()
    return str(caught.value)


def test_an_answer_that_drips_is_not_waited_for() -> None:
    said: list[str] = []
    with saying(HEAD, b" ", every_s=0.05) as url:
        over(lambda: said.append(refused(url, 0.5)))
    assert "does not end" in said[0]


def test_an_answer_without_end_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transport, "MOST_BYTES", 1_000_000)
    with saying(HEAD, b" " * 100_000, every_s=0) as url:
        assert "1,000,000 bytes" in refused(url, 20)
