"""The days of partitioned tables, made where a span needs one, in a transaction of its own and before any lock."""

from collections.abc import Iterable, Sequence
from datetime import date

from monitor import pipeline
from monitor.pipeline import Statement, array
from monitor.tenancy import crossing

TABLES = ("monitor_span", "monitor_ledgerentry")
MISSING = """
SELECT DISTINCT day FROM unnest(%(days)s::date[]) AS day, unnest(%(tables)s::text[]) AS parent
 WHERE to_regclass(parent || '_p' || to_char(day, 'YYYYMMDD')) IS NULL
"""
MAKE = """
SELECT handrail_make_partitions(parent::regclass, day, day)
  FROM unnest(%(tables)s::text[]) AS parent, unnest(%(days)s::date[]) AS day ORDER BY parent, day
"""


class Missing(Exception):
    """There is no partition yet for some of the days; `deadlocks.unhindered` makes them and begins anew."""

    def __init__(self, days: Sequence[date]) -> None:
        super().__init__(", ".join(map(str, sorted(days))))
        self.days = days


def looking(days: Iterable[date]) -> Statement:
    """The statement that returns which of the days are missing."""
    return Statement(MISSING, {"days": array(sorted(days)), "tables": array(TABLES)})


def make(days: Iterable[date]) -> None:
    """Make the days, for all projects."""
    with crossing():
        pipeline.flush([Statement(MAKE, {"days": array(sorted(days)), "tables": array(TABLES)})])
