"""What single agents of the simulated fleet report, played in no time against a stand-in for the server."""

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

import handrail
import handrail.testing
import pytest
from handrail.testing import Captured

from monitor.management.demo import cast
from monitor.management.demo.cast import WORKERS
from monitor.management.demo.line import Line
from monitor.management.demo.stage import Stage
from monitor.management.demo.trouble import get_stuck
from monitor.management.demo.work import TURNS_OF_A_LOOP, Fate, live

NEW_EACH_TIME = ("id", "execution_id", "occurred_at", "trace_id", "span_id", "tool_duration_ms")


def play(captured: Captured, fate: Fate, *, seed: int = 7) -> None:
    async def story() -> None:
        await live(stage(captured.client), Random(seed), WORKERS[0], fate, task="Read", run_id="invoices-1")

    asyncio.run(story())


def stage(client: handrail.Client) -> Stage:
    # No agent speaks by it: there is nobody behind this line.
    nobody = Line("http://handrail.test", "none", per_second=1)
    return Stage(client, nobody, nobody, machine=lambda cable: client, pace=0.001)


def reported(captured: Captured) -> list[dict[str, Any]]:
    kinds = ("call", "tool_call", "step")
    told = [event for event in captured.events if event["type"] in kinds]
    return [{name: said for name, said in event.items() if name not in NEW_EACH_TIME} for event in told]


def test_the_seed_decides_what_an_agent_reports() -> None:
    days = []
    for seed in (7, 7, 8):
        with handrail.testing.capture() as captured:
            play(captured, Fate.WELL, seed=seed)
            days.append(reported(captured))
            (work,) = captured.executions
            assert (work.status, work.progress) == ("completed", 100)
    assert days[0] == days[1] != days[2]
    assert {event["type"] for event in days[0]} == {"call", "tool_call", "step"}


def test_an_error_is_healed_by_the_next_attempt() -> None:
    with handrail.testing.capture() as captured:
        play(captured, Fate.STUMBLES)
        (work,) = captured.executions
        assert (work.states, work.attempt) == (["running", "retrying", "running", "completed"], 2)


def test_an_error_that_none_heals_ends_it() -> None:
    with handrail.testing.capture() as captured:
        play(captured, Fate.BREAKS)
        (work,) = captured.executions
        assert (work.status, work.error in cast.HOPELESS) == ("failed", True)


@pytest.mark.parametrize(("fate", "again"), [(Fate.WELL, 0), (Fate.CIRCLES, TURNS_OF_A_LOOP - 1)])
def test_only_who_is_meant_to_goes_in_circles(fate: Fate, again: int) -> None:
    with handrail.testing.capture() as captured:
        play(captured, fate)
        calls = [(each["tool"], each["arguments"]) for each in captured.tools]
        assert sum(one == other for one, other in pairwise(calls)) == again


def test_a_thread_that_stands_still_is_seen_and_gone_on_with() -> None:
    with handrail.testing.capture(hangs_after_s=0.3) as captured:

        async def story() -> None:
            stuck = get_stuck(stage(captured.client), Random(1), WORKERS[0], task="Read", run_id="invoices-1")
            going_on = asyncio.create_task(stuck)
            while not [work for work in captured.executions if not work.progressing]:
                await asyncio.sleep(0.05)
            (work,) = captured.executions
            assert "stands still in wait_for_the_warehouse" in work.message
            await asyncio.to_thread(captured.retry, work.id)
            await going_on

        asyncio.run(asyncio.wait_for(story(), 30))
        (work,) = captured.executions
        assert (work.status, work.attempt) == ("completed", 2)
