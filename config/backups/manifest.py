"""What a backup consists of: its table of contents, which is written last and names every file with its checksum."""

import hashlib
import os
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

FORMAT = 1
NAME = "manifest.json"
READ_BYTES = 1 << 20


class Damaged(Exception):
    """A backup that can't be trusted; the sentence names the file."""


class Section(msgspec.Struct, frozen=True):
    """A stretch of a file: the rows of one project where the table is guarded, else all of them (project None)."""

    project: int | None
    rows: int
    bytes: int  # of COPY's text, before compression


class Part(msgspec.Struct, frozen=True):
    """One table, or one day of a partitioned one. Without rows there is no file.

    `fingerprint` names the row versions that were read: equal ones have equal content. `sums` are the totals of all
    amounts, by column.
    """

    table: str
    parent: str  # "" unless it is a partition
    columns: list[str]
    fingerprint: str
    sections: list[Section]
    sums: dict[str, str]
    file: str = ""
    bytes: int = 0
    sha256: str = ""

    @property
    def rows(self) -> int:
        return sum(section.rows for section in self.sections)


class Sequence(msgspec.Struct, frozen=True):
    """The last number that was given out, and whether any was."""

    name: str
    last_value: int
    is_called: bool


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """`made_at` is the moment that the backup shows; `migrations` are those that had been applied then.

    `database` tells whose backup it is where several lie in one folder; "" in those of before it was told.
    """

    format: int
    made_at: datetime
    version: str
    migrations: list[tuple[str, str]]
    parts: list[Part]
    sequences: list[Sequence]
    database: str = ""

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class _Sealed(msgspec.Struct):
    sha256: str
    manifest: msgspec.Raw


def write(manifest: Manifest, folder: Path) -> None:
    """Put the table of contents into the folder, whole or not at all."""
    body = msgspec.json.encode(manifest)
    sealed = msgspec.json.encode(_Sealed(hashlib.sha256(body).hexdigest(), msgspec.Raw(body)))
    write_whole(folder / NAME, sealed + b"\n")


def read(folder: Path) -> Manifest:
    """The table of contents. Raises Damaged when there is none, or when it is not as it was written."""
    path = folder / NAME
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
        body = bytes(sealed.manifest)
        if hashlib.sha256(body).hexdigest() != sealed.sha256:
            raise Damaged(f"{path} is not as it was written: its checksum differs.")
        if (made := msgspec.json.decode(body, type=_Format).format) != FORMAT:
            raise Damaged(f"{path} has format {made}; this Handrail reads format {FORMAT}. Restore with a fitting one.")
        return msgspec.json.decode(body, type=Manifest)
    except OSError as error:
        raise Damaged(f"{folder} is no finished backup: {path.name} can't be read ({error.strerror}).") from error
    except msgspec.MsgspecError as error:
        raise Damaged(f"{path} is not as it was written: {error}.") from error


class _Format(msgspec.Struct):
    format: int


def write_whole(path: Path, content: bytes) -> None:
    """A file that is there with all of its content, or not there, however the process ends."""
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_file(folder: Path, part: Part) -> None:
    """Raises Damaged unless the part's file is there and as it was written."""
    if not part.file:
        return
    path, found = folder / part.file, hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                found.update(chunk)
    except OSError as error:
        raise Damaged(f"{path} can't be read: {error.strerror}.") from error
    if found.hexdigest() != part.sha256:
        raise Damaged(f"{path} is not as it was written: its checksum differs.")


def text_of(folder: Path, part: Part) -> Iterator[bytes]:
    """COPY's text of the part, uncompressed, in chunks. Raises Damaged where it does not unpack to its size."""
    if not part.file:
        return
    path, left, unpacked = folder / part.file, sum(section.bytes for section in part.sections), zlib.decompressobj(31)
    try:
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                text = unpacked.decompress(chunk)
                left -= len(text)
                yield text
    except (OSError, zlib.error) as error:
        raise Damaged(f"{path} can't be unpacked: {error}.") from error
    if left or not unpacked.eof:
        raise Damaged(f"{path} does not unpack to its size.")
