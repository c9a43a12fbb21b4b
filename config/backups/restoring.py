"""Restoring a backup: the tables as they were made by the migrations of its time, its rows, then today's migrations.

Each step may be killed and is taken up again by the next run. Rows come in through the same guard as those of agents:
a guarded table takes them project by project.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from graphlib import TopologicalSorter
from pathlib import Path

import redis
from django.conf import settings
from django.core.management import call_command
from django.db import connection as django_connection
from django.db.migrations.executor import MigrationExecutor
from psycopg import sql

from config.backups import manifest, tables, unfinished
from config.backups.manifest import Damaged, Part
from config.backups.tables import FUNCTIONS, MIGRATIONS

DROPPED_AT_ONCE = 20
# Numbers of events that were given out after the backup are not given again: an agent reads on after the last it knows.
EVENTS_AHEAD = 1_000_000
REDIS_WITHIN_S = 2
GONE_WITHIN_S = 3.0
FILLED = """
SELECT (SELECT count(*) FROM monitor_project), (SELECT count(*) FROM monitor_person),
       (SELECT count(*) FROM monitor_execution)
"""
# Of the sessions of other roles the owner sees no more than whose they are, unless it may read all statistics.
OTHERS = """
SELECT pid, coalesce(nullif(application_name, ''), usename) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> ALL(%s) AND usename IS NOT NULL
   AND coalesce(backend_type, 'client backend') = 'client backend'
"""
COUNTED = ("monitor_project", "monitor_person", "monitor_execution")
MISSING = "SELECT count(*) FROM unnest(%s::text[]) AS name WHERE to_regclass('public.' || name) IS NULL"
PARTITIONED = "SELECT c.relname FROM pg_class AS c WHERE c.relkind = 'p' AND c.relnamespace = 'public'::regnamespace"
REFERENCES = """
SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint
 WHERE contype = 'f' AND conrelid <> confrelid
"""
OUR_FUNCTIONS = """
SELECT p.oid::regprocedure::text FROM pg_proc AS p
 WHERE p.pronamespace = 'public'::regnamespace AND starts_with(p.proname, %s)
"""
MAKE_DAY = "SELECT handrail_make_partitions(%s::regclass, %s, %s)"


class Refused(Exception):
    """The restore was not begun, or stopped; the sentence says why and what to do."""


class Restore:
    """One run of `manage.py restore`. `place` is what names the instance, for people."""

    def __init__(self, folder: Path, *, place: str, say: Callable[[str], None]) -> None:
        self.folder, self.place, self._say = folder, place, say
        self.manifest = manifest.read(folder)

    def check(self) -> None:
        """Read every file and compare its checksum. Raises Damaged with all that are not as they were written."""
        damages = []
        for part in self.manifest.parts:
            try:
                manifest.check_file(self.folder, part)
            except Damaged as damage:
                damages.append(str(damage))
        if damages:
            raise Damaged("\n".join(damages))
        self._say(f"{self.folder}: {self.manifest.bytes:,} bytes are as they were written.")

    def run(self, *, replace: str | None) -> None:
        """Bring the database to what the backup shows. Raises Refused or Damaged; what was refused changed nothing."""
        targets = _newest(self.manifest.migrations)
        with tables.connect() as connection:
            self._connection = connection
            state = self._may_begin(replace)
            self.check()
            if state is None:
                self._forget_redis()
                state = unfinished.begin(connection, self.manifest.digest())
            if state.phase == unfinished.EMPTYING:
                self._empty()
                self._make_tables(targets)
                state = state._replace(phase=unfinished.LOADING)
            if state.phase == unfinished.LOADING:
                self._load()
                self._compare()
                self._go_on_above()
            self._say("Applying the migrations since.")
            call_command("migrate", verbosity=0, skip_checks=True)
            django_connection.close()
            unfinished.end(connection, state)

    def _may_begin(self, replace: str | None) -> unfinished.State | None:
        """The restore to go on with, or None to begin one. Raises Refused."""
        self._nobody_else()
        state = unfinished.find(self._connection)
        if state is not None and state.digest == self.manifest.digest():
            self._say(f"Going on with the restore that was begun: it is {state.phase}.")
            return state
        held = "a restore of another backup that was begun" if state is not None else self._held()
        if held and replace is None:
            raise Refused(
                f"{self.place} is not empty: it holds {held}. To lose all that for good, say its name: "
                f"--replace {self.place}"
            )
        if held and replace != self.place:
            raise Refused(f"--replace says {replace}, but this instance is {self.place}. Nothing was changed.")
        return None

    def _held(self) -> str:
        """What is in the database, in words; "" when it is empty."""
        if not tables.migrations(self._connection):
            return ""
        missing = self._connection.execute(MISSING, [list(COUNTED)]).fetchone()
        if missing is None or missing[0]:
            return "what was begun and has not ended, or is of another program"
        projects, people, executions = self._connection.execute(FILLED).fetchone() or (0, 0, 0)
        if not (projects or people):
            return ""
        return f"projects: {projects}, people: {people}, executions: {executions}"

    def _nobody_else(self) -> None:
        """Raises Refused while another session is in the database: a web process, a worker, a person's psql."""
        ours = [self._connection.info.backend_pid]
        if django_connection.connection is not None:
            ours.append(django_connection.connection.info.backend_pid)
        deadline_s = time.monotonic() + GONE_WITHIN_S
        while (others := self._connection.execute(OTHERS, [ours]).fetchall()) and time.monotonic() < deadline_s:
            time.sleep(0.1)  # A session of ours that was closed just now is seen for a moment.
        if others:
            named = ", ".join(f"{name} (process {pid})" for pid, name in others)
            raise Refused(
                f"Others use the database of {self.place}: {named}. Stop every web process, worker and beat on every "
                "machine, then run the restore again."
            )

    def _forget_redis(self) -> None:
        """Empty Redis: what it keeps belongs to other rows, and nothing that was accepted is in it alone."""
        if settings.PLACES.redis_url == settings.REDIS_URL:
            shutil.rmtree(settings.PLACES.valkey_data, ignore_errors=True)
            return
        try:
            redis.Redis.from_url(settings.REDIS_URL, socket_timeout=REDIS_WITHIN_S).flushdb()
        except redis.RedisError as error:
            self._say(f"Redis could not be emptied ({error}). Empty it (FLUSHDB) before the next start.")

    def _empty(self) -> None:
        """Drop the product's tables, sequences and functions; what else is in the database stays."""
        found = tables.tables(self._connection)
        leaves = [table.name for table in found if table.parent]
        for few in _few(leaves, DROPPED_AT_ONCE):  # Each takes a lock, and one on each of its indexes.
            self._drop("TABLE", few)
        parents = [name for (name,) in self._connection.execute(PARTITIONED) if name.startswith(tables.PREFIXES)]
        self._drop("TABLE", [*parents, *(table.name for table in found if not table.parent)])
        self._drop("SEQUENCE", tables.sequences(self._connection))
        for (signature,) in self._connection.execute(OUR_FUNCTIONS, [FUNCTIONS]).fetchall():
            self._connection.execute(sql.SQL("DROP FUNCTION {} CASCADE").format(sql.SQL(signature)))

    def _drop(self, kind: str, names: Iterable[str]) -> None:
        listed = sql.SQL(", ").join(map(sql.Identifier, names))
        if listed.as_string():
            self._connection.execute(sql.SQL("DROP {} {} CASCADE").format(sql.SQL(kind), listed))

    def _make_tables(self, targets: list[tuple[str, str]]) -> None:
        """The tables as the migrations of the backup's time make them, without rows, closed to the application."""
        self._say("Making the tables.")
        executor = MigrationExecutor(django_connection)
        executor.migrate(targets)
        django_connection.close()
        unfinished.close(self._connection)
        for part in self.manifest.parts:
            if part.parent:
                day = _day(part)
                self._connection.execute(MAKE_DAY, [part.parent, day, day])
        there = {table.name: table for table in tables.tables(self._connection)}
        strange = sorted(part.table for part in self.manifest.parts if part.rows and part.table not in there)
        if strange:
            raise Refused(f"No migration makes {', '.join(strange)}, which the backup has rows of.")
        with self._connection.transaction():
            for table in there.values():  # What the migrations wrote is in the backup as well.
                if table.name != MIGRATIONS:
                    self._connection.execute(sql.SQL("DELETE FROM ONLY {}").format(sql.Identifier(table.name)))
            unfinished.move_to(self._connection, unfinished.LOADING)

    def _load(self) -> None:
        """The rows of every table that has none yet, those first that others refer to."""
        done = unfinished.loaded(self._connection)
        waiting = [part for part in self._in_order() if part.rows and part.table != MIGRATIONS]
        for number, part in enumerate(waiting, start=1):
            if part.table in done:
                continue
            self._nobody_else()
            with self._connection.transaction():
                self._copy_in(part)
                unfinished.mark_loaded(self._connection, part.table)
            self._say(f"{number}/{len(waiting)} {part.table}: {part.rows:,} rows")

    def _in_order(self) -> Iterator[Part]:
        order: TopologicalSorter[str] = TopologicalSorter()
        parts = {part.table: part for part in self.manifest.parts}
        for name in sorted(parts):
            order.add(name)
        for table, other in self._connection.execute(REFERENCES):
            order.add(table, other)
        return (parts[name] for name in order.static_order() if name in parts)

    def _copy_in(self, part: Part) -> None:
        asked = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(part.table), tables.names(part.columns))
        text, kept = manifest.text_of(self.folder, part), b""
        for section in part.sections:
            self._connection.execute(
                "SELECT set_config('app.project', %s, true)", ["" if section.project is None else str(section.project)]
            )
            left = section.bytes
            with self._connection.cursor() as cursor, cursor.copy(asked) as copy:
                while left:
                    chunk = kept or next(text, b"")
                    if not chunk:
                        raise Damaged(f"{self.folder / part.file} ends early.")
                    copy.write(chunk[:left])
                    kept = chunk[left:]
                    left -= min(left, len(chunk))

    def _compare(self) -> None:
        """Raises Refused unless every table has the rows and the sums of the backup, and there is none beside."""
        wanted = {part.table: part for part in self.manifest.parts}
        wrong = []
        for table in tables.tables(self._connection):
            self._connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table.name)))
            if table.name == MIGRATIONS:
                continue
            rows, sums = tables.totals(self._connection, table.name, table.amounts)
            part = wanted.get(table.name)
            if (rows, sums if rows else {}) != ((part.rows, part.sums if part.rows else {}) if part else (0, {})):
                wrong.append(
                    f"{table.name} has {rows} rows with sums {sums}, the backup {part and (part.rows, part.sums)}"
                )
        if tables.migrations(self._connection) != self.manifest.migrations:
            wrong.append("the migrations are not those of the backup")
        if wrong:
            raise Refused("The restore is not what was backed up: " + "; ".join(wrong) + ".")
        for (parent,) in self._connection.execute(PARTITIONED).fetchall():
            self._connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(parent)))
        self._say(f"All {self.manifest.rows:,} rows are there, and every sum is the same.")

    def _go_on_above(self) -> None:
        """Numbers go on above all that were given out, and processes of that time are not missed."""
        with self._connection.transaction():
            for sequence in self.manifest.sequences:
                numbers = [sequence.name, sequence.last_value, sequence.is_called]
                self._connection.execute("SELECT setval(%s::regclass, %s, %s)", numbers)
            self._connection.execute("UPDATE monitor_eventcounter SET last_seq = last_seq + %s", [EVENTS_AHEAD])
            self._connection.execute("DELETE FROM monitor_jobheartbeat WHERE name LIKE 'process:%'")
            unfinished.move_to(self._connection, unfinished.UPGRADING)


def _newest(applied: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The last applied migration of each app. Raises Refused when one is unknown: the backup is of a newer Handrail."""
    graph = MigrationExecutor(django_connection).loader.graph
    unknown = sorted(f"{app}.{name}" for app, name in applied if (app, name) not in graph.nodes)
    if unknown:
        raise Refused(
            f"The backup is of another Handrail: the migrations {', '.join(unknown)} are unknown here. "
            "Restore it with the version that made it."
        )
    known = set(applied)
    return [
        key
        for key in applied
        if not any(child.key[0] == key[0] and child.key in known for child in graph.node_map[key].children)
    ]


def _day(part: Part) -> date:
    """The UTC day of a partition, <table>_pYYYYMMDD."""
    return datetime.strptime(part.table.removeprefix(f"{part.parent}_p"), "%Y%m%d").replace(tzinfo=UTC).date()


def _few(names: list[str], most: int) -> Iterator[list[str]]:
    for first in range(0, len(names), most):
        yield names[first : first + most]
