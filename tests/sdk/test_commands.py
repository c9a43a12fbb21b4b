"""What people command reaches the work, and what became of it reaches them."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import handrail
import pytest
from handrail._bell import Bell
from handrail._stand_in import until
from handrail.testing import Captured

from tests.sdk.answering import WITHIN_S, effects


def test_a_cancelled_execution_stops_where_it_asks(captured: Captured) -> None:
    with pytest.raises(handrail.Cancelled, match="too dear") as stopped, handrail.execution("planner") as ex:
        ex.check()
        captured.cancel(ex, "too dear")
        assert ex.cancelled
        ex.progress(50)
        ex.check()
    assert stopped.value.execution is ex
    assert captured.execution(ex).states == ["running", "cancelled"]
    assert effects(captured) == [("cancel", "stopped its work")]


def test_who_never_asks_is_not_interrupted(captured: Captured) -> None:
    with handrail.execution("planner") as ex:
        captured.cancel(ex)
        ex.call(model="m")
    assert effects(captured) == [("cancel", "ended its work before it looked")]


def test_interrupts_are_raised_from_every_call(captured: Captured) -> None:
    with pytest.raises(handrail.Cancelled), handrail.execution("planner", interrupts=True) as ex:
        captured.cancel(ex)
        ex.progress(50)
        pytest.fail("went on")


def test_what_has_happened_is_told_before_the_interrupt(captured: Captured) -> None:
    with handrail.execution("planner", conversation_id="c-1", interrupts=True) as ex:
        captured.pause(ex)
        for tell in (
            lambda: ex.call(model="m"),
            lambda: ex.tool("search", duration_ms=3),
            lambda: ex.message("Done."),
            lambda: ex.progress(60, "nearly"),
        ):
            with pytest.raises(handrail.Paused):
                tell()
        captured.resume(ex)
    assert [one["type"] for one in captured.events[1:4]] == ["call", "tool_call", "message"]
    work = captured.execution(ex)
    assert (work.status, work.progress, work.message) == ("completed", 60, "nearly")


def test_a_pause_is_waited_out(captured: Captured) -> None:
    with handrail.execution("planner") as ex:
        captured.pause(ex, "wait for the price")
        with pytest.raises(handrail.Paused) as paused:
            ex.check()
        person = threading.Timer(0.1, captured.resume, [ex])
        person.start()
        paused.value.wait(WITHIN_S)
        person.join()
        ex.check()
    assert captured.execution(ex).states == ["running", "paused", "running", "completed"]
    assert effects(captured) == [("pause", "stopped at a safe point and waits"), ("continue", "goes on")]


def test_an_answer_is_heard_long_before_the_next_heartbeat() -> None:
    with handrail.testing.capture(beat_every_s=60) as captured, handrail.execution("p", heartbeat_s=30) as ex:
        captured.pause(ex)
        person = threading.Timer(0.2, captured._server.order, [ex.id, "resume", ""])
        person.start()
        with pytest.raises(handrail.Paused) as paused:
            ex.check()
        paused.value.wait(WITHIN_S)
        person.join()


@pytest.mark.parametrize(("answer", "raised"), [("cancel", handrail.Cancelled), ("retry", handrail.Superseded)])
def test_other_answers_to_a_pause(captured: Captured, answer: str, raised: type[handrail.Stopped]) -> None:
    with pytest.raises(raised) as stopped, handrail.execution("planner") as ex:
        captured.pause(ex)
        person = threading.Timer(0.1, getattr(captured, answer), [ex])
        person.start()
        ex.check(wait=True)
    person.join()
    if isinstance(stopped.value, handrail.Superseded):
        assert stopped.value.attempt == 2


def test_a_wait_has_an_end(captured: Captured) -> None:
    with handrail.execution("planner") as ex:
        captured.pause(ex)
        with pytest.raises(handrail.Paused) as paused:
            ex.check()
        with pytest.raises(TimeoutError):
            paused.value.wait(0.05)


def test_a_coroutine_waits_while_others_go_on(captured: Captured) -> None:
    async def main() -> int:
        turns = 0
        async with handrail.execution("planner") as ex:
            await asyncio.to_thread(captured.pause, ex)
            waiting = asyncio.create_task(ex.acheck(wait=True))
            for _ in range(20):
                await asyncio.sleep(0.005)
                turns += 1
            assert not waiting.done()
            await asyncio.to_thread(captured.resume, ex)
            await asyncio.wait_for(waiting, WITHIN_S)
        return turns

    assert asyncio.run(main()) == 20


def test_the_task_is_cancelled_at_its_next_await(captured: Captured) -> None:
    cleaned = []

    async def main() -> None:
        async with handrail.execution("planner", interrupts=True) as ex:
            threading.Timer(0.05, captured.cancel, [ex]).start()
            try:
                await asyncio.sleep(WITHIN_S)
                pytest.fail("was not interrupted")
            finally:
                cleaned.append(True)

    with pytest.raises(handrail.Cancelled):
        asyncio.run(main())
    assert cleaned == [True]


def test_a_cancellation_of_the_programs_own_stays_one(captured: Captured) -> None:
    async def main() -> handrail.Execution:
        async with handrail.execution("planner", interrupts=True) as ex:
            asyncio.get_running_loop().call_later(0.02, asyncio.current_task().cancel)  # type: ignore[union-attr]
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(WITHIN_S)
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        return ex

    assert captured.execution(asyncio.run(main())).status == "completed"


def test_the_server_says_when_the_next_attempt_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    with handrail.testing.capture(backoff_s=600) as captured:
        tries, rests_s, wait = [], [], Bell.wait

        def skipped(bell: Bell, until: Callable[[], bool], timeout_s: float | None) -> bool:
            if timeout_s is not None and timeout_s > 60:
                rests_s.append(timeout_s)
                return until()
            return wait(bell, until, timeout_s)

        monkeypatch.setattr(Bell, "wait", skipped)
        for attempt in handrail.attempts("planner", attempts=3):
            with attempt as ex:
                tries.append(ex.attempt)
                if len(tries) == 1:
                    raise OSError("503")
        assert tries == [1, 2]
        assert [500 < one <= 600 for one in rests_s] == [True]
        work = captured.execution(ex)
        assert (work.status, work.attempt, work.max_retries) == ("completed", 2, 2)


def test_when_retries_are_spent_a_person_decides(captured: Captured) -> None:
    tries = []

    def person() -> None:
        until(lambda: any(one.status == "hitl_paused" for one in captured.executions), "a person is asked", WITHIN_S)
        captured.retry(captured.executions[0].id)

    helper = threading.Thread(target=person)
    helper.start()

    @handrail.supervised("planner", attempts=2)
    def work() -> str:
        current = handrail.current()
        assert current is not None
        tries.append(current.attempt)
        if len(tries) < 3:
            raise OSError("503")
        return "done"

    assert work() == "done"
    helper.join()
    assert tries == [1, 2, 3]
    assert captured.executions[0].states == [
        "running",
        "retrying",
        "hitl_paused",
        "retrying",
        "running",
        "completed",
    ] or (captured.executions[0].states == ["running", "retrying", "hitl_paused", "retrying", "completed"])


def test_a_person_may_end_it(captured: Captured) -> None:
    def person() -> None:
        until(lambda: any(one.status == "hitl_paused" for one in captured.executions), "a person is asked", WITHIN_S)
        captured.cancel(captured.executions[0].id)

    helper = threading.Thread(target=person)
    helper.start()

    async def main() -> None:
        async for attempt in handrail.attempts("planner", max_retries=0):
            async with attempt:
                raise OSError("503")

    with pytest.raises(handrail.Cancelled) as ended:
        asyncio.run(main())
    helper.join()
    assert isinstance(ended.value.__cause__, OSError)
    assert effects(captured) == [("cancel", "stopped its work")]


def test_nobody_is_waited_for_without_end(captured: Captured) -> None:
    with pytest.raises(OSError, match="503"):
        for attempt in handrail.attempts("planner", max_retries=0, human_wait_s=0.1):
            with attempt:
                raise OSError("503")
    assert captured.executions[0].status == "hitl_paused"


def test_a_decorated_call_waits_no_longer_than_it_may(captured: Captured) -> None:
    for face in (handrail, captured.client):

        @face.supervised("planner", attempts=2, retry_on=OSError, human_wait_s=0.1)
        def work(error: type[Exception]) -> None:
            raise error

        with pytest.raises(OSError):  # noqa: PT011
            work(OSError)
        with pytest.raises(KeyError):
            work(KeyError)
    assert [one.status for one in captured.executions] == ["hitl_paused", "failed"] * 2


class Interrupted(BaseException):
    """As KeyboardInterrupt, which would end the tests."""


def test_who_is_interrupted_while_a_person_is_waited_for_leaves_nothing_open(captured: Captured) -> None:
    async def work() -> None:
        async for attempt in handrail.attempts("planner", max_retries=0):
            async with attempt as ex:
                work_of.append(ex)
                raise OSError("503")

    async def main() -> None:
        task = asyncio.create_task(work())
        while not (work_of and work_of[0]._waits):
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    work_of: list[handrail.Execution] = []
    asyncio.run(main())
    (ex,) = work_of
    assert (captured.client._open, ex._waits) == ({}, 0)
    assert captured.execution(ex).states == ["running", "hitl_paused"], "a person may still begin it again"


@pytest.mark.parametrize("away", [False, True])
def test_who_is_interrupted_before_the_next_attempt_says_so(away: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with handrail.testing.capture(backoff_s=60) as captured:
        wait = Bell.wait

        def interrupted(bell: Bell, until: Callable[[], bool], timeout_s: float | None) -> bool:
            if timeout_s is not None and timeout_s > 10:
                raise Interrupted
            return wait(bell, until, timeout_s)

        monkeypatch.setattr(Bell, "wait", interrupted)
        monkeypatch.setattr(captured.client, "_haste", 60.0)
        with pytest.raises(Interrupted), captured.away() if away else contextlib.nullcontext():
            for attempt in handrail.attempts("planner"):
                with attempt as ex:
                    raise OSError("503")
        monkeypatch.undo()
        work = captured.execution(ex)
        assert (work.states, work.error) == (["running", "retrying", "failed"], "Interrupted: ")


def test_errors_of_other_kinds_end_it_at_once(captured: Captured) -> None:
    with pytest.raises(KeyError):
        for attempt in handrail.attempts("planner", retry_on=OSError):
            with attempt:
                raise KeyError("a bug")
    assert captured.executions[0].states == ["running", "failed"]


def test_while_the_server_is_away_the_program_tries_again_by_itself(captured: Captured) -> None:
    tries = 0
    with captured.away():
        for attempt in handrail.attempts("planner", attempts=4):
            with attempt as ex:
                tries += 1
                if tries < 3:
                    raise OSError("503")
    work = captured.execution(ex)
    assert (tries, work.status, work.attempt, work.error) == (3, "completed", 3, "OSError: 503")


def test_an_attempt_that_was_given_up_is_begun_anew(captured: Captured) -> None:
    tries = []
    for attempt in handrail.attempts("planner"):
        with attempt as ex:
            tries.append(ex.attempt)
            if len(tries) == 1:
                captured.retry(ex, "stands still")
                ex.check()
    assert tries == [1, 2]
    assert captured.execution(ex).status == "completed"


def test_an_error_after_the_attempt_was_given_up_begins_the_next(captured: Captured) -> None:
    tries = []
    for attempt in handrail.attempts("planner"):
        with attempt as ex:
            tries.append(ex.attempt)
            if len(tries) == 1:
                until(lambda: ex._is_registered, "it is registered", WITHIN_S)
                # What a clock of the server does: the answer to the failure is the first that the program hears.
                captured._server.give_up(ex.id)
                raise OSError("503 after the time")
    assert tries == [1, 2]
    work = captured.execution(ex)
    assert (work.status, work.attempt, work.error) == ("completed", 2, "")


def test_threads_work_within_the_execution_that_they_are_carried_into(captured: Captured) -> None:
    def work(number: int) -> str:
        with handrail.execution(f"helper-{number}") as ex:
            return ex.id

    with handrail.execution("crew") as crew, ThreadPoolExecutor(4) as pool:
        helpers = list(pool.map(handrail.carried(work), range(20)))
        (alone,) = pool.map(work, [99])
    assert all(captured.execution(one).said["parent_id"] == crew.id for one in helpers)
    assert "parent_id" not in captured.execution(alone).said
