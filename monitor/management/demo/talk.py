"""A conversation: the customer writes, the agent answers, people may take over, and the agent goes on after them."""

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from random import Random
from typing import Any
from urllib.parse import quote

import handrail

from monitor.management.demo import cast
from monitor.management.demo.cast import CLERK, Matter
from monitor.management.demo.stage import Stage, introduced
from monitor.management.demo.work import CLOCKS, call, take_step, use

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

    def __init__(self, stage: Stage, rng: Random, conversation_id: str, *, customer: str = "") -> None:
        self._stage = stage
        self._desk = stage.desk
        self._rng = rng
        self.id = conversation_id
        self._path = f"/conversations/{quote(conversation_id)}"
        self._customer = customer
        self._answers = 0

    async def open(self) -> None:
        customer = {"name": self._customer, "id": self._customer.lower().replace(" ", "-")}
        await self._desk.post(
            "/conversations", conversation_id=self.id, agent=CLERK.name, channel="chat", customer=customer
        )

    def begin(self, task: str) -> handrail.Execution:
        """The clerk's work at it."""
        named: Any = introduced(CLERK, task=task, run_id=f"support-{self.id}") | CLOCKS
        return self._stage.client.execution(CLERK.name, conversation_id=self.id, **named)

    async def ask(self, text: str) -> dict[str, Any]:
        """The customer writes."""
        said = {"role": "user", "author": self._customer, "content": text}
        answer: dict[str, Any] = (await self._desk.post(f"{self._path}/messages", also=(409,), **said)).json()
        return answer

    async def answer(self, work: handrail.Execution, text: str, *, epoch: int, confidence: float) -> None:
        """The agent answers, unless people have the turn by now: then the customer never sees it."""
        work.message(text, author=CLERK.name, epoch=epoch, confidence=round(confidence, 2))
        # Whatever comes next answers this.
        await self._stage.told()

    async def hand_over(self, matter: Matter, *, epoch: int) -> None:
        """The agent decides that a person has to go on."""
        await self._desk.post(
            f"{self._path}/handover",
            also=(409,),
            reason=matter.why_a_person,
            summary=matter.summary,
            skills=list(matter.skills),
            epoch=epoch,
        )

    async def finish(self, *, epoch: int) -> None:
        await self._desk.post(f"{self._path}/finish", also=(409,), epoch=epoch)

    async def hear(self, kind: str, data: Mapping[str, Any]) -> None:
        """What people did: the customer answers them, the agent takes back what is handed back."""
        if kind == "human_message" and self._answers < MOST_ANSWERS:
            self._answers += 1
            await self._read()
            await self.ask(self._rng.choice(cast.FOLLOW_UPS) if self._answers < MOST_ANSWERS else cast.THANKS)
        elif kind == "handed_back":
            told = f"I am back. {data['instruction'] or 'Everything is settled.'}"
            await self._go_on(data["instruction"] or "Go on after a person", told, epoch=data["epoch"])
        elif kind == "reopened":
            told = "You are welcome. I am here if you need me."
            await self._go_on("Answer what came after the end", told, epoch=data["epoch"])

    async def _go_on(self, task: str, told: str, *, epoch: int) -> None:
        """The agent does as it was told in the new epoch, and is done."""
        async with self.begin(task) as work:
            await self._read()
            call(self._rng, CLERK, work)
            use(self._rng, CLERK, work, self._rng.choice(CLERK.tools))
            await self.answer(work, told, epoch=epoch, confidence=0.92)
            await self.finish(epoch=epoch)
            work.complete({"result": "went on after a person"})

    async def _read(self) -> None:
        await asyncio.sleep(self._rng.uniform(*TYPES_S))


async def serve(stage: Stage, rng: Random, conversation_id: str, turn: Turn) -> None:
    """One customer from hello to goodbye, or to the queue."""
    matter, customer = rng.choice(cast.MATTERS), rng.choice(cast.CUSTOMERS)
    talk = Talk(stage, rng, conversation_id, customer=customer)
    await talk.open()
    epoch = (await talk.ask(matter.opening))["epoch"]
    try:
        async with talk.begin(f"Answer {customer}") as work:
            call(rng, CLERK, work)
            use(rng, CLERK, work, rng.choice(CLERK.tools))
            match turn:
                case Turn.PHRASE:
                    await talk.answer(work, matter.answer, epoch=epoch, confidence=0.84)
                    await talk.ask(cast.ASKS_FOR_A_PERSON)
                case Turn.UNSURE:
                    await talk.answer(work, matter.answer, epoch=epoch, confidence=rng.uniform(0.31, 0.6))
                case Turn.DECIDED:
                    await talk.answer(work, matter.answer, epoch=epoch, confidence=0.78)
                    await talk.hand_over(matter, epoch=epoch)
                case Turn.NONE:
                    await talk.answer(work, matter.answer, epoch=epoch, confidence=0.86)
                    await take_step(stage, rng, CLERK, work, number=1, of=2)
                    epoch = (await talk.ask(cast.THANKS))["epoch"]
                    await talk.answer(work, "Gladly. Have a good day.", epoch=epoch, confidence=0.95)
                    await talk.finish(epoch=epoch)
            work.complete({"result": "answered" if turn == Turn.NONE else "handed over to a person"})
    except handrail.Stopped:
        await talk.finish(epoch=epoch)
