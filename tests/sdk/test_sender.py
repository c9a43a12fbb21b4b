"""Each answer of a server has its consequence, and one bad event costs no other."""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import handrail
import httpx
import pytest
from handrail._intake import encode
from handrail._outbox import ENDED, FAILED, REPORT, STARTED, Outbox, Record
from handrail._stand_in import until

from tests.sdk.answering import QUICK, Server, client, over, taken, tell, tokens

# What a program tells in one breath comes in one batch.
AT_ONCE = QUICK._replace(linger_s=0.3)


@pytest.mark.parametrize("status", [500, 502, 503, 429, 401, 408])
def test_what_passes_is_waited_out(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail._line.REFUSED_FOR_S", 0.05)
    server = Server(status, lambda _: taken())
    with client(server, pace=AT_ONCE) as made:
        tell(made, 5)
        assert made.flush(5)
        assert (tokens(server), made.dropped, made.pending) == (list(range(5)), 0, 0)
    assert server.batches[0] == server.batches[1]


def test_the_servers_time_is_kept() -> None:
    def busy(_: list[dict[str, Any]]) -> httpx.Response:
        return httpx.Response(429, json={}, headers={"retry-after": "240"})

    server = Server(busy, lambda _: taken())
    with client(server, pace=AT_ONCE) as made:
        tell(made, 1)
        until(lambda: made._line.free_in_s() > 200, "the time is understood", 5)
        assert made.flush(0.2) is False
        assert len(server.batches) == 1
        made._line._busy_until_s = 0.0
        made._sender._wake.set()
        assert made.flush(5)
    assert server.batches[0] == server.batches[1]


@pytest.mark.parametrize(
    ("status", "headers", "times", "lines"),
    [
        (503, {"retry-after": "0.05"}, 1, 0),
        (503, {"retry-after": "0.05"}, 3, 1),
        (503, {}, 1, 1),
        (401, {}, 1, 1),
    ],
)
def test_a_server_that_is_busy_for_a_moment_is_no_news(
    status: int,
    headers: dict[str, str],
    times: int,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("handrail._line.REFUSED_FOR_S", 0.05)
    caplog.set_level(logging.INFO, "handrail")
    server = Server(*[lambda _: httpx.Response(status, json={}, headers=headers)] * times, lambda _: taken())
    with client(server) as made:
        tell(made, 1)
        assert made.flush(5)
    assert (len(server.batches), tokens(server)) == (times + 1, [0])
    assert (caplog.text.count("no answer from the server"), caplog.text.count("answers again")) == (lines, lines)


def test_an_answer_of_something_else_than_handrail_keeps_events() -> None:
    def proxy(_: list[dict[str, Any]]) -> httpx.Response:
        return httpx.Response(404, text="<html>nothing here</html>")

    server = Server(proxy, lambda _: taken())
    with client(server) as made:
        tell(made, 1)
        assert made.flush(5)
        assert tokens(server) == [0]


@pytest.mark.parametrize("status", [400, 413])
def test_a_poisonous_event_is_found_and_left_out(status: int) -> None:
    def choosy(events: list[dict[str, Any]]) -> httpx.Response:
        bad = any(one.get("input_tokens") == 13 for one in events)
        return httpx.Response(status, json={"detail": "can't read"}) if bad else taken()

    server = Server(choosy)
    with client(server) as made:
        tell(made, 40)
        assert made.flush(5)
        assert tokens(server) == [n for n in range(40) if n != 13]
        assert made.dropped == 1
        until(lambda: any(one["type"] == "operation" for one in server.kept), "the loss is told", 5)
    (told,) = (one for one in server.kept if one["type"] == "operation")
    assert (told["agent"], told["operation"], told["metadata"]) == ("clerk", "handrail.dropped", {"dropped": 1})


@pytest.mark.parametrize(("status", "said"), [(500, b"{}"), (403, b"<html>blocked</html>")])
def test_who_stumbles_over_an_event_gets_the_others(status: int, said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    def stumbling(events: list[dict[str, Any]]) -> httpx.Response:
        bad = any(one.get("input_tokens") == 2 for one in events)
        return httpx.Response(status, content=said) if bad else taken()

    server = Server(stumbling)
    with client(server) as made:
        tell(made, 4)
        until(lambda: tokens(server) == [0, 1, 3], "the others arrive", 20)
        until(lambda: made.dropped == 1, "the one is given up", 20)
    assert caplog.text.count("no batch gets through") == (status == 403)


def test_a_proxy_that_lets_nothing_through_is_outlasted_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail._line.FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("handrail._line.MOST_BACKOFF_S", 0.02)
    monkeypatch.setattr("handrail._sender.PATIENCE_S", 0.0)
    monkeypatch.setattr("handrail._sender.MOST_ALONE_S", 0.0)
    server = Server(*[lambda _: httpx.Response(403, text="<html>blocked</html>")] * 12, lambda _: taken())
    with client(server) as made:
        tell(made, 4)
        assert made.flush(10)
        assert (sorted(tokens(server)), made.dropped) == (list(range(4)), 0)
    assert [one["type"] for one in server.kept if one["type"] != "call"] == ["execution.started", "execution.completed"]


@pytest.mark.parametrize(("status", "said"), [(500, b"{}"), (403, b"<html>blocked</html>")])
def test_a_failure_that_is_not_heard_goes_with_what_came_behind_it(
    status: int, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handrail._line.FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("handrail._line.MOST_BACKOFF_S", 0.02)
    monkeypatch.setattr("handrail._sender.PATIENCE_S", 0.3)
    asked: list[str] = []

    class Deaf(Server):
        def handle(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/fail"):
                asked.append(request.url.path)
                return httpx.Response(status, content=said)
            return super().handle(request)

    server = Deaf(lambda _: taken())
    with client(server) as made:
        with made.execution("clerk") as ex:
            ex.fail("HTTP 500", retryable=True)
        until(lambda: len(asked) > 3, "it is tried again and again", 5)
        tell(made, 2)
        assert made.flush(5)
        assert (tokens(server), made.dropped) == ([0, 1], 0)
    kinds = [one["type"] for one in server.kept if one["type"] != "call"]
    # Before what came behind it: an end of a later attempt would make it stale.
    assert kinds == ["execution.started", "execution.failed", "execution.started", "execution.completed"]
    (failed,) = (one for one in server.kept if one["type"] == "execution.failed")
    assert (failed["execution_id"], failed["error"], failed["retryable"]) == (ex.id, "HTTP 500", True)


def test_a_server_that_is_ill_for_a_while_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail._line.FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("handrail._line.MOST_BACKOFF_S", 0.02)
    server = Server(*[500] * 12, lambda _: taken())
    with client(server) as made:
        with made.execution("clerk") as ex:
            until(lambda: len(server.batches) > 5, "the start alone is refused again and again", 5)
            for n in range(3):
                ex.call(model="m", input_tokens=n)
        assert made.flush(5)
        assert (tokens(server), made.dropped) == ([0, 1, 2], 0)
    assert [one["type"] for one in server.kept if one["type"] != "call"] == ["execution.started", "execution.completed"]


def test_a_start_that_the_server_stumbles_over_is_tried_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail._line.FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("handrail._line.MOST_BACKOFF_S", 0.02)
    monkeypatch.setattr("handrail._sender.PATIENCE_S", 0.3)
    pace = QUICK._replace(linger_s=0.3)

    def stumbling(events: list[dict[str, Any]]) -> httpx.Response:
        return httpx.Response(500, json={}) if events[0]["type"] == "execution.started" else taken()

    server = Server(stumbling)
    with client(server, pace=pace) as made:
        tell(made, 3)
        until(lambda: tokens(server) == [0, 1, 2], "what comes behind it arrives", 5)
        until(lambda: made.dropped == 1, "it is given up", 5)
    assert [one[0]["type"] for one in server.batches].count("execution.started") > 10


def test_the_rejected_go_and_those_not_stored_come_again() -> None:
    def partly(events: list[dict[str, Any]]) -> httpx.Response:
        place = next(n for n, one in enumerate(events) if one.get("input_tokens") == 1)
        error = [{"field": "model", "message": "no"}]
        return taken(
            {"index": place, "errors": error, "retryable": False},
            {"index": place + 2, "errors": error, "retryable": True},
        )

    server = Server(partly, lambda _: taken())
    with client(server) as made:
        tell(made, 5)
        assert made.flush(5)
        assert (sorted(tokens(server)), made.dropped) == ([0, 2, 3, 4], 1)
    assert len(server.batches[1]) == 1


def assert_taken_with_room(made: handrail.Client, server: Server) -> None:
    """The call that waited for room comes when there is some, behind the end that needed none."""
    server.answers = [lambda _: taken()]
    made._line._busy_until_s = 0.0
    made._sender._wake.set()
    assert made.flush(5)
    assert (tokens(server), made.dropped) == ([0], 0)
    assert [one["type"] for one in server.kept] == ["execution.started", "execution.completed", "call"]


def test_a_server_without_room_is_asked_again_after_a_rest_and_for_the_rest() -> None:
    error = [{"field": "event", "message": "was not stored: the disk of the database is nearly full"}]

    def full(events: list[dict[str, Any]]) -> httpx.Response:
        calls = [n for n, one in enumerate(events) if one["type"] == "call"]
        return taken(*({"index": n, "errors": error, "retryable": True} for n in calls))

    server = Server(lambda _: taken())
    with client(server, pace=AT_ONCE) as made:
        with made.execution("clerk") as ex:
            until(lambda: bool(server.kept), "it is registered", 5)
            server.answers = [full]
            ex.call(model="m", input_tokens=0)
        until(lambda: made._line.free_in_s() > 0, "batches rest", 5)
        assert made.flush(0.3) is False
        assert [len(one) for one in server.batches] == [1, 2]
        assert not made._line.is_away
        assert_taken_with_room(made, server)


def full(events: list[dict[str, Any]]) -> httpx.Response:
    """What a server without room says to a batch, of which it takes whatever is no call."""
    calls = [n for n, one in enumerate(events) if one["type"] == "call"]
    if len(calls) == len(events):
        return httpx.Response(503, json={"detail": "no room"}, headers={"retry-after": "0.05"})
    return taken(*({"index": n, "errors": [], "retryable": True} for n in calls))


def test_an_end_does_not_wait_for_the_room_that_a_call_before_it_needs() -> None:
    server = Server(lambda _: taken())
    with client(server, exit_s=0.2) as made:
        with made.execution("clerk") as ex:
            until(lambda: bool(server.kept), "it is registered", 5)
            server.answers = [full]
            ex.call(model="m", input_tokens=0)
            until(lambda: len(server.batches) > 2, "there is no room for the call", 5)
        until(lambda: server.kept[-1]["type"] == "execution.completed", "the end is taken", 5)
        assert tokens(server) == []
        assert_taken_with_room(made, server)


def test_nor_do_a_failure_and_an_end_behind_it() -> None:
    server = Server(lambda _: taken())
    with client(server, exit_s=0.2) as made:
        with made.execution("clerk") as ex, made.execution("other"):
            until(lambda: len(server.kept) == 2, "both are registered", 5)
            server.answers = [full]
            ex.call(model="m", input_tokens=0)
            until(lambda: len(server.batches) > 3, "there is no room for the call", 5)
            ex.fail("HTTP 500", retryable=True)
        until(lambda: len(server.kept) == 4, "both ends are taken", 5)
        assert [one["type"] for one in server.kept[2:]] == ["execution.failed", "execution.completed"]
        assert (server.kept[2]["execution_id"], tokens(server), made.dropped) == (ex.id, [], 0)


def test_a_lost_answer_doubles_nothing() -> None:
    def lost(events: list[dict[str, Any]]) -> httpx.Response:
        raise httpx.ReadError("the connection broke")

    server = Server(lost, lambda _: taken())
    with client(server, pace=AT_ONCE) as made:
        tell(made, 3)
        assert made.flush(5)
    assert server.batches[0] == server.batches[1]
    assert tokens(server) == [0, 1, 2]


def test_while_the_server_hangs_events_are_stored(tmp_path: Path) -> None:
    gate, answered = threading.Event(), threading.Event()

    def hanging(_: list[dict[str, Any]]) -> httpx.Response:
        gate.wait(10)
        answered.set()
        return taken()

    server = Server(hanging)
    with client(server, spool=tmp_path, exit_s=0.2) as made, made.execution("clerk") as ex:
        until(lambda: bool(server.batches), "the server has the first and does not answer", 5)
        for n in range(10):
            ex.call(model="m", input_tokens=n)
        (path,) = tmp_path.rglob("*.events")
        until(lambda: path.read_bytes().count(b"input_tokens") == 10, "they are on disk", 5)
    assert not answered.is_set(), "the end of the program waited for the server"
    assert path.read_bytes().count(b"execution.completed") == 1
    gate.set()


def test_a_full_queue_still_has_room_for_the_ends_of_work() -> None:
    pace = QUICK._replace(linger_s=0.5)
    server = Server(lambda _: taken())
    with client(server, queue_events=100, pace=pace) as made:
        with made.execution("clerk") as ex, made.execution("other"):
            for n in range(200):
                ex.call(model="m", input_tokens=n)
        assert made.dropped == 102
        assert made.flush(5)
    kinds = [one["type"] for one in server.kept]
    assert (kinds.count("execution.started"), kinds.count("execution.completed")) == (2, 2)


def test_what_many_dead_left_is_sent_without_a_rest(tmp_path: Path) -> None:
    server = Server(lambda _: taken())
    with client(server, spool=tmp_path) as made:
        for n in range(20):
            event = {"type": "call", "agent": "clerk", "id": str(n), "model": "m", "input_tokens": n}
            dead = Outbox(tmp_path / made.settings.account, most_bytes=10_000, most_events=10)
            dead.put([Record(REPORT, encode(event))])
            dead.close()
        with made.execution("clerk"):
            until(lambda: sorted(tokens(server)) == list(range(20)), "all arrive", 5)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(REPORT, b"no JSON"), (REPORT, b"{}"), (STARTED, b"[]"), (ENDED, b"{}"), (FAILED, b"5"), (FAILED, b"[" * 9_999)],
)
def test_what_cannot_be_read_keeps_nothing_else_waiting(
    tmp_path: Path, kind: int, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(lambda _: taken())
    with client(server, spool=tmp_path) as made:
        event = {"type": "call", "agent": "clerk", "id": "1", "model": "m", "input_tokens": 1}
        dead = Outbox(tmp_path / made.settings.account, most_bytes=100_000, most_events=10)
        dead.put([Record(kind, payload), Record(REPORT, encode(event))])
        dead.close()
        with made.execution("clerk"):
            until(lambda: tokens(server) == [1], "what stands behind it arrives", 5)
        assert made.flush(5)
        assert made.dropped == 1
    assert "stumbled" not in caplog.text


def test_what_is_no_file_is_no_outbox_of_the_dead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(lambda _: taken())
    with client(server, spool=tmp_path) as made:
        os.mkfifo(tmp_path / made.settings.account / "1-abc.events")
        tell(made, 1)
        assert made.flush(5)
    assert tokens(server) == [0]
    assert "stumbled" not in caplog.text


def test_memory_is_bounded_and_the_loss_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "handrail")
    gate = threading.Event()

    def slow(_: list[dict[str, Any]]) -> httpx.Response:
        gate.wait(5)
        return taken()

    server = Server(slow)
    with client(server, queue_events=100, spool_events=200) as made:
        with made.execution("clerk") as ex:
            for n in range(1000):
                ex.call(model="m", input_tokens=n)
        assert made.dropped > 600
        assert made.pending <= 300
        gate.set()
        assert made.flush(5)
        until(lambda: any(one["type"] == "operation" for one in server.kept), "the loss is told", 5)
        told = sum(one["metadata"]["dropped"] for one in server.kept if one["type"] == "operation")
        assert told == made.dropped
        assert len(tokens(server)) + told >= 1000
    assert caplog.text.count("events are dropped") <= 3


def test_work_that_nobody_heard_begin_is_told_with_its_true_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail._execution.WHOLE_AFTER_S", 0.1)
    server = Server(503, lambda _: taken())
    with client(server) as made:
        server.answers = [lambda _: httpx.Response(503, json={}, headers={"retry-after": "0.5"}), lambda _: taken()]
        with made.execution("clerk") as ex:
            ex.progress(50)
            ex.call(model="m", input_tokens=1)
            time.sleep(0.2)
        assert made.flush(5)
    kinds = [one["type"] for one in server.kept]
    assert kinds == ["execution.tracked", "call"]
    assert server.kept[0]["status"] == "completed"
    assert server.kept[0]["started_at"] < server.kept[0]["ended_at"]


def test_a_start_that_arrived_after_all_is_followed_by_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail._execution.WHOLE_AFTER_S", 0.0)

    def known(events: list[dict[str, Any]]) -> httpx.Response:
        error = [{"field": "event", "message": "another execution has this id"}]
        wholes = [n for n, one in enumerate(events) if one["type"] == "execution.tracked"]
        return taken(*({"index": n, "errors": error, "retryable": False} for n in wholes))

    server = Server(lambda _: httpx.Response(503, json={}, headers={"retry-after": "0.1"}), known)
    with client(server) as made:
        tell(made, 1)
        assert made.flush(5)
        assert made.dropped == 0
    kinds = [one["type"] for one in server.kept if one["type"] != "call"]
    assert kinds == ["execution.started", "execution.completed"]


def test_work_that_ends_while_its_start_is_on_its_way_is_told_of_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handrail._execution.WHOLE_AFTER_S", 0.0)
    gate = threading.Event()

    def slow(_: list[dict[str, Any]]) -> httpx.Response:
        gate.wait(5)
        return taken()

    server = Server(slow)
    with client(server) as made:
        with made.execution("clerk"):
            until(lambda: bool(server.batches), "the server has the start and does not answer", 5)
        gate.set()
        assert made.flush(5)
    assert [one["type"] for one in server.kept] == ["execution.started", "execution.completed"]


def test_an_execution_that_the_server_forgot_is_registered_again() -> None:
    beats = []

    class Forgetful(Server):
        def handle(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/heartbeat"):
                beats.append(request)
                if len(beats) == 1:
                    return httpx.Response(404, json={"detail": "There is no execution with this id."})
            return super().handle(request)

    server = Forgetful(lambda _: taken())
    with client(server) as made, made.execution("clerk"):
        until(lambda: len(beats) > 1, "it is beaten for again", 5)
    assert [one["type"] for one in server.kept].count("execution.started") == 2


@pytest.mark.parametrize(("rests_s", "sent"), [("0.2", 3), ("600", 0)])
def test_the_end_of_a_program_waits_for_a_line_that_comes_back_in_time(rests_s: str, sent: int) -> None:
    server = Server(
        lambda _: httpx.Response(503, json={}, headers={"retry-after": rests_s}),
        lambda _: taken(),
    )

    def work() -> None:
        # Far more than a line that comes back is waited for, and than a test may take.
        with client(server, exit_s=120.0) as made:
            tell(made, 3)

    over(work)
    assert tokens(server) == list(range(sent))


def test_the_end_of_a_program_asks_a_silent_server_once_more() -> None:
    server = Server(lambda _: taken())
    handle, is_silent = server.handle, True

    def silent(request: httpx.Request) -> httpx.Response:
        if is_silent:
            raise httpx.ConnectError("nobody is there")
        return handle(request)

    server.handle = silent  # type: ignore[method-assign]
    with client(server, exit_s=5.0) as made:
        made._line._failures = 5
        tell(made, 3)
        until(lambda: made._line.free_in_s() > 5, "the line rests", 5)
        is_silent = False
    assert tokens(server) == [0, 1, 2]
