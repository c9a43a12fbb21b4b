"""When alerts leave: one that is resolved leaves whole, with its timeline and its deliveries."""

from datetime import datetime, timedelta

from django.db import connection

from monitor import keeping
from monitor.retention import groups
from monitor.tenancy import crossing

ALERTS_AT_ONCE = 200
BATCHES_AT_ONCE = 50
PRUNE = """
WITH old AS MATERIALIZED (
    SELECT id FROM alerts_alert
     WHERE status = 'resolved' AND resolved_at < %(before)s AND {whose}
       AND NOT EXISTS (SELECT FROM alerts_delivery
                        WHERE alert_id = alerts_alert.id AND status IN ('pending', 'sending'))
     ORDER BY resolved_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
), events AS (
    DELETE FROM alerts_alertevent USING old WHERE alert_id = old.id
), deliveries AS (
    DELETE FROM alerts_delivery USING old WHERE alert_id = old.id
)
DELETE FROM alerts_alert USING old WHERE alerts_alert.id = old.id
"""


def prune(*, now: datetime) -> int:
    """Delete alerts that were resolved longer ago than they are kept, in batches of their own; return how many."""
    deleted = 0
    for days, whose, values in groups(keeping.standing(), "alerts"):
        statement = PRUNE.format(whose=whose)
        before = now - timedelta(days=days)
        for _ in range(BATCHES_AT_ONCE):
            with crossing(), connection.cursor() as cursor:
                cursor.execute(statement, {**values, "before": before, "most": ALERTS_AT_ONCE})
                gone = cursor.rowcount
            deleted += gone
            if gone < ALERTS_AT_ONCE:
                break
    return deleted
