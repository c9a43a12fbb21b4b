"""The folder of backups: the finished ones by their moment, the unfinished one, and who may write."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from config.backups.manifest import NAME, Damaged, Part, read, write_whole
from launcher.folders import make_private

FINISHED = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z(-\d+)?")
UNFINISHED = "unfinished"
NOTE = ".part"


class Busy(Exception):
    """Another backup is being written into the folder."""


@contextmanager
def writing(base: Path) -> Iterator[Path]:
    """The unfinished backup of the folder, for one process at a time. Raises Busy, or the launcher's Fault E012."""
    make_private(base)
    lock = os.open(base / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(f"Another backup is being written into {base}.") from None
        unfinished = base / UNFINISHED
        unfinished.mkdir(mode=0o700, exist_ok=True)
        yield unfinished
    finally:
        os.close(lock)


def finished(base: Path) -> list[Path]:
    """The backups that are whole, by their names."""
    found = [path for path in base.iterdir() if FINISHED.fullmatch(path.name) and (path / NAME).is_file()]
    return sorted(found, key=lambda path: (path.name[:18], len(path.name), path.name))


def oldest_first(base: Path, database: str, *, now: datetime) -> list[Path]:
    """The backups of a database that are whole.

    A name that lies ahead was given by a clock that was wrong, before all the others.
    """
    whole = sorted(finished(base), key=lambda path: path.name[:18] <= _stamp(now))
    return [path for path in whole if _is_of(database, path)]


def _is_of(database: str, backup: Path) -> bool:
    """What says nothing of itself is nobody else's."""
    try:
        return read(backup).database in ("", database)
    except Damaged:
        return True


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H%M%SZ")


def name_for(base: Path, made_at: datetime) -> Path:
    """Where the backup of that moment goes."""
    stamp = _stamp(made_at)
    path, again = base / stamp, 1
    while path.exists():
        again += 1
        path = base / f"{stamp}-{again}"
    return path


def note(unfinished: Path, part: Part) -> None:
    """Remember that the part's file is complete; a killed backup goes on from here."""
    write_whole(unfinished / f"{part.table}{NOTE}", msgspec.json.encode(part))


def at_hand(base: Path, whole: list[Path]) -> dict[str, tuple[Path, Part]]:
    """Files that need not be written again, by fingerprint: of the newest backup (the last) and of a killed one."""
    found: dict[str, tuple[Path, Part]] = {}
    for path in reversed(whole):
        try:
            parts = read(path).parts
        except Damaged:
            continue
        found = {part.fingerprint: (path, part) for part in parts if part.file}
        break
    for path in (base / UNFINISHED).glob(f"*{NOTE}"):
        try:
            part = msgspec.json.decode(path.read_bytes(), type=Part)
        except (OSError, msgspec.MsgspecError):
            continue
        if part.file:
            found[part.fingerprint] = (path.parent, part)
    return found


def forget(unfinished: Path, table: str) -> None:
    """Make room for the table's file; the one that is there may be a link into an older backup, so it is no target."""
    (unfinished / f"{table}{NOTE}").unlink(missing_ok=True)
    (unfinished / file_of(table)).unlink(missing_ok=True)


def file_of(table: str) -> str:
    return f"{table}.copy.gz"


def tidy(backup: Path, kept: set[str]) -> None:
    """Remove the notes of the run, and what an earlier, killed one left that this one did not need."""
    for path in backup.iterdir():
        if path.name not in kept:
            path.unlink()


def forget_old(base: Path, whole: list[Path], keep: int) -> list[Path]:
    """Remove all but the newest, the last, `keep` of these backups; each stops being one before its files go."""
    old = whole[:-keep]
    for path in old:
        (path / NAME).unlink()
    for path in base.iterdir():
        if FINISHED.fullmatch(path.name) and not (path / NAME).exists():
            shutil.rmtree(path)
    return old
