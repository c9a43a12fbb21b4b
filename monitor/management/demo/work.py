"""One execution as an agent lives it: it takes steps, calls models and tools, obeys commands, and ends somehow."""

from enum import StrEnum
from random import Random
from typing import Any

import handrail

from monitor.management.demo import cast
from monitor.management.demo.cast import Actor
from monitor.management.demo.stage import Stage, introduced

STEP_S = 8.0
CLOCKS = {"timeout_s": 900, "heartbeat_s": 24, "max_retries": 2}
TURNS_OF_A_LOOP = 6
LOOP_STEP_S = 3.0


class Fate(StrEnum):
    """How an execution is going to go."""

    WELL = "well"
    STUMBLES = "stumbles"  # an error that the next attempt heals
    BREAKS = "breaks"  # an error that none heals
    CIRCLES = "circles"  # asks one tool the same again and again before it goes on


class Mishap(Exception):
    """An error that the next attempt may heal."""


async def live(stage: Stage, rng: Random, actor: Actor, fate: Fate, *, task: str, run_id: str) -> None:
    """Live one execution to its end. Raises handrail.Stopped when it is cancelled, Mishap when no retry is left."""
    steps, done = rng.randint(4, 14), 0
    named: Any = introduced(actor, task=task, run_id=run_id) | CLOCKS
    async for attempt in stage.client.attempts(actor.name, retry_on=Mishap, **named):
        async with attempt as work:
            while done < steps:
                done += 1
                await take_step(stage, rng, actor, work, number=done, of=steps)
                if done != steps // 2:
                    continue
                if fate == Fate.CIRCLES:
                    await go_round(stage, rng, actor, work)
                elif fate == Fate.STUMBLES:
                    work.tool(actor.tools[0], {"query": actor.workflow, "page": done}, error="no answer")
                    raise Mishap(rng.choice(cast.ERRORS))
                elif fate == Fate.BREAKS:
                    work.fail(rng.choice(cast.HOPELESS))
                    return
            work.complete({"result": f"{task}: done", "steps": steps})


async def take_step(stage: Stage, rng: Random, actor: Actor, work: handrail.Execution, *, number: int, of: int) -> None:
    """One turn of the agent: a call of a model, perhaps of a tool, and how far it is.

    Waits while it is paused; raises handrail.Stopped when it is to stop.
    """
    tool = rng.choice(actor.tools) if rng.random() < 0.7 else ""
    async with work.step(tool or "think", index=number):
        await stage.wait(rng.uniform(0.6, 1.4) * STEP_S)
        call(rng, actor, work)
        if tool:
            # Another page each time: who asks the same again and again goes in circles.
            use(rng, actor, work, tool, page=number)
    work.progress(round(100 * number / of), f"called {tool}" if tool else "thinking")
    await work.acheck(wait=True)


async def go_round(stage: Stage, rng: Random, actor: Actor, work: handrail.Execution) -> None:
    """Ask one tool the same until it has become tedious."""
    for _ in range(TURNS_OF_A_LOOP):
        call(rng, actor, work)
        use(rng, actor, work, actor.tools[0])
        await stage.wait(LOOP_STEP_S)
        await work.acheck(wait=True)


def call(rng: Random, actor: Actor, work: handrail.Execution) -> None:
    """Tell of one call of the actor's model, of about the usual size."""
    size = rng.uniform(0.5, 1.6)
    tokens = round(actor.tokens * size)
    work.call(
        model=actor.model,
        input_tokens=tokens,
        cache_read_tokens=round(tokens * rng.choice((0, 0, 0.4, 0.7))),
        output_tokens=round(actor.answer_tokens * size),
        latency_ms=round(rng.lognormvariate(0.3, 0.5) * 1000),
    )


def use(rng: Random, actor: Actor, work: handrail.Execution, tool: str, **more: Any) -> None:
    """Tell of one call of a tool."""
    work.tool(tool, {"query": actor.workflow, **more}, duration_ms=round(rng.lognormvariate(5.2, 0.8)))
