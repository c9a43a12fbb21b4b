"""The product's tables and sequences as PostgreSQL knows them, and the owner's session to read and write them."""

from typing import NamedTuple

import psycopg
from django.conf import settings
from psycopg import sql

# What the product's tables, sequences and functions are called; whatever else is in the database is left alone.
PREFIXES = ("monitor_", "alerts_", "auth_", "django_")
FUNCTIONS = "handrail_"
MIGRATIONS = "django_migrations"

# Text that reads the same in every session and every version.
SESSION = """
SET search_path = public; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres';
SET bytea_output = 'hex'; SET extra_float_digits = 3; SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0; SET client_min_messages = warning; SET synchronous_commit = on
"""
OURS = """
c.relnamespace = 'public'::regnamespace AND c.relname ~ %(ours)s
AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                             AND d.deptype = 'e')
"""
TABLES = f"""
SELECT c.relname, coalesce(parent.relname, '') AS parent, c.oid::bigint,
       coalesce(pg_relation_filenode(c.oid), 0)::bigint AS filenode,
       array(SELECT a.attname::text FROM pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
              ORDER BY a.attnum) AS columns,
       array(SELECT a.attnum || ':' || format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS kinds,
       array(SELECT a.attname::text FROM pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid = 'numeric'::regtype
              ORDER BY a.attnum) AS amounts,
       EXISTS (SELECT FROM pg_constraint AS guard WHERE guard.conrelid = c.oid
                  AND guard.conname LIKE '%%\\_only\\_for\\_its\\_project') AS is_guarded
  FROM pg_class AS c
  LEFT JOIN pg_inherits AS tree ON tree.inhrelid = c.oid
  LEFT JOIN pg_class AS parent ON parent.oid = tree.inhparent
 WHERE c.relkind = 'r' AND {OURS}
 ORDER BY parent.relname NULLS FIRST, c.relname
"""  # noqa: S608
SEQUENCES = f"SELECT c.relname FROM pg_class AS c WHERE c.relkind = 'S' AND {OURS} ORDER BY c.relname"  # noqa: S608
# Which database of which server, and which of its histories: row versions are told apart within one only.
IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system())::text, (SELECT timeline_id FROM pg_control_checkpoint()),
       (SELECT oid FROM pg_database WHERE datname = current_database())::bigint
"""


class Table(NamedTuple):
    """A table that holds rows itself. `amounts` are its exact decimals; a guarded one takes one project at a time."""

    name: str
    parent: str
    oid: int
    filenode: int
    columns: list[str]
    kinds: list[str]
    amounts: list[str]
    is_guarded: bool


def connect() -> psycopg.Connection:
    """A session of the role that owns the tables, whom no policy binds."""
    connection = psycopg.connect(settings.DATABASE_URL, autocommit=True, application_name="handrail backup")
    connection.execute(SESSION)
    return connection


def ours() -> dict[str, str]:
    """The parameter of the queries above."""
    return {"ours": f"^({'|'.join(PREFIXES)})"}


def tables(connection: psycopg.Connection) -> list[Table]:
    return [Table(*row) for row in connection.execute(TABLES, ours())]


def sequences(connection: psycopg.Connection) -> list[str]:
    return [name for (name,) in connection.execute(SEQUENCES, ours())]


def migrations(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """The migrations that have been applied, by app and name; none where there is no table of them."""
    there = connection.execute("SELECT to_regclass('public.django_migrations') IS NOT NULL").fetchone()
    if there is None or not there[0]:
        return []
    return [(app, name) for app, name in connection.execute("SELECT app, name FROM django_migrations ORDER BY 1, 2")]


def names(columns: list[str]) -> sql.Composed:
    """Column names with commas."""
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def totals(connection: psycopg.Connection, table: str, amounts: list[str]) -> tuple[int, dict[str, str]]:
    """How many rows the table has, and the total of each amount as text."""
    sums = [sql.SQL("coalesce(sum({}), 0)::text").format(sql.Identifier(name)) for name in amounts]
    asked = sql.SQL(", ").join([sql.SQL("count(*)"), *sums])
    row = connection.execute(sql.SQL("SELECT {} FROM ONLY {}").format(asked, sql.Identifier(table))).fetchone()
    assert row is not None
    return row[0], dict(zip(amounts, row[1:], strict=True))
