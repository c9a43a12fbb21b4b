"""What would leave if a kind were kept for less, for whoever is about to shorten it. Much is estimated, not counted."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any, NamedTuple

from django.db import connection

from monitor import keeping
from monitor.keeping import Change
from monitor.retention import PARTITIONED, PRUNED, tables_of
from monitor.tenancy import crossing

# So many are counted; of more the planner's estimate is told.
COUNTED = 10_000
# Bytes of a row, with its share of indexes and long texts.
WEIGHT = """
SELECT coalesce(sum(pg_total_relation_size(own.oid)) FILTER (WHERE own.reltuples > 0)
                / nullif(sum(own.reltuples) FILTER (WHERE own.reltuples > 0), 0), 0)::float8
  FROM pg_class AS own LEFT JOIN pg_inherits AS tree ON tree.inhrelid = own.oid
 WHERE own.relkind = 'r' AND (own.oid = %(table)s::regclass OR tree.inhparent = %(table)s::regclass)
"""


class Leaving(NamedTuple):
    """What a shorter time takes away of a kind: about `rows` and `bytes`, None where their size is not known yet.

    `is_exact` tells that the rows were counted and not estimated.
    """

    kind: str
    rows: int
    bytes: int | None
    is_exact: bool


def of_project(changes: Sequence[Change], project_id: int, *, now: datetime) -> list[Leaving]:
    """What the changes that shorten take away from a project. Bytes are those of whole rows as they lie today."""
    with crossing():
        return [_of_kind(one, [project_id], now=now) for one in changes if one.is_shorter]


def of_all(changes: Sequence[Change], *, now: datetime) -> list[Leaving]:
    """What they take away from every project that says nothing itself."""
    with crossing():
        return [_of_kind(one, keeping.followers(one.kind), now=now) for one in changes if one.is_shorter]


def _of_kind(change: Change, project_ids: Sequence[int], *, now: datetime) -> Leaving:
    rows, size, is_exact = 0, 0.0, True
    for table, where, more in _conditions(change.kind):
        values = {"projects": list(project_ids), "before": _before(table, change.days + more, now=now)}
        found, counted = _rows(table, where, values)
        rows, is_exact = rows + found, is_exact and counted
        size += found * _weight(table)
    return Leaving(change.kind, rows, round(size) if size or not rows else None, is_exact)


def _conditions(kind: str) -> Iterator[tuple[str, str, int]]:
    """(table, which of its rows are old, days for which they stay longer) of all tables of a kind."""
    for table, one in PARTITIONED.items():
        if one.kind == kind:
            yield table, f"{one.column} < %(before)s", 0
    for pruned in PRUNED:
        if pruned.kind == kind:
            yield pruned.table, f"{pruned.column} < %(before)s AND {pruned.also}", pruned.more
    if kind == "alerts":
        yield tables_of(kind)[0], "status = 'resolved' AND resolved_at < %(before)s", 0


def _before(table: str, days: int, *, now: datetime) -> datetime:
    """What is older leaves: of a table in days whole ones."""
    before = now - timedelta(days=days)
    return datetime.combine(before.date(), time(), UTC) if table in PARTITIONED else before


def _rows(table: str, where: str, values: Mapping[str, Any]) -> tuple[int, bool]:
    """How many, and whether they were counted."""
    chosen = f"FROM {table} WHERE project_id = ANY(%(projects)s) AND {where}"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM (SELECT {chosen} LIMIT {COUNTED}) AS found", values)  # noqa: S608
        (counted,) = cursor.fetchone()
        if counted < COUNTED:
            return counted, True
        cursor.execute(f"EXPLAIN (FORMAT JSON) SELECT {chosen}", values)
        (told,) = cursor.fetchone()
    plan = told if isinstance(told, list) else json.loads(told)
    return max(int(plan[0]["Plan"]["Plan Rows"]), COUNTED), False


def _weight(table: str) -> float:
    with connection.cursor() as cursor:
        cursor.execute(WEIGHT, {"table": table})
        (weight,) = cursor.fetchone()
        return float(weight)
