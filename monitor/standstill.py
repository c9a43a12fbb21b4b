"""What stands still: one rule, for the lists that choose by it and for the rows that show it."""

from collections.abc import Collection
from datetime import datetime
from typing import Literal

from django.db.models import Q, TextChoices

from monitor.models import Execution
from monitor.models.executions import Status, Verdict


class Still(TextChoices):
    """What is stalled beats and does not move; of what is silent nothing is heard. One may be both for a moment."""

    STALLED = "stalled"
    SILENT = "silent"


StillName = Literal["stalled", "silent"]
# Why the attempt before was given up, when nothing was heard of it.
UNHEARD = (Verdict.ZOMBIE, Verdict.NOT_PICKED_UP)
# The states in which one can stand still like this.
STATES = {Still.STALLED: (Status.RUNNING,), Still.SILENT: (Status.RUNNING, Status.RETRYING)}


def chosen(kinds: Collection[Still], *, now: datetime) -> Q:
    """Those that stand still at `now` in one of these ways; each alternative is found by an index of its own."""
    found = Q()
    if Still.STALLED in kinds:
        found |= Q(status=Status.RUNNING, stalled_at__isnull=False)
    if Still.SILENT in kinds:
        found |= Q(status=Status.RUNNING, silent_at__isnull=False)
        # Overdue, and the watchdog has not looked yet.
        found |= Q(status=Status.RUNNING, deadline_at__lt=now)
        found |= Q(status=Status.RETRYING, verdict__in=UNHEARD)
    return found


def kinds_of(execution: Execution, *, now: datetime) -> set[Still]:
    """In which ways it stands still at `now`: as `chosen` chooses."""
    if execution.status == Status.RETRYING:
        return {Still.SILENT} if execution.verdict in UNHEARD else set()
    if execution.status != Status.RUNNING:
        return set()
    overdue = execution.deadline_at is not None and execution.deadline_at < now
    kinds = {Still.SILENT} if overdue or execution.silent_at is not None else set()
    return kinds | ({Still.STALLED} if execution.stalled_at is not None else set())
