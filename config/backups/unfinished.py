"""What a restore leaves in the database while it is under way, so that it goes on where it was killed.

A schema of its own holds the phase and the tables that are loaded; each table's rows and its name there are one commit.
Until the end the roles of the application may not enter the schema of the tables: nothing can run on half of them.
"""

from typing import NamedTuple

import psycopg

from monitor.checks import RESTORING
from monitor.tenancy import CROSSING_ROLE, TENANT_ROLE

EMPTYING, LOADING, UPGRADING = "emptying", "loading", "upgrading"
BEGIN = """
DROP SCHEMA IF EXISTS handrail_restoring CASCADE;
CREATE SCHEMA handrail_restoring;
CREATE TABLE handrail_restoring.state (digest text NOT NULL, phase text NOT NULL, was_public boolean NOT NULL);
CREATE TABLE handrail_restoring.loaded (name text PRIMARY KEY)
"""
FIRST = "INSERT INTO handrail_restoring.state VALUES (%s, %s, %s)"
STATE = "SELECT digest, phase, was_public FROM handrail_restoring.state"
IS_PUBLIC = """
SELECT EXISTS (SELECT FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) AS granted
                WHERE nspname = 'public' AND granted.grantee = 0 AND granted.privilege_type = 'USAGE')
"""
APP_ROLES = (TENANT_ROLE, CROSSING_ROLE)


class State(NamedTuple):
    """A restore that was begun: of which backup, how far it is, and whether everybody could enter the schema before."""

    digest: str
    phase: str
    was_public: bool


def find(connection: psycopg.Connection) -> State | None:
    there = connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [RESTORING]).fetchone()
    row = connection.execute(STATE).fetchone() if there is not None else None
    return State(*row) if row else None


def begin(connection: psycopg.Connection, digest: str) -> State:
    """Mark the database as being restored from the backup of that digest, and close it."""
    before = find(connection)
    row = connection.execute(IS_PUBLIC).fetchone()
    was_public = before.was_public if before else bool(row and row[0])
    with connection.transaction():
        connection.execute(BEGIN)
        connection.execute(FIRST, [digest, EMPTYING, was_public])
        close(connection)
    return State(digest, EMPTYING, was_public)


def close(connection: psycopg.Connection) -> None:
    """Nobody but the owner enters; the migrations open the schema again, so it is closed after them too."""
    connection.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    for role in _known(connection):
        connection.execute(f"REVOKE USAGE ON SCHEMA public FROM {role}")


def end(connection: psycopg.Connection, state: State) -> None:
    """Open the database and forget that it was restored, in one commit."""
    with connection.transaction():
        if state.was_public:
            connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
        for role in APP_ROLES:
            connection.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
        connection.execute("DROP SCHEMA handrail_restoring CASCADE")


def move_to(connection: psycopg.Connection, phase: str) -> None:
    connection.execute("UPDATE handrail_restoring.state SET phase = %s", [phase])


def loaded(connection: psycopg.Connection) -> set[str]:
    """The tables whose rows are in."""
    return {name for (name,) in connection.execute("SELECT name FROM handrail_restoring.loaded")}


def mark_loaded(connection: psycopg.Connection, table: str) -> None:
    connection.execute("INSERT INTO handrail_restoring.loaded VALUES (%s)", [table])


def _known(connection: psycopg.Connection) -> list[str]:
    roles = connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [list(APP_ROLES)])
    return [role for (role,) in roles]
