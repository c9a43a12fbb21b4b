"""Several statements in one trip to PostgreSQL; the hot paths wait for the network as seldom as they can."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from django.db import connection

# A cursor and its answer stay in memory until all of a trip are there.
MOST_TOGETHER = 500


class Statement(NamedTuple):
    """SQL with named parameters; prepared by the driver, so its text must not vary with the data.

    With None for the parameters the text is whole, and it is not prepared.
    """

    sql: str
    parameters: dict[str, Any] | None


def flush(statements: Sequence[Statement]) -> list[list[tuple[Any, ...]]]:
    """Run the statements in order on the transaction's connection and return the rows of each.

    Many go in several trips.
    """
    if not statements:
        return []
    connection.ensure_connection()
    session = connection.connection
    with connection.wrap_database_errors:
        if len(statements) == 1:
            return [_rows(_send(session, statements[0]))]
        rows = []
        for first in range(0, len(statements), MOST_TOGETHER):
            with session.pipeline():
                cursors = [_send(session, one) for one in statements[first : first + MOST_TOGETHER]]
            rows += [_rows(cursor) for cursor in cursors]
        return rows


def _send(session: psycopg.Connection, statement: Statement) -> psycopg.Cursor:
    cursor = psycopg.Cursor(session)
    return cursor.execute(statement.sql, statement.parameters, prepare=statement.parameters is not None)


def _rows(cursor: psycopg.Cursor) -> list[tuple[Any, ...]]:
    return cursor.fetchall() if cursor.description else []


def array(values: Iterable[object]) -> str:
    """A PostgreSQL array literal of numbers, ids or flags (None is NULL); far quicker than the driver's lists."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def texts(values: Iterable[str]) -> str:
    """A PostgreSQL array literal of strings."""
    listed = list(values)
    joined = '","'.join(listed)
    # Names seldom hold what must be escaped, and one look at all of them tells.
    if "\\" in joined or joined.count('"') > 2 * max(len(listed) - 1, 0):
        joined = '","'.join([value.replace("\\", "\\\\").replace('"', '\\"') for value in listed])
    return '{"' + joined + '"}' if listed else "{}"


def times(values: Iterable[datetime | None]) -> str:
    """A PostgreSQL array literal of moments."""
    return "{" + ",".join(["NULL" if value is None else value.isoformat() for value in values]) + "}"
