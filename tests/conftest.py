"""Fixtures about the database; the servers themselves are in tests/plugin.py."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.core.cache import cache
from django.db import connections
from django.test.utils import override_settings
from psycopg import sql
from pytest_django.plugin import DjangoDbBlocker

from monitor import retention
from monitor.retention import DAYS_AHEAD
from tests.plugin import servers

# Every ordinary table but the parts of partitioned ones, which follow their parents.
TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.relname
"""


class Slate:
    """The rows that the migrations wrote, so that a test's commits can be wiped and those be put back."""

    def __init__(self) -> None:
        with self._superuser() as connection:
            self._first_rows = {name: self._copy_out(connection, name) for name in self._filled(connection)}

    def wipe(self) -> None:
        with self._superuser() as connection:
            filled = self._filled(connection)
            # Row triggers and foreign keys rest: append-only tables are emptied too.
            connection.execute("SET LOCAL session_replication_role = replica")
            if filled:
                tables = sql.SQL(", ").join(map(sql.Identifier, filled))
                connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(tables))
            for name, rows in self._first_rows.items():
                with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(name))) as copy:
                    copy.write(rows)

    @staticmethod
    def _superuser() -> psycopg.Connection:
        return psycopg.connect(servers.url("postgres", servers.database))

    @staticmethod
    def _filled(connection: psycopg.Connection) -> list[str]:
        names = [name for (name,) in connection.execute(TABLES)]
        exists = [
            sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})").format(name, sql.Identifier(name)) for name in names
        ]
        return [name for (name,) in connection.execute(sql.SQL(" UNION ALL ").join(exists))] if exists else []

    @staticmethod
    def _copy_out(connection: psycopg.Connection, name: str) -> bytes:
        with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(name))) as copy:
            return b"".join(copy)


@pytest.fixture(scope="session", autouse=True)
def _cheap_passwords() -> Iterator[None]:
    """Here a password need not cost a second of work; processes that tests start hash as always."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker: DjangoDbBlocker) -> None:
    """pytest-django's database set-up, replaced: the settings already name a database of ours.

    What it is copied from may have been migrated weeks ago, so the days around today are made.
    """
    servers.make_database()
    today = datetime.now(UTC)
    with django_db_blocker.unblock():
        for now in (today - timedelta(days=DAYS_AHEAD), today):
            retention.make_partitions(now=now)
        connections.close_all()


@pytest.fixture(scope="session")
def slate(django_db_setup: None) -> Slate:
    return Slate()


@pytest.fixture
def committed_db(slate: Slate, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """A database whose commits are seen by other connections and processes; wiped after the test, Valkey too."""
    with django_db_blocker.unblock():
        try:
            yield
        finally:
            connections.close_all()
            slate.wipe()
            cache.clear()


@pytest.fixture
def owner_dsn(django_db_setup: None) -> str:
    """The address of this process's database as the role that owns the tables."""
    return servers.database_url
