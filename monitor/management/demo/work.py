"""One execution as an agent lives it: it beats, calls models and tools, obeys commands, and ends somehow."""

import asyncio
import contextlib
from collections.abc import Mapping
from enum import StrEnum
from random import Random
from typing import Any
from uuid import uuid4

from monitor.management.demo import cast
from monitor.management.demo.cast import Actor
from monitor.management.demo.line import Line

BEATS_EVERY_S = 12.0
STEP_S = 8.0
CLOCKS = {"timeout_s": 900, "heartbeat_s": 24, "max_retries": 2}
# Of an execution that is going to hang: it is missed within half a minute, and soon waits for a person.
SHORT_CLOCKS = {"timeout_s": 900, "heartbeat_s": 8, "max_retries": 1}
DECISION_WITHIN_S = 60.0


class Fate(StrEnum):
    """How an execution is going to go."""

    WELL = "well"
    STUMBLES = "stumbles"  # an error that the next attempt heals
    BREAKS = "breaks"  # an error that none heals
    HANGS = "hangs"  # falls silent in both attempts, so that a person has to decide


class GivenUp(Exception):
    """It is out of the agent's hands: cancelled, or waiting for a person who takes their time."""


class Work:
    """What one agent does now. `attempt` is the fence that it sends with everything; `crew` are all at work, by id."""

    def __init__(
        self, line: Line, rng: Random, actor: Actor, crew: dict[str, "Work"], *, conversation_id: str = ""
    ) -> None:
        self.line = line
        self.rng = rng
        self.actor = actor
        self.conversation_id = conversation_id
        self._crew = crew
        self.id = ""
        self.run_id = ""
        self.attempt = 1
        self._beating: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._order: Mapping[str, Any] = {}
        self._ordered = asyncio.Event()

    async def register(self, task: str, run_id: str, clocks: Mapping[str, Any] = CLOCKS) -> None:
        answer = await self.line.post(
            "/executions",
            agent=self.actor.name,
            task=task,
            run_id=run_id,
            department=self.actor.department,
            conversation_id=self.conversation_id,
            metadata={"workflow": self.actor.workflow, "simulated": True},
            **clocks,
        )
        self.adopt(answer.json()["id"], run_id, attempt=1)

    def adopt(self, execution_id: str, run_id: str, *, attempt: int) -> None:
        """Work at an execution that is registered already."""
        self.id, self.run_id, self.attempt = execution_id, run_id, attempt
        self._crew[execution_id] = self

    def leave(self) -> None:
        """It is no longer this agent's: nothing has to be cancelled when the fleet stops."""
        self._crew.pop(self.id, None)

    def start_beating(self) -> None:
        self._beating = asyncio.create_task(self._beat_on())

    def stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.cancel()

    def obey(self, order: Mapping[str, Any]) -> None:
        """Take a command of Handrail, by whichever way it came."""
        if order["command"] == "cancel":
            self._stopped.set()
        elif order["command"] in ("retry", "continue"):
            self._order = order
            self._ordered.set()

    async def step(self, *, share: float) -> None:
        """One turn of the agent: a model call, perhaps a tool, and how far it is. Raises GivenUp when cancelled."""
        await self.wait(self.rng.uniform(0.6, 1.4) * STEP_S)
        tool = self.rng.choice(self.actor.tools) if self.rng.random() < 0.7 else ""
        await self.report(tool=tool)
        await self.beat(progress=round(share * 100), message=f"called {tool}" if tool else "thinking")

    async def report(self, *, tool: str = "", error: str = "") -> None:
        """Tell of one model call and the tool that it chose."""
        size = self.rng.uniform(0.5, 1.6)
        tokens = round(self.actor.tokens * size)
        call = {
            "type": "call",
            "model": self.actor.model,
            "input_tokens": tokens,
            "cache_read_tokens": round(tokens * self.rng.choice((0, 0, 0.4, 0.7))),
            "output_tokens": round(self.actor.answer_tokens * size),
            "latency_ms": round(self.rng.lognormvariate(0.3, 0.5) * 1000),
        }
        used = {
            "type": "tool_call",
            "tool": tool,
            "arguments": {"query": self.actor.workflow},
            "duration_ms": round(self.rng.lognormvariate(5.2, 0.8)),
            "success": not error,
            "error": error,
        }
        told = [call, used] if tool else [call]
        await self.line.post("/batch", events=[self._common() | event for event in told])

    async def beat(self, **sign: Any) -> None:
        """A sign of life. Waits while a person has paused it; raises GivenUp when the answer is to stop."""
        while (command := (await self._beat(**sign))["command"]) != "continue":
            if command != "pause":
                raise GivenUp(command)
            await self.wait(BEATS_EVERY_S)

    async def go_silent(self) -> None:
        """Hang, until Handrail has noticed. Raises GivenUp when nothing is ordered in time."""
        self._ordered.clear()
        self.stop_beating()
        await self.next_attempt()

    async def stumble(self, error: str) -> None:
        """Report an error that may be retried, and begin anew when told to."""
        self._ordered.clear()
        self.stop_beating()
        await self.fail(error, retryable=True)
        await self.next_attempt()

    async def next_attempt(self) -> None:
        """Pick up what is ordered next. Raises GivenUp when nothing is, or the order is to stop."""
        ordered = asyncio.create_task(self._ordered.wait())
        stopped = asyncio.create_task(self._stopped.wait())
        await asyncio.wait({ordered, stopped}, timeout=DECISION_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        ordered.cancel()
        stopped.cancel()
        if self._stopped.is_set() or not self._ordered.is_set():
            raise GivenUp("no further attempt")
        self.attempt = self._order["attempt"]
        await self.wait(self.rng.uniform(2, 4))
        await self.beat(message=f"attempt {self.attempt} begins")
        self.start_beating()

    async def complete(self, **output: Any) -> None:
        await self.line.post(f"/executions/{self.id}/complete", also=(409,), attempt=self.attempt, output=output)
        self.leave()

    async def fail(self, error: str, *, retryable: bool) -> None:
        said = {"attempt": self.attempt, "error": error, "retryable": retryable}
        await self.line.post(f"/executions/{self.id}/fail", also=(409,), **said)
        if not retryable:
            self.leave()

    async def wait(self, seconds: float) -> None:
        """Let time pass; raises GivenUp as soon as the work is cancelled."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
        if self._stopped.is_set():
            raise GivenUp("cancelled")

    def _common(self) -> dict[str, Any]:
        return {
            "id": str(uuid4()),
            "execution_id": self.id,
            "run_id": self.run_id,
            "agent": self.actor.name,
            "department": self.actor.department,
            "conversation_id": self.conversation_id,
        }

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(BEATS_EVERY_S)
            if (await self._beat())["command"] == "cancel":
                self._stopped.set()

    async def _beat(self, **sign: Any) -> dict[str, Any]:
        path = f"/executions/{self.id}/heartbeat"
        answer: dict[str, Any] = (await self.line.post(path, attempt=self.attempt, **sign)).json()
        return answer


async def live(work: Work, fate: Fate, *, task: str, run_id: str) -> None:
    """Live one execution to its end, or until it is out of the agent's hands."""
    steps = work.rng.randint(4, 14)
    await work.register(task, run_id, SHORT_CLOCKS if fate == Fate.HANGS else CLOCKS)
    work.start_beating()
    try:
        for number in range(1, steps + 1):
            await work.step(share=number / steps)
            if number == steps // 2:
                if fate == Fate.BREAKS:
                    await work.report(tool=work.actor.tools[0], error=work.rng.choice(cast.ERRORS))
                    await work.fail(work.rng.choice(cast.HOPELESS), retryable=False)
                    return
                if fate == Fate.STUMBLES:
                    await work.stumble(work.rng.choice(cast.ERRORS))
                if fate == Fate.HANGS:
                    await work.go_silent()
                    await work.go_silent()
        await work.complete(result=f"{task}: done", steps=steps)
    except GivenUp:
        work.leave()
    finally:
        work.stop_beating()
