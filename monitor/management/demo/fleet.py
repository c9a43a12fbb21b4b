"""The whole fleet: a fixed number of agents at work, customers who write, and one ear for what people decide."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from random import Random
from secrets import token_hex
from typing import Any

from monitor.management.demo.cast import ACTORS, WORKERS
from monitor.management.demo.line import Line, Refused
from monitor.management.demo.talk import Talk, Turn, serve
from monitor.management.demo.work import Fate, GivenUp, Work, live

log = logging.getLogger(__name__)

AT_WORK = 20
HANDOVERS_EVERY_S = (60.0, 110.0)
CHATS_EVERY_S = (20.0, 40.0)
HANGS_EVERY_S = (150.0, 240.0)
FIRST_HANG_S = 15.0
# A queue that nobody tends stays bounded: who has waited longest makes room.
MOST_CHATS_WAITING = 12
MOST_PAUSED = 5
AT_WORK_STATES = ("pending", "running", "retrying")
LISTENS_S = 25
LEAVING_S = 0.8
FATES = (Fate.WELL, Fate.STUMBLES, Fate.BREAKS)
FATE_WEIGHTS = (85, 9, 6)
TURNS = (Turn.PHRASE, Turn.DECIDED, Turn.UNSURE)


class Fleet:
    """Everything that is simulated; `seed` decides what happens, the server's answers decide when."""

    def __init__(self, line: Line, *, seed: int) -> None:
        self._line = line
        self._seed = seed
        self._crew: dict[str, Work] = {}
        self._talks: dict[str, Talk] = {}
        self._reactions: set[asyncio.Task[None]] = set()
        # Names of conversations and runs must be new each time; nothing that happens depends on it.
        self._session = token_hex(3)

    async def live(self) -> None:
        """Go on until cancelled, then leave nothing at work."""
        after = await self._begin()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(after))
                group.create_task(self._hand_over_now_and_then())
                group.create_task(self._chat_now_and_then())
                group.create_task(self._hang_now_and_then())
                for place in range(AT_WORK):
                    group.create_task(self._work_on(place))
        finally:
            await self._leave()

    async def _begin(self) -> int:
        """Clear away what a killed fleet left behind; returns the number of the last event so far."""
        page = await self._line.get("/executions", status=list(AT_WORK_STATES), limit=500)
        for left in page["results"]:
            await self._cancel(left["id"], "left behind by an earlier demo")
        after = 0
        while (events := await self._line.get("/agent-events", after=after, limit=500))["events"]:
            after = events["cursor"]
        return after

    async def _leave(self) -> None:
        """Cancel what is at work: it ends because the demo does, and nobody has to be called for it."""
        for reaction in self._reactions:
            reaction.cancel()
        left = [self._cancel(execution_id, "the demo was stopped") for execution_id in self._crew]
        self._line.hurry()
        try:
            async with asyncio.timeout(LEAVING_S):
                await asyncio.gather(*left, return_exceptions=True)
        except TimeoutError:
            log.info("not everything could be cancelled in time; the next demo will")

    async def _cancel(self, execution_id: str, note: str) -> None:
        await self._line.post(f"/executions/{execution_id}/cancel", also=(404, 409), note=note)

    async def _work_on(self, place: int) -> None:
        """One place at work: one execution after another, all of the place's own agent."""
        rng, turn = Random(f"{self._seed}/work/{place}"), 0
        actor = WORKERS[place % len(WORKERS)]
        while True:
            task, fate = rng.choice(actor.tasks), rng.choices(FATES, FATE_WEIGHTS)[0]
            run_id = f"{actor.workflow}-{self._session}-{place}-{turn}"
            await _quietly(live(Work(self._line, rng, actor, self._crew), fate, task=task, run_id=run_id))
            await asyncio.sleep(rng.uniform(1, 8))
            turn += 1

    async def _hang_now_and_then(self) -> None:
        """An agent that goes silent in both attempts: a zombie, a retry, and then a person is asked."""
        rng, turn = Random(f"{self._seed}/hang"), 0
        await asyncio.sleep(FIRST_HANG_S)
        while True:
            await _quietly(self._make_room_for_a_pause())
            actor = rng.choice(WORKERS)
            run_id = f"{actor.workflow}-{self._session}-hang-{turn}"
            work = Work(self._line, rng, actor, self._crew)
            await _quietly(live(work, Fate.HANGS, task=rng.choice(actor.tasks), run_id=run_id))
            await asyncio.sleep(rng.uniform(*HANGS_EVERY_S))
            turn += 1

    async def _hand_over_now_and_then(self) -> None:
        rng, turn = Random(f"{self._seed}/handover"), 0
        while True:
            await _quietly(self._make_room_for_a_chat())
            conversation_id = f"demo-{self._session}-call-{turn}"
            await _quietly(serve(self._line, rng, self._crew, conversation_id, TURNS[turn % len(TURNS)]))
            await asyncio.sleep(rng.uniform(*HANDOVERS_EVERY_S))
            turn += 1

    async def _chat_now_and_then(self) -> None:
        """Customers whom the agent can help by itself."""
        rng, turn = Random(f"{self._seed}/chat"), 0
        while True:
            await asyncio.sleep(rng.uniform(*CHATS_EVERY_S))
            await _quietly(serve(self._line, rng, self._crew, f"demo-{self._session}-chat-{turn}", Turn.NONE))
            turn += 1

    async def _make_room_for_a_chat(self) -> None:
        """The customer who has waited longest leaves when too many wait."""
        page = await self._line.get("/queue", kind="chat", status="pending", limit=100)
        for item in page["results"][: max(len(page["results"]) - MOST_CHATS_WAITING + 1, 0)]:
            await self._line.post(f"/queue/{item['id']}/resolve", also=(404, 409), outcome="customer_left")

    async def _make_room_for_a_pause(self) -> None:
        page = await self._line.get("/executions", status="hitl_paused", limit=100)
        for left in page["results"][MOST_PAUSED - 1 :]:
            await self._cancel(left["id"], "nobody decided")

    async def _listen(self, after: int) -> None:
        """Every event once, in order; each is reacted to beside the others."""
        while True:
            try:
                page = await self._line.get("/agent-events", after=after, wait=LISTENS_S)
            except Refused as refusal:
                log.warning("%s", refusal)
                await asyncio.sleep(LISTENS_S)
                continue
            after = page["cursor"]
            for event in page["events"]:
                self._react(event)

    def _react(self, event: Mapping[str, Any]) -> None:
        """A command goes to who works at it, all else to the conversation; both may be older than this fleet."""
        rng = Random(f"{self._seed}/event/{event['conversation_id']}/{event['execution_id']}")
        if event["kind"] == "command":
            work = self._crew.get(event["execution_id"])
            if work is not None:
                work.obey(event["data"])
            elif event["data"]["command"] in ("retry", "continue"):
                self._start(self._take_up(event["execution_id"], event["data"], rng))
        elif conversation_id := event["conversation_id"]:
            talk = self._talks.setdefault(conversation_id, Talk(self._line, rng, self._crew, conversation_id))
            self._start(talk.hear(event["kind"], event["data"]))
            if event["kind"] == "resolved":
                self._talks.pop(conversation_id)

    def _start(self, reaction: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_quietly(reaction))
        self._reactions.add(task)
        task.add_done_callback(self._reactions.discard)

    async def _take_up(self, execution_id: str, order: Mapping[str, Any], rng: Random) -> None:
        """Go on with what a person decided late: nobody of the crew waited for it any more."""
        found = await self._line.get(f"/executions/{execution_id}")
        actor = next((one for one in ACTORS if one.name == found["agent"]), WORKERS[0])
        work = Work(self._line, rng, actor, self._crew)
        work.adopt(execution_id, found["run_id"], attempt=order["attempt"])
        work.start_beating()
        try:
            await work.beat(message="goes on")
            await work.step(share=0.8)
            await work.complete(result="done after a person decided")
        except GivenUp:
            work.leave()
        finally:
            work.stop_beating()


async def _quietly(story: Coroutine[Any, Any, None]) -> None:
    """One story that goes wrong is logged and ends no other."""
    try:
        await story
    except Refused as refusal:
        log.warning("%s", refusal)
