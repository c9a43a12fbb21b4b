"""Whether we could hear the agents at all: nobody is accused of a silence that was our own."""

from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import connection

from monitor.attempts import ALIVE_INTERVALS
from monitor.models import JobHeartbeat
from monitor.tenancy import crossing

# The row that every web process signs; `last_started_at` is since when we have listened without a break, and
# `last_error_at` when that break began, None when nobody had ever listened before.
EARS = "listening"
SIGN_EVERY_S = 5.0
DEAF_AFTER = timedelta(seconds=2 * SIGN_EVERY_S)
# Who hears for a shorter time between two breaks, as a process that does not come up, makes no two of them.
HEARS_FOR = timedelta(hours=1)

SIGN = """
INSERT INTO monitor_jobheartbeat (name, every_s, last_started_at, last_ok_at, error, node, runs)
VALUES (%(name)s, %(every_s)s, %(now)s, %(now)s, '', '', 1)
ON CONFLICT (name) DO NOTHING
"""
# Our own deafness is taken out of every clock: an attempt's timeout and its time without progress are put off by it,
# and its next sign of life is due one full interval after we can hear again.
FORGIVE = """
UPDATE monitor_execution e SET
       attempt_started_at = forgiven.started_at,
       deadline_at = least(forgiven.beat_due_at, forgiven.started_at + make_interval(secs => timeout_s)),
       stall_due_at = CASE WHEN stall_due_at > %(since)s
                           THEN least(stall_due_at + make_interval(secs => %(deaf_s)s),
                                      %(now)s + make_interval(secs => stall_s))
                           ELSE stall_due_at END
  FROM (SELECT project_id, id,
               least(attempt_started_at + make_interval(secs => %(deaf_s)s), %(now)s) AS started_at,
               greatest(deadline_at, %(now)s + make_interval(secs => heartbeat_s * %(intervals)s)) AS beat_due_at
          FROM monitor_execution
         WHERE status IN ('running', 'retrying') AND deadline_at > %(since)s
         ORDER BY project_id, id FOR NO KEY UPDATE) forgiven
 WHERE e.project_id = forgiven.project_id AND e.id = forgiven.id
"""


def sign(*, now: datetime) -> timedelta:
    """A web process says that it can hear; returns how long nobody could, 0 when somebody always did.

    Call it before the first request and every SIGN_EVERY_S. Whoever ends a deaf time forgives it, once.
    """
    with crossing():
        with connection.cursor() as cursor:
            cursor.execute(SIGN, {"name": EARS, "every_s": SIGN_EVERY_S, "now": now})
        ears = JobHeartbeat.objects.select_for_update(no_key=True).get(name=EARS)
        if ears.last_ok_at is None or now <= ears.last_ok_at:
            return timedelta()
        deaf = now - ears.last_ok_at
        signed = {"last_ok_at": now, "runs": ears.runs + 1}
        if deaf <= DEAF_AFTER:
            JobHeartbeat.objects.filter(name=EARS).update(**signed)
            return timedelta()
        heard_for = ears.last_ok_at - (ears.last_started_at or ears.last_ok_at)
        is_same = ears.last_error_at is not None and heard_for < HEARS_FOR
        began_at = ears.last_error_at if is_same else ears.last_ok_at
        JobHeartbeat.objects.filter(name=EARS).update(**signed, last_started_at=now, last_error_at=began_at)
        with connection.cursor() as cursor:
            cursor.execute(
                FORGIVE,
                {
                    "now": now,
                    "since": ears.last_ok_at,
                    "deaf_s": deaf.total_seconds(),
                    "intervals": ALIVE_INTERVALS,
                },
            )
        return deaf


class Break(NamedTuple):
    """The last time in which nobody listened; `began_at` is None when nobody had ever listened before."""

    began_at: datetime | None
    ended_at: datetime

    def after(self, moment: datetime) -> timedelta:
        """How much of it lies after a moment."""
        return max(timedelta(), self.ended_at - max(moment, self.began_at or moment))


def last_break() -> Break | None:
    """The last break, after which somebody has listened all the time; None before the first web process ever signed."""
    ears = JobHeartbeat.objects.filter(name=EARS).only("last_error_at", "last_started_at").first()
    return None if ears is None or ears.last_started_at is None else Break(ears.last_error_at, ears.last_started_at)


def heard_since() -> datetime | None:
    """Since when somebody has listened without a break; None before the first web process ever signed."""
    return JobHeartbeat.objects.filter(name=EARS).values_list("last_started_at", flat=True).first()


def deaf(*, now: datetime) -> bool:
    """Whether nobody listens now. Before the first web process ever signed there is nothing to go by: False."""
    ears = JobHeartbeat.objects.filter(name=EARS).only("last_ok_at").first()
    return ears is not None and ears.last_ok_at is not None and now - ears.last_ok_at > DEAF_AFTER
