"""The expected cadence: who is expected to be heard from, and was not. Once each time, however many processes look."""

from datetime import datetime

from django.db import connection

from monitor import changes, listening
from monitor.models import JobHeartbeat, StateChange, Subject
from monitor.models.executions import OPEN
from monitor.tenancy import crossing

ACTOR = "watchdog"
BATCH = 200
# An execution that has just ended may have begun so long ago.
LONGEST_WORK_S = 30 * 86_400

# Who works is heard by heartbeats, which write nothing on the agent. So the executions are looked at here, when their
# agent seems late: once in its interval the newest sign becomes the agent's own.
MISSED = """
WITH late AS MATERIALIZED (
    SELECT id, project_id, name, %(now)s::timestamptz - make_interval(secs => expected_every_s) AS since
      FROM monitor_agent
     WHERE expected_every_s IS NOT NULL AND missed_at IS NULL
       AND greatest(last_seen_at, expected_since, %(listening_since)s::timestamptz)
           <= %(now)s::timestamptz - make_interval(secs => expected_every_s)
     ORDER BY id LIMIT %(batch)s FOR NO KEY UPDATE SKIP LOCKED
), judged AS (
    SELECT late.*, coalesce(
        (SELECT max(last_heartbeat_at) FROM monitor_execution e
          WHERE e.project_id = late.project_id AND e.agent = late.name AND e.status = ANY(%(open)s)
            AND e.last_heartbeat_at > late.since),
        (SELECT max(CASE WHEN e.status = 'completed' THEN e.ended_at ELSE e.last_heartbeat_at END)
           FROM monitor_execution e
          WHERE e.project_id = late.project_id AND e.agent = late.name AND NOT e.from_spans
            AND e.started_at > late.since - make_interval(secs => %(longest_work_s)s)
            AND CASE WHEN e.status = 'completed' THEN e.ended_at ELSE e.last_heartbeat_at END > late.since)
        ) AS heard_at
      FROM late
)
UPDATE monitor_agent a SET
       last_seen_at = coalesce(judged.heard_at, a.last_seen_at),
       missed_at = CASE WHEN judged.heard_at IS NULL THEN %(now)s::timestamptz END
  FROM judged WHERE a.id = judged.id
RETURNING a.project_id, a.name, a.missed_at, a.last_seen_at, a.expected_since, a.expected_every_s
"""
# It was missed because nothing came within an interval, so whatever came after the beginning of that one is new.
HEARD = """
WITH silent AS MATERIALIZED (
    SELECT id, project_id, name, last_seen_at, missed_at - make_interval(secs => expected_every_s) AS since
      FROM monitor_agent WHERE expected_every_s IS NOT NULL AND missed_at IS NOT NULL
     ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
), judged AS (
    SELECT silent.*, greatest(silent.last_seen_at, (
        SELECT max(last_heartbeat_at) FROM monitor_execution e
         WHERE e.project_id = silent.project_id AND e.agent = silent.name AND e.status = ANY(%(open)s)
           AND e.last_heartbeat_at > silent.since)) AS heard_at
      FROM silent
)
UPDATE monitor_agent a SET last_seen_at = judged.heard_at, missed_at = NULL
  FROM judged WHERE a.id = judged.id AND judged.heard_at > judged.since
RETURNING a.project_id, a.name, a.last_seen_at
"""


def judge(*, now: datetime, limit: int = 10_000) -> int:
    """Accuse who is overdue and excuse who was heard again, in every project; returns how many of both.

    Nobody is accused while nobody listens, nor of a silence that began before we could listen again.
    """
    judged = _heard(now=now)
    with crossing():
        if listening.deaf(now=now):
            return judged
        ears = JobHeartbeat.objects.filter(name=listening.EARS).only("last_started_at").first()
    listening_since = ears.last_started_at if ears else None
    looked_at = 0
    while looked_at < limit:
        batch = min(BATCH, limit - looked_at)
        seen, missed = _missed(listening_since, batch, now=now)
        looked_at += seen
        judged += missed
        if seen < batch:
            break
    return judged


def _missed(listening_since: datetime | None, batch: int, *, now: datetime) -> tuple[int, int]:
    """(looked at, missed) of one batch, in a transaction of its own."""
    with crossing():
        with connection.cursor() as cursor:
            cursor.execute(
                MISSED,
                {
                    "now": now,
                    "listening_since": listening_since,
                    "batch": batch,
                    "open": list(OPEN),
                    "longest_work_s": LONGEST_WORK_S,
                },
            )
            rows = cursor.fetchall()
        moves = [
            _move(
                project_id,
                name,
                "expected",
                "silent",
                {
                    "expected_every_s": every_s,
                    "expected_since": expected_since.isoformat(),
                    "last_seen_at": last_seen_at.isoformat() if last_seen_at else None,
                },
                now=now,
            )
            for project_id, name, missed_at, last_seen_at, expected_since, every_s in rows
            if missed_at is not None
        ]
        changes.record_all(moves)
    return len(rows), len(moves)


def _heard(*, now: datetime) -> int:
    with crossing():
        with connection.cursor() as cursor:
            cursor.execute(HEARD, {"open": list(OPEN)})
            rows = cursor.fetchall()
        moves = [
            _move(project_id, name, "silent", "heard", {"last_seen_at": last_seen_at.isoformat()}, now=now)
            for project_id, name, last_seen_at in rows
        ]
        changes.record_all(moves)
    return len(rows)


def _move(project_id: int, name: str, was: str, to: str, data: dict[str, object], *, now: datetime) -> StateChange:
    return StateChange(
        project_id=project_id,
        at=now,
        subject=Subject.AGENT,
        subject_id=name,
        from_state=was,
        to_state=to,
        cause="cadence",
        actor=ACTOR,
        data=data,
    )
