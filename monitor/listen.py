"""Hearing live news: one Redis subscription a process, fanned out to whoever waits in an event loop.

News is a hint. Whoever hears nothing looks by itself; how long it may sleep until then stands in `patience_s`.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from django.conf import settings

from monitor import news

log = logging.getLogger(__name__)

# A hint may be lost on the way; without Redis there are none.
PATIENCE_S = 5.0
PATIENCE_ALONE_S = 1.0
RECONNECT_S = 1.0
MOST_UNHEARD = 100
# What was heard stays for whoever comes a moment later: a page is drawn first and listens then.
REMEMBERED_S = 15.0
MOST_REMEMBERED = 2000


class Ear:
    """What one waiter hears of one project: messages, each once, until it asks again."""

    def __init__(self, ears: "Ears", project_id: int) -> None:
        self._ears = ears
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._lock = threading.Lock()
        self._unheard: dict[bytes, None] = {}
        self._overflowed = False
        self.project_id = project_id

    @property
    def hears(self) -> bool:
        """Whether news can be heard at all: false without Redis."""
        return self._ears.connected

    @property
    def patience_s(self) -> float:
        """How long to sleep before looking without having heard anything."""
        return PATIENCE_S if self._ears.connected else PATIENCE_ALONE_S

    @property
    def closing(self) -> bool:
        """Whether the process is about to end."""
        return self._ears.closing

    async def wait(self, timeout_s: float) -> bool:
        """Whether there was news, or another reason to look, within the time."""
        if self.closing:
            return True
        try:
            async with asyncio.timeout(max(timeout_s, 0)):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> list[bytes] | None:
        """The messages since the last call; None when there were too many, or some may be missing."""
        with self._lock:
            unheard, overflowed = list(self._unheard), self._overflowed
            self._unheard.clear()
            self._overflowed = False
            self._woken.clear()
        return None if overflowed else unheard

    def tell(self, message: bytes | None) -> None:
        """From any thread: a message, or None for "look for yourself"."""
        with self._lock:
            sleeping = not self._unheard and not self._overflowed
            if message is None or len(self._unheard) >= MOST_UNHEARD:
                self._overflowed = True
            else:
                self._unheard[message] = None
        if sleeping:
            try:
                self._loop.call_soon_threadsafe(self._woken.set)
            except RuntimeError:
                # Its loop has ended, and so has the waiter.
                self._ears.drop(self)


class Ears:
    """All waiters of the process, and the thread that listens while there are any, and a little longer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_channel: dict[bytes, set[Ear]] = {}
        self._thread: threading.Thread | None = None
        self._heard: deque[tuple[float, bytes, bytes]] = deque(maxlen=MOST_REMEMBERED)
        self._complete_from_s = 0.0
        self._needed_s = 0.0
        self.connected = False
        self.closing = False

    @contextmanager
    def of(self, project_id: int, *, ago_s: float = 0.0) -> Iterator[Ear]:
        """An ear for the news of a project; open it before the first look, so that nothing falls between.

        It also has what was told in the last `ago_s` seconds; should some of that be gone, it is told to look.
        """
        ear = Ear(self, project_id)
        name = news.channel(project_id).encode()
        with self._lock:
            self._by_channel.setdefault(name, set()).add(ear)
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="live news", daemon=True)
                self._thread.start()
            since_s = time.monotonic() - ago_s
            if ago_s and self.connected:
                self._recall(ear, name, since_s)
        try:
            yield ear
        finally:
            self.drop(ear)

    def _recall(self, ear: Ear, name: bytes, since_s: float) -> None:
        if since_s < self._complete_from_s:
            ear.tell(None)
        for at_s, channel, message in self._heard:
            if at_s >= since_s and channel == name:
                ear.tell(message)

    def _remember(self, channel: bytes, message: bytes) -> None:
        now_s = time.monotonic()
        if len(self._heard) == MOST_REMEMBERED:
            self._complete_from_s = self._heard[0][0]
        self._heard.append((now_s, channel, message))
        while self._heard[0][0] < now_s - REMEMBERED_S:
            self._complete_from_s = self._heard.popleft()[0]

    def drop(self, ear: Ear) -> None:
        name = news.channel(ear.project_id).encode()
        with self._lock:
            ears = self._by_channel.get(name, set())
            ears.discard(ear)
            if not ears:
                self._by_channel.pop(name, None)

    def close(self) -> None:
        """End every stream and long-poll of the process soon."""
        self.closing = True
        self._tell_all()

    def _tell_all(self) -> None:
        with self._lock:
            ears = [ear for several in self._by_channel.values() for ear in several]
        for ear in ears:
            ear.tell(None)

    def _is_needed(self) -> bool:
        with self._lock:
            now_s = time.monotonic()
            if self._by_channel:
                self._needed_s = now_s
            # Between two pages of one person nobody listens; what is told then must not be lost.
            if now_s - self._needed_s < REMEMBERED_S and not self.closing:
                return True
            self._thread = None
            self.connected = False
            return False

    def _listen(self) -> None:
        warned = False
        while self._is_needed():
            try:
                self._follow()
                return
            except redis.RedisError as error:
                if self.connected or not warned:
                    log.warning("live news not heard, looking instead: %s", error)
                    warned = True
                self.connected = False
                self._tell_all()
                self._pause.wait(RECONNECT_S)

    # Never set: a sleep that costs nothing.
    _pause = threading.Event()

    def _follow(self) -> None:
        """Hear until nobody waits any more; raises RedisError when Redis goes."""
        client = redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=1, socket_timeout=5)
        subscription = client.pubsub()
        try:
            subscription.psubscribe(news.channel_pattern())
            while self._is_needed():
                message = subscription.get_message(timeout=1.0)
                if message is None:
                    continue
                if message["type"] == "psubscribe":
                    with self._lock:
                        self._heard.clear()
                        self._complete_from_s = time.monotonic()
                        self.connected = True
                    # Whoever looked before this moment may have missed something.
                    self._tell_all()
                elif message["type"] == "pmessage":
                    with self._lock:
                        self._remember(message["channel"], message["data"])
                        ears = list(self._by_channel.get(message["channel"], ()))
                    for ear in ears:
                        ear.tell(message["data"])
        finally:
            subscription.close()
            client.close()


ears = Ears()
