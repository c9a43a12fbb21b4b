"""Heartbeats go on whatever becomes of one, of a message or of a batch."""

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from handrail._stand_in import until

from tests.sdk.answering import QUICK, Server, client, taken, tokens


class Beaten(Server):
    """Takes every batch; heartbeats get what `beat` says of their body."""

    def __init__(self, beat: Callable[[dict[str, Any]], httpx.Response]) -> None:
        super().__init__(lambda _: taken())
        self.beat = beat
        self.bodies: list[dict[str, Any]] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/heartbeat"):
            return super().handle(request)
        body = json.loads(request.content)
        self.bodies.append(body)
        return self.beat(body)


def well(_: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"command": "continue"})


def test_half_a_character_in_a_message_costs_the_character() -> None:
    server = Beaten(well)
    with client(server) as made, made.execution("clerk") as ex:
        ex.progress(message="a \ud800 b")
        until(lambda: any("message" in one for one in server.bodies), "it arrives", 5)
    assert [one["message"] for one in server.bodies if "message" in one] == ["a ? b"]


def test_a_message_that_is_refused_stops_no_heartbeats() -> None:
    def choosy(body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(400, json={"detail": "no"}) if "message" in body else well(body)

    server = Beaten(choosy)
    with client(server) as made, made.execution("clerk") as ex:
        ex.progress(40, message="unheard of")
        until(lambda: any("progress" in one and "message" not in one for one in server.bodies), "it beats on", 2)
    assert sum("message" in one for one in server.bodies) == 1


@pytest.mark.parametrize("status", [413, 400, 403, 401])
def test_what_a_proxy_says_of_a_batch_stops_no_heartbeats(status: int, caplog: pytest.LogCaptureFixture) -> None:
    server = Beaten(well)
    with client(server, beat_every_s=0.05) as made, made.execution("clerk") as ex:
        until(lambda: bool(server.bodies), "it beats", 5)
        are_both_told = threading.Event()

        def proxy(_: object) -> httpx.Response:
            return httpx.Response(status, text="<html>nginx</html>")

        def busy(_: object) -> httpx.Response:
            are_both_told.wait(5)
            return taken()

        server.answers = [busy, proxy, lambda _: taken()]
        sent = len(server.batches)
        ex.call(model="m", input_tokens=0)
        until(lambda: len(server.batches) > sent, "the server is busy", 5)
        ex.call(model="m", input_tokens=1)
        ex.call(model="m", input_tokens=2)
        are_both_told.set()
        until(lambda: len(server.batches) > sent + 2, "the proxy has answered", 5)
        assert not made._line.is_away
        beats = len(server.bodies)
        until(lambda: len(server.bodies) > beats + 2, "it beats on", 5)
        assert made.flush(5)
        assert (tokens(server), made.dropped) == ([0, 1, 2], 0)
    assert caplog.text.count(f"status {status}") == (0 if status == 413 else 1)


@pytest.mark.parametrize("status", [503, 401, 408, 502])
@pytest.mark.parametrize("said", [b'{"detail": "no"}', b"<html>nginx</html>"])
def test_what_a_batch_is_answered_stops_no_heartbeats(status: int, said: bytes) -> None:
    server = Beaten(well)
    with client(server, beat_every_s=0.05, exit_s=0.2) as made, made.execution("clerk") as ex:
        until(lambda: bool(server.bodies), "it beats", 5)
        server.answers = [lambda _: httpx.Response(status, content=said, headers={"retry-after": "240"})]
        ex.call(model="m", input_tokens=0)
        until(lambda: made._line.free_in_s() > 0, "batches rest", 5)
        beats, batches = len(server.bodies), len(server.batches)
        until(lambda: len(server.bodies) > beats + 2, "it beats on", 5)
        assert (len(server.batches), tokens(server)) == (batches, [])


def test_a_heartbeat_that_is_told_to_wait_makes_batches_wait_too(caplog: pytest.LogCaptureFixture) -> None:
    def away(_: dict[str, Any]) -> httpx.Response:
        return httpx.Response(503, json={"detail": "no"}, headers={"retry-after": "240"})

    server = Beaten(away)
    with client(server, exit_s=0.2) as made, made.execution("clerk") as ex:
        until(lambda: made._line.is_away, "it was told to wait", 5)
        batches = len(server.batches)
        ex.call(model="m", input_tokens=0)
        assert made.flush(0.2) is False
        assert (len(server.bodies), len(server.batches)) == (1, batches)
    assert "no answer from the server" not in caplog.text


def test_batches_that_are_refused_while_heartbeats_are_heard_are_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "handrail")
    server = Beaten(well)

    def full(_: object) -> httpx.Response:
        beats = len(server.bodies)
        until(lambda: len(server.bodies) > beats, "it beats between two batches", 5)
        return httpx.Response(503, json={"detail": "no"}, headers={"retry-after": "0.05"})

    with client(server, beat_every_s=0.01) as made, made.execution("clerk") as ex:
        until(lambda: bool(server.bodies), "it beats", 5)
        server.answers = [full, full, full, full, lambda _: taken()]
        ex.call(model="m", input_tokens=0)
        assert made.flush(5)
    assert (caplog.text.count("no answer from the server"), caplog.text.count("answers again")) == (1, 1)


def test_a_heartbeat_that_did_not_arrive_comes_again_as_soon_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail._line.FIRST_BACKOFF_S", 0.05)

    def lost(_: dict[str, Any]) -> httpx.Response:
        if len(server.bodies) == 1:
            raise httpx.ReadError("the connection broke")
        return well({})

    server = Beaten(lost)
    with client(server) as made, made.execution("clerk") as ex:
        ex.call(model="m")
        until(lambda: len(server.bodies) > 1, "it comes again long before the next is due", 1.5)
        assert [one.get("progressing") for one in server.bodies[:2]] == [True, True]


def test_a_heartbeat_that_the_server_stumbles_over_keeps_no_other_waiting() -> None:
    pace = QUICK._replace(tick_s=0.3)
    beaten: list[str] = []

    class Stumbling(Server):
        def handle(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith(f"{bad.id}/heartbeat"):
                beaten.append(bad.id)
                return httpx.Response(500, json={})
            if request.url.path.endswith("/heartbeat"):
                beaten.append(good.id)
            return super().handle(request)

    server = Stumbling(lambda _: taken())
    with client(server, pace=pace) as made:
        bad, good = made.execution("bad", heartbeat_s=2), made.execution("good", heartbeat_s=2)
        with bad, good:
            until(lambda: beaten.count(bad.id) > 3, "the bad one is tried again and again", 5)
        assert beaten.count(good.id) >= 1


def test_of_many_heartbeats_the_most_urgent_go_first() -> None:
    gate, order = threading.Event(), []

    class Slow(Server):
        def handle(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/heartbeat"):
                order.append(request.url.path.split("/")[-2])
                gate.wait(5)
            return super().handle(request)

    server = Slow(lambda _: taken())
    with client(server) as made, ExitStack() as open_:
        chatty = open_.enter_context(made.execution("chatty", heartbeat_s=600))
        until(lambda: bool(order), "its heartbeat hangs", 5)
        calm, brisk, tight = (open_.enter_context(made.execution("quiet", heartbeat_s=each)) for each in (300, 60, 20))
        until(lambda: all(one._is_registered for one in (calm, brisk, tight)), "all are known", 5)
        chatty.progress(50)
        gate.set()
        until(lambda: len(order) >= 5, "all are beaten for", 5)
    assert order[:5] == [one.id for one in (chatty, tight, brisk, calm, chatty)]


def test_a_long_turn_is_cut_for_what_became_urgent_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail._beats.TURN_S", 0.05)
    monkeypatch.setattr("handrail._beats.SHARE", 1_000)
    order: list[str] = []

    class Slow(Server):
        def handle(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/heartbeat"):
                order.append(request.url.path.split("/")[-2])
                time.sleep(0.03)
            return super().handle(request)

    server = Slow(lambda _: taken())
    with client(server) as made, ExitStack() as open_:
        crowd = [open_.enter_context(made.execution("crowd", heartbeat_s=600)) for _ in range(40)]
        until(lambda: len(order) > 3, "the turn goes on", 5)
        urgent = open_.enter_context(made.execution("urgent", heartbeat_s=20))
        until(lambda: urgent.id in order, "it is beaten for", 5)
        assert len(set(order)) < len(crowd), "others still wait"
        until(lambda: len(set(order)) == 41, "none is left out", 5)
