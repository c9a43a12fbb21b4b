"""The days of partitioned tables, as tests need them."""

from datetime import date

from django.db import connection

from monitor.retention import PARTITIONED
from monitor.tenancy import crossing


def drop_every_day() -> None:
    """As after a long time off: not even today has a partition. Only for tests that are rolled back."""
    with crossing(), connection.cursor() as cursor:
        # Nothing may wait to be checked in a table that is dropped.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
        for table in PARTITIONED:
            cursor.execute("SELECT handrail_drop_partitions(%s::regclass, %s)", [table, date.max])
        # What follows begins as every session does, although this transaction goes on.
        cursor.execute("SET LOCAL ROLE handrail_app")


def days_of(table: str) -> set[str]:
    """The partitions of the table, by name."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", [table])
        return {name for (name,) in cursor.fetchall()}
