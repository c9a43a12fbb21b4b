"""The whole fleet: a fixed number of agents at work, customers who write, and one ear for what people decide."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from random import Random
from secrets import token_hex
from typing import Any

import handrail

from monitor.management.demo import cast
from monitor.management.demo.cast import WORKERS, Actor
from monitor.management.demo.line import Refused
from monitor.management.demo.stage import Stage
from monitor.management.demo.talk import Talk, Turn, serve
from monitor.management.demo.trouble import fall_silent, get_stuck
from monitor.management.demo.work import Fate, Mishap, live

log = logging.getLogger(__name__)

AT_WORK = 20
# Seconds until the first, and between one and the next.
HANDOVERS_EVERY_S = (0.0, 60.0, 110.0)
CHATS_EVERY_S = (20.0, 20.0, 40.0)
SILENCES_EVERY_S = (15.0, 150.0, 240.0)
STUCK_EVERY_S = (25.0, 150.0, 240.0)
CIRCLES_EVERY_S = (10.0, 150.0, 240.0)
SUPERVISION_EVERY_S = (20.0, 30.0, 60.0)
PAUSED_FOR_S = (12.0, 20.0)
# A queue that nobody tends stays bounded: who has waited longest makes room.
MOST_CHATS_WAITING = 12
MOST_PAUSED = 5
AT_WORK_STATES = ("pending", "running", "retrying", "paused")
MOST_AT_ONCE = 200
LISTENS_S = 25
LEAVING_S = 0.8
FATES = (Fate.WELL, Fate.STUMBLES, Fate.BREAKS)
FATE_WEIGHTS = (85, 9, 6)
TURNS = (Turn.PHRASE, Turn.DECIDED, Turn.UNSURE)

# A story by its number and what decides how it goes.
Story = Callable[[int, Random], Awaitable[None]]


class Fleet:
    """Everything that is simulated; `seed` decides what happens, the server's answers decide when."""

    def __init__(self, stage: Stage, *, seed: int) -> None:
        self._stage = stage
        self._office = stage.office
        self._seed = seed
        self._talks: dict[str, Talk] = {}
        self._besides: set[asyncio.Task[None]] = set()
        # The runs that go on as usual, by their ids: those that supervision looks at.
        self._usual: set[str] = set()
        # Names of conversations and runs must be new each time; nothing that happens depends on it.
        self._session = token_hex(3)

    async def live(self) -> None:
        """Go on until cancelled, then leave nothing at work."""
        after = await self._begin()
        playing = asyncio.create_task(self._play(after))
        try:
            await asyncio.shield(playing)
        finally:
            # First at the server: an agent that is interrupted would say that it failed.
            await self._leave()
            for one in (playing, *self._besides):
                one.cancel()
            await asyncio.gather(playing, *self._besides, return_exceptions=True)

    async def _play(self, after: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(after))
            group.create_task(self._now_and_then("handover", HANDOVERS_EVERY_S, self._hand_over))
            group.create_task(self._now_and_then("chat", CHATS_EVERY_S, self._chat))
            group.create_task(self._now_and_then("silence", SILENCES_EVERY_S, self._fall_silent))
            group.create_task(self._now_and_then("stuck", STUCK_EVERY_S, self._get_stuck))
            group.create_task(self._now_and_then("circles", CIRCLES_EVERY_S, self._go_in_circles))
            group.create_task(self._now_and_then("supervision", SUPERVISION_EVERY_S, self._supervise))
            for place in range(AT_WORK):
                group.create_task(self._work_on(place))

    async def _begin(self) -> int:
        """Clear away what an earlier fleet left behind; returns the number of the last event so far."""
        await self._cancel_all((*AT_WORK_STATES, "hitl_paused"), "left behind by an earlier demo")
        after = 0
        while (events := await self._office.get("/agent-events", after=after, limit=500))["events"]:
            after = events["cursor"]
        return after

    async def _leave(self) -> None:
        """Cancel what is at work: it ends because the demo does, and nobody has to be called for it."""
        self._office.hurry()
        try:
            async with asyncio.timeout(LEAVING_S):
                await self._cancel_all(AT_WORK_STATES, "the demo was stopped")
        except (TimeoutError, Refused):
            log.info("not everything could be cancelled in time; the next demo will")

    async def _cancel_all(self, states: tuple[str, ...], note: str) -> None:
        page = await self._office.get("/executions", status=list(states), limit=500)
        ids = [one["id"] for one in page["results"]]
        for first in range(0, len(ids), MOST_AT_ONCE):
            named = ids[first : first + MOST_AT_ONCE]
            await self._office.post("/executions/commands", command="cancel", ids=named, note=note)

    async def _work_on(self, place: int) -> None:
        """One place at work: one execution after another, all of the place's own agent."""
        rng, turn = Random(f"{self._seed}/work/{place}"), 0
        actor = WORKERS[place % len(WORKERS)]
        while True:
            task, fate = rng.choice(actor.tasks), rng.choices(FATES, FATE_WEIGHTS)[0]
            run_id = f"{actor.workflow}-{self._session}-{place}-{turn}"
            self._usual.add(run_id)
            await _quietly(live(self._stage, rng, actor, fate, task=task, run_id=run_id))
            self._usual.discard(run_id)
            await asyncio.sleep(rng.uniform(1, 8))
            turn += 1

    async def _now_and_then(self, name: str, every_s: tuple[float, float, float], story: Story) -> None:
        rng, turn = Random(f"{self._seed}/{name}"), 0
        first_s, least_s, most_s = every_s
        await asyncio.sleep(first_s)
        while True:
            await _quietly(story(turn, Random(f"{self._seed}/{name}/{turn}")))
            await asyncio.sleep(rng.uniform(least_s, most_s))
            turn += 1

    async def _hand_over(self, turn: int, rng: Random) -> None:
        await self._make_room_for_a_chat()
        await serve(self._stage, rng, f"demo-{self._session}-call-{turn}", TURNS[turn % len(TURNS)])

    async def _chat(self, turn: int, rng: Random) -> None:
        """A customer whom the agent can help by itself."""
        await serve(self._stage, rng, f"demo-{self._session}-chat-{turn}", Turn.NONE)

    async def _fall_silent(self, turn: int, rng: Random) -> None:
        await self._make_room_for_a_pause()
        # It waits for a person in the end, who may take their time.
        self._beside(fall_silent(self._stage, rng, **self._somebody("silent", turn, rng)))

    async def _get_stuck(self, turn: int, rng: Random) -> None:
        await get_stuck(self._stage, rng, **self._somebody("stuck", turn, rng))

    async def _go_in_circles(self, turn: int, rng: Random) -> None:
        named = self._somebody("circles", turn, rng)
        await live(self._stage, rng, named.pop("actor"), Fate.CIRCLES, **named)

    def _somebody(self, what: str, turn: int, rng: Random) -> dict[str, Any]:
        actor: Actor = rng.choice(WORKERS)
        run_id = f"{actor.workflow}-{self._session}-{what}-{turn}"
        return {"actor": actor, "task": rng.choice(actor.tasks), "run_id": run_id}

    async def _supervise(self, turn: int, rng: Random) -> None:
        """Somebody pauses an agent for a while, and cancels every third."""
        page = await self._office.get("/executions", status="running", limit=100)
        if not (usual := [one["id"] for one in page["results"] if one["run_id"] in self._usual]):
            return
        path = f"/executions/{rng.choice(usual)}"
        if turn % 3 == 2:
            await self._command(path, "cancel", rng.choice(cast.CANCELS))
            return
        why, answer = rng.choice(cast.PAUSES)
        await self._command(path, "pause", why)
        await asyncio.sleep(rng.uniform(*PAUSED_FOR_S))
        await self._command(path, "resume", answer)

    async def _command(self, path: str, command: str, note: str) -> None:
        # It may have ended meanwhile, or a visitor was quicker.
        await self._office.post(f"{path}/{command}", also=(404, 409), note=note)

    async def _make_room_for_a_chat(self) -> None:
        """The customer who has waited longest leaves when too many wait."""
        page = await self._office.get("/queue", kind="chat", status="pending", limit=100)
        for item in page["results"][: max(len(page["results"]) - MOST_CHATS_WAITING + 1, 0)]:
            await self._office.post(f"/queue/{item['id']}/resolve", also=(404, 409), outcome="customer_left")

    async def _make_room_for_a_pause(self) -> None:
        page = await self._office.get("/executions", status="hitl_paused", limit=100)
        for left in page["results"][MOST_PAUSED - 1 :]:
            await self._command(f"/executions/{left['id']}", "cancel", "nobody decided")

    async def _listen(self, after: int) -> None:
        """Every event once, in order; each is reacted to beside the others."""
        while True:
            try:
                page = await self._office.get("/agent-events", after=after, wait=LISTENS_S)
            except Refused as refusal:
                log.warning("%s", refusal)
                await asyncio.sleep(LISTENS_S)
                continue
            after = page["cursor"]
            for event in page["events"]:
                self._react(event)

    def _react(self, event: Mapping[str, Any]) -> None:
        """What concerns a conversation goes to it, also an older one; commands reach agents by the client."""
        conversation_id = event["conversation_id"]
        if event["kind"] == "command" or not conversation_id:
            return
        rng = Random(f"{self._seed}/event/{conversation_id}/{event['execution_id']}")
        talk = self._talks.setdefault(conversation_id, Talk(self._stage, rng, conversation_id))
        self._beside(talk.hear(event["kind"], event["data"]))
        if event["kind"] == "resolved":
            self._talks.pop(conversation_id)

    def _beside(self, story: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_quietly(story))
        self._besides.add(task)
        task.add_done_callback(self._besides.discard)


async def _quietly(story: Awaitable[None]) -> None:
    """One story that goes wrong is logged and ends no other; what people stop just ends."""
    try:
        await story
    except (Refused, Mishap) as error:
        log.warning("%s", error)
    except handrail.Stopped as stopped:
        log.info("%s", stopped)
