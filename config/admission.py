"""Who may come in: bounded queues before the threads, so that too much is told to come back and never piles up.

There are two rooms, each with threads of its own: for reports, which come in floods, and for everything else, which is
pages, heartbeats and ends. In a room, whoever waits is let in by turns of their keys, those first that hold the fewest
threads, and no key may fill more than half of the room. While several keys come, the last free thread goes to none that
has one already, so that calls which take long keep nobody else out.

Anybody can make up keys. So a key, or a session, counts for itself only after this process has seen it accepted; all
others are strangers, who share one turn and a few bytes of their own, and take nothing from the room. Of a stranger's
body no more than a little is held before it is asked whose it is.

Streams and long-polls are in no room, for they hold no thread; they are only counted, all of them and each key's, and
with them the looks into the database that may be wanted at once. Everything here happens in the event loop.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from math import inf
from time import monotonic
from typing import Any

from monitor.api.caller import shown
from monitor.api.problems import API_PATHS, RETRY_AFTER_S, Problem, Unauthenticated, render, unavailable

Send = Callable[[Any], Any]
Tell = Callable[[str, str], None]
# Whether it was seen accepted, and a number for the key, the session or the open path that it is.
Key = tuple[bool, int]

OTLP_PREFIXES = ("/v1/", "/api/public/otel/")
INGEST_PATHS = frozenset({"/api/v1/batch", "/api/v1/calls"})
# Exporters wait for 10 s in all, and what they have waited for in vain is lost; 503 they send again.
TURN_WITHIN_S = 3.0
TRACES_WITHIN_S = 8.0
BODY_WITHIN_S = 60.0
STRANGERS: Key = (False, 0)
# The lobby's name in the metrics.
LISTENING = "listening"
# What is asked for without a key by those who look after the server, and by people who are about to sign in.
OPEN_PATHS = frozenset({"/ready", "/health/watch", "/metrics", "/sign-in"})
# So long the last free thread is kept for others after they came. A key that is alone has all threads.
OTHERS_FOR_S = 120.0
# So long a key counts as known after it was accepted, and so many at most: a hundred bytes each.
KNOWN_FOR_S = 3600.0
MOST_KNOWN = 10_000


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


def nobody(detail: str) -> Shed:
    """For a body too large to be held for somebody who has neither a valid key nor a session."""
    return Shed("nobody", Unauthenticated(detail))


def _ending() -> Shed:
    return Shed("ending", unavailable("This server is told to stop before the answer is there; it may be stored."))


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
            raise _busy("unknown")
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
            raise _busy("unknown")

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
            raise _busy("unknown")
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
            raise _busy("waited")

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
            if turn is True or turn.done():
                room.give_back(self._key)
            else:
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
                raise _busy("bytes")
            if self._bytes_of[key] + size > self._most_bytes // 2:
                raise _greedy()
        self._bytes[is_known] += size
        self._add(self._bytes_of, key, size)

    def _make_room(self, size: int, visit: Visit) -> None:
        """Among strangers the body that came first makes room for the next: who sends slowly keeps nobody out."""
        while self._bytes[False] + size > self._strangers_bytes:
            oldest = next((one for one in self._reading if one.held), None)
            if oldest is None or oldest is visit:
                raise _busy("unknown")
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
        """Wait until `turn` is done. Raises Shed."""
        self._came(key)
        is_known = key[0]
        if is_known and self._waiting >= self._most_waiting:
            raise _busy("full")
        own = self._queues.get(key)
        if own is not None and len(own) >= max(1, self._most_waiting // 2):
            raise _greedy() if is_known else _busy("unknown")
        self._queues.setdefault(key, deque()).append(turn)
        self._waiting += is_known

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


class Listener:
    """One stream or long-poll, which holds no thread. Whoever began it has to leave."""

    __slots__ = ("_is_inside", "_key", "_lobby")

    def __init__(self, lobby: "Lobby", key: Key) -> None:
        """Raises Shed."""
        lobby.enter(key)
        self._lobby = lobby
        self._key = key
        self._is_inside = True

    def become(self, key: Key) -> None:
        """It is known whose it is. Raises Shed."""
        if key != self._key:
            self._lobby.enter(key)
            self._lobby.leave(self._key)
            self._key = key

    def leave(self) -> None:
        if self._is_inside:
            self._is_inside = False
            self._lobby.leave(self._key)


class Lobby:
    """So many streams and long-polls at most, and for strangers an eighth of as many, apart from the others."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known = 0
        self._inside: Counter[Key] = Counter()

    def enter(self, key: Key) -> None:
        """Raises Shed."""
        is_known = key[0]
        if not is_known and self._inside[key] >= max(1, self._most // 8):
            raise _busy("unknown")
        if is_known and self._known >= self._most:
            raise _busy("full")
        if is_known and self._inside[key] >= max(1, self._most // 2):
            raise _greedy()
        self._known += is_known
        self._inside[key] += 1

    def leave(self, key: Key) -> None:
        self._known -= key[0]
        self._inside[key] -= 1
        if not self._inside[key]:
            del self._inside[key]


class Admission:
    """The rooms of one process, and the lobby for those who wait for news."""

    def __init__(
        self,
        *,
        threads: int,
        ingest_threads: int,
        most_waiting: int,
        most_bytes: int,
        strangers_bytes: int,
        stranger_bytes: int,
        most_listening: int,
        tell: Tell,
    ) -> None:
        self._tell = tell
        self._lobby = Lobby(most_listening)
        ingest_threads = max(1, min(ingest_threads, threads - 1))
        self._ingest, self._other = (
            Room(
                threads=count,
                most_waiting=most_waiting,
                most_bytes=most_bytes,
                strangers_bytes=strangers_bytes,
                stranger_bytes=stranger_bytes,
            )
            for count in (ingest_threads, max(1, threads - ingest_threads))
        )
        # When each was accepted last, the oldest first.
        self._known: OrderedDict[int, float] = OrderedDict()

    def accepted(self, known_by: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """A door has let a request in by its key or by its session: these are no stranger's from now on."""
        number = self._shown(path, headers).get(known_by)
        if number is None:
            return
        self._known[number] = monotonic()
        self._known.move_to_end(number)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def shows_nothing(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request has nothing by which it could be somebody's."""
        return not shown(path, headers)

    def listener(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Listener:
        """Begin a stream or a long-poll. Raises Shed."""
        known, number = self._key(path, headers)
        return Listener(self._lobby, (True, number) if known else STRANGERS)

    def let_in(self, listener: Listener, known_by: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """A door has let a listener in by its key or by its session. Raises Problem when that has too many."""
        self.accepted(known_by, path, headers)
        try:
            listener.become((True, self._shown(path, headers)[known_by]))
        except Shed as shed:
            self._tell(LISTENING, shed.reason)
            raise shed.problem from None

    def recognise(self, visit: Visit, path: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Let a visit that came as a stranger's be whose it is, if that is known by now. Raises Shed."""
        key = self._key(path, headers)
        if key[0]:
            visit.become(key)
        return key[0]

    @staticmethod
    def _shown(path: str, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, int]:
        """What a request shows of who it is, as numbers that nobody outside can foretell."""
        return {known_by: hash((known_by, text)) for known_by, text in shown(path, headers).items()}

    def _key(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        since = monotonic() - KNOWN_FOR_S
        for number in self._shown(path, headers).values():
            if self._known.get(number, since) > since:
                return True, number
        return (False, hash(path)) if path in OPEN_PATHS else STRANGERS

    def visit(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Visit:
        """Begin a request of a path; it is whose key, or session, it brings."""
        is_ingest = path.startswith(OTLP_PREFIXES) or path in INGEST_PATHS
        key = self._key(path, headers)
        within_s = TRACES_WITHIN_S if is_ingest and path.startswith(OTLP_PREFIXES) else None
        return Visit(self._ingest if is_ingest else self._other, key, within_s)

    async def end(self, path: str, send: Send) -> None:
        """Answer a request for whose thread a process that stops waits no longer."""
        await self.refuse(_ending(), path, send)

    async def refuse(self, shed: Shed, path: str, send: Send, room: str = "") -> None:
        """Answer a request that was shed, and count it, by default for the room of its path."""
        is_ingest = path.startswith(OTLP_PREFIXES) or path in INGEST_PATHS
        self._tell(room or ("ingest" if is_ingest else "other"), shed.reason)
        answer = render(shed.problem)
        headers, body = dict(answer.items()), answer.content
        if not path.startswith(API_PATHS):
            is_nobodys = isinstance(shed.problem, Unauthenticated)
            words = "Sign in first.\n" if is_nobodys else "Too busy. Try again in a moment.\n"
            headers["Content-Type"], body = "text/plain; charset=utf-8", words.encode()
        encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        encoded += [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": shed.problem.status, "headers": encoded})
        await send({"type": "http.response.body", "body": body})
