"""What every story is played with: the client that the agents report by, and two lines for what is not an agent's."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import handrail
import httpx

from monitor.management.demo.cast import Actor
from monitor.management.demo.line import Line

# Beside the clocks of an execution: how long its thread may stand still.
HANGS_AFTER_S = 20.0
TOLD_WITHIN_S = 5.0
LOOKS_EVERY_S = 2.0


class Cable(httpx.BaseTransport):
    """The way from one machine to Handrail, which can be pulled out."""

    def __init__(self) -> None:
        self.is_out = False
        self._through = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_out:
            raise httpx.ConnectError("the cable is out", request=request)
        return self._through.handle_request(request)

    def close(self) -> None:
        self._through.close()


@dataclass(frozen=True)
class Stage:
    """`desk` opens conversations and speaks for customers; `office` sees everything and commands.

    `machine` makes a client of its own for an agent whose cable may be pulled out. `pace` stretches every time that
    agents take.
    """

    client: handrail.Client
    desk: Line
    office: Line
    machine: Callable[[Cable], handrail.Client]
    pace: float = 1.0

    async def wait(self, seconds: float) -> None:
        """Let time pass, as an agent that works."""
        await asyncio.sleep(seconds * self.pace)

    async def told(self) -> None:
        """Wait until Handrail has heard what agents said so far, or for as long as that is worth it."""
        until_s = asyncio.get_running_loop().time() + TOLD_WITHIN_S
        while self.client.pending and asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(0.05)

    async def noticed(self, work: handrail.Execution, *, within_s: float) -> None:
        """Wait until Handrail has given up this attempt."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + within_s
        while loop.time() < until_s:
            found = await self.office.get(f"/executions/{work.id}")
            if (found["status"], found["attempt"]) != ("running", work.attempt):
                return
            await asyncio.sleep(LOOKS_EVERY_S)


def client(url: str, key: str, *, over: httpx.BaseTransport | None = None) -> handrail.Client:
    """What is unsent when the fleet ends is of no use to anybody, so it is kept in memory."""
    return handrail.Client(url=url, api_key=key, spool="", hangs_after_s=HANGS_AFTER_S, transport=over)


def introduced(actor: Actor, *, task: str, run_id: str) -> dict[str, Any]:
    """How the actor's work is registered."""
    about = {"workflow": actor.workflow, "simulated": True}
    return {"task": task, "run_id": run_id, "department": actor.department, "metadata": about}
