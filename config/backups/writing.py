"""Writing a backup: every table as of one moment, while everything goes on.

The moment is one REPEATABLE READ transaction. What a killed run or the newest backup has of a table is taken over when
the row versions that this transaction sees are the very ones that were written then: row versions never change, so
the whole shows one moment, whenever its files were written.
"""

import hashlib
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import psycopg
from django.conf import settings
from psycopg import sql

from config.backups import folder, manifest, tables, unfinished
from config.backups.manifest import FORMAT, Damaged, Manifest, Part, Section, Sequence
from config.backups.tables import Table
from monitor.vitals import own_version

GZIP_LEVEL = 1
CHUNK_BYTES = 1 << 20
SECRET_KEY = "secret_key"  # noqa: S105  (the name of a file)
# Held while a backup runs, so that nobody drops old days: that would stop writers behind a table that is being read.
# The job comes again, and after a backup by schedule at once.
NO_DROPS = "SELECT pg_advisory_lock(hashtextextended('job:retention.drop_partitions', 0))"
DROPS_AGAIN = "SELECT pg_advisory_unlock(hashtextextended('job:retention.drop_partitions', 0))"
# A commit that is waited for, as one that wrote nothing is not: every transaction that the snapshot sees is on disk, so
# its number is never used again.
FLUSH = "SELECT pg_logical_emit_message(true, 'handrail', 'backup')"
# The row versions of a table, in any order.
VERSIONS = "count(*), coalesce(bit_xor(hashtidextended(ctid, xmin::text::bigint)), 0)"


log = logging.getLogger(__name__)


class NotSettled(Exception):
    """The backup could not be made of this database now; the sentence says why."""


class Written(NamedTuple):
    """A finished backup; `taken_over` of its parts were at hand already."""

    path: Path
    manifest: Manifest
    taken_over: int
    forgotten: list[Path]


def back_up(
    base: Path,
    *,
    say: Callable[[str], None],
    keep: int | None = None,
    with_secret_key: bool = False,
) -> Written:
    """Write a backup into the folder `base`, verify it, and forget all but the newest `keep`.

    Raises Busy, NotSettled, Damaged where the disk did not keep what was written, OSError, and psycopg's errors. Killed
    at any point it leaves no half backup, and the next run goes on from the files that were complete.
    """
    with folder.writing(base) as target, tables.connect() as beside, _no_drops(beside), tables.connect() as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        asked = reader.execute("SELECT now()").fetchone()
        assert asked is not None
        made_at: datetime = asked[0]
        beside.execute(FLUSH)
        if unfinished.find(beside) is not None:
            raise NotSettled(
                "A restore into this database was begun and has not ended, so there is nothing whole to back up. "
                "Run manage.py restore again with the same backup; it goes on where it stopped."
            )
        identity = list(reader.execute(tables.IDENTITY).fetchone() or ())
        database = f"{identity[0]}/{identity[2]}"
        whole = folder.oldest_first(base, database, now=made_at)
        run = _Run(reader, target, identity, folder.at_hand(base, whole), say)
        applied = tables.migrations(reader)
        if not applied:
            raise NotSettled("The database has no tables of Handrail: there is nothing to back up.")
        # Before, for they may fill the disk that this one needs; and after, for it is one more.
        forgotten = folder.forget_old(base, whole, keep) if keep else []
        parts = run.write_all()
        made = Manifest(FORMAT, made_at, own_version(), applied, parts, _sequences(beside), database)
        reader.execute("ROLLBACK")
        if tables.migrations(beside) != applied:
            raise NotSettled("A migration changed the tables meanwhile. Make the backup again.")
        kept = {manifest.NAME, *(part.file for part in parts)}
        if with_secret_key:
            kept.add(_copy_secret_key(target))
        manifest.write(made, target)
        path = folder.name_for(base, made_at)
        target.rename(path)
        manifest.sync_folder(base)
        folder.tidy(path, kept)
        if keep:
            forgotten += folder.forget_old(base, [*whole[-keep:], path], keep)
        return Written(path, made, run.taken_over, forgotten)


@contextmanager
def _no_drops(connection: psycopg.Connection) -> Iterator[None]:
    connection.execute(NO_DROPS)
    try:
        yield
    finally:
        if not connection.closed:  # The lock ends with the session too, but a moment after it was closed.
            connection.execute(DROPS_AGAIN)


class _Run:
    """One run over all tables, inside the transaction that is the moment."""

    def __init__(
        self,
        reader: psycopg.Connection,
        unfinished: Path,
        identity: list[str | int],
        at_hand: dict[str, tuple[Path, Part]],
        say: Callable[[str], None],
    ) -> None:
        self.taken_over = 0
        self._reader, self._unfinished, self._identity = reader, unfinished, identity
        self._at_hand, self._say = at_hand, say

    def write_all(self) -> list[Part]:
        found = tables.tables(self._reader)
        if any(table.filenode == 0 for table in found):
            raise NotSettled("A table was dropped just now. Make the backup again.")
        parts = []
        for number, table in enumerate(found, start=1):
            # Undone, so that no lock is held longer than the table is read.
            with self._reader.transaction(force_rollback=True):
                part, how = self._part(table)
            parts.append(part)
            if part.rows:
                self._say(f"{number}/{len(found)} {table.name}: {part.rows:,} rows, {part.bytes:,} bytes, {how}")
        return parts

    def _part(self, table: Table) -> tuple[Part, str]:
        versions = self._versions(table)
        known = [*self._identity, table.oid, table.filenode, table.columns, table.kinds, versions]
        fingerprint = hashlib.sha256(msgspec.json.encode(known)).hexdigest()
        rows = [Section(project, count, 0) for project, count, _ in versions if count]
        empty = Part(table.name, table.parent, table.columns, fingerprint, [], dict.fromkeys(table.amounts, "0"))
        if not rows:
            return empty, "written"
        taken = self._take_over(fingerprint, table)
        if taken is not None:
            self.taken_over += 1
            return taken, "unchanged"
        count, sums = tables.totals(self._reader, table.name, table.amounts)
        part = _write(self._reader, self._unfinished, table, msgspec.structs.replace(empty, sections=rows, sums=sums))
        if part.rows != count:
            raise NotSettled(f"{table.name} has {count} rows and {part.rows} were read.")
        _verify(self._unfinished, part)
        folder.note(self._unfinished, part)
        return part, "written"

    def _versions(self, table: Table) -> list[tuple[int | None, int, int]]:
        """(project, rows, what its row versions come to) for each project of a guarded table, else one for all."""
        each = "SELECT project_id, {} FROM ONLY {} GROUP BY 1 ORDER BY 1"
        asked = sql.SQL(each if table.is_guarded else "SELECT NULL, {} FROM ONLY {}").format(
            sql.SQL(VERSIONS), sql.Identifier(table.name)
        )
        return [(project, count, total) for project, count, total in self._reader.execute(asked)]

    def _take_over(self, fingerprint: str, table: Table) -> Part | None:
        """The part that is at hand and still as it was written, linked into this backup."""
        where, part = self._at_hand.get(fingerprint, (self._unfinished, None))
        if part is None or part.table != table.name:
            return None
        try:
            manifest.check_file(where, part)
        except Damaged as damage:
            self._say(f"{damage} It is written again.")
            return None
        if where != self._unfinished:
            target = self._unfinished / part.file
            target.unlink(missing_ok=True)
            try:
                os.link(where / part.file, target)
            except OSError:  # A file system without links.
                shutil.copyfile(where / part.file, target)
                target.chmod(0o600)
            folder.note(self._unfinished, part)
        return part


def _write(reader: psycopg.Connection, target: Path, table: Table, part: Part) -> Part:
    """COPY's text of the table into a compressed file; the part with what was written."""
    path, checksum = target / folder.file_of(table.name), hashlib.sha256()
    packed = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    folder.forget(target, table.name)
    sections: list[Section] = []
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:

        def put(text: bytes) -> None:
            file.write(text)
            checksum.update(text)

        for section in part.sections:
            rows, size = 0, 0
            for chunk in _chunks(reader, table, section.project):
                rows += chunk.count(b"\n")  # One ends each row; those within are written otherwise.
                size += len(chunk)
                put(packed.compress(chunk))
            sections.append(Section(section.project, rows, size))
        put(packed.flush())
        file.flush()
        os.fsync(file.fileno())
        written = file.tell()
    return msgspec.structs.replace(part, sections=sections, file=path.name, bytes=written, sha256=checksum.hexdigest())


def _chunks(reader: psycopg.Connection, table: Table, project: int | None) -> Iterator[bytes]:
    """COPY's text of the table, or of one project's rows in it, a good many rows at a time."""
    columns, name = tables.names(table.columns), sql.Identifier(table.name)
    asked = sql.SQL("COPY {} ({}) TO STDOUT").format(name, columns)
    if project is not None:
        one = sql.SQL("SELECT {} FROM ONLY {} WHERE project_id = {}").format(columns, name, sql.Literal(project))
        asked = sql.SQL("COPY ({}) TO STDOUT").format(one)
    chunk = bytearray()
    with reader.cursor() as cursor, cursor.copy(asked) as copy:
        for row in copy:
            chunk += row
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
    yield bytes(chunk)


def _verify(target: Path, part: Part) -> None:
    """Read the file back, packed and unpacked. Raises Damaged."""
    manifest.check_file(target, part)
    for _ in manifest.text_of(target, part):
        pass


def _sequences(beside: psycopg.Connection) -> list[Sequence]:
    """Read after the rows: numbers only rise, so each is at least as high as any in a row of the backup."""
    found = []
    for name in tables.sequences(beside):
        row = beside.execute(sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(name))).fetchone()
        assert row is not None
        found.append(Sequence(name, *row))
    return found


def _copy_secret_key(target: Path) -> str:
    manifest.write_whole(target / SECRET_KEY, f"{settings.SECRET_KEY}\n".encode())
    return SECRET_KEY


def by_schedule(*, now: datetime) -> None:
    """The periodic job: a backup into HANDRAIL_BACKUP_DIR, of which the newest HANDRAIL_BACKUP_KEEP are kept."""
    assert settings.BACKUP_DIR is not None, "the job is scheduled only with a folder"
    back_up(settings.BACKUP_DIR, say=log.debug, keep=settings.BACKUP_KEEP)
