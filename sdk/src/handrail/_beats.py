"""Heartbeats for all open executions of a client, from threads that need nothing of the program's own."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from handrail._crew import Crew
from handrail._errors import KINDS, Command
from handrail._execution import OPEN, Execution
from handrail._line import Away, Line
from handrail._settings import Settings
from handrail._transport import MOST_ATTEMPTS, Answer, ahead_s, number

log = logging.getLogger("handrail")

BEAT_TIMEOUT_S = 5.0
POLL_S = 25
MOST_LISTENING = 8
MOST_UNACKNOWLEDGED = 1_000
LEAST_INTERVAL_S = 0.5
# What the server waits for a heartbeat at least, as long as it has not said.
FIRST_ROOM_S = 9.0
# After so long it is looked again which heartbeats are the most urgent.
TURN_S = 1.0
# A beat comes at a third of the time that the server would wait for it.
BEATS_IN_ROOM = 3
# So many requests that wait are one thread's share.
SHARE = 4
# Nothing is begun so shortly before the end, that what is on its way may come back.
LAST_S = 0.3


class Pace(NamedTuple):
    """How often threads look, in seconds; tests turn the wheel faster."""

    tick_s: float = 0.5
    beat_gap_s: float = 1.0
    linger_s: float = 0.05


class Beater:
    """`executions` are those that are open, by their id; others add to it and take from it."""

    def __init__(
        self,
        line: Line,
        executions: dict[str, Execution],
        settings: Settings,
        pace: Pace,
        lost: Callable[[Execution], None],
    ) -> None:
        self._line = line
        self._executions = executions
        self._settings = settings
        self._pace = pace
        self._lost = lost
        self._heeded: deque[tuple[str, dict[str, Any]]] = deque(maxlen=MOST_UNACKNOWLEDGED)
        self._wake = threading.Event()
        self._stopped = False
        self._until_s = math.inf
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._listening: set[str] = set()
        # What is due, the most urgent first, and the ids of those whose beat is on its way: none has two at once.
        self._taking = threading.Lock()
        self._due: deque[Execution] = deque()
        self._beating: set[str] = set()
        self._crew = Crew(lambda: self._beat_next() or self._acknowledge_next(), name="handrail-help")

    def wake(self) -> None:
        if self._thread is None:
            self._start()
        self._wake.set()

    def acknowledge(self, execution: Execution, seq: int, effect: str) -> None:
        self._heeded.append((execution.id, {"seq": seq, "effect": effect, "attempt": execution.attempt}))
        self.wake()

    def listen(self, execution: Execution) -> None:
        """Hear of an answer at once while a person is waited for; beats alone would take seconds."""
        if execution.id in self._listening or len(self._listening) >= MOST_LISTENING:
            return
        self._listening.add(execution.id)
        try:
            threading.Thread(target=self._poll, args=(execution,), name="handrail-listen", daemon=True).start()
        except RuntimeError:
            self._listening.discard(execution.id)

    def stop(self, within_s: float) -> None:
        """Say what was heeded and can be said within this time, then end."""
        self._until_s = time.monotonic() + within_s - LAST_S
        self._stopped = True
        self._wake.set()

    def join(self, within_s: float) -> None:
        until_s = time.monotonic() + within_s
        if self._thread is not None:
            self._thread.join(within_s)
            self._crew.join(max(0.0, until_s - time.monotonic()))

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None or self._stopped:
                return
            thread = threading.Thread(target=self._run, name="handrail-beat", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return
            self._thread = thread

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._turn()
            except Exception:
                log.exception("handrail: the heartbeat stumbled")
                time.sleep(1)
            if self._wake.wait(self._pace.tick_s if self._executions or self._heeded else None):
                self._wake.clear()
                # Registrations and commands come in flocks.
                time.sleep(min(0.02, self._pace.tick_s))
        self._call_for_help()
        while self._acknowledge_next():
            pass
        self._crew.leave()

    def _turn(self) -> None:
        open_ = [one for one in list(self._executions.values()) if one._state == OPEN]
        for one in open_:
            self._look(one)
        began_s = time.monotonic()
        # Those that only tell of progress were answered a moment ago, and come last.
        due = sorted((one for one in open_ if self._is_due(one, began_s)), key=self._deadline_s)
        with self._taking:
            self._due = deque(due)
        self._call_for_help()
        while self._due and not self._stopped and time.monotonic() - began_s <= TURN_S:
            self._beat_next()
        began_s = time.monotonic()
        while time.monotonic() - began_s <= TURN_S and self._acknowledge_next():
            pass
        if self._due:
            self._wake.set()

    def _call_for_help(self) -> None:
        self._crew.call((len(self._due) + len(self._heeded) - 1) // SHARE)

    def _beat_next(self) -> bool:
        """Beat for the most urgent that nobody else beats for; False when there is none."""
        one = self._take()
        if one is None:
            return False
        try:
            self._beat(one)
        except Away as away:
            # A 500 may be this one's fault, and must not keep the others waiting.
            if away.status != 500:
                with self._taking:
                    self._due.clear()
        finally:
            with self._taking:
                self._beating.discard(one.id)
        return True

    def _take(self) -> Execution | None:
        now = time.monotonic()
        with self._taking:
            while self._due and not self._stopped:
                one = self._due.popleft()
                if one._state == OPEN and one.id not in self._beating and self._is_due(one, now):
                    self._beating.add(one.id)
                    return one
        return None

    def _is_due(self, one: Execution, now: float) -> bool:
        return one._is_registered and now >= max(one._beat_at_s, one._beaten_at_s + self._pace.beat_gap_s)

    def _deadline_s(self, one: Execution) -> float:
        """Until when the server waits for a heartbeat, as far as is known."""
        return max(one._answered_at_s, one._begun_s) + self._wanted_s(one)

    def _wanted_s(self, one: Execution) -> float:
        expected_s = one._said.get("heartbeat_s")
        return one._room_s or (expected_s * 1.5 if expected_s else FIRST_ROOM_S)

    def _beat(self, one: Execution) -> None:
        one._beaten_at_s = time.monotonic()
        one._beat_at_s = one._beaten_at_s + self._interval_s(one)
        attempt, hangs_at, percent, message = one.attempt, one._hangs_at, one._percent, one._message
        body: dict[str, Any] = {"attempt": attempt}
        if hangs_at is not None:
            body["progressing"] = False
            message = f"stands still in {hangs_at}"
        elif one._has_moved or one._told.get("hangs_at"):
            # Nothing is said of work that only runs: that is no progress yet.
            body["progressing"] = True
            one._has_moved = False
        if percent is not None:
            body["progress"] = percent
        if message is not None and message != one._told.get("message"):
            body["message"] = message
        path = f"/api/v1/executions/{one.id}/heartbeat"
        try:
            answer = self._line.post(path, body, urgent=True, timeout_s=BEAT_TIMEOUT_S)
        except Away:
            # What it would have said is due as soon as anybody hears it.
            one._beat_at_s = 0.0
            one._has_moved |= "progressing" in body and hangs_at is None
            raise
        if answer.status == 404:
            self._lost(one)
        if not answer.is_good:
            log.info("handrail: a heartbeat was refused: %s", answer.detail)
            if answer.status == 400 and "message" in body:
                # Not a second time: the next one says only that the work lives.
                one._told = {**one._told, "message": message}
                one._beat_at_s = 0.0
            return
        one._answered_at_s = one._beaten_at_s
        one._told = {"progress": percent, "message": message, "hangs_at": hangs_at}
        self._heard(one, attempt, answer)

    def _heard(self, one: Execution, attempt: int, answer: Answer) -> None:
        said = answer.body or {}
        name = said.get("command")
        room_s = ahead_s(said.get("deadline_at"), answer.at)
        if room_s is not None:
            # A timeout that draws near lowers it, too; the most that was seen is the heartbeat's own.
            one._room_s = max(one._room_s, room_s)
            one._beat_at_s = one._beaten_at_s + self._interval_s(one)
        seq = number(said.get("command_seq"))
        if not isinstance(name, str) or name not in KINDS:
            # To go on, or what a newer server may want of newer clients.
            one._hear(attempt, None, seq)
            return
        in_s = ahead_s(said.get("retry_at"), answer.at) or 0.0
        next_attempt = number(said.get("attempt"), most=MOST_ATTEMPTS) or attempt
        told = Command(
            name, str(said.get("reason") or ""), next_attempt, in_s, time.monotonic(), str(said.get("status")), seq
        )
        if name != "pause":
            # Nothing that this attempt may still say of itself counts.
            one._beat_at_s = float("inf")
        one._hear(attempt, told, seq)

    def _interval_s(self, one: Execution) -> float:
        least_s = min(LEAST_INTERVAL_S, self._pace.tick_s)
        return max(least_s, min(self._settings.beat_every_s, self._wanted_s(one) / BEATS_IN_ROOM))

    def _look(self, one: Execution) -> None:
        """Does the work move? What it says itself counts as well as what its stack shows."""
        after_s = self._settings.hangs_after_s
        if one._watch is None or after_s <= 0:
            return
        stands_for_s = min(one._watch.stands_for_s(), time.monotonic() - one._touched_s)
        hangs = stands_for_s >= after_s and not one._waits
        if hangs == (one._hangs_at is not None):
            return
        one._hangs_at = f"{one._watch.place()} for {int(stands_for_s)} s" if hangs else None
        one._beat_at_s = 0.0
        log.warning("handrail: %s %s", one.agent, f"stands still in {one._hangs_at}" if hangs else "moves again")

    def _acknowledge_next(self) -> bool:
        """Say what came of a command; False when nothing is left to say, or nobody there to hear it."""
        with self._taking:
            if not self._heeded or time.monotonic() >= self._until_s:
                return False
            execution_id, body = self._heeded.popleft()
        try:
            # A server that knows no acknowledgements answers 404, which is fine.
            self._line.post(
                f"/api/v1/executions/{execution_id}/acknowledge", body, urgent=True, timeout_s=BEAT_TIMEOUT_S
            )
        except Away:
            with self._taking:
                if len(self._heeded) < MOST_UNACKNOWLEDGED:
                    self._heeded.appendleft((execution_id, body))
            return False
        return True

    def _poll(self, one: Execution) -> None:
        cursor = 0
        try:
            while not (self._stopped or one._is_answered()):
                query = {"after": cursor, "wait": POLL_S, "execution_id": one.id}
                try:
                    answer = self._line.get("/api/v1/agent-events", query, timeout_s=POLL_S + BEAT_TIMEOUT_S)
                except Away as away:
                    if 400 <= away.status < 500 and away.status != 429:
                        return
                    time.sleep(1)
                    continue
                said = answer.body or {}
                cursor = number(said.get("cursor"), least=0) or cursor
                if said.get("events"):
                    # The event is only the bell: what is wanted now stands in the answer to a beat.
                    one._beat_at_s = one._beaten_at_s = 0.0
                    self.wake()
        except Exception:
            log.exception("handrail: could not listen for an answer")
        finally:
            self._listening.discard(one.id)
