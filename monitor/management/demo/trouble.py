"""Agents that fall silent or stand still, and what the client and Handrail make of it."""

import asyncio
import threading
import time
from random import Random
from typing import Any

import handrail

from monitor.management.demo.cast import Actor
from monitor.management.demo.stage import Cable, Stage, introduced
from monitor.management.demo.work import call, take_step, use

# Missed within half a minute, and after the second time a person is asked.
SHORT_CLOCKS = {"timeout_s": 900, "heartbeat_s": 10, "max_retries": 1}
STUCK_CLOCKS = {"timeout_s": 900, "heartbeat_s": 24, "max_retries": 2, "on_stall": "retry"}
SILENCES = 2
NOTICED_WITHIN_S = 60.0
HEARD_WITHIN_S = 30.0
STEPS = 3


async def fall_silent(stage: Stage, rng: Random, actor: Actor, *, task: str, run_id: str) -> None:
    """The agent's machine loses its line in both attempts: a zombie, a retry, and then a person decides.

    Raises handrail.Cancelled when they decide against it.
    """
    cable, silences = Cable(), 0
    client = stage.machine(cable)
    named: Any = introduced(actor, task=task, run_id=run_id) | SHORT_CLOCKS
    try:
        async for attempt in client.attempts(actor.name, **named):
            async with attempt as work:
                await take_step(stage, rng, actor, work, number=1, of=STEPS)
                if silences < SILENCES:
                    silences += 1
                    await lose_the_line(stage, cable, work)
                for number in range(2, STEPS + 1):
                    await take_step(stage, rng, actor, work, number=number, of=STEPS)
                work.complete({"result": f"{task}: done after {silences} silences"})
    finally:
        client.shutdown(0.0)


async def lose_the_line(stage: Stage, cable: Cable, work: handrail.Execution) -> None:
    """Raises handrail.Stopped as soon as the line is back and the client has heard what became of the attempt."""
    cable.is_out = True
    try:
        await stage.noticed(work, within_s=NOTICED_WITHIN_S)
    finally:
        cable.is_out = False
    until_s = time.monotonic() + HEARD_WITHIN_S
    while work.command is None and time.monotonic() < until_s:
        await asyncio.sleep(0.2)
    await work.acheck()


async def get_stuck(stage: Stage, rng: Random, actor: Actor, *, task: str, run_id: str) -> None:
    """The agent's thread waits without end: the client sees it stand still, and Handrail orders the next attempt."""
    begun: list[handrail.Execution] = []
    answered = threading.Event()
    named: Any = introduced(actor, task=task, run_id=run_id) | STUCK_CLOCKS

    def do_the_work() -> None:
        for attempt in stage.client.attempts(actor.name, **named):
            with attempt as work:
                begun.append(work)
                call(rng, actor, work)
                work.progress(30, "asks the warehouse")
                if len(begun) == 1:
                    wait_for_the_warehouse(answered)
                work.check(wait=True)
                work.progress(90, "has the answer")
                use(rng, actor, work, actor.tools[0])
                work.complete({"result": f"{task}: done"})

    # No thread of the loop's own: that one would be waited for when the fleet stops.
    worker = threading.Thread(target=_unless_stopped, args=(do_the_work,), daemon=True, name="demo-stuck")
    worker.start()
    try:
        while worker.is_alive():
            await asyncio.sleep(0.5)
            if begun and begun[0].command is not None:
                # Somebody has looked after the warehouse.
                answered.set()
    finally:
        answered.set()


def wait_for_the_warehouse(answered: threading.Event) -> None:
    answered.wait()


def _unless_stopped(work: Any) -> None:
    try:
        work()
    except handrail.Stopped:
        pass
