"""The watchdog: whatever is overdue gets its verdict, exactly once, however many processes watch."""

from datetime import datetime

from monitor import attempts, fleet, listening, stalls
from monitor.tenancy import crossing

ACTOR = "watchdog"
BATCH = 500
DUE = """
status IN ('running', 'retrying') AND deadline_at <= %(now)s AND NOT (status = 'running' AND project_id = ANY(%(held)s))
ORDER BY deadline_at LIMIT %(batch)s FOR NO KEY UPDATE SKIP LOCKED
"""


def overdue(*, now: datetime, limit: int = 10_000, jitter: float | None = None) -> int:
    """Judge up to `limit` executions in every project that are overdue or have stalled; returns how many.

    Judges none while nobody listens to the agents, nor while a fleet's silence is looked into.
    """
    with crossing():
        if listening.deaf(now=now):
            return 0
        held = fleet.held(now=now)
    judged = 0
    while judged < limit:
        batch = min(BATCH, limit - judged)
        with crossing():
            lost = attempts.give_up(DUE, {"held": held, "batch": batch}, now=now, actor=ACTOR, jitter=jitter)
        judged += len(lost)
        if len(lost) < batch:
            break
    return judged + stalls.judge(now=now, limit=limit - judged, held=held, jitter=jitter)
