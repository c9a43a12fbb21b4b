"""Who may come in: bounded queues before the threads, so that too much is told to come back and never piles up.

There are two rooms, each with threads of its own: for reports, which come in floods, and for everything else, which is
pages, heartbeats and ends. In a room, whoever waits is let in by turns of their keys, those first that hold the fewest
threads, and no key may fill more than half of the room. Everything here happens in the event loop.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from monitor.api.problems import API_PATHS, RETRY_AFTER_S, Problem, render, unavailable

Send = Callable[[Any], Any]
Tell = Callable[[str, str], None]

MIB = 1024 * 1024
INGEST_PREFIXES = ("/v1/", "/api/public/otel/")
INGEST_PATHS = frozenset({"/api/v1/batch", "/api/v1/calls"})
# Exporters wait for 10 s in all, and what they have waited for in vain is lost; 503 they send again.
TURN_WITHIN_S = 3.0
TRACES_WITHIN_S = 8.0
BODY_WITHIN_S = 60.0


class Shed(Exception):
    """A request that is not worked at; `reason` is a word for the metrics."""

    def __init__(self, reason: str, problem: Problem) -> None:
        super().__init__(problem.title)
        self.reason = reason
        self.problem = problem


def _busy(reason: str) -> Shed:
    return Shed(reason, unavailable("More is asked of this server than it can do at the moment; nothing was stored."))


def _greedy() -> Shed:
    detail = "This key has half of what may wait here; nothing was stored. Let what it sent before be answered first."
    return Shed("greedy", Problem(429, "Too many requests", detail, headers={"Retry-After": str(RETRY_AFTER_S)}))


def late() -> Shed:
    """For a request that is still worked at when its sender would give up."""
    return Shed("late", unavailable("The answer takes too long; send it again, nothing is counted twice."))


def slow() -> Shed:
    """For a body that does not come to its end."""
    return Shed("slow", Problem(408, "Request timeout", f"The body took longer than {BODY_WITHIN_S:.0f} s."))


class Visit:
    """One request: the bytes that it holds and its turn. Whoever began it has to leave, once the thread is done."""

    __slots__ = ("_answer_within_s", "_came_s", "_held", "_key", "_room", "_turn")

    def __init__(self, room: "Room", key: int, answer_within_s: float | None) -> None:
        self._answer_within_s = answer_within_s
        self._came_s = 0.0
        self._room = room
        self._key = key
        self._held = 0
        self._turn: asyncio.Future[None] | bool = False

    def hold(self, size: int) -> None:
        """Count so many more bytes of the body. Raises Shed."""
        self._room.hold(self._key, size)
        self._held += size

    async def turn(self) -> None:
        """The body is there: return when a thread is free for it. Raises Shed."""
        room = self._room
        self._came_s = monotonic()
        if room.take(self._key):
            self._turn = True
            return
        self._turn = asyncio.get_running_loop().create_future()
        try:
            room.queue(self._key, self._turn)
        except Shed:
            self._turn = False
            raise
        await asyncio.wait({self._turn}, timeout=TURN_WITHIN_S)
        if not self._turn.done():
            room.give_up(self._key, self._turn)
            self._turn = False
            raise _busy("waited")

    def left_s(self) -> float | None:
        """How long the sender still waits for an answer; None where nobody counts."""
        if self._answer_within_s is None:
            return None
        return max(0.0, self._came_s + self._answer_within_s - monotonic())

    def leave(self, *_: object) -> None:
        """Let go of the thread and the bytes."""
        room, turn = self._room, self._turn
        if self._held:
            room.hold(self._key, -self._held)
            self._held = 0
        if turn is not False:
            self._turn = False
            if turn is True or turn.done():
                room.give_back(self._key)
            else:
                room.give_up(self._key, turn)


class Room:
    """So many threads at most, so many requests that wait for one, and so many bytes of bodies."""

    def __init__(self, *, threads: int, most_waiting: int, most_bytes: int) -> None:
        self._free = threads
        self._most_waiting = most_waiting
        self._most_bytes = most_bytes
        self._waiting = 0
        self._bytes = 0
        self._bytes_of: Counter[int] = Counter()
        self._working: Counter[int] = Counter()
        # In the order of their turns; a key without anybody who waits is not here.
        self._queues: dict[int, deque[asyncio.Future[None]]] = {}

    def hold(self, key: int, size: int) -> None:
        """Add to the bytes of a key, or take away. Raises Shed."""
        if size > 0:
            if self._bytes + size > self._most_bytes:
                raise _busy("bytes")
            if self._bytes_of[key] + size > self._most_bytes // 2:
                raise _greedy()
        self._bytes += size
        self._add(self._bytes_of, key, size)

    def take(self, key: int) -> bool:
        """A thread, if one is free."""
        if not self._free:
            return False
        self._free -= 1
        self._working[key] += 1
        return True

    def queue(self, key: int, turn: "asyncio.Future[None]") -> None:
        """Wait until `turn` is done. Raises Shed."""
        if self._waiting >= self._most_waiting:
            raise _busy("full")
        own = self._queues.get(key)
        if own is not None and len(own) >= max(1, self._most_waiting // 2):
            raise _greedy()
        self._queues.setdefault(key, deque()).append(turn)
        self._waiting += 1

    def give_up(self, key: int, turn: "asyncio.Future[None]") -> None:
        """Wait no longer."""
        own = self._queues[key]
        own.remove(turn)
        self._waiting -= 1
        if not own:
            del self._queues[key]

    def give_back(self, key: int) -> None:
        """A thread is done: it goes to the key that holds the fewest, of several to the one that waits longest."""
        self._add(self._working, key, -1)
        if not self._queues:
            self._free += 1
            return
        next_key = min(self._queues, key=lambda one: self._working[one])
        own = self._queues.pop(next_key)
        turn = own.popleft()
        self._waiting -= 1
        if own:
            self._queues[next_key] = own
        self._working[next_key] += 1
        turn.set_result(None)

    @staticmethod
    def _add(counter: Counter[int], key: int, number: int) -> None:
        counter[key] += number
        if not counter[key]:
            del counter[key]


class Admission:
    """The rooms of one process."""

    def __init__(self, *, threads: int, ingest_threads: int, most_waiting: int, most_bytes: int, tell: Tell) -> None:
        self._tell = tell
        ingest_threads = max(1, min(ingest_threads, threads - 1))
        self._ingest = Room(threads=ingest_threads, most_waiting=most_waiting, most_bytes=most_bytes)
        self._other = Room(threads=max(1, threads - ingest_threads), most_waiting=most_waiting, most_bytes=most_bytes)

    def visit(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Visit:
        """Begin a request of a path; it is whose `Authorization`, or cookies, it brings."""
        is_ingest = path.startswith(INGEST_PREFIXES) or path in INGEST_PATHS
        bearer = next((value for name, value in headers if name in (b"authorization", b"cookie")), None)
        key = hash(bearer if bearer is not None else path)
        within_s = TRACES_WITHIN_S if is_ingest and path.startswith(INGEST_PREFIXES) else None
        return Visit(self._ingest if is_ingest else self._other, key, within_s)

    async def refuse(self, shed: Shed, path: str, send: Send) -> None:
        """Answer a request that was shed, and count it."""
        is_ingest = path.startswith(INGEST_PREFIXES) or path in INGEST_PATHS
        self._tell("ingest" if is_ingest else "other", shed.reason)
        answer = render(shed.problem)
        headers, body = dict(answer.items()), answer.content
        if not path.startswith(API_PATHS):
            headers["Content-Type"], body = "text/plain; charset=utf-8", b"Too busy. Try again in a moment.\n"
        encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        encoded += [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": shed.problem.status, "headers": encoded})
        await send({"type": "http.response.body", "body": body})
