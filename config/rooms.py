"""Rooms before the threads: turns of keys, requests that wait, and the bytes of their bodies, all of them bounded."""

import asyncio
from collections import Counter, deque
from math import inf
from time import monotonic

from config.shedding import Shed, busy, greedy

# Whether it was seen accepted, and a number for the key, the session or the open path that it is.
Key = tuple[bool, int]

# Exporters wait for 10 s in all, and what they have waited for in vain is lost; 503 they send again.
TURN_WITHIN_S = 3.0
# So long the last free thread is kept for others after they came. A key that is alone has all threads.
OTHERS_FOR_S = 120.0


class Visit:
    """One request: the bytes that it holds and its turn. Whoever began it has to leave, once the thread is done."""

    __slots__ = ("_answer_within_s", "_came_s", "_is_displaced", "_key", "_patience", "_room", "_turn", "held")

    def __init__(self, room: "Room", key: Key, answer_within_s: float | None) -> None:
        self._answer_within_s = answer_within_s
        self._came_s = 0.0
        self._room = room
        self._key = key
        self._is_displaced = False
        self._patience: asyncio.Timeout | None = None
        self._turn: asyncio.Future[None] | bool = False
        self.held = 0

    def is_a_strangers(self, size: int) -> bool:
        """Whether so many bytes are more than may be held for somebody whom this process does not know."""
        return not self._key[0] and size > self._room.stranger_bytes

    def become(self, key: Key) -> None:
        """It is known whose it is, and what it holds counts as theirs. Raises Shed."""
        if self._is_displaced:
            raise busy("unknown")
        held = self.held
        self._room.done_reading(self)
        self._room.hold(self._key, -held, self)
        self.held, self._key = 0, key
        self.hold(held)

    def reads(self, patience: asyncio.Timeout) -> None:
        """The body begins to come; a stranger's reading may be ended for another's by way of `patience`."""
        self._patience = patience
        self._room.reading(self._key, self)

    def has_read(self) -> None:
        """The body is there, or given up. Raises Shed when it made room for another's."""
        self._room.done_reading(self)
        self._patience = None
        if self._is_displaced:
            raise busy("unknown")

    def displace(self) -> None:
        """Let go of the bytes of a body that is still coming, and end its reading."""
        self._room.hold(self._key, -self.held, self)
        self.held = 0
        self._is_displaced = True
        self._room.done_reading(self)
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(0)

    def hold(self, size: int) -> None:
        """Count so many more bytes of the body. Raises Shed."""
        if self._is_displaced:
            raise busy("unknown")
        self._room.hold(self._key, size, self)
        self.held += size

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
            raise busy("waited")
        if self._turn.cancelled():
            self._turn = False
            raise busy("full")

    def left_s(self) -> float | None:
        """How long the sender still waits for an answer; None where nobody counts."""
        if self._answer_within_s is None:
            return None
        return max(0.0, self._came_s + self._answer_within_s - monotonic())

    def leave(self, *_: object) -> None:
        """Let go of the thread and the bytes."""
        room, turn = self._room, self._turn
        room.done_reading(self)
        if self.held:
            room.hold(self._key, -self.held, self)
            self.held = 0
        if turn is not False:
            self._turn = False
            if turn is True or (turn.done() and not turn.cancelled()):
                room.give_back(self._key)
            elif not turn.done():
                room.give_up(self._key, turn)


class Room:
    """So many threads at most, so many requests that wait for one, and so many bytes of bodies.

    Strangers' bytes and those of them who wait are counted apart from the others'.
    """

    def __init__(
        self, *, threads: int, most_waiting: int, most_bytes: int, strangers_bytes: int, stranger_bytes: int
    ) -> None:
        # Of one stranger's body; of all of them together.
        self.stranger_bytes = stranger_bytes
        self._free = threads
        self._most_waiting = most_waiting
        self._most_bytes = most_bytes
        self._strangers_bytes = strangers_bytes
        self._waiting = 0
        self._bytes: Counter[bool] = Counter()
        self._bytes_of: Counter[Key] = Counter()
        self._working: Counter[Key] = Counter()
        # Who came last, and of all others whoever did, with the moments.
        self._last: tuple[Key | None, float] = (None, -inf)
        self._last_other: tuple[Key | None, float] = self._last
        # Strangers whose bodies are coming, the oldest first.
        self._reading: dict[Visit, None] = {}
        # In the order of their turns; a key without anybody who waits is not here.
        self._queues: dict[Key, deque[asyncio.Future[None]]] = {}

    def reading(self, key: Key, visit: Visit) -> None:
        """A body begins to come."""
        if not key[0]:
            self._reading[visit] = None

    def done_reading(self, visit: Visit) -> None:
        """It comes no more."""
        self._reading.pop(visit, None)

    def hold(self, key: Key, size: int, visit: Visit) -> None:
        """Add to the bytes of a key, or take away. Raises Shed."""
        is_known = key[0]
        if size > 0 and not is_known:
            self._make_room(size, visit)
        elif size > 0:
            if self._bytes[True] + size > self._most_bytes:
                raise busy("bytes")
            if self._bytes_of[key] + size > self._most_bytes // 2:
                raise greedy()
        self._bytes[is_known] += size
        self._add(self._bytes_of, key, size)

    def _make_room(self, size: int, visit: Visit) -> None:
        """Among strangers the body that came first makes room for the next: who sends slowly keeps nobody out."""
        while self._bytes[False] + size > self._strangers_bytes:
            oldest = next((one for one in self._reading if one.held), None)
            if oldest is None or oldest is visit:
                raise busy("unknown")
            oldest.displace()

    def take(self, key: Key) -> bool:
        """A thread, if one is free for this key."""
        # A stranger may be the only key there is, before it is known.
        if key[0]:
            self._came(key)
        if not self._has_for(key):
            return False
        self._free -= 1
        self._working[key] += 1
        return True

    def _came(self, key: Key) -> None:
        if self._last[0] != key:
            self._last_other = self._last
        self._last = key, monotonic()

    def _has_for(self, key: Key) -> bool:
        """Whether a thread is free for a key."""
        if self._free != 1 or not self._working[key]:
            return self._free > 0
        _, others_s = self._last_other if self._last[0] == key else self._last
        return monotonic() - others_s > OTHERS_FOR_S

    def queue(self, key: Key, turn: "asyncio.Future[None]") -> None:
        """Wait until `turn` is done; it is cancelled when it makes room for another key's. Raises Shed."""
        self._came(key)
        is_known = key[0]
        own = len(self._queues.get(key, ()))
        if is_known and self._waiting >= self._most_waiting:
            self._displace(own)
        if own >= max(1, self._most_waiting // 2):
            raise greedy() if is_known else busy("unknown")
        self._queues.setdefault(key, deque()).append(turn)
        self._waiting += is_known

    def _displace(self, own: int) -> None:
        """For a key that has `own` waiting: of the key that has the most the newest makes room. Raises Shed."""
        longest = max((key for key in self._queues if key[0]), key=lambda one: len(self._queues[one]))
        if len(self._queues[longest]) <= own + 1:
            raise busy("full")
        newest = self._queues[longest][-1]
        self.give_up(longest, newest)
        newest.cancel()

    def give_up(self, key: Key, turn: "asyncio.Future[None]") -> None:
        """Wait no longer."""
        own = self._queues[key]
        own.remove(turn)
        self._waiting -= key[0]
        if not own:
            del self._queues[key]

    def give_back(self, key: Key) -> None:
        """A thread is done: it goes to the key that holds the fewest, of several to the one that waits longest."""
        self._add(self._working, key, -1)
        self._free += 1
        while self._queues:
            next_key = min(self._queues, key=lambda one: self._working[one])
            if not self._has_for(next_key):
                return
            own = self._queues.pop(next_key)
            turn = own.popleft()
            self._waiting -= next_key[0]
            if own:
                self._queues[next_key] = own
            self._free -= 1
            self._working[next_key] += 1
            turn.set_result(None)

    @staticmethod
    def _add(counter: Counter[Key], key: Key, number: int) -> None:
        counter[key] += number
        if not counter[key]:
            del counter[key]
