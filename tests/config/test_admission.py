"""Who is let in: bounded rooms, turns of keys, and what is told to those who are not."""

import asyncio
import json
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from io import BytesIO
from typing import Any
from weakref import ref

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.db import OperationalError

from config import admission
from config.admission import Admission
from config.bridge import Bridge, Look, environ
from config.rooms import Visit
from config.shedding import Shed
from monitor.api import caller
from monitor.api.problems import Problem

TRACES, BEAT = "/v1/traces", "/api/v1/executions/1/heartbeat"
EVENTS = "/api/v1/agents/a/events"


def rooms(**given: int) -> tuple[Admission, Counter[tuple[str, str]]]:
    told: Counter[tuple[str, str]] = Counter()
    most = {"threads": 4, "ingest_threads": 2, "most_waiting": 4, "most_bytes": 1000, "strangers_bytes": 200}
    most |= {"stranger_bytes": 100, "most_listening": 8} | given
    return Admission(**most, tell=lambda *what: told.update([what])), told


def visit(admitting: Admission, key: str, path: str = TRACES) -> Visit:
    """A request of a key that was let in before."""
    admitting.accepted("authorization", path, shown(key))
    return admitting.visit(path, shown(key))


def stranger(admitting: Admission, key: str, path: str = TRACES) -> Visit:
    """A request of a key that this process has not seen yet."""
    return admitting.visit(path, shown(key))


def shown(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {key}".encode())]


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 30))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_threads_go_to_the_key_that_has_the_fewest() -> None:
    async def story() -> None:
        admitting, _ = rooms(most_waiting=20)
        greedy = [visit(admitting, "greedy") for _ in range(7)]
        order: list[str] = []

        async def come(name: str, one: Visit) -> None:
            await one.turn()
            order.append(name)

        tasks = [asyncio.create_task(come("greedy", one)) for one in greedy]
        await settled()
        polite = visit(admitting, "polite")
        tasks.append(asyncio.create_task(come("polite", polite)))
        await settled()
        assert order == ["greedy", "greedy"]
        greedy[0].leave()
        await settled()
        assert order == ["greedy", "greedy", "polite"]
        for one in (*greedy, polite):
            await settled()
            one.leave()
        await asyncio.gather(*tasks)
        assert order == ["greedy", "greedy", "polite", *["greedy"] * 5]
        # Nothing was lost: as many threads are free as in the beginning.
        for key in ("last", "very last"):
            await visit(admitting, key).turn()

    run(story)


@pytest.mark.parametrize("path", [TRACES, BEAT])
def test_calls_that_never_end_leave_a_thread_for_other_keys(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    async def story() -> None:
        admitting, _ = rooms(threads=8, ingest_threads=4)
        other = visit(admitting, "other", path)
        await other.turn()
        other.leave()
        waiting = [asyncio.create_task(visit(admitting, key, path).turn()) for key in ("greedy", "as greedy") * 3]
        await settled()
        assert [one.done() for one in waiting] == [True, True, True, False, False, False]
        for key in ("other", "other", "as before", "stranger"):
            one = visit(admitting, key, path) if key != "stranger" else stranger(admitting, key, path)
            await one.turn()
            # Nor do those who wait get it when it is given back.
            one.leave()
            await settled()
        assert [one.done() for one in waiting] == [True, True, True, False, False, False]
        # Until the others have been away for long.
        monkeypatch.setattr("config.rooms.OTHERS_FOR_S", 0.0)
        await visit(admitting, "greedy", path).turn()
        for one in waiting:
            one.cancel()

    run(story)


def test_a_key_that_is_alone_has_all_threads_and_who_comes_then_has_the_first_that_ends() -> None:
    async def story() -> None:
        admitting, _ = rooms(threads=8, ingest_threads=4, most_waiting=20)
        # It is a stranger itself at first.
        first = stranger(admitting, "alone")
        await first.turn()
        first.leave()
        alone = [visit(admitting, "alone") for _ in range(6)]
        tasks = [asyncio.create_task(one.turn()) for one in alone]
        await settled()
        assert [one.done() for one in tasks] == [True] * 4 + [False] * 2
        newcomer = stranger(admitting, "new")
        coming = asyncio.create_task(newcomer.turn())
        await settled()
        assert not coming.done()
        alone[0].leave()
        await coming
        # From now on there is one for others.
        newcomer.leave()
        await settled()
        assert [one.done() for one in tasks] == [True] * 4 + [False] * 2
        alone[1].leave()
        await settled()
        assert [one.done() for one in tasks] == [True] * 5 + [False]
        tasks[5].cancel()

    run(story)


def test_a_room_is_bounded_and_no_key_fills_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.rooms.TURN_WITHIN_S", 0.2)

    async def story() -> None:
        admitting, _ = rooms()
        working = [visit(admitting, "a") for _ in range(2)]
        for one in working:
            await one.turn()
        waiting = [asyncio.create_task(visit(admitting, key).turn()) for key in ("a", "a", "b")]
        await settled()
        with pytest.raises(Shed) as greedy:
            await visit(admitting, "a").turn()
        assert (greedy.value.reason, greedy.value.problem.status) == ("greedy", 429)
        waiting.append(asyncio.create_task(visit(admitting, "c").turn()))
        await settled()
        # Who has fewer than others takes the place of the newest of theirs.
        waiting.append(asyncio.create_task(visit(admitting, "d").turn()))
        await settled()
        with pytest.raises(Shed) as displaced:
            await waiting.pop(1)
        assert (displaced.value.reason, displaced.value.problem.status) == ("full", 503)
        for key in ("a", "e"):
            with pytest.raises(Shed) as full:
                await visit(admitting, key).turn()
            assert (full.value.reason, full.value.problem.status) == ("full", 503)
        # The other room is open all the while.
        await visit(admitting, "a", BEAT).turn()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [one.reason for one in ends if isinstance(one, Shed)] == ["waited"] * 4
        for one in working:
            one.leave()
        await visit(admitting, "a").turn()

    run(story)


def test_who_leaves_as_they_make_room_gives_nothing_back() -> None:
    async def story() -> None:
        admitting, _ = rooms(ingest_threads=1)
        at_work = visit(admitting, "at work")
        await at_work.turn()
        waiting = [visit(admitting, key) for key in ("a", "a", "b", "c")]
        turns = [asyncio.create_task(one.turn()) for one in waiting]
        await settled()
        turns.append(asyncio.create_task(visit(admitting, "d").turn()))
        await asyncio.sleep(0)
        # It has come, and who made room for it has not heard of that yet.
        assert not turns[1].done()
        turns[1].cancel()
        waiting[1].leave()
        await settled()
        assert [one.done() for one in turns] == [False, True, False, False, False]
        at_work.leave()
        await settled()
        assert [one.done() for one in turns] == [True, True, False, False, False]
        for one in turns:
            one.cancel()

    run(story)


def test_bytes_are_counted_until_they_are_let_go() -> None:
    admitting, _ = rooms()
    first, second = visit(admitting, "a"), visit(admitting, "b")
    first.hold(500)
    with pytest.raises(Shed) as greedy:
        first.hold(1)
    second.hold(500)
    with pytest.raises(Shed) as full:
        visit(admitting, "c").hold(1)
    assert (greedy.value.reason, full.value.reason) == ("greedy", "bytes")
    first.leave()
    visit(admitting, "c").hold(500)


def test_made_up_keys_take_no_bytes_from_a_room() -> None:
    admitting, _ = rooms()
    made_up = [stranger(admitting, f"made-up {n}") for n in range(30)]
    made_up[0].hold(200)
    for one in made_up[1:]:
        with pytest.raises(Shed) as shed:
            one.hold(1)
        assert (shed.value.reason, shed.value.problem.status) == ("unknown", 503)
    for key in ("a", "b"):
        visit(admitting, key).hold(500)
    # The room is full of those who are known, and a stranger's share is there all the same.
    made_up[0].leave()
    made_up[1].hold(200)


def test_made_up_keys_share_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.rooms.TURN_WITHIN_S", 5)

    async def story() -> None:
        admitting, _ = rooms()
        working = [stranger(admitting, f"made-up {n}") for n in range(2)]
        for one in working:
            await one.turn()
        order: list[str] = []

        async def come(name: str, one: Visit) -> None:
            await one.turn()
            order.append(name)

        tasks = [asyncio.create_task(come("made-up", stranger(admitting, f"made-up {n}"))) for n in range(2, 4)]
        await settled()
        with pytest.raises(Shed) as shed:
            await stranger(admitting, "made-up 4").turn()
        assert shed.value.reason == "unknown"
        # As many of those who are known may wait as if nobody else did.
        tasks += [asyncio.create_task(come(key, visit(admitting, key))) for key in ("a", "b", "c", "d")]
        await settled()
        with pytest.raises(Shed) as full:
            await visit(admitting, "e").turn()
        assert full.value.reason == "full"
        for _ in range(2):
            working.pop().leave()
            await settled()
        # All who made up a key are one, and have one of two threads.
        assert order == ["a", "made-up"]
        for task in tasks:
            task.cancel()

    run(story)


def test_the_oldest_body_of_a_stranger_makes_room_for_the_next() -> None:
    async def story() -> None:
        admitting, told = rooms()
        bridge = Bridge(lambda *_: [], threads=1, max_body_bytes=1000, max_otlp_bytes=1000, admission=admitting)
        slow = [asyncio.create_task(ask(bridge, TRACES, more=True, body=b"x" * 100)) for _ in range(2)]
        await settled()
        assert not slow[0].done()
        third = stranger(admitting, "good, and new here")
        third.hold(100)
        status, headers, _ = await slow[0]
        assert (status, headers[b"retry-after"], told) == (503, b"2", {("ingest", "unknown"): 1})
        assert not slow[1].done()
        third.leave()
        slow[1].cancel()

    run(story)


def test_who_was_let_in_is_known_for_a_while_and_not_by_another_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_KNOWN", 2)
    admitting, _ = rooms()
    cookies = [(b"cookie", b"theme=dark; handrail_session=abc; more=1"), *shown("made up")]
    admitting.accepted("cookie", TRACES, cookies)
    assert not is_known(admitting, cookies)
    admitting.accepted("session", TRACES, cookies)
    assert is_known(admitting, [(b"cookie", b"handrail_session=abc")])
    assert not is_known(admitting, shown("made up"))
    for key in ("a", "b"):
        admitting.accepted("authorization", TRACES, shown(key))
    assert [is_known(admitting, one) for one in (cookies, shown("a"), shown("b"))] == [False, True, True]
    monkeypatch.setattr(admission, "KNOWN_FOR_S", 0.0)
    assert not is_known(admitting, shown("b"))


KEY, PUBLIC = "hr_0123456789ab_x-_y", "/api/public/ingestion"


def basic(words: str) -> str:
    return f"Basic {b64encode(words.encode()).decode()}"


def test_a_key_is_one_however_it_is_written() -> None:
    admitting, _ = rooms(most_bytes=10_000)
    admitting.accepted("authorization", TRACES, [(b"authorization", f"Bearer {KEY}".encode())])
    ways = [f"bearer {KEY}", f"BEARER  {KEY}", f"Bearer \t{KEY} ", f"Bearer {KEY}\xa0", basic(f"any:{KEY}")]
    ways += [basic(f":{KEY}"), basic(f"other: {KEY}").replace("Basic", "bAsIC ")]
    visits = [admitting.visit(PUBLIC, [(b"authorization", way.encode("latin-1"))]) for way in ways]
    # Half of the room is the most that one key may have.
    for one in visits[:4]:
        one.hold(1250)
    with pytest.raises(Shed) as shed:
        visits[-1].hold(1)
    assert shed.value.reason == "greedy"
    assert is_known(admitting, [(b"authorization", f"bearer   {KEY}".encode())])
    # Elsewhere nobody is let in by a name and a password, and by two keys nobody is anywhere.
    assert not is_known(admitting, [(b"authorization", basic(f":{KEY}").encode())])
    assert not is_known(admitting, shown(KEY) * 2)


def test_many_ways_to_write_a_key_displace_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_KNOWN", 2)
    admitting, _ = rooms()
    admitting.accepted("authorization", TRACES, shown("polite"))
    for spaces in range(1, 10):
        admitting.accepted("authorization", TRACES, [(b"authorization", b"Bearer" + b" " * spaces + b"greedy")])
    assert is_known(admitting, shown("polite"))


COOKIES = [
    [b"handrail_session=abc"],
    [b"handrail_session=first; handrail_session=abc"],
    [b"handrail_session=first", b"theme=dark", b"handrail_session=abc"],
    [b'a=b;  handrail_session = "abc" ;x'],
    [b"handrail_session=abc; not_handrail_session=x; handrail_session"],
    ["\u2003handrail_session\xa0=\u2003abc\u2003".encode()],
    [b"a=\xff; handrail_session=abc"],
]


@pytest.mark.parametrize("cookies", COOKIES)
def test_a_session_is_the_one_that_django_takes(cookies: list[bytes]) -> None:
    headers = [(b"cookie", one) for one in cookies]
    scope = {"path": "/", "method": "GET", "query_string": b"", "http_version": "1.1", "headers": headers}
    assert WSGIRequest(environ(scope, b"", None)).COOKIES["handrail_session"] == "abc"
    admitting, _ = rooms()
    admitting.accepted("session", TRACES, headers)
    assert is_known(admitting, [(b"cookie", b"handrail_session=abc")])
    assert not is_known(admitting, [(b"cookie", b"handrail_session=first")])


@pytest.mark.parametrize(
    "cookies",
    [
        [b"handrail_session=abc;", b"handrail_session=zzz"],
        [b"handrail_session=abc;", b"handrail_session="],
        [b"handrail_session\xa0=abc"],
        [b"handrail_session=\xa0abc"],
        [b'handrail_session="abc\\073zzz"'],
        [b"theme=dark; handrail_session=abc"],
    ],
)
def test_a_call_that_waits_shows_django_the_session_that_counts_and_no_other(cookies: list[bytes]) -> None:
    path = "/events/live"
    headers = caller.with_one_cookie(path, [(b"host", b"x"), *((b"cookie", one) for one in cookies)])
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers}
    taken = ASGIRequest(scope, BytesIO()).COOKIES.get("handrail_session")
    assert taken == caller.shown(path, headers).get(caller.SESSION)
    assert taken in (None, caller.shown(path, [(b"cookie", one) for one in cookies]).get(caller.SESSION))


@pytest.mark.parametrize("cookie", [b"", b"handrail_session", b"handrail_session=abc; handrail_session=", b"x=;y"])
def test_without_a_session_nothing_is_shown(cookie: bytes) -> None:
    assert rooms()[0].shows_nothing(TRACES, [(b"cookie", cookie)])


def listen(admitting: Admission, key: str) -> str:
    """Why no more may listen with a key, "" when one more does."""
    try:
        admitting.listener(EVENTS, shown(key))
    except Shed as shed:
        return shed.reason
    return ""


def test_a_key_listens_no_more_than_half_as_often_as_all_may() -> None:
    admitting, _ = rooms(most_listening=8)
    for key in ("greedy", "polite", "third"):
        admitting.accepted("authorization", EVENTS, shown(key))
    first = admitting.listener(EVENTS, shown("greedy"))
    assert [listen(admitting, "greedy") for _ in range(5)] == ["", "", "", "greedy", "greedy"]
    assert [listen(admitting, "polite") for _ in range(4)] == [""] * 4
    assert listen(admitting, "third") == "full"
    # An eighth is apart from it for those whom nobody knows.
    assert [listen(admitting, key) for key in ("made up", "made up too")] == ["", "unknown"]
    first.leave()
    assert [listen(admitting, "third"), listen(admitting, "third")] == ["", "full"]


def test_who_listens_counts_for_their_key_once_they_were_let_in() -> None:
    admitting, _ = rooms(most_listening=4)
    headers = shown("new")
    first = admitting.listener(EVENTS, headers)
    assert listen(admitting, "other") == "unknown"
    admitting.let_in(first, "authorization", EVENTS, headers)
    assert listen(admitting, "other") == ""
    assert [listen(admitting, "new"), listen(admitting, "new")] == ["", "greedy"]


def test_who_came_before_their_key_was_known_is_told_that_it_has_enough() -> None:
    admitting, told = rooms(most_listening=16)
    headers = shown("new")
    coming = [admitting.listener(EVENTS, headers) for _ in range(2)]
    admitting.accepted("authorization", EVENTS, headers)
    for _ in range(8):
        assert listen(admitting, "new") == ""
    with pytest.raises(Problem) as problem:
        admitting.let_in(coming[0], "authorization", EVENTS, headers)
    assert (problem.value.status, problem.value.headers) == (429, {"Retry-After": "2"})
    assert told == {("listening", "greedy"): 1}
    assert listen(admitting, "other") == "unknown"
    coming[0].leave()
    assert listen(admitting, "other") == ""


def is_known(admitting: Admission, headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the bytes of a request count in the room: a stranger has no more than 200."""
    one = admitting.visit(TRACES, headers)
    try:
        one.hold(201)
    except Shed:
        return False
    one.leave()
    return True


def test_what_needs_no_key_has_turns_of_its_own() -> None:
    async def story() -> None:
        admitting, _ = rooms()
        for n in range(2):
            await stranger(admitting, f"made-up {n}", BEAT).turn()
        waiting = [asyncio.create_task(stranger(admitting, "made-up", BEAT).turn()) for _ in range(2)]
        await settled()
        probe = asyncio.create_task(admitting.visit("/ready", []).turn())
        await settled()
        assert not probe.done()
        for one in (*waiting, probe):
            one.cancel()

    run(story)


def work_until(go_on: threading.Event) -> Callable[..., list[bytes]]:
    """An application that answers when it may go on."""

    def work(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        go_on.wait(20)
        start("200 OK", [])
        return [b"done"]

    return work


def test_a_late_answer_is_told_in_time_and_its_thread_counted_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "TRACES_WITHIN_S", 0.1)
    go_on = threading.Event()

    async def story() -> None:
        admitting, told = rooms(threads=2, ingest_threads=1)
        bridge = Bridge(work_until(go_on), threads=2, max_body_bytes=1000, max_otlp_bytes=1000, admission=admitting)
        status, headers, body = await ask(bridge, TRACES)
        assert (status, json.loads(body)["status"], headers[b"retry-after"]) == (503, 503, b"2")
        assert told == {("ingest", "late"): 1}
        waiting = asyncio.create_task(visit(admitting, "b").turn())
        await settled()
        assert not waiting.done()
        go_on.set()
        await waiting

    run(story)


@pytest.mark.parametrize("more", [False, True], ids=["at work", "still coming"])
def test_a_process_that_stops_asks_for_what_it_could_not_answer_again(more: bool) -> None:
    go_on = threading.Event()

    async def story() -> None:
        admitting, told = rooms()
        bridge = Bridge(work_until(go_on), threads=1, max_body_bytes=1000, max_otlp_bytes=1000, admission=admitting)
        asked = asyncio.create_task(ask(bridge, TRACES, more=more))
        await settled()
        asked.cancel()
        status, headers, body = await asked
        assert (status, json.loads(body)["status"], headers[b"retry-after"]) == (503, 503, b"2")
        assert told == {("ingest", "ending"): 1}
        go_on.set()

    run(story)


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.bridge.BODY_WITHIN_S", 0.1)

    async def story() -> None:
        admitting, told = rooms()
        bridge = Bridge(lambda *_: [], threads=1, max_body_bytes=1000, max_otlp_bytes=1000, admission=admitting)
        status, _, _ = await ask(bridge, TRACES, more=True)
        assert (status, told) == (408, {("ingest", "slow"): 1})

    run(story)


@pytest.mark.parametrize("fails", [False, True])
def test_a_body_is_let_go_with_its_answer_whoever_still_holds_the_request(fails: bool) -> None:
    held: list[dict[str, Any]] = []

    def work(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        held.append(environ)
        if fails:
            raise LookupError
        start("200 OK", [])
        return [environ["wsgi.input"].read()]

    async def story() -> None:
        bridge = Bridge(work, threads=1, max_body_bytes=1000, max_otlp_bytes=1000, admission=rooms()[0])
        with pytest.raises(LookupError) if fails else nullcontext():
            assert (await ask(bridge, TRACES))[2] == b"x"
        assert held[0]["wsgi.input"].closed

    run(story)


LARGE = b"x" * 150


def a_bridge(admitting: Admission, look: Look) -> Bridge:
    """A bridge to an application that answers with the body; `look` says whose a stranger's request is."""

    def work(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        start("200 OK", [])
        return [environ["wsgi.input"].read()]

    return Bridge(work, threads=4, max_body_bytes=1000, max_otlp_bytes=1000, admission=admitting, look=look)


@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ([(b"authorization", b"Bearer made-up")], "This key is not valid: unknown, expired or revoked."),
        ([(b"cookie", b"handrail_session=made-up")], "This key is not valid: unknown, expired or revoked."),
        ([], "Send an API key as `Authorization: Bearer <key>`, or sign in."),
    ],
)
def test_a_large_body_of_nobody_is_not_held(headers: list[tuple[bytes, bytes]], detail: str, is_declared: bool) -> None:
    looked: list[dict[str, Any]] = []
    length = [(b"content-length", str(len(LARGE)).encode())] if is_declared else []

    async def story() -> None:
        admitting, told = rooms()
        bridge = a_bridge(admitting, looked.append)  # type: ignore[arg-type]
        status, answered, body = await ask(bridge, TRACES, body=LARGE, headers=headers + length, more=not is_declared)
        assert (status, json.loads(body)["detail"]) == (401, detail)
        assert answered[b"www-authenticate"] == b'Bearer realm="handrail"'
        assert told == {("ingest", "nobody"): 1}
        # Whoever shows nothing is not looked for.
        assert [one["wsgi.input"].read() for one in looked] == [b""] * bool(headers)
        # What is no more than a little is answered by the doors, as ever.
        assert await ask(bridge, TRACES, body=LARGE[:100], headers=headers) == (200, {}, LARGE[:100])
        # Nothing of it is held on to, neither bytes nor turns.
        stranger(admitting, "next").hold(200)
        for _ in range(2):
            await stranger(admitting, "next").turn()

    run(story)


def test_a_large_body_of_a_key_that_is_new_here_comes_through_and_is_looked_at_once() -> None:
    looked: list[str] = []
    go_on = threading.Event()

    def look(environ: dict[str, Any]) -> str:
        looked.append(environ["HTTP_AUTHORIZATION"])
        go_on.wait(20)
        return "authorization"

    async def story() -> None:
        admitting, told = rooms(ingest_threads=1)
        bridge = a_bridge(admitting, look)
        # They take nothing from other strangers, all of whose bytes are taken.
        stranger(admitting, "other").hold(200)
        asked = [asyncio.create_task(ask(bridge, TRACES, body=LARGE, headers=shown("good"))) for _ in range(3)]
        await settled()
        go_on.set()
        assert [body for _, _, body in await asyncio.gather(*asked)] == [LARGE] * 3
        assert (looked, told) == (["Bearer good"], {})
        # It counts as any that is known.
        visit(admitting, "good").hold(500)

    run(story)


def test_while_nobody_can_say_whose_a_large_body_is_it_is_to_come_again() -> None:
    def look(environ: dict[str, Any]) -> None:
        raise OperationalError("connection refused")

    async def story() -> None:
        admitting, told = rooms()
        status, headers, _ = await ask(a_bridge(admitting, look), TRACES, body=LARGE, headers=shown("good"))
        assert (status, headers[b"retry-after"], told) == (503, b"2", {("ingest", "unknown"): 1})
        stranger(admitting, "next").hold(200)
        for _ in range(2):
            await stranger(admitting, "next").turn()

    run(story)


def test_a_body_that_makes_room_while_it_is_asked_whose_it_is_holds_its_thread_until_that_is_said() -> None:
    go_on = threading.Event()

    def look(environ: dict[str, Any]) -> str:
        go_on.wait(20)
        return "authorization"

    async def story() -> None:
        admitting, told = rooms(ingest_threads=1)
        bridge = a_bridge(admitting, look)
        asked = asyncio.create_task(ask(bridge, TRACES, body=[LARGE[:60], LARGE[60:]], headers=shown("good")))
        await settled()
        # Of its bytes 60 are held.
        other = stranger(admitting, "other")
        other.hold(200)
        assert (await asked)[0] == 503
        assert told == {("ingest", "unknown"): 1}
        waiting = asyncio.create_task(other.turn())
        await settled()
        assert not waiting.done()
        go_on.set()
        await waiting

    run(story)


def test_whoever_stops_waiting_for_a_turn_to_be_asked_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.rooms.TURN_WITHIN_S", 0.1)

    async def story() -> None:
        admitting, told = rooms(ingest_threads=1)
        working = visit(admitting, "a")
        await working.turn()
        status, _, _ = await ask(a_bridge(admitting, lambda _: None), TRACES, body=LARGE, headers=shown("made up"))
        assert (status, told) == (503, {("ingest", "waited"): 1})
        working.leave()
        await stranger(admitting, "next").turn()

    run(story)


class Piece(bytearray):
    """Of a body; may be referred to without being held."""


@pytest.mark.parametrize("reason", ["nobody", "slow", "waited", "ending"])
def test_a_refusal_that_nobody_reads_holds_nothing_of_the_body(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setattr("config.rooms.TURN_WITHIN_S", 0.1)
    if reason == "slow":
        monkeypatch.setattr("config.bridge.BODY_WITHIN_S", 0.1)

    async def story() -> None:
        admitting, told = rooms(ingest_threads=1)
        bridge = a_bridge(admitting, lambda _: None)
        if reason == "waited":
            await visit(admitting, "at work").turn()
        body = [Piece(LARGE[:60]), Piece(LARGE[60:] if reason == "nobody" else b"x")]
        held = [ref(piece) for piece in body]
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in body]
        messages[-1]["more_body"] = reason != "waited"
        body.clear()

        async def receive() -> Any:
            return messages.pop(0) if messages else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            await asyncio.Event().wait()

        asked = asyncio.create_task(bridge(a_scope(TRACES, shown("made up")), receive, send))
        if reason == "ending":
            await settled()
            asked.cancel()
        while not told:
            await asyncio.sleep(0.01)
        assert told == {("ingest", reason): 1}
        assert [piece() for piece in held] == [None, None]
        # The next that comes needs all that strangers have, and nobody has to make room.
        stranger(admitting, "next").hold(200)
        assert not asked.done()
        asked.cancel()

    run(story)


def a_scope(path: str, headers: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": headers,
        "query_string": b"",
        "http_version": "1.1",
    }


async def ask(
    bridge: Bridge,
    path: str,
    *,
    more: bool = False,
    body: bytes | list[bytes] = b"x",
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> tuple[int, dict[bytes, bytes], bytes]:
    """The answer to a request whose body is complete, or never is."""
    *first, last = body if isinstance(body, list) else [body]
    messages = [{"type": "http.request", "body": last, "more_body": more}]
    messages += [{"type": "http.request", "body": one, "more_body": True} for one in reversed(first)]
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await bridge(a_scope(path, headers), receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]
