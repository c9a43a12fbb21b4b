"""Every periodic job on one page: its name, its period and what it calls.

A job is a function that takes `now`. It computes a named period or claims what is due, so that running it twice,
late or on ten machines changes nothing. A message that waited for longer than a period is dropped, for the next
one does its work as well.
"""

from datetime import timedelta
from typing import Any, NamedTuple

from config.environment import Environment

env = Environment()
# By schedule only where somebody says where to: a copy on the disk of the database is none.
BACKUP_DIR = env.str("HANDRAIL_BACKUP_DIR", default="")
BACKUP_EVERY_S = env.whole("HANDRAIL_BACKUP_EVERY_S", default=1800, least=60, most=86_400)


class Job(NamedTuple):
    """`alone`: one process at a time; for what reads a lot and can't claim row by row.

    `takes_minutes`: for workers and `manage.py tick`; a web process that stands in would keep all others waiting.
    `holds_up`: the job that can't run meanwhile, and runs after it. `asked_every_s`: how often beat asks where that is
    more often than it is due; for what somebody else may hold up.
    """

    name: str
    every_s: float
    function: str
    alone: bool = False
    takes_minutes: bool = False
    holds_up: str = ""
    asked_every_s: float | None = None


DROP = Job("retention.drop_partitions", 3600, "monitor.retention.drop_partitions", alone=True, asked_every_s=600)
BACKUP = Job(
    "backup.write",
    BACKUP_EVERY_S,
    "config.backups.writing.by_schedule",
    alone=True,
    takes_minutes=True,
    holds_up=DROP.name,
)
JOBS: tuple[Job, ...] = (
    # First: the others write to the days that it makes.
    Job("retention.make_partitions", 3600, "monitor.retention.make_partitions", alone=True),
    Job("watch.overdue", 5, "monitor.watch.overdue"),
    Job("silence.look", 15, "monitor.silence.look"),
    Job("loops.look", 10, "monitor.loopwatch.look", alone=True),
    Job("cadence.judge", 15, "monitor.cadence.judge"),
    Job("clocks.breaches", 5, "monitor.clocks.breaches"),
    Job("clocks.unanswered", 15, "monitor.clocks.unanswered"),
    Job("renewals.close_over", 30, "monitor.renewals.close_over"),
    Job("people.presence", 15, "monitor.people.presence"),
    Job("room.look", 15, "monitor.room.look"),
    Job("jobs.silence", 15, "monitor.jobs.report_silence", alone=True),
    Job("alerts.judge", 5, "alerts.judge.judge"),
    Job("alerts.settle_over", 30, "alerts.endings.settle_over", alone=True),
    Job("alerts.escalate", 5, "alerts.escalation.escalate_due"),
    Job("alerts.deliver", 5, "alerts.delivery.deliver"),
    Job("rollups.close_hours", 60, "monitor.closing.close", alone=True),
    DROP,
    Job("retention.prune", 600, "monitor.retention.prune", alone=True),
    Job("growth.sample", 3600, "monitor.growth.sample", alone=True),
    Job("alerts.prune", 600, "alerts.retention.prune", alone=True),
    *([BACKUP] if BACKUP_DIR else []),
)


def task_name(job: Job) -> str:
    return f"handrail.{job.name}"


SCHEDULE: dict[str, dict[str, Any]] = {
    job.name: {
        "task": task_name(job),
        "schedule": timedelta(seconds=job.asked_every_s or job.every_s),
        "options": {"expires": job.asked_every_s or job.every_s},
    }
    for job in JOBS
}
