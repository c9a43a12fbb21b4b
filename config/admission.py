"""Who may come in: bounded queues before the threads, so that too much is told to come back and never piles up.

There are two rooms, each with threads of its own: for reports, which come in floods, and for everything else, which is
pages, heartbeats and ends. In a room, whoever waits is let in by turns of their keys, those first that hold the fewest
threads, and no key may fill more than half of the room; in a full one the key that has the most makes room for others.
While several keys come, the last free thread goes to none that has one already, so that calls which take long keep
nobody else out.

Anybody can make up keys. So a key, or a session, counts for itself only after this process has seen it accepted; all
others are strangers, who share one turn and a few bytes of their own, and take nothing from the room. Of a stranger's
body no more than a little is held before it is asked whose it is.

Streams and long-polls are in no room, for they hold no thread; they are only counted, all of them and each key's, and
with them the looks into the database that may be wanted at once. Everything here happens in the event loop.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from config.lobby import Listener, Lobby
from config.rooms import Key, Room, Visit
from config.shedding import Shed
from monitor.api.caller import shown
from monitor.api.problems import API_PATHS, Unauthenticated, render

Send = Callable[[Any], Any]
Tell = Callable[[str, str], None]

OTLP_PREFIXES = ("/v1/", "/api/public/otel/")
INGEST_PATHS = frozenset({"/api/v1/batch", "/api/v1/calls"})
TRACES_WITHIN_S = 8.0
STRANGERS: Key = (False, 0)
# The lobby's name in the metrics.
LISTENING = "listening"
# What is asked for without a key by those who look after the server, and by people who are about to sign in.
OPEN_PATHS = frozenset({"/ready", "/health/watch", "/metrics", "/sign-in"})
# So long a key counts as known after it was accepted, and so many at most: a hundred bytes each.
KNOWN_FOR_S = 3600.0
MOST_KNOWN = 10_000


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
