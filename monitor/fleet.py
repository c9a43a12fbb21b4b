"""Fleet silence: when a third of a fleet falls silent at once, the fault may be ours; verdicts wait a little."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import connection

from monitor import changes
from monitor.attempts import ALIVE_INTERVALS
from monitor.models import Execution, StateChange, Subject
from monitor.models.executions import Status, Verdict

WITHIN = timedelta(minutes=2)
HOLD_FOR = timedelta(minutes=2)
# One hold and one piece of news for each outage, however it goes on.
NOT_AGAIN_WITHIN = timedelta(minutes=15)
LEAST_SILENT = 5
SILENT_SHARE = 0.3
FLEET = "fleet"

SILENT_NOW = """
SELECT project_id, count(*) FROM monitor_execution
 WHERE status = 'running' AND deadline_at <= %(now)s
   AND deadline_at < attempt_started_at + make_interval(secs => timeout_s)
 GROUP BY project_id ORDER BY project_id
"""
# Of those who were silent `at` that time, whoever is still open and has not been heard of since; and all who are open.
STILL_SILENT = """
SELECT count(*) FILTER (WHERE coalesce(last_heartbeat_at, started_at) <= %(at)s
                          AND (status <> 'running' OR deadline_at <= %(now)s)), count(*)
  FROM monitor_execution
 WHERE project_id = %(project_id)s AND NOT from_spans
   AND (status IN ('running', 'retrying')
        OR status = 'hitl_paused' AND verdict IN ('zombie', 'not_picked_up')
           AND coalesce(last_heartbeat_at, started_at)
               > %(at)s - make_interval(secs => heartbeat_s * %(intervals)s + %(within_s)s))
"""


def held(*, now: datetime) -> list[int]:
    """The projects whose verdicts wait at this moment; tells the news of those that begin to.

    A project waits at most HOLD_FOR, once 30 % (at least 5) of what it runs have fallen silent within 2 min.
    """
    with connection.cursor() as cursor:
        cursor.execute(SILENT_NOW, {"now": now})
        silent_now = cursor.fetchall()
    return [project_id for project_id, silent in silent_now if _is_held(project_id, silent, now=now)]


def looked_into(projects: Iterable[int], *, now: datetime) -> list[int]:
    """Those of the projects whose silence is looked into at this moment; reads what `held` has told of, no more."""
    told = StateChange.objects.filter(project_id__in=projects, at__gt=now - HOLD_FOR)
    silences = told.filter(subject=Subject.JOB, subject_id=FLEET, cause="fleet_silent")
    return list(silences.values_list("project_id", flat=True).distinct())


def is_back(project_id: int, *, at: datetime, now: datetime) -> bool:
    """Whether a fleet that was silent `at` that time beats again, but for a few; also when it has ended since."""
    within_s = (WITHIN + HOLD_FOR).total_seconds()
    with connection.cursor() as cursor:
        cursor.execute(
            STILL_SILENT,
            {"project_id": project_id, "at": at, "now": now, "intervals": ALIVE_INTERVALS, "within_s": within_s},
        )
        silent, of_all = cursor.fetchone()
    return silent < LEAST_SILENT or silent <= SILENT_SHARE * of_all


def _is_held(project_id: int, silent_now: int, *, now: datetime) -> bool:
    journal = StateChange.objects.filter(project_id=project_id)
    silences = journal.filter(subject=Subject.JOB, subject_id=FLEET, cause="fleet_silent")
    began = silences.filter(at__gt=now - NOT_AGAIN_WITHIN).order_by("-id").values_list("at", flat=True).first()
    if began is not None:
        return now < began + HOLD_FOR
    judged = journal.filter(
        at__gt=now - WITHIN, subject=Subject.EXECUTION, cause=Verdict.ZOMBIE, from_state=Status.RUNNING
    ).count()
    silent = silent_now + judged
    if silent < LEAST_SILENT:
        return False
    # Counting stops where the answer is known, however large the fleet is.
    enough = int(silent / SILENT_SHARE) + 1
    beating = Execution.objects.of(project_id).filter(status=Status.RUNNING, from_spans=False)
    running = beating[: enough - judged].count() + judged
    if silent <= SILENT_SHARE * running:
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('handrail fleet'), %s)", [project_id])
    if not silences.filter(at__gt=now - NOT_AGAIN_WITHIN).exists():
        changes.record(
            project_id,
            Subject.JOB,
            FLEET,
            to_state="silent",
            cause="fleet_silent",
            actor="watchdog",
            note=f"{silent} of {running} running executions fell silent within 2 min: is it us?",
            now=now,
            data={"silent": silent, "running": running, "held_until": (now + HOLD_FOR).isoformat()},
        )
    return True
