"""Group commit: batches of one project that arrive at once in this process share a transaction.

Whoever finds nobody at work leads: it takes along what waits, commits it, and answers for all of them. What came
meanwhile is led by the first of those. Where several came in the last round, the leader gives as many a moment to come
again: senders that were answered together send their next batches together. So a batch that is alone never waits, and
many at once pay once for what each transaction costs: its trips to PostgreSQL, its flush, its turn at the hottest rows.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime

from monitor import ingest
from monitor.deadlocks import unhindered
from monitor.ingest import Accepted, Batch
from monitor.records import Span

log = logging.getLogger(__name__)

# More would answer the first ones late, and hold the locks of their rows all the while.
MOST_SPANS = 1024
# About as long as it takes to send and to read a few large exports side by side.
PATIENCE_S = 0.05
# A round that is longer ago tells nothing of the next one.
RHYTHM_S = 1.0


class _Place:
    """One batch in the line; its thread waits for `turn`, and then has its answer, or leads, or goes alone."""

    def __init__(self, batch: Batch, now: datetime) -> None:
        self.batch = batch
        self.now = now
        self.turn = threading.Event()
        self.answer: Accepted | None = None
        self.alone = False


class _Line:
    """The batches of one project."""

    def __init__(self) -> None:
        self.is_led = False
        self.waiting: deque[_Place] = deque()
        # Of the last round: how many batches had come when it ended, and when that was.
        self.crowd, self.ended_s = 1, 0.0
        self.grew = threading.Condition(_guard)


_lines: dict[int, _Line] = {}
_guard = threading.Lock()


def accept(project_id: int, spans: Sequence[Span], *, now: datetime, department: str = "") -> Accepted:
    """Take a batch into the project in a transaction that it may share; returns once that is committed.

    A failure of the shared transaction is nobody's answer: each batch then tries by itself, so that what one of them
    holds fails no other.
    """
    mine = _Place(Batch(spans, department), now)
    with _guard:
        line = _lines.setdefault(project_id, _Line())
        leads = not line.is_led
        if leads:
            line.is_led = True
        else:
            line.waiting.append(mine)
            line.grew.notify()
    if not leads:
        mine.turn.wait()
    if mine.answer is None and not mine.alone:
        _lead(project_id, line, mine)
    return mine.answer if mine.answer is not None else _commit(project_id, [mine])[0]


def _lead(project_id: int, line: _Line, mine: _Place) -> None:
    """Commit what waits, the leader's own first, and pass the lead on."""
    group = [mine]
    try:
        group += _companions(line, len(mine.batch.spans))
        for place, answer in zip(group, _commit(project_id, group), strict=True):
            place.answer = answer
    except Exception:
        if len(group) == 1:
            raise
        # Each goes on alone, and most of them well: here is the last chance to hear of it.
        log.warning(
            "%d batches of project %s that shared a transaction go one by one", len(group), project_id, exc_info=True
        )
    finally:
        with _guard:
            line.crowd, line.ended_s = len(group) + len(line.waiting), time.monotonic()
            heir = line.waiting.popleft() if line.waiting else None
            line.is_led = heir is not None
        for place in group:
            place.alone = place.answer is None
            place.turn.set()
        if heir is not None:
            heir.turn.set()


def _companions(line: _Line, spans: int) -> list[_Place]:
    """Those that go along with a leader of so many spans, once as many are here as were in the last round."""
    companions: list[_Place] = []
    until_s = time.monotonic() + PATIENCE_S
    with _guard:
        crowd = line.crowd if time.monotonic() - line.ended_s < RHYTHM_S else 1
        while True:
            while line.waiting and spans + len(line.waiting[0].batch.spans) <= MOST_SPANS:
                spans += len(line.waiting[0].batch.spans)
                companions.append(line.waiting.popleft())
            left_s = until_s - time.monotonic()
            if line.waiting or spans >= MOST_SPANS or 1 + len(companions) >= crowd or left_s <= 0:
                return companions
            line.grew.wait(left_s)


def _commit(project_id: int, group: Sequence[_Place]) -> list[Accepted]:
    now = max(place.now for place in group)
    batches = [place.batch for place in group]
    return unhindered(project_id, lambda: ingest.accept_all(project_id, batches, now=now)).batches
