"""An export or a batch of which the database refuses a value: the rest of it is stored, and what is to blame is named.

Nobody sends again what was answered with a 400 or a 409, so no span may cost the others of its export, and no report
those of its batch.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from time import monotonic

from django.db import DatabaseError

from monitor import faults, groupcommit
from monitor.api import problems
from monitor.api.problems import RETRY_AFTER_S, Problem
from monitor.ingest import Accepted, Refused
from monitor.records import Span

log = logging.getLogger(__name__)

# Enough to find three among a thousand, and short of the time after which an answer is late.
MOST_TRIES = 64
WITHIN_S = 4.0
NOT_FOUND = "The database refuses a part of this, and which one was not found in time."
FAULT = "The server has a fault, which is logged, and did not store a part of this."


class Unstored(Problem):
    """A 503: a part is not stored and may be sent again; `refused` are those that are to blame themselves."""

    def __init__(self, detail: str, refused: list[Refused]) -> None:
        super().__init__(503, "Unavailable", detail, headers={"Retry-After": str(RETRY_AFTER_S)})
        self.refused = refused


def accept(project_id: int, spans: Sequence[Span], *, now: datetime, department: str) -> Accepted:
    """Take a batch of spans as `groupcommit.accept` does; raises as `halved`."""
    answers: list[tuple[int, Accepted]] = []

    def take(begin: int, end: int) -> None:
        done = groupcommit.accept(project_id, spans[begin:end], now=now, department=department)
        answers.append((begin, done))

    refused = halved(take, len(spans))
    for begin, done in answers:
        refused += [Refused(begin + one.index, one.reason) for one in done.rejected]
    return Accepted(sum(done.accepted for _, done in answers), sum(done.duplicates for _, done in answers), refused)


def halved(take: Callable[[int, int], None], count: int) -> list[Refused]:
    """Have items stored from one place up to another, in halves where the database refuses; name what it refuses.

    `take` stores all of its items or none, those in front first. Raises Unstored when too many are refused to find
    them in time, but not before anything is stored or found: what is sent again is less than before. So too, once the
    others are stored, where an item can't be by a fault of ours.
    """
    refused: list[Refused] = []
    is_stored = has_fault = False
    pending = [(0, count)]
    until_s = monotonic() + WITHIN_S
    for _ in range(MOST_TRIES):
        begin, end = pending.pop()
        try:
            take(begin, end)
            is_stored = True
        # The last is the driver's word for a number that no column holds.
        except (DatabaseError, OverflowError) as error:
            if not problems.refuses(error) and not isinstance(error, OverflowError):
                raise
            is_ours = problems.is_ours(error)
            problem = None if is_ours else problems.of(error)
            if problem is not None and problem.status == 503:
                raise
            if end - begin > 1:
                middle = (begin + end) // 2
                pending += [(middle, end), (begin, middle)]
            elif is_ours:
                log.error("the database refuses what follows of an export: %s", faults.said(error))
                has_fault = True
            else:
                detail = problem.detail if problem is not None else "The database refuses it."
                log.error("the database refuses what an export brought: %s", faults.said(error))
                refused.append(Refused(begin, f"it can't be stored: {detail}"))
        if not pending and has_fault:
            raise Unstored(FAULT, refused)
        if not pending:
            return refused
        if (is_stored or refused or has_fault) and monotonic() > until_s:
            break
    log.error("the database refuses too much of an export to tell what")
    raise Unstored(NOT_FOUND, refused)
