"""The expected cadence: who is expected to be heard from, and was not. Once each time, however many processes look."""

from datetime import datetime, timedelta

from django.db import connection

from monitor import changes, fleet, listening
from monitor.models import Agent, JobHeartbeat, StateChange, Subject
from monitor.models.executions import OPEN
from monitor.tenancy import crossing

ACTOR = "watchdog"
JOB = "cadence.judge"
BATCH = 200
# After our own deafness everybody has this long, or a shorter interval, to be heard before anybody is accused.
LONGEST_GRACE_S = 3600
# An execution that has just ended may have begun so long ago.
LONGEST_WORK_S = 30 * 86_400
# What ended before the last look was seen by it, unless its transaction was still open so long afterwards.
LATE_COMMIT = timedelta(minutes=5)

# The last sign that the agent of an execution gave by it: a beat, or how it ended. An end that somebody else gave it
# has that one's reason.
SIGN = """CASE WHEN e.status = 'completed' OR e.status = 'failed' AND e.command_reason = '' THEN e.ended_at
               ELSE e.last_heartbeat_at END"""
# Who works is heard by heartbeats, which write nothing on the agent. So the executions are looked at here, when their
# agent seems late: once in its interval the newest sign becomes the agent's own. No sign is later than the end.
MISSED = f"""
WITH late AS MATERIALIZED (
    SELECT id, project_id, name, %(now)s::timestamptz - make_interval(secs => expected_every_s) AS since
      FROM monitor_agent
     WHERE expected_every_s IS NOT NULL AND missed_at IS NULL AND project_id <> ALL(%(held)s::bigint[])
       AND greatest(last_seen_at, expected_since) <= %(now)s::timestamptz - make_interval(secs => expected_every_s)
       AND coalesce(%(listening_since)s::timestamptz, '-infinity')
           <= %(now)s::timestamptz - make_interval(secs => least(expected_every_s, %(longest_grace_s)s))
     ORDER BY id LIMIT %(batch)s FOR NO KEY UPDATE SKIP LOCKED
), judged AS MATERIALIZED (
    SELECT late.*, greatest(
        (SELECT max(last_heartbeat_at) FROM monitor_execution e
          WHERE e.project_id = late.project_id AND e.agent = late.name AND e.status = ANY(%(open)s)
            AND e.last_heartbeat_at > late.since),
        (SELECT max({SIGN}) FROM monitor_execution e
          WHERE e.project_id = late.project_id AND e.agent = late.name AND NOT e.from_spans
            AND e.started_at > late.since - make_interval(secs => %(longest_work_s)s)
            AND e.ended_at > late.since AND {SIGN} > late.since)
        ) AS heard_at
      FROM late
)
UPDATE monitor_agent a SET
       last_seen_at = coalesce(judged.heard_at, a.last_seen_at),
       missed_at = CASE WHEN judged.heard_at IS NULL THEN %(now)s::timestamptz END
  FROM judged WHERE a.id = judged.id
RETURNING a.project_id, a.name, a.missed_at, a.last_seen_at, a.expected_since, a.expected_every_s
"""  # noqa: S608
# It was missed because nothing came within an interval, so whatever came after the beginning of that one is new.
SILENT = """
SELECT id, project_id, name, missed_at - make_interval(secs => expected_every_s)
  FROM monitor_agent
 WHERE expected_every_s IS NOT NULL AND missed_at IS NOT NULL AND id > %(beyond)s
 ORDER BY id LIMIT %(batch)s FOR NO KEY UPDATE SKIP LOCKED
"""
# The work of a whole batch is read once, however many of its agents are silent.
HEARD = f"""
WITH worked AS MATERIALIZED (
    SELECT e.project_id, e.agent, max(e.last_heartbeat_at) AS sign_at FROM monitor_execution e
     WHERE e.project_id = ANY(%(projects)s) AND e.agent = ANY(%(names)s) AND e.status = ANY(%(open)s)
       AND e.last_heartbeat_at > %(since)s
     GROUP BY e.project_id, e.agent
     UNION ALL
    SELECT e.project_id, e.agent, max({SIGN}) FROM monitor_execution e
     WHERE e.project_id = ANY(%(projects)s) AND e.agent = ANY(%(names)s) AND NOT e.from_spans
       AND e.ended_at > %(ended_since)s
     GROUP BY e.project_id, e.agent
), judged AS (
    SELECT silent.id, greatest(silent.last_seen_at, max(worked.sign_at)) AS heard_at
      FROM monitor_agent silent
      LEFT JOIN worked ON worked.project_id = silent.project_id AND worked.agent = silent.name
     WHERE silent.id = ANY(%(ids)s) GROUP BY silent.id
)
UPDATE monitor_agent a SET last_seen_at = judged.heard_at, missed_at = NULL
  FROM judged
 WHERE a.id = judged.id AND judged.heard_at > a.missed_at - make_interval(secs => a.expected_every_s)
RETURNING a.project_id, a.name, a.last_seen_at
"""  # noqa: S608


def judge(*, now: datetime, limit: int = 10_000) -> int:
    """Accuse up to `limit` who are overdue and excuse who was heard again, in every project; returns how many of both.

    Nobody is accused while nobody listens, nor before we have listened again for their interval, an hour at most;
    nor while the silence of their fleet is looked into.
    """
    judged = _excuse(now=now)
    with crossing():
        if listening.deaf(now=now):
            return judged
        listening_since = listening.heard_since()
        expecting = Agent.objects.filter(expected_every_s__isnull=False, missed_at=None)
        held = fleet.looked_into(expecting.values_list("project_id", flat=True).distinct(), now=now)
    looked_at = 0
    while looked_at < limit:
        batch = min(BATCH, limit - looked_at)
        seen, missed = _missed(listening_since, held, batch, now=now)
        looked_at += seen
        judged += missed
        if seen < batch:
            break
    return judged


def _missed(listening_since: datetime | None, held: list[int], batch: int, *, now: datetime) -> tuple[int, int]:
    """(looked at, missed) of one batch, in a transaction of its own."""
    with crossing():
        with connection.cursor() as cursor:
            cursor.execute(
                MISSED,
                {
                    "now": now,
                    "listening_since": listening_since,
                    "held": held,
                    "batch": batch,
                    "open": list(OPEN),
                    "longest_grace_s": LONGEST_GRACE_S,
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


def _excuse(*, now: datetime) -> int:
    """End the silence of all who were heard again; returns how many."""
    with crossing():
        last_look_at = JobHeartbeat.objects.filter(name=JOB).values_list("last_ok_at", flat=True).first()
    heard, beyond = 0, 0
    while True:
        with crossing():
            with connection.cursor() as cursor:
                cursor.execute(SILENT, {"beyond": beyond, "batch": BATCH})
                silent = cursor.fetchall()
            if silent:
                beyond = silent[-1][0]
                heard += _heard(silent, last_look_at, now=now)
        if len(silent) < BATCH:
            return heard


def _heard(silent: list[tuple[int, int, str, datetime]], last_look_at: datetime | None, *, now: datetime) -> int:
    """How many of the locked (id, project, name, silent since) were heard again, and are excused."""
    ids, projects, names, sinces = zip(*silent, strict=True)
    since = min(sinces)
    with connection.cursor() as cursor:
        cursor.execute(
            HEARD,
            {
                "ids": list(ids),
                "projects": list(set(projects)),
                "names": list(set(names)),
                "since": since,
                "ended_since": max(since, last_look_at - LATE_COMMIT) if last_look_at else since,
                "open": list(OPEN),
            },
        )
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
