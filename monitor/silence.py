"""Watches executions that are known from their traces alone: all the life they show is the newest span of the trace.

Nobody is commanded, for nobody listens: people are told, and what stays silent for a day counts as lost until its end
comes after all.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from monitor import changes, folding, ground, jobs, keeping, listening, outcomes
from monitor.folding import RollupDelta
from monitor.models import Execution, Subject
from monitor.models.executions import Status
from monitor.pipeline import Statement, array, times
from monitor.tenancy import crossing, tenant

ACTOR = "watchdog"
AT_ONCE = 500
# A silent one is looked at again after a share of its silence.
SOONEST, LATEST = timedelta(seconds=30), timedelta(minutes=10)
UNWATCHED = timedelta(hours=1)
NEVER_SENT = "its end was never sent"
MS = timedelta(milliseconds=1)

DUE = """
WITH due AS MATERIALIZED (
    SELECT project_id, id, trace_id, status, agent, run_id, started_at, silent_at FROM monitor_execution
     WHERE look_at <= %(now)s ORDER BY look_at LIMIT %(most)s FOR NO KEY UPDATE SKIP LOCKED
)
SELECT due.*, project.trace_silent_s, project.trace_lost_s, coalesce(sign.received_at, due.started_at)
  FROM due JOIN monitor_project AS project ON project.id = due.project_id
  LEFT JOIN monitor_trace AS trace ON trace.project_id = due.project_id AND trace.trace_id = due.trace_id,
LATERAL (
    SELECT max(received_at) AS received_at FROM monitor_span
     WHERE project_id = due.project_id AND trace_id = due.trace_id
       AND started_at BETWEEN trace.first_at AND trace.last_at
) AS sign
"""
SEEN = """
UPDATE monitor_execution AS work
   SET last_heartbeat_at = seen.sign_at, look_at = seen.look_at, silent_at = seen.silent_at
  FROM unnest(%(projects)s::int[], %(ids)s::uuid[], %(signs)s::timestamptz[], %(looks)s::timestamptz[],
              %(silent)s::timestamptz[]) AS seen (project_id, id, sign_at, look_at, silent_at)
 WHERE work.project_id = seen.project_id AND work.id = seen.id
"""
# The row of a lost one is what it counted as, until its trace tells of it again.
LOST = """
SELECT ended_at, agent, department, duration_ms FROM monitor_execution
 WHERE project_id = %(project_id)s AND id = ANY(%(ids)s::uuid[]) AND status = 'timeout' AND lost_at IS NOT NULL
"""


class Due(NamedTuple):
    """One that is to be looked at; `sign_at` is when the newest span of its trace was received."""

    project_id: int
    id: UUID
    trace_id: UUID
    status: str
    agent: str
    run_id: str
    started_at: datetime
    silent_at: datetime | None
    silent_s: int | None
    lost_s: int | None
    sign_at: datetime


class Seen(NamedTuple):
    """What it turned out to be: when to look next (None: no more), since when it is silent, whether it is lost."""

    look_at: datetime | None
    silent_at: datetime | None
    is_lost: bool = False


def look(*, now: datetime, limit: int = 10_000) -> int:
    """Look at all that are due; returns for how many something changed. Accuses nobody while we can't hear."""
    moved = looked = 0
    while looked < limit:
        with crossing():
            if listening.deaf(now=now):
                return moved
            due = _due(now=now)
            deaf = listening.last_break()
            seen = [judge(one, deaf, now=now) for one in due]
            moved += _write(due, seen, now=now)
        looked += len(due)
        lost = [(one.project_id, one.id, one.sign_at) for one, what in zip(due, seen, strict=True) if what.is_lost]
        moved += jobs.one_by_one(_give_up, lost, now=now)
        if len(due) < AT_ONCE:
            break
    return moved


def judge(one: Due, deaf: listening.Break | None, *, now: datetime) -> Seen:
    """What its last sign of life means, if we could not hear during `deaf`, the last time."""
    if one.status != Status.RUNNING:
        return Seen(None, None)
    lost_after = None if one.lost_s is None else timedelta(seconds=one.lost_s)
    silent_after = None if one.silent_s is None else timedelta(seconds=one.silent_s)
    limits = [limit for limit in (silent_after, lost_after) if limit is not None]
    if not limits:
        return Seen(now + UNWATCHED, None)
    # Nobody is accused of a silence that was our own.
    quiet_at = max(one.sign_at, deaf.ended_at) if deaf else one.sign_at
    shortest = min(limits)
    if now < quiet_at + shortest:
        return Seen(quiet_at + shortest, None)
    # A day is longer than most breaks of ours: what they took is added, or with a restart every day none were lost.
    missed = deaf.after(one.sign_at) if deaf else timedelta()
    is_lost = lost_after is not None and now >= one.sign_at + missed + lost_after
    silent = silent_after is not None and now >= quiet_at + silent_after
    if is_lost:
        # Nobody has to be told of what is over at once.
        return Seen(now + SOONEST, one.silent_at, is_lost=True)
    again = now + min(LATEST, max(SOONEST, (now - quiet_at) / 10))
    return Seen(again, (one.silent_at or now) if silent else None)


def _due(*, now: datetime) -> list[Due]:
    with connection.cursor() as cursor:
        cursor.execute(DUE, {"now": now, "most": AT_ONCE})
        return [Due(*row) for row in cursor.fetchall()]


def _write(due: Sequence[Due], seen: Sequence[Seen], *, now: datetime) -> int:
    """Write what was seen of rows that this transaction holds; returns how many fell silent or were heard again."""
    if not due:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            SEEN,
            {
                "projects": array(one.project_id for one in due),
                "ids": array(one.id for one in due),
                "signs": times(one.sign_at for one in due),
                "looks": times(what.look_at for what in seen),
                "silent": times(what.silent_at for what in seen),
            },
        )
    told = 0
    for one, what in zip(due, seen, strict=True):
        if (one.silent_at is None) == (what.silent_at is None):
            continue
        told += 1
        if what.silent_at is not None:
            _record(one, "trace_silent", note=_nothing_since(one), now=now)
        else:
            note = "its spans come again" if one.status == Status.RUNNING else "its end has come"
            _record(one, "trace_heard", note=note, now=now)
    return told


def _nothing_since(one: Due) -> str:
    return f"nothing has come since {one.sign_at:%H:%M} UTC"


def _record(one: Due, cause: str, *, note: str, now: datetime) -> None:
    changes.record(
        one.project_id,
        Subject.EXECUTION,
        one.id,
        from_state=one.status,
        to_state=one.status,
        cause=cause,
        actor=ACTOR,
        note=note,
        now=now,
        attempt=1,
        data={
            "agent": one.agent,
            "run_id": one.run_id,
            "started_at": one.started_at.isoformat(),
            "sign_at": one.sign_at.isoformat(),
        },
    )


def _give_up(project_id: int, execution_id: UUID, sign_at: datetime, *, now: datetime) -> bool:
    """End what is still as it was seen: it ended, as far as anybody knows, with its last sign.

    It counts as failed then, unless that is too long ago for sums to change.
    """
    with tenant(project_id):
        found = Execution.objects.of(project_id).filter(id=execution_id)
        trace_id = found.values_list("trace_id", flat=True).first()
        if trace_id is None:
            return False
        # So that no batch takes the execution back, or tells of it anew, and knows nothing of what is counted here.
        ground.lock(project_id, trace_id.hex)
        work = found.first()
        if work is None:
            return False
        ended_at = max(sign_at, work.started_at)
        duration_ms = (ended_at - work.started_at) // MS
        is_counted = ended_at >= keeping.late(project_id, now=now).oldest(now=now)
        if is_counted:
            # Before the row, as everybody locks.
            folding.mark(project_id, [ended_at], now=now)
        as_seen = found.filter(
            from_spans=True,
            status=Status.RUNNING,
            lost_at=None,
            started_at=work.started_at,
            last_heartbeat_at=sign_at,
        )
        gone = {"status": Status.TIMEOUT, "ended_at": ended_at, "duration_ms": duration_ms, "error": NEVER_SENT}
        if not as_seen.update(**gone, lost_at=now, look_at=None, silent_at=None):
            return False
        changes.record(
            project_id,
            Subject.EXECUTION,
            execution_id,
            from_state=work.status,
            to_state=Status.TIMEOUT,
            cause="end_never_sent",
            actor=ACTOR,
            note=NEVER_SENT,
            now=now,
            attempt=1,
            data={"agent": work.agent, "run_id": work.run_id},
        )
        if is_counted:
            folding.fold(project_id, [_counted(ended_at, work.agent, work.department, duration_ms)], now=now)
    return True


def lost(project_id: int, told: Collection[str]) -> list[Statement]:
    """The statement that reads which of these executions are lost and what each counted as; none for nobody.

    Whoever asks holds the locks of their traces, and writes what those tell of them now.
    """
    return [Statement(LOST, {"project_id": project_id, "ids": array(sorted(told))})] if told else []


def taking_back(found: Iterable[tuple[datetime, str, str, int]], *, oldest: datetime) -> list[RollupDelta]:
    """What takes back the counts of lost ones that were found.

    Sums from before `oldest` do not change any more, and what lay there when it was lost was never counted.
    """
    return [_counted(*one, sign=-1) for one in found if one[0] >= oldest]


def _counted(ended_at: datetime, agent: str, department: str, duration_ms: int, *, sign: int = 1) -> RollupDelta:
    return outcomes.delta(
        at=ended_at, agent=agent, department=department, failed=True, duration_ms=duration_ms, sign=sign
    )
