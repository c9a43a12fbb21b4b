"""What is old leaves: days as whole partitions, small tables row by row, and coming days get their partitions.

How long each kind is kept stands in keeping.py. Projects share the partitions, so a day is dropped when nobody keeps
it any more. Until then the rows of whoever keeps less are deleted from it: so no query that reads has to know how long
things are kept. What is deleted gives its space to nobody else before the day is dropped.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from django.db import OperationalError, connection
from psycopg.errors import LockNotAvailable

from monitor import keeping, rundays
from monitor.keeping import Standing
from monitor.models.queue import OPEN_ITEMS
from monitor.tenancy import crossing

# Yesterday, for a process whose clock is a little behind; a week, for a machine that slept while this ran.
DAYS_BEHIND, DAYS_AHEAD = 1, 7
ROWS_AT_ONCE = 5_000
BATCHES_AT_ONCE = 20
# Of days that others keep on: a million rows of a table in one run.
BATCHES_OF_DAYS = 200
# Append-only rows can't be locked, nor need they be.
LOCK = "FOR UPDATE SKIP LOCKED"


class Partitioned(NamedTuple):
    """A table in days by `column`."""

    kind: str
    column: str
    lock: str = LOCK


PARTITIONED: Mapping[str, Partitioned] = {
    "monitor_span": Partitioned("spans", "started_at"),
    "monitor_ledgerentry": Partitioned("ledger", "occurred_at", lock=""),
    "monitor_statechange": Partitioned("journal", "at"),
}


class StillRead(Exception):
    """Days that could not be dropped beside those who read their tables; the job comes again."""

    def __init__(self, left: Mapping[str, int]) -> None:
        listed = ", ".join(f"{days} of {table}" for table, days in left.items())
        super().__init__(f"days that others still read or write were not dropped: {listed}")


class Pruned(NamedTuple):
    """A table that is pruned row by row, by the age of a column that an index finds; `also` narrows which rows.

    `more` are the days for which they stay longer than their kind; `along` deletes in the same statement what leaves
    with them, whose names it finds in `gone`.
    """

    table: str
    column: str
    kind: str
    also: str = "true"
    lock: str = LOCK
    more: int = 0
    along: str = ""


# A run's window begins with time itself: its age says nothing, and no index tells which run has gone.
WINDOWS_OF_RUNS = """
DELETE FROM monitor_budgetwindow AS held USING gone
 WHERE held.project_id = gone.project_id AND held.scope = 'run' AND held.target = gone.run_id
"""

# What it spent, and the window that a reset grants more in, stand until a person has reset its trip.
NOT_STOPPED = "tripped_at IS NULL"

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

# Closing an hour takes off the counters what its rollup holds.
STILL_MARKED = """
SELECT FROM monitor_dirtyhour AS mark
 WHERE mark.project_id = monitor_hourrollup.project_id AND mark.hour = monitor_hourrollup.hour
"""

# An hour that is marked is summed from its minutes yet.
STILL_SUMMED = """
SELECT FROM monitor_dirtyhour AS mark
 WHERE mark.project_id = monitor_minuterollup.project_id
   AND mark.hour = date_trunc('hour', monitor_minuterollup.minute, 'UTC')
"""

# What refers to another table's rows stands before that table. Nothing open is pruned.
PRUNED = (
    Pruned("monitor_minuterollup", "minute", "minutes", f"{EACH_PROJECT} AND NOT EXISTS ({STILL_SUMMED})"),
    Pruned("monitor_hourrollup", "hour", "hours", f"{EACH_PROJECT} AND NOT EXISTS ({STILL_MARKED})"),
    # The day before its sums: then its hours stand for it.
    Pruned("monitor_rolledday", "starts_at", "hours", EACH_PROJECT),
    Pruned("monitor_dayrollup", "day", "hours", EACH_PROJECT),
    Pruned("monitor_ingestkey", "at", "ids"),
    Pruned("monitor_spanlog", "received_at", "logs"),
    # It tells where its spans are. Found by its start, which does not move with each of its spans.
    Pruned("monitor_trace", "first_at", "spans", "last_at < %(before)s", more=2),
    Pruned("monitor_run", "last_at", "runs", f"{EACH_PROJECT} AND {NOT_STOPPED}", along=WINDOWS_OF_RUNS),
    Pruned("monitor_message", "created_at", "messages", f"NOT {OF_PEOPLE}"),
    Pruned("monitor_loop", "ended_at", "loops"),
    Pruned("monitor_command", "issued_at", "executions", f"NOT EXISTS ({STILL_OPEN})"),
    Pruned("monitor_execution", "ended_at", "executions"),
    Pruned("monitor_budgetwindow", "starts_at", "runs", "scope <> 'run'"),
    Pruned("monitor_queueevent", "at", "messages", lock=""),
    Pruned("monitor_queueitem", "closed_at", "conversations", f"status NOT IN {tuple(map(str, OPEN_ITEMS))}"),
    Pruned(
        "monitor_conversation",
        "updated_at",
        "conversations",
        f"{EACH_PROJECT} AND NOT ({WITH_PEOPLE} OR {REFERRED_TO})",
    ),
)
MAKE = "SELECT handrail_make_partitions(%(table)s::regclass, %(first)s, %(last)s)"
# Whoever drops a day waits for all who read its table, and all who come meanwhile wait with it: so not for long.
LOCK_WITHIN = "SET LOCAL lock_timeout = '2s'"
TRIES = 3
DROP = "SELECT handrail_drop_partitions(%(table)s::regclass, %(before)s)"
DAYS = """
SELECT to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD') AS day FROM pg_inherits
 WHERE inhparent = %(table)s::regclass AND inhrelid::regclass::text ~ '_p[0-9]{8}$' ORDER BY day
"""
# Few rows of a day may be left of those who keep less, and what the planner knows of it is of another time: it is to
# go by the index that begins with the project, and never through the rows of all others.
BY_INDEX = "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)"


def make_partitions(*, now: datetime) -> int:
    """Make the partitions of yesterday, today and the week ahead; return how many were missing."""
    made = 0
    first, last = now.date() - timedelta(days=DAYS_BEHIND), now.date() + timedelta(days=DAYS_AHEAD)
    for table in PARTITIONED:
        with crossing(), connection.cursor() as cursor:
            cursor.execute(MAKE, {"table": table, "first": first, "last": last})
            made += cursor.fetchone()[0]
    return made


def drop_partitions(*, now: datetime) -> int:
    """Drop the days that nobody keeps any more, each by itself; return how many. Raises StillRead after the others.

    A kind that was shortened just now is left to the next run, as when rows are pruned.
    """
    dropped = 0
    kept = keeping.standing()
    settling = keeping.settling(now=now)
    left: dict[str, int] = {}
    for table, one in PARTITIONED.items():
        if one.kind in settling:
            continue
        before = now.date() - timedelta(days=kept.longest(one.kind))
        old = [day for day in days_of(table) if day < before]
        for n, day in enumerate(old):
            if not _drop(table, day):
                left[table] = len(old) - n
                break
            dropped += 1
    if left:
        raise StillRead(left)
    return dropped


def _drop(table: str, day: date) -> bool:
    """Drop the days of a table up to this one; False where somebody reads or writes it all the while."""
    for _ in range(TRIES):
        try:
            with crossing(), connection.cursor() as cursor:
                cursor.execute(LOCK_WITHIN)
                cursor.execute(DROP, {"table": table, "before": day + timedelta(days=1)})
                return True
        except OperationalError as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
    return False


def prune(*, now: datetime) -> int:
    """Delete old rows in bounded batches, each its own transaction; what is left over is the next run's.

    So are kinds that were shortened just now: who takes a span by the longer days finds what it changes.
    """
    kept = keeping.standing()
    # Read after the days, so that no change comes between.
    settling = keeping.settling(now=now)
    deleted = sum(_prune(pruned, kept, now=now) for pruned in PRUNED if pruned.kind not in settling)
    if "runs" not in settling:
        for days, whose, values in groups(kept, "runs"):
            rundays.fold(f"{EACH_PROJECT} AND {whose}", values, before=now - timedelta(days=days))
    in_days = [(table, one) for table, one in PARTITIONED.items() if one.kind not in settling]
    return deleted + sum(_prune_days(table, one, kept, now=now) for table, one in in_days)


def _prune(pruned: Pruned, kept: Standing, *, now: datetime) -> int:
    deleted = 0
    for days, whose, values in groups(kept, pruned.kind):
        statement = f"""
            DELETE FROM {pruned.table} WHERE ctid = ANY(ARRAY(
                SELECT ctid FROM {pruned.table} WHERE {pruned.column} < %(before)s AND {pruned.also} AND {whose}
                 LIMIT %(most)s {pruned.lock}))
        """  # noqa: S608
        if pruned.along:
            statement = f"WITH gone AS ({statement} RETURNING *), along AS ({pruned.along}) SELECT FROM gone"
        values = {**values, "before": now - timedelta(days=days + pruned.more), "most": ROWS_AT_ONCE}
        deleted += _in_batches(statement, values, most=BATCHES_AT_ONCE)
    return deleted


def groups(kept: Standing, kind: str) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Whose rows of a kind leave after how many days: (days, condition, its parameters)."""
    found = kept.groups(kind)
    default = kept.default[kind]
    others = [project_id for days, ids in found.items() if days != default for project_id in ids]
    # Most keep what the instance says, and they are not listed one by one.
    yield default, "project_id <> ALL(%(projects)s)" if others else "true", {"projects": others} if others else {}
    for days in sorted(found.keys() - {default}):
        yield days, "project_id = ANY(%(projects)s)", {"projects": found[days]}


def _prune_days(table: str, one: Partitioned, kept: Standing, *, now: datetime) -> int:
    """Delete the rows of projects that keep less than others from the days that those keep on."""
    found, longest = kept.groups(one.kind), kept.longest(one.kind)
    shorter = {days: ids for days, ids in found.items() if days < longest}
    if not shorter:
        return 0
    statement = f"""
        DELETE FROM {table} WHERE {one.column} >= %(first)s AND {one.column} < %(last)s AND ctid = ANY(ARRAY(
            SELECT ctid FROM {table}
             WHERE project_id = ANY(%(projects)s) AND {one.column} >= %(first)s AND {one.column} < %(last)s
             LIMIT %(most)s {one.lock}))
    """  # noqa: S608
    deleted, left = 0, BATCHES_OF_DAYS
    for day in days_of(table):
        ids = [
            project_id
            for days, some in shorter.items()
            if day < now.date() - timedelta(days=days)
            for project_id in some
        ]
        if not ids:
            continue
        values = {
            "projects": ids,
            "first": _midnight(day),
            "last": _midnight(day + timedelta(days=1)),
            "most": ROWS_AT_ONCE,
        }
        gone = _in_batches(statement, values, most=left, first=BY_INDEX)
        deleted += gone
        left -= gone // ROWS_AT_ONCE
        if left <= 0:
            break
    return deleted


def days_of(table: str) -> list[date]:
    """The days that a table has partitions for, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(DAYS, {"table": table})
        return [day for (day,) in cursor.fetchall()]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _in_batches(statement: str, values: Mapping[str, Any], *, most: int, first: str = "") -> int:
    """Run the statement, after `first`, until it deletes no whole batch any more; returns how many rows left."""
    deleted = 0
    for _ in range(most):
        with crossing(), connection.cursor() as cursor:
            if first:
                cursor.execute(first)
            cursor.execute(statement, values)
            gone = cursor.rowcount
        deleted += gone
        if gone < ROWS_AT_ONCE:
            break
    return deleted


# Kinds whose tables are pruned elsewhere.
OTHERS = {"alerts": ("alerts_alert", "alerts_alertevent", "alerts_delivery")}
# They tell a kind's age, though what refers to them is pruned before.
OLD_BY = {"executions": "monitor_execution", "conversations": "monitor_conversation"}


def tables_of(kind: str) -> list[str]:
    """The tables that hold a kind, the one that tells its age first."""
    found = [OLD_BY[kind]] if kind in OLD_BY else []
    found += [table for table, one in PARTITIONED.items() if one.kind == kind]
    found += [one.table for one in PRUNED if one.kind == kind]
    return list(dict.fromkeys((*found, *OTHERS.get(kind, ()))))


def longest_of_tables(kept: Standing) -> dict[str, int]:
    """For how many days each table keeps rows at most, by whoever keeps them for the longest."""
    return {table: kept.longest(kind) for kind in keeping.KINDS for table in tables_of(kind)}
