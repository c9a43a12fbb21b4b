"""What came of each command is told once, whoever is quicker: the person, the thread that beats, or the work."""

import asyncio
import json
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import handrail
import httpx
import pytest
from handrail._errors import Command
from handrail._stand_in import StandIn, until
from handrail.testing import Captured

from tests.sdk.answering import QUICK, WITHIN_S, effects, taken

ROUNDS = 250


def test_a_pause_that_was_answered_before_the_work_looked(captured: Captured) -> None:
    with handrail.execution("planner") as ex:
        captured.pause(ex)
        captured.resume(ex)
        ex.check()
    assert effects(captured) == [("pause", "went on before it looked"), ("continue", "goes on")]


@pytest.mark.parametrize("answer", ["cancel", "retry"])
def test_a_pause_that_another_command_replaced_before_the_work_looked(captured: Captured, answer: str) -> None:
    with pytest.raises(handrail.Stopped), handrail.execution("planner") as ex:
        captured.pause(ex)
        getattr(captured, answer)(ex)
        ex.check()
    assert effects(captured) == [("pause", "another command came before it looked"), (answer, "stopped its work")]


def test_a_command_that_was_raised_is_told_of_when_the_work_has_stopped(captured: Captured) -> None:
    with pytest.raises(handrail.Superseded), handrail.execution("planner") as ex:
        captured.retry(ex)
        try:
            ex.check()
        finally:
            captured.cancel(ex)
    assert effects(captured) == [("retry", "stopped its work"), ("cancel", "stopped its work")]


@pytest.mark.parametrize(
    ("end", "effect"),
    [
        (lambda ex: ex.complete({"room": 7}), "ended its work before it looked"),
        (lambda ex: ex.fail("no room"), "failed before it looked"),
    ],
)
def test_work_without_a_block_that_ends_while_paused(
    captured: Captured, end: Callable[[handrail.Execution], None], effect: str
) -> None:
    ex = handrail.execution("planner").start()
    captured.pause(ex)
    end(ex)
    assert effects(captured) == [("pause", effect)]


def test_a_block_that_says_how_it_ended_while_paused(captured: Captured) -> None:
    with handrail.execution("planner") as ex:
        captured.pause(ex)
        ex.complete({"room": 7})
    assert effects(captured) == [("pause", "ended its work before it looked")]


def test_a_pause_that_is_on_its_way_when_the_work_ends() -> None:
    on_its_way, has_ended = threading.Event(), threading.Event()

    class Slow(StandIn):
        def handle(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle(request)
            if request.url.path.endswith("/heartbeat") and answer.json()["command"] == "pause":
                on_its_way.set()
                has_ended.wait(WITHIN_S)
            return answer

    server = Slow(backoff_s=0)
    over = httpx.MockTransport(server.handle)
    with handrail.Client(
        url="http://x", api_key="k", spool="", transport=over, pace=QUICK, beat_every_s=0.05
    ) as client:
        with client.execution("planner") as ex:
            until(lambda: ex.id in server.executions, "it is registered", WITHIN_S)
            server.order(ex.id, "pause", "")
            assert on_its_way.wait(WITHIN_S)
        has_ended.set()
        until(lambda: bool(server.commands[0].effect), "what came of it is told", WITHIN_S)
    assert server.commands[0].effect == "its work had ended"


def test_a_pause_while_a_person_is_waited_for(captured: Captured) -> None:
    def person() -> None:
        until(lambda: any(one.status == "hitl_paused" for one in captured.executions), "a person is asked", WITHIN_S)
        captured.pause(captured.executions[0].id)
        try:
            effects(captured)
        finally:
            captured.cancel(captured.executions[0].id)

    helper = threading.Thread(target=person)
    helper.start()
    with pytest.raises(handrail.Cancelled):
        for attempt in handrail.attempts("planner", max_retries=0):
            with attempt:
                raise OSError("503")
    helper.join()
    assert effects(captured) == [("pause", "stopped its work and waits"), ("cancel", "stopped its work")]


def test_a_second_pause_while_the_first_is_waited_out(captured: Captured) -> None:
    def person() -> None:
        effects(captured)
        # Nobody hears of the resume between the two.
        with captured._server._lock:
            captured._server.order(ex.id, "resume", "")
            captured._server.order(ex.id, "pause", "")
        try:
            until(lambda: bool(captured.commands[2].effect), "the second is told of", WITHIN_S)
        finally:
            captured.resume(ex)

    with handrail.execution("planner") as ex:
        captured.pause(ex)
        helper = threading.Thread(target=person)
        helper.start()
        ex.check(wait=True)
        helper.join()
    stopped = "stopped at a safe point and waits"
    told = [(one.command, one.effect) for one in captured.commands]
    assert told == [("pause", stopped), ("continue", None), ("pause", stopped), ("continue", "goes on")]


def test_work_that_was_interrupted_by_a_pause_begins_again_although_it_was_answered_meanwhile(
    captured: Captured,
) -> None:
    tries = []

    async def main() -> None:
        async for attempt in handrail.attempts("planner", interrupts=True):
            async with attempt as ex:
                tries.append(ex.attempt)
                if len(tries) > 1:
                    continue
                until(lambda: ex._is_registered, "it is registered", WITHIN_S)
                captured._server.order(ex.id, "pause", "")
                try:
                    await asyncio.sleep(WITHIN_S)
                finally:
                    captured.resume(ex)

    asyncio.run(main())
    assert tries == [1, 1]
    assert captured.executions[0].status == "completed"
    assert effects(captured) == [("pause", "begins again"), ("continue", "goes on")]


@pytest.fixture
def told() -> Iterator[dict[int, list[str]]]:
    """The effects that a server is told of each command, while threads take turns as often as they can."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield defaultdict(list)
    sys.setswitchinterval(interval_s)


@contextmanager
def telling(told: dict[int, list[str]]) -> Iterator[handrail.Client]:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/acknowledge"):
            said = json.loads(request.content)
            told[said["seq"]].append(said["effect"])
        if request.url.path.endswith("/heartbeat"):
            # What is wanted of the work is said by the test alone.
            return httpx.Response(409, json={"detail": "not now"})
        return taken()

    transport = httpx.MockTransport(handle)
    with handrail.Client(url="http://x", api_key="k", spool="", transport=transport, pace=QUICK) as client:
        yield client


def at_once(*acts: Callable[[], object]) -> list[object]:
    """Do them in threads that wait for each other before they begin."""
    ready = threading.Barrier(len(acts))

    def do(act: Callable[[], object]) -> object:
        ready.wait(WITHIN_S)
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return [one.result() for one in [pool.submit(do, act) for act in acts]]


def a_pause(seq: int) -> Command:
    return Command("pause", "", 1, 0.0, 0.0, "paused", seq)


def is_stopped(ex: handrail.Execution) -> bool:
    try:
        ex.check()
    except handrail.Paused:
        return True
    return False


def test_who_is_answered_while_it_looks_has_either_stopped_or_gone_on(told: dict[int, list[str]]) -> None:
    stopped = {}
    with telling(told) as client, client.execution("planner") as ex:
        for seq in range(1, 2 * ROUNDS, 2):
            ex._hear(1, a_pause(seq), seq)
            looks = at_once(
                lambda: is_stopped(ex),
                lambda: is_stopped(ex),
                lambda seq=seq: ex._hear(1, None, seq + 1),
            )
            stopped[seq] = any(looks)
            until(lambda seq=seq: bool(told[seq + 1]), "it is told", WITHIN_S)
    for seq, has_stopped in stopped.items():
        effect = "stopped at a safe point and waits" if has_stopped else "went on before it looked"
        assert [one for one in told[seq] if one] == [effect]
        assert told[seq + 1] == ["goes on"]


def test_who_is_paused_while_it_ends_says_once_that_it_has_ended(told: dict[int, list[str]]) -> None:
    with telling(told) as client:
        for seq in range(1, ROUNDS):
            ex = client.execution("planner").start()
            at_once(ex.complete, lambda ex=ex, seq=seq: ex._hear(1, a_pause(seq), seq))
            until(lambda seq=seq: any(told[seq]), "it is told", WITHIN_S)
    for effects_of in told.values():
        assert [one for one in effects_of if one] in (["ended its work before it looked"], ["its work had ended"])
