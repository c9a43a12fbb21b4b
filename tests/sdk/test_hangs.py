"""Work that stands still is told of, by the place in the code; work that moves is left alone."""

import asyncio
import difflib
import random
import threading
import time
from collections.abc import Iterator

import handrail
import pytest
from handrail._stand_in import Execution, until
from handrail.testing import Captured

WITHIN_S = 10
AFTER_S = 0.3


@pytest.fixture
def captured() -> Iterator[Captured]:
    with handrail.testing.capture(hangs_after_s=AFTER_S) as captured:
        yield captured


def work_of(captured: Captured) -> Execution:
    until(lambda: bool(captured._server.executions), "it is registered", WITHIN_S)
    return next(iter(captured._server.executions.values()))


def watch(captured: Captured, seen: list[tuple[bool, str]], let_go: threading.Event) -> threading.Thread:
    """A thread that sees the work stand still, lets it go, and sees it move."""

    def look() -> None:
        work = work_of(captured)
        until(lambda: not work.progressing, "it stands still", WITHIN_S)
        seen.append((work.progressing, work.message))
        let_go.set()
        until(lambda: work.progressing, "it moves again", WITHIN_S)
        seen.append((work.progressing, work.message))

    thread = threading.Thread(target=look)
    thread.start()
    return thread


def hang_here(let_go: threading.Event) -> None:
    secret = "sk-12345"
    assert let_go.wait(WITHIN_S), secret


def test_a_thread_that_hangs_is_named_by_its_line(captured: Captured) -> None:
    let_go, seen = threading.Event(), list[tuple[bool, str]]()
    with handrail.execution("planner") as ex:
        ex.progress(10, "began")
        watcher = watch(captured, seen, let_go)
        hang_here(let_go)
        until(lambda: len(seen) == 2, "it was seen to move", WITHIN_S)
    watcher.join()
    (hung, where), (moved, _) = seen
    assert (hung, moved) == (False, True)
    assert "hang_here (test_hangs.py:" in where
    assert "inside wait (threading.py:" in where
    assert "sk-12345" not in where
    assert captured.execution(ex).status == "completed"


def test_a_blocked_event_loop_is_seen_from_outside_of_it(captured: Captured) -> None:
    let_go, seen = threading.Event(), list[tuple[bool, str]]()

    async def main() -> None:
        async with handrail.execution("planner"):
            watcher = watch(captured, seen, let_go)
            hang_here(let_go)
            while len(seen) < 2:
                await asyncio.sleep(0.01)
            watcher.join()

    asyncio.run(main())
    assert "hang_here (test_hangs.py:" in seen[0][1]


def test_a_coroutine_that_waits_does_not_hang(captured: Captured) -> None:
    async def main() -> handrail.Execution:
        async with handrail.execution("planner") as ex:
            await asyncio.sleep(3 * AFTER_S)
        return ex

    work = captured.execution(asyncio.run(main()))
    assert (work.progressing, work.message) == (True, "")


def test_who_reports_does_not_hang(captured: Captured) -> None:
    beats_of = []
    with handrail.execution("crew"), handrail.execution("helper") as ex:
        reporter = handrail.carried(lambda: ex.progress(message="still here"))

        def report() -> None:
            until_s = time.monotonic() + 3 * AFTER_S
            while time.monotonic() < until_s:
                reporter()
                time.sleep(AFTER_S / 10)
                beats_of.append(all(one.progressing for one in captured._server.executions.values()))

        thread = threading.Thread(target=report)
        thread.start()
        thread.join()
    assert len(beats_of) > 5
    assert all(beats_of)


def test_a_busy_thread_does_not_hang() -> None:
    words = ["".join(random.choices("abcdef ", k=60)) for _ in range(20)]
    with handrail.testing.capture(hangs_after_s=1.0) as captured:
        with handrail.execution("planner") as ex:
            until_s = time.monotonic() + 2.5
            while time.monotonic() < until_s:
                difflib.SequenceMatcher(None, random.choice(words), random.choice(words)).ratio()
            beats = captured._server.executions[ex.id].beats
        assert beats > 3
        assert captured.execution(ex).progressing


def test_heartbeats_go_on_while_the_work_hangs(captured: Captured) -> None:
    with handrail.execution("planner"):
        work = work_of(captured)
        until(lambda: not work.progressing, "it stands still", WITHIN_S)
        before = work.beats
        until(lambda: work.beats > before + 2, "it beats on", WITHIN_S)
