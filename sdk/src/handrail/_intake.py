"""From the program into the outbox: a queue that nobody waits at, and the thread that empties it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from handrail._outbox import ENDED, FAILED, PROGRESS, REPORT, RESERVE, STARTED, Outbox, Record

log = logging.getLogger("handrail")

KINDS = {
    "execution.started": STARTED,
    "execution.heartbeat": PROGRESS,
    "execution.completed": ENDED,
    "execution.failed": ENDED,
}
# Stored so many at a time: the interpreter is the program's first.
MOST_AT_ONCE = 20


class Intake:
    """`tell` is called by the program and never waits; `stored` is called when there is something new to send."""

    def __init__(self, outbox: Outbox, *, most: int, linger_s: float, stored: Callable[[], None]) -> None:
        self._outbox = outbox
        self._most = most
        self._linger_s = linger_s
        self._stored = stored
        self._queue: deque[tuple[int, dict[str, Any]]] = deque()
        self._wake = threading.Event()
        self._is_storing = False
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._untold: Counter[str] = Counter()
        self.dropped = 0

    @property
    def pending(self) -> int:
        """Events that are not in the outbox yet."""
        return len(self._queue) or int(self._is_storing)

    def tell(self, event: dict[str, Any], *, answered: bool = False) -> None:
        """Take an event; `answered` when the program waits for what the server says to this failure."""
        kind = FAILED if answered else KINDS.get(event["type"], REPORT)
        most = self._most * (1 + RESERVE) if kind in (STARTED, ENDED, FAILED) else self._most
        if len(self._queue) >= most:
            self.drop(str(event.get("agent", "")), "the program is faster than its outbox")
            return
        self._queue.append((kind, event))
        if self._thread is None:
            self._start()
        if not self._wake.is_set():
            self._wake.set()

    def drop(self, agent: str, why: str) -> None:
        """Count an event that will never arrive, and say so once."""
        self.dropped += 1
        if not self._untold:
            log.warning("handrail: events are dropped, for %s", why)
        self._untold[agent or "handrail"] += 1

    def untold(self) -> Counter[str]:
        """What was dropped since this was asked last, by agent."""
        told, self._untold = self._untold, Counter()
        return told

    def stop(self, within_s: float) -> None:
        """Store what is left."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(within_s)
        self._store()

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None or self._stopped:
                return
            thread = threading.Thread(target=self._run, name="handrail-store", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The interpreter ends, or has no more threads: `stop` stores what there is.
                return
            self._thread = thread

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait()
            if not self._stopped:
                # The first of many waits for the others.
                time.sleep(self._linger_s)
            self._wake.clear()
            try:
                self._store()
            except Exception:
                log.exception("handrail: events could not be stored")

    def _store(self) -> None:
        self._is_storing = True
        try:
            while self._queue:
                self.keep(self._some())
                self._stored()
                time.sleep(0)
        finally:
            self._is_storing = False

    def keep(self, records: list[Record]) -> None:
        for one in self._outbox.put(records):
            self.drop(agent_of(one), "the outbox is full")

    def _some(self) -> list[Record]:
        records: list[Record] = []
        while len(records) < MOST_AT_ONCE:
            try:
                kind, event = self._queue.popleft()
            except IndexError:
                break
            try:
                records.append(Record(kind, encode(event)))
            except (TypeError, ValueError, RecursionError) as error:
                self.drop(str(event.get("agent", "")), f"an event is no JSON: {error}")
        return records


def encode(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def agent_of(record: Record) -> str:
    return str(json.loads(record.payload).get("agent", ""))
