"""Group commit: batches of one project that arrive at once in this process share a transaction.

Whoever finds nobody at work leads: it takes along what waits, commits it, and answers for all of them. What came
meanwhile is led by the first of those. So a batch that is alone never waits, and many at once pay once for what each
transaction costs: its trips to PostgreSQL, its flush, its turn at the hottest rows.
"""

import logging
import threading
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


class _Place:
    """One batch in the line; its thread waits for `turn`, and then has its answer, or leads, or goes alone."""

    def __init__(self, batch: Batch, now: datetime) -> None:
        self.batch = batch
        self.now = now
        self.turn = threading.Event()
        self.answer: Accepted | None = None
        self.alone = False


_lines: dict[int, deque[_Place]] = {}
_guard = threading.Lock()


def accept(project_id: int, spans: Sequence[Span], *, now: datetime, department: str = "") -> Accepted:
    """Take a batch into the project in a transaction that it may share; returns once that is committed.

    A failure of the shared transaction is nobody's answer: each batch then tries by itself, so that what one of them
    holds fails no other.
    """
    mine = _Place(Batch(spans, department), now)
    with _guard:
        line = _lines.get(project_id)
        leads = line is None
        if line is None:
            _lines[project_id] = deque()
        else:
            line.append(mine)
    if not leads:
        mine.turn.wait()
    if mine.answer is None and not mine.alone:
        _lead(project_id, mine)
    return mine.answer if mine.answer is not None else _commit(project_id, [mine])[0]


def _lead(project_id: int, mine: _Place) -> None:
    """Commit what waits, the leader's own first, and pass the lead on."""
    group = [mine]
    try:
        with _guard:
            line = _lines[project_id]
            spans = len(mine.batch.spans)
            while line and spans + len(line[0].batch.spans) <= MOST_SPANS:
                spans += len(line[0].batch.spans)
                group.append(line.popleft())
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
            line = _lines[project_id]
            heir = line.popleft() if line else None
            if heir is None:
                del _lines[project_id]
        for place in group:
            place.alone = place.answer is None
            place.turn.set()
        if heir is not None:
            heir.turn.set()


def _commit(project_id: int, group: Sequence[_Place]) -> list[Accepted]:
    now = max(place.now for place in group)
    batches = [place.batch for place in group]
    return unhindered(project_id, lambda: ingest.accept_all(project_id, batches, now=now)).batches
