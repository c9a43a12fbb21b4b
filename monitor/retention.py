"""How long things are kept: coming days get their partitions, past ones are dropped, small tables are pruned."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import connection

from monitor.models.queue import OPEN_ITEMS
from monitor.tenancy import crossing

# Yesterday, for a process whose clock is a little behind; a week, for a machine that slept while this ran.
DAYS_BEHIND, DAYS_AHEAD = 1, 7
ROWS_AT_ONCE = 5_000
BATCHES_AT_ONCE = 20

# Old days leave as whole partitions.
PARTITIONED_DAYS: Mapping[str, int] = {
    "monitor_span": 90,
    "monitor_ledgerentry": 400,
    "monitor_statechange": 400,
}


class Pruned(NamedTuple):
    """A table that is pruned row by row, by the age of a column that an index finds; `also` narrows which rows.

    Append-only rows can't be locked, nor need they be.
    """

    table: str
    column: str
    days: int
    also: str = "true"
    lock: str = "FOR UPDATE SKIP LOCKED"


# A run's window begins with time itself and stays for as long as the run does.
ITS_RUN = """
SELECT FROM monitor_run AS run
 WHERE run.project_id = monitor_budgetwindow.project_id AND run.run_id = monitor_budgetwindow.target
"""

# Lets an index that begins with the project find the age.
EACH_PROJECT = "project_id = ANY(ARRAY(SELECT id FROM monitor_project))"
# A person has it or is asked for.
WITH_PEOPLE = "state IN ('handover', 'pending_human', 'human_active', 'back_to_ai')"
OF_PEOPLE = f"""
EXISTS (SELECT FROM monitor_conversation AS talk WHERE talk.id = monitor_message.conversation_id AND talk.{WITH_PEOPLE})
"""
REFERRED_TO = """
EXISTS (SELECT FROM monitor_message AS said WHERE said.conversation_id = monitor_conversation.id)
OR EXISTS (SELECT FROM monitor_queueitem AS item WHERE item.conversation_id = monitor_conversation.id)
"""

# The command in force may be as old as what it holds still.
STILL_OPEN = """
SELECT FROM monitor_execution AS work
 WHERE work.project_id = monitor_command.project_id AND work.id = monitor_command.execution_id AND work.ended_at IS NULL
"""

# What refers to another table's rows stands before that table. Nothing open is pruned.
PRUNED = (
    # As long as a late span may still change its minute, and its hour is recomputed from the minutes.
    Pruned("monitor_minuterollup", "minute", 92, EACH_PROJECT),
    Pruned("monitor_hourrollup", "hour", 400, EACH_PROJECT),
    Pruned("monitor_ingestkey", "at", 30),
    Pruned("monitor_spanlog", "received_at", 7),
    # Found by its start, which does not move with each of its spans.
    Pruned("monitor_trace", "first_at", 92, "last_at < %(before)s"),
    Pruned("monitor_run", "last_at", 400, EACH_PROJECT),
    Pruned("monitor_message", "created_at", 90, f"NOT {OF_PEOPLE}"),
    Pruned("monitor_loop", "ended_at", 90),
    Pruned("monitor_command", "issued_at", 180, f"NOT EXISTS ({STILL_OPEN})"),
    Pruned("monitor_execution", "ended_at", 180),
    Pruned("monitor_budgetwindow", "starts_at", 400, "scope <> 'run'"),
    Pruned("monitor_budgetwindow", "starts_at", 400, f"scope = 'run' AND NOT EXISTS ({ITS_RUN})"),
    Pruned("monitor_queueevent", "at", 90, lock=""),
    Pruned("monitor_queueitem", "closed_at", 180, f"status NOT IN {tuple(map(str, OPEN_ITEMS))}"),
    Pruned("monitor_conversation", "updated_at", 180, f"{EACH_PROJECT} AND NOT ({WITH_PEOPLE} OR {REFERRED_TO})"),
)
MAKE = "SELECT handrail_make_partitions(%(table)s::regclass, %(first)s, %(last)s)"
DROP = "SELECT handrail_drop_partitions(%(table)s::regclass, %(before)s)"


def make_partitions(*, now: datetime) -> int:
    """Make the partitions of yesterday, today and the week ahead; return how many were missing."""
    made = 0
    first, last = now.date() - timedelta(days=DAYS_BEHIND), now.date() + timedelta(days=DAYS_AHEAD)
    for table in PARTITIONED_DAYS:
        with crossing(), connection.cursor() as cursor:
            cursor.execute(MAKE, {"table": table, "first": first, "last": last})
            made += cursor.fetchone()[0]
    return made


def drop_partitions(*, now: datetime) -> int:
    """Drop the days that are older than their kind is kept; return how many."""
    dropped = 0
    for table, days in PARTITIONED_DAYS.items():
        with crossing(), connection.cursor() as cursor:
            cursor.execute(DROP, {"table": table, "before": now.date() - timedelta(days=days)})
            dropped += cursor.fetchone()[0]
    return dropped


def prune(*, now: datetime) -> int:
    """Delete old rows in bounded batches, each its own transaction; what is left over is the next run's."""
    return sum(_prune(pruned, now=now) for pruned in PRUNED)


def _prune(pruned: Pruned, *, now: datetime) -> int:
    statement = f"""
        DELETE FROM {pruned.table} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {pruned.table} WHERE {pruned.column} < %(before)s AND {pruned.also}
             LIMIT %(most)s {pruned.lock}))
    """  # noqa: S608
    deleted = 0
    for _ in range(BATCHES_AT_ONCE):
        with crossing(), connection.cursor() as cursor:
            cursor.execute(statement, {"before": now - timedelta(days=pruned.days), "most": ROWS_AT_ONCE})
            gone = cursor.rowcount
        deleted += gone
        if gone < ROWS_AT_ONCE:
            break
    return deleted
