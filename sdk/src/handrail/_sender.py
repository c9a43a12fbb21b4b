"""From the outbox to the server: batch after batch, in the order of what happened."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from handrail import _ids
from handrail._intake import Intake, agent_of, encode
from handrail._line import Away, Line
from handrail._outbox import ENDED, FAILED, PROGRESS, REPORT, STARTED, Outbox, Record
from handrail._transport import Answer, number

log = logging.getLogger("handrail")

MOST_IN_BATCH = 500
MOST_BYTES = 1024 * 1024
ADOPT_EVERY_S = 30.0
# A batch that makes the server stumble so often is taken apart.
MOST_STUMBLES = 3
# So long a start or an end is tried before anything that comes behind it.
PATIENCE_S = 60.0
# So long a lone event waits for a server that takes no other either.
MOST_ALONE_S = 3600.0
# Ends of executions that began while nobody listened are told together with their beginning.
MOST_WHOLES = 1_000
MOST_FLUSH_S = 60.0
CONFESSION = "handrail.dropped"
# What an event of this kind can't be told without.
NAMED_BY = {STARTED: "id", ENDED: "execution_id", PROGRESS: "execution_id", FAILED: "execution_id"}

# What became of an execution's record: the kind, its id, and the answer to a failure.
Heard = Callable[[int, str, "Answer | None"], None]


class Sender:
    """A thread of its own: whatever the server does, events are stored meanwhile."""

    def __init__(self, line: Line, outbox: Outbox, *, most: int, heard: Heard, linger_s: float) -> None:
        self._line = line
        self._heard = heard
        self.outbox = outbox
        self.intake = Intake(outbox, most=most, linger_s=linger_s, stored=self.wake)
        self._wake = threading.Event()
        self._idle = threading.Condition()
        self._is_busy = False
        self._stopped = False
        self._until_s = math.inf
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._wholes: dict[str, bytes] = {}
        self._told_whole: set[str] = set()
        # What is left of the batch in hand, in parts; since when the server stumbles over something in it; whether
        # it took another part meanwhile; and the ends that are told by the beginnings in it.
        self._hand: list[list[Record]] | None = None
        self._suspect_since_s: float | None = None
        self._is_well = False
        self._ends: dict[str, Record] = {}
        self._stumbles = 0
        self._adopt_at_s = 0.0

    @property
    def pending(self) -> int:
        """Events that the server has not taken yet."""
        return self.intake.pending + self.outbox.count

    def tell_whole(self, execution_id: str, event: dict[str, Any]) -> None:
        """What the start of this execution becomes if it is still unsent: work already done, with its true times."""
        if len(self._wholes) < MOST_WHOLES:
            self._wholes[execution_id] = encode(event)

    def flush(self, within_s: float) -> bool:
        """Wait until the server has everything; whether it has."""
        until_s = time.monotonic() + min(within_s, MOST_FLUSH_S)
        self.wake()
        with self._idle:
            while self._is_busy or self.pending:
                left_s = until_s - time.monotonic()
                if left_s <= 0 or self._thread is None:
                    return False
                self._idle.wait(min(left_s, 0.05))
        return True

    def stop(self, within_s: float) -> None:
        """Send what can be sent within this time; the rest stays in the outbox."""
        until_s = time.monotonic() + within_s
        self._until_s = until_s
        self.intake.stop(within_s)
        self._line.once_more()
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(max(0.0, until_s - time.monotonic()))
            if self._thread.is_alive():
                # It waits for an answer; its files stay, and go to whoever comes next.
                return
        self.outbox.close()

    def wake(self) -> None:
        if self._thread is None:
            self._start()
        self._wake.set()

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None or self._stopped:
                return
            thread = threading.Thread(target=self._run, name="handrail-send", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return
            self._thread = thread

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except Exception:
                log.exception("handrail: the sender stumbled")
                time.sleep(1)
            # A line that was lost a moment ago is tried again; one that rests for longer is not waited for.
            if self._stopped and (not self.outbox.count or time.monotonic() + self._line.free_in_s() >= self._until_s):
                return
            with self._idle:
                self._idle.notify_all()
            self._wake.wait(max(0.02, self._line.free_in_s()) if self.outbox.count else ADOPT_EVERY_S)

    def _turn(self) -> None:
        self._wake.clear()
        self._is_busy = True
        try:
            if time.monotonic() >= self._adopt_at_s:
                self._adopt_at_s = time.monotonic() + ADOPT_EVERY_S
                if found := self.outbox.adopt():
                    log.info("handrail: %d events of a program that has ended are sent now", found)
            while self._line.free_in_s() == 0 and self._begin():
                self._send()
                self.outbox.taken()
                self._hand = None
            if self.outbox.may_adopt_more and not self.outbox.count:
                self._adopt_at_s = 0.0
                self._wake.set()
            if self._line.free_in_s() == 0 and (untold := self.intake.untold()):
                told = [_confession(agent, count) for agent, count in untold.items()]
                self.intake.keep([Record(REPORT, encode(one)) for one in told])
        except Away:
            pass
        finally:
            self._is_busy = False

    def _begin(self) -> bool:
        """Whether there is a batch in hand: what is left of the last one, else the next."""
        if self._hand is not None:
            if len(self._hand) == 1 and self._suspect_since_s is None and self._hand[0][0].kind != FAILED:
                # A server without room for the first of it takes the ends that came meanwhile.
                further = map(_as_event, self.outbox.peek_further(MOST_IN_BATCH, MOST_BYTES))
                self._hand[0] += self._to_tell(list(further), self._hand[0])
            return True
        found = self.outbox.peek(MOST_IN_BATCH, MOST_BYTES)
        if not found:
            return False
        self._ends, self._suspect_since_s, self._stumbles = {}, None, 0
        left = self._to_tell(found, [])
        self._hand = [left] if left else []
        return True

    def _to_tell(self, found: list[Record], before: list[Record]) -> list[Record]:
        """Those of the found that are to be sent, behind `before`."""
        records = [one for one in found if _is_event(one)]
        for _ in range(len(found) - len(records)):
            self.intake.drop("", "a stored event could not be read")
        starts = [_id(one) for one in (*before, *records) if one.kind == STARTED]
        whole = {identity for identity in starts if identity in self._wholes}
        return [one for one in records if not self._is_told(one, whole)]

    def _is_told(self, record: Record, whole: set[str]) -> bool:
        """Whether the beginning of its execution tells, or told, how that ended; `whole` are those in this batch."""
        if record.kind not in (ENDED, PROGRESS) or not (whole or self._told_whole or self._wholes):
            return False
        identity = _of(record)
        is_told = identity in whole or identity in self._told_whole
        if record.kind == ENDED:
            if identity in whole:
                self._ends[identity] = record
            else:
                self._wholes.pop(identity, None)
            self._told_whole.discard(identity)
        return is_told

    def _send(self) -> None:
        """Until each in hand is taken or refused for good. Raises Away."""
        while self._hand:
            part = self._hand[0]
            self._hand[:1] = self._send_failure(part[0]) if part[0].kind == FAILED else self._send_batch(part)

    def _send_batch(self, records: list[Record]) -> list[list[Record]]:
        """What is to be sent again, in parts. Raises Away, when all of it is to be sent again later."""
        payloads = [self._payload(one) for one in records]
        try:
            answer = self._line.post("/api/v1/batch", b'{"events":[' + b",".join(payloads) + b"]}")
        except Away as away:
            return self._stumbled(records, away)
        self._stumbles = 0
        if not answer.is_good:
            return self._halve(records, answer)
        rejected = _rejected(answer)
        if rejected is None:
            raise self._line.unheard("the answer to a batch says nothing of its events")
        self._is_well = True
        later = min((index for index, one in rejected.items() if one.get("retryable")), default=len(records))
        again: list[Record] = []
        for index, one in enumerate(records):
            if index not in rejected:
                self._was_taken(one, whole=payloads[index] is not one.payload)
            elif index >= later:
                # Not the event's fault, or perhaps only because of one before it.
                again.append(one)
            elif payloads[index] is not one.payload:
                # Its beginning was known after all, so its end is told by itself.
                identity = _id(one)
                self._wholes.pop(identity, None)
                again.append(one)
                if identity in self._ends:
                    again.append(self._ends.pop(identity))
            elif one.kind == REPORT and CONFESSION.encode() not in one.payload:
                self.intake.drop(agent_of(one), f"the server refused an event: {_reasons(rejected[index])}")
            else:
                # A second end, or the end of an attempt that was given up, is no news; a refused start is.
                level = logging.WARNING if one.kind == STARTED else logging.INFO
                log.log(level, "handrail: an execution of %s: %s", agent_of(one), _reasons(rejected[index]))
        if later == 0:
            # It has no room, or trouble of its own, and at once would say the same again.
            self._line.rest()
        return [again] if again else []

    def _halve(self, records: list[Record], answer: Answer) -> list[list[Record]]:
        """The whole batch was refused: too large, or one in it can't even be read."""
        if len(records) == 1:
            self.intake.drop(agent_of(records[0]), f"the server refused an event: {answer.status} {answer.detail}")
            return []
        half = len(records) // 2
        return [records[:half], records[half:]]

    def _stumbled(self, records: list[Record], away: Away) -> list[list[Record]]:
        """Over one of these, or the server is ill: that shows in whether it takes others. Raises Away.

        So does a proxy, except that what it alone refuses is never given up before others get through.
        """
        if not away.status:
            raise away
        self._stumbles += 1
        now = time.monotonic()
        if self._suspect_since_s is None:
            if self._stumbles < MOST_STUMBLES:
                raise away
            self._suspect_since_s, self._is_well = now, False
        refused = Answer(away.status, None)
        if len(records) > 1:
            return self._halve(records, refused)
        lasted_s = now - self._suspect_since_s
        if records[0].kind != REPORT and lasted_s < PATIENCE_S:
            raise away
        if self._is_well or (lasted_s > MOST_ALONE_S and away.status == 500):
            return self._halve(records, refused)
        if self._hand is not None and len(self._hand) > 1:
            return self._put_behind(records[0], self._hand)
        if records[0].kind == FAILED and self.outbox.behind:
            # Nobody waits any more for what is said to it: it goes in a batch, before those that came meanwhile.
            self._suspect_since_s, self._stumbles = None, 0
            return [[_as_event(records[0])]]
        raise away

    def _put_behind(self, record: Record, hand: list[list[Record]]) -> list[list[Record]]:
        """Others of the hand are tried first, but never what tells more of an execution before its beginning."""
        identity = _id(record) if record.kind == STARTED else None
        kin = [one for part in hand[1:] for one in part if one.kind in (ENDED, PROGRESS) and _of(one) == identity]
        parts = [[one for one in part if one not in kin] for part in hand[1:]]
        hand[1:] = [part for part in (*parts, [record], kin) if part]
        return []

    def _send_failure(self, record: Record) -> list[list[Record]]:
        """What is to be sent again. Raises Away."""
        event = json.loads(record.payload)
        body = {name: event[name] for name in ("error", "retryable", "attempt") if name in event}
        try:
            answer = self._line.post(f"/api/v1/executions/{event['execution_id']}/fail", body)
        except Away as away:
            return self._stumbled([record], away)
        self._heard(FAILED, event["execution_id"], answer)
        return []

    def _payload(self, record: Record) -> bytes:
        if record.kind == STARTED and self._wholes:
            return self._wholes.get(_id(record), record.payload)
        return record.payload

    def _was_taken(self, record: Record, *, whole: bool) -> None:
        """`whole`: the beginning that was sent told the end, too."""
        if record.kind != STARTED:
            return
        identity = _id(record)
        # One that came while the plain start was on its way is of no use any more: the end tells itself.
        self._wholes.pop(identity, None)
        if whole and self._ends.pop(identity, None) is None:
            self._told_whole.add(identity)
        self._heard(STARTED, identity, None)


def _is_event(record: Record) -> bool:
    """Whether it can be sent: a whole record may be that of another version of this package."""
    try:
        event = json.loads(record.payload)
    except (ValueError, RecursionError):
        return False
    return isinstance(event, dict) and isinstance(event.get(NAMED_BY.get(record.kind, "type")), str)


def _as_event(record: Record) -> Record:
    """A failure whose verdict nobody waits for, which a batch takes like all that ends; others as they are."""
    return Record(ENDED, record.payload) if record.kind == FAILED else record


def _id(record: Record) -> str:
    return str(json.loads(record.payload)["id"])


def _of(record: Record) -> str:
    """The execution that it tells of."""
    return str(json.loads(record.payload)["execution_id"])


def _rejected(answer: Answer) -> dict[int, dict[str, Any]] | None:
    """The refused events by their places; None when it is no answer to a batch, so that nothing is known of any."""
    listed = (answer.body or {}).get("rejected")
    if not isinstance(listed, list):
        return None
    found = {number(one.get("index"), least=0): one for one in listed if isinstance(one, dict)}
    if None in found or len(found) < len(listed):
        return None
    return {index: one for index, one in found.items() if index is not None}


def _reasons(rejected: dict[str, Any]) -> str:
    errors = rejected.get("errors")
    told = [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    return "; ".join(f"{one.get('field')}: {one.get('message')}" for one in told)


def _confession(agent: str, count: int) -> dict[str, Any]:
    """What the server is told of events that never reached it."""
    return {
        "type": "operation",
        "id": str(_ids.uuid7()),
        "agent": agent,
        "operation": CONFESSION,
        "duration_ms": 0,
        "success": False,
        "metadata": {"dropped": count},
        "occurred_at": datetime.now(timezone.utc).isoformat(),
    }
