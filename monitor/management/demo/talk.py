"""A conversation: the customer writes, the agent answers, people may take over, and the agent goes on after them."""

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from random import Random
from typing import Any
from urllib.parse import quote

from monitor.management.demo import cast
from monitor.management.demo.cast import CLERK, Matter
from monitor.management.demo.line import Line
from monitor.management.demo.work import GivenUp, Work

TYPES_S = (2.0, 6.0)
MOST_ANSWERS = 3


class Turn(StrEnum):
    """What makes the conversation one for people; NONE leaves it with the agent."""

    NONE = ""
    PHRASE = "phrase"
    UNSURE = "low_confidence"
    DECIDED = "agent_decision"


class Talk:
    """One conversation, by the client's string that names it."""

    def __init__(
        self, line: Line, rng: Random, crew: dict[str, Work], conversation_id: str, *, customer: str = ""
    ) -> None:
        self._line = line
        self._rng = rng
        self._crew = crew
        self.id = conversation_id
        self._path = f"/conversations/{quote(conversation_id)}"
        self._customer = customer
        self._answers = 0

    async def open(self) -> None:
        customer = {"name": self._customer, "id": self._customer.lower().replace(" ", "-")}
        await self._line.post(
            "/conversations", conversation_id=self.id, agent=CLERK.name, channel="chat", customer=customer
        )

    async def ask(self, text: str) -> dict[str, Any]:
        """The customer writes."""
        return await self._say(role="user", author=self._customer, content=text)

    async def answer(self, text: str, *, epoch: int, confidence: float) -> dict[str, Any]:
        """The agent answers, unless people have the turn by now: then the customer never sees it."""
        return await self._say(
            role="assistant", author=CLERK.name, content=text, epoch=epoch, confidence=round(confidence, 2)
        )

    async def hand_over(self, matter: Matter, *, epoch: int) -> None:
        """The agent decides that a person has to go on."""
        await self._line.post(
            f"{self._path}/handover",
            also=(409,),
            reason=matter.why_a_person,
            summary=matter.summary,
            skills=list(matter.skills),
            epoch=epoch,
        )

    async def finish(self, *, epoch: int) -> None:
        await self._line.post(f"{self._path}/finish", also=(409,), epoch=epoch)

    async def hear(self, kind: str, data: Mapping[str, Any]) -> None:
        """What people did: the customer answers them, the agent takes back what is handed back."""
        if kind == "human_message" and self._answers < MOST_ANSWERS:
            self._answers += 1
            await self._read()
            await self.ask(self._rng.choice(cast.FOLLOW_UPS) if self._answers < MOST_ANSWERS else cast.THANKS)
        elif kind == "handed_back":
            await self._go_on(data)
        elif kind == "reopened":
            await self._read()
            await self.answer("You are welcome. I am here if you need me.", epoch=data["epoch"], confidence=0.9)
            await self.finish(epoch=data["epoch"])

    async def _go_on(self, block: Mapping[str, Any]) -> None:
        """The agent follows the instruction in the new epoch, and is done."""
        work = Work(self._line, self._rng, CLERK, self._crew, conversation_id=self.id)
        await work.register(block["instruction"] or "Go on after a person", f"support-{self.id}")
        await self._read()
        await work.report(tool=self._rng.choice(CLERK.tools))
        told = f"I am back. {block['instruction'] or 'Everything is settled.'}"
        await self.answer(told, epoch=block["epoch"], confidence=0.92)
        await self.finish(epoch=block["epoch"])
        await work.complete(result="went on after a person")

    async def _read(self) -> None:
        await asyncio.sleep(self._rng.uniform(*TYPES_S))

    async def _say(self, **message: Any) -> dict[str, Any]:
        answer: dict[str, Any] = (await self._line.post(f"{self._path}/messages", also=(409,), **message)).json()
        return answer


async def serve(line: Line, rng: Random, crew: dict[str, Work], conversation_id: str, turn: Turn) -> None:
    """One customer from hello to goodbye, or to the queue."""
    matter, customer = rng.choice(cast.MATTERS), rng.choice(cast.CUSTOMERS)
    talk = Talk(line, rng, crew, conversation_id, customer=customer)
    await talk.open()
    asked = await talk.ask(matter.opening)
    work = Work(line, rng, CLERK, crew, conversation_id=conversation_id)
    await work.register(f"Answer {customer}", f"support-{conversation_id}")
    work.start_beating()
    try:
        await work.report(tool=rng.choice(CLERK.tools))
        match turn:
            case Turn.PHRASE:
                await talk.answer(matter.answer, epoch=asked["epoch"], confidence=0.84)
                await talk.ask(cast.ASKS_FOR_A_PERSON)
            case Turn.UNSURE:
                await talk.answer(matter.answer, epoch=asked["epoch"], confidence=rng.uniform(0.31, 0.6))
            case Turn.DECIDED:
                await talk.answer(matter.answer, epoch=asked["epoch"], confidence=0.78)
                await talk.hand_over(matter, epoch=asked["epoch"])
            case Turn.NONE:
                await talk.answer(matter.answer, epoch=asked["epoch"], confidence=0.86)
                await work.step(share=0.5)
                heard = await talk.ask(cast.THANKS)
                await talk.answer("Gladly. Have a good day.", epoch=heard["epoch"], confidence=0.95)
                await talk.finish(epoch=heard["epoch"])
        await work.complete(result="answered" if turn == Turn.NONE else "handed over to a person")
    except GivenUp:
        work.leave()
        await talk.finish(epoch=asked["epoch"])
    finally:
        work.stop_beating()
