"""Databases to back up and to restore into, and what is in them, row by row."""

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from config.backups import writing
from tests.plugin import ROOT, servers

ROLES = "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname LIKE 'handrail%' ORDER BY 1"
OURS = "relnamespace = 'public'::regnamespace AND relname ~ '^(monitor|alerts|auth|django)_'"
# Everything that binds beside the rows: rights, policies, triggers, checks, keys, indexes, parts, functions.
RULES = {
    "rights": f"""
        SELECT relname, relkind, relrowsecurity, relacl::text FROM pg_class WHERE relkind IN ('r', 'p', 'S') AND {OURS}
    """,
    "policies": """
        SELECT tablename, policyname, roles::text, cmd, qual, with_check FROM pg_policies WHERE schemaname = 'public'
    """,
    "triggers": "SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "constraints": """
        SELECT conrelid::regclass::text, conname, convalidated, pg_get_constraintdef(oid) FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace
    """,
    "indexes": "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "parts": """
        SELECT inhparent::regclass::text, inhrelid::regclass::text, pg_get_expr(relpartbound, c.oid)
          FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid WHERE relkind = 'r'
    """,
    "functions": """
        SELECT proname, pg_get_functiondef(oid), proacl::text FROM pg_proc
         WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'handrail%'
    """,
    "schema": "SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname = 'public' OR nspname LIKE 'handrail%'",
}


@contextmanager
def a_database() -> Iterator[str]:
    """An empty database on the run's server; its address as the role that will own the tables."""
    name = f"restored_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(servers.url("postgres", "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER handrail").format(sql.Identifier(name)))
        try:
            yield servers.url("handrail", name)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def begin(url: str, *words: Any, **settings: Any) -> subprocess.Popen[str]:
    """`manage.py` on that database, under way."""
    return subprocess.Popen(
        [sys.executable, "manage.py", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": url} | {name: str(value) for name, value in settings.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def manage(url: str, *words: Any, **settings: Any) -> str:
    """What `manage.py` prints; a failure is shown."""
    process = begin(url, *words, **settings)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, f"{words}: {said}\n{errors[-3000:]}"
    return said


def refusal(url: str, *words: Any, **settings: Any) -> str:
    """What `manage.py` says when it refuses."""
    process = begin(url, *words, **settings)
    said, errors = process.communicate(timeout=300)
    assert process.returncode != 0, said
    return errors


def back_up(url: str, base: Path, *, keep: int | None = None) -> Path:
    """The folder of the backup that is made; of the run's own database without a process of its own."""
    if url == servers.database_url:
        return writing.back_up(base, say=lambda _: None, keep=keep).path
    return Path(manage(url, "backup", base).splitlines()[-1].partition(": ")[0])


def kill_after(process: subprocess.Popen[str], words: str) -> list[str]:
    """kill -9 as soon as a line says so (`words` is a regular expression); the lines until then."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(words, line):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert lines, "it said nothing"
    return lines


def rows(url: str) -> dict[str, list[bytes]]:
    """Every row of every table as COPY writes it."""
    found = {}
    with psycopg.connect(url) as connection:
        names = [name for (name,) in connection.execute(f"SELECT relname FROM pg_class WHERE relkind = 'r' AND {OURS}")]
        for name in names:
            with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(name))) as copy:
                lines = b"".join(copy).splitlines()
            if lines and name != "django_migrations":  # Its times are those of the restore.
                found[name] = sorted(lines)
    return found


def rules(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that binds, beside the rows; and the roles."""
    with psycopg.connect(url) as connection:
        found = {name: sorted(connection.execute(asked).fetchall(), key=str) for name, asked in RULES.items()}
        return found | {"roles": connection.execute(ROLES).fetchall()}


def ask(url: str, asked: str, *values: Any) -> Any:
    """The first value of the answer."""
    with psycopg.connect(url) as connection:
        return connection.execute(asked, values).fetchone()[0]


def contents(backup: Path) -> dict[str, Any]:
    return json.loads((backup / "manifest.json").read_text())["manifest"]
