"""Events that the server has not taken yet: on disk, in order, bounded, and safe from the death of this process.

A folder holds segments: files to which one process appends and which it holds locked as long as it lives. A record is
its kind, length and CRC-32, then JSON. Nothing is marked as sent within a file: a segment goes when all of it is
taken, and what is sent twice after a crash is recognised by the server by its id. Whoever finds a segment that nobody
holds sends it. Plain files and not SQLite: every process writes its own, so none waits for another, and a
torn end costs the records behind it and no more.

"""

from __future__ import annotations

import logging
import os
import stat
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from handrail import _locks

log = logging.getLogger("handrail")

MAGIC = b"handrail1\n"
HEADER = struct.Struct("<BII")
SEGMENT_BYTES = 1024 * 1024
# Each that is adopted is an open file of the program's.
MOST_ADOPTED = 8
# Without a disk: what may wait in memory.
MEMORY_BYTES = 8 * 1024 * 1024
# The part of the room that is kept for starts and ends of executions.
RESERVE = 0.1

REPORT, STARTED, ENDED, FAILED, PROGRESS = range(5)


class Record(NamedTuple):
    kind: int
    payload: bytes


class Segment:
    """Records in the order of their coming; `read` of them are taken."""

    def __init__(self) -> None:
        self.size = 0
        self.count = 0
        self._at = 0

    def append(self, records: Sequence[Record]) -> None:
        raise NotImplementedError

    def ahead(self) -> Iterator[tuple[Record, int]]:
        """Those not taken yet, each with the place behind it."""
        raise NotImplementedError

    def take(self, count: int, at: int) -> None:
        self.count -= count
        self._at = at

    def clear(self) -> None:
        """Begin anew: everything in it is taken."""
        self.size = self.count = self._at = 0

    def remove(self) -> None:
        """It goes, with all that is in it."""

    def leave(self) -> None:
        """Let go of it; it stays for whoever comes."""


class MemorySegment(Segment):
    def __init__(self) -> None:
        super().__init__()
        self._records: list[Record] = []

    def append(self, records: Sequence[Record]) -> None:
        self._records += records
        self.count += len(records)
        self.size += sum(len(one.payload) for one in records)

    def ahead(self) -> Iterator[tuple[Record, int]]:
        for place in range(self._at, len(self._records)):
            yield self._records[place], place + 1

    def clear(self) -> None:
        super().clear()
        self._records = []


class FileSegment(Segment):
    """A file that this process holds locked. Raises OSError where the disk does."""

    def __init__(self, path: Path, fd: int) -> None:
        super().__init__()
        self.path = path
        self._fd = fd
        self._at = len(MAGIC)
        self.size = os.fstat(fd).st_size

    @classmethod
    def make(cls, folder: Path) -> FileSegment:
        path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}.events"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if not _locks.hold(fd) or os.fstat(fd).st_nlink == 0:
            # Whoever looks for segments of the dead was faster.
            os.close(fd)
            raise BlockingIOError(f"{path} was taken")
        os.write(fd, MAGIC)
        return cls(path, fd)

    @classmethod
    def adopt(cls, path: Path) -> FileSegment | None:
        """The segment of a process that is no more, else None."""
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError:
            return None
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not _locks.hold(fd) or os.fstat(fd).st_nlink == 0:
            os.close(fd)
            return None
        found = cls(path, fd)
        found.count = sum(1 for _ in found.ahead())
        return found

    def append(self, records: Sequence[Record]) -> None:
        data = b"".join(
            HEADER.pack(one.kind, len(one.payload), zlib.crc32(one.payload)) + one.payload for one in records
        )
        os.lseek(self._fd, self.size, os.SEEK_SET)
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)
        self.count += len(records)

    def ahead(self) -> Iterator[tuple[Record, int]]:
        at = self._at
        if os.pread(self._fd, len(MAGIC), 0) != MAGIC:
            return
        while len(header := os.pread(self._fd, HEADER.size, at)) == HEADER.size:
            kind, length, checksum = HEADER.unpack(header)
            if length > self.size - at - HEADER.size:
                return
            payload = os.pread(self._fd, length, at + HEADER.size)
            if zlib.crc32(payload) != checksum:
                return
            at += HEADER.size + length
            yield Record(kind, payload), at

    def clear(self) -> None:
        super().clear()
        self._at = self.size = len(MAGIC)
        os.ftruncate(self._fd, self.size)

    def remove(self) -> None:
        try:
            self.path.unlink()
        except OSError:
            pass
        self.leave()

    def leave(self) -> None:
        os.close(self._fd)


def _first(segment: Segment, most: int, most_bytes: int, *, apart: bool = True) -> tuple[list[Record], int]:
    """The first of those not taken, and the place behind them; a failure by itself, unless not `apart`."""
    found: list[Record] = []
    size, behind = 0, 0
    for record, at in segment.ahead() if segment.count else ():
        size += len(record.payload)
        is_failure = apart and bool(found) and FAILED in (record.kind, found[0].kind)
        if found and (len(found) == most or size > most_bytes or is_failure):
            break
        found.append(record)
        behind = at
    return found, behind


class Outbox:
    """All segments of this process, and those it took over. `most_bytes` bounds the whole folder.

    One thread puts while another sends.
    """

    def __init__(self, folder: Path | None, *, most_bytes: int, most_events: int) -> None:
        self._lock = threading.RLock()
        self._folder = folder
        self._most_bytes = most_bytes if folder else min(most_bytes, MEMORY_BYTES)
        self._most_events = most_events
        self._own: list[Segment] = []
        self._adopted: list[Segment] = []
        self._others_bytes = 0
        #: Whether there may be more to adopt when those adopted are sent.
        self.may_adopt_more = False
        self._taking: tuple[Segment, int, int] | None = None
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                self._without_disk(error)
        if self._folder is not None and not _locks.AVAILABLE:
            self._without_disk(OSError("files can't be locked on this system"))

    @property
    def count(self) -> int:
        """Events that wait."""
        return sum(one.count for one in (*self._own, *self._adopted))

    @property
    def behind(self) -> int:
        """Events that wait behind those that were peeked at last."""
        return self.count - (self._taking[1] if self._taking else 0)

    def put(self, records: Sequence[Record]) -> list[Record]:
        """Keep them behind all others; those for which there is no room are given back."""
        with self._lock:
            refused: list[Record] = []
            kept: list[Record] = []
            count, size = self.count, self._others_bytes + sum(one.size for one in self._own)
            for one in records:
                part = 1 - RESERVE if one.kind == REPORT else 1.0
                if count >= self._most_events * part or size + len(one.payload) > self._most_bytes * part:
                    refused.append(one)
                    continue
                kept.append(one)
                count, size = count + 1, size + len(one.payload) + HEADER.size
            if kept:
                self._append(kept)
            return refused

    def peek(self, most: int, most_bytes: int) -> list[Record]:
        """The oldest, up to so many; the same again until `taken` is said. A failure comes by itself."""
        with self._lock:
            for segment in (*self._own, *self._adopted):
                found, behind = _first(segment, most, most_bytes)
                if found:
                    self._taking = segment, len(found), behind
                    return found
                if segment.count:
                    log.warning("handrail: %d stored events could not be read and are lost", segment.count)
                self._drop(segment)
            return []

    def peek_further(self, most: int, most_bytes: int) -> list[Record]:
        """What came behind those that were peeked at last, in one segment with them; failures too."""
        with self._lock:
            if self._taking is None:
                return []
            segment, count, _ = self._taking
            found, behind = _first(segment, most, most_bytes, apart=False)
            if len(found) > count:
                self._taking = segment, len(found), behind
            return found[count:]

    def taken(self) -> None:
        """What was peeked at last is the server's."""
        with self._lock:
            if self._taking is None:
                return
            segment, count, at = self._taking
            self._taking = None
            segment.take(count, at)
            if segment.count == 0:
                self._drop(segment)

    def adopt(self) -> int:
        """Take over what processes left that are no more, a few at a time; how many events that is."""
        with self._lock:
            if self._folder is None:
                return 0
            ours = {one.path for one in (*self._own, *self._adopted) if isinstance(one, FileSegment)}
            found, others_bytes = 0, 0
            self.may_adopt_more = False
            for path in sorted(self._folder.glob("*.events")):
                if path in ours:
                    continue
                is_enough = len(self._adopted) >= MOST_ADOPTED
                self.may_adopt_more |= is_enough
                segment = None if is_enough else FileSegment.adopt(path)
                if segment is None:
                    try:
                        others_bytes += path.stat().st_size
                    except OSError:
                        pass
                elif segment.count == 0:
                    segment.remove()
                else:
                    self._adopted.append(segment)
                    found += segment.count
            self._others_bytes = others_bytes + sum(one.size for one in self._adopted)
            return found

    def close(self) -> None:
        """Nothing is left behind but what is unsent."""
        with self._lock:
            for segment in (*self._own, *self._adopted):
                if segment.count:
                    segment.leave()
                else:
                    segment.remove()
            self._own, self._adopted = [], []

    def abandon(self) -> None:
        """In a forked child: they are the parent's, who goes on holding them."""
        for segment in (*self._own, *self._adopted):
            try:
                segment.leave()
            except OSError:
                # The parent was closing it.
                pass
        self._own, self._adopted = [], []

    def _append(self, records: Sequence[Record]) -> None:
        try:
            self._tail().append(records)
        except OSError as error:
            self._without_disk(error)
            self._own.append(MemorySegment())
            self._own[-1].append(records)

    def _tail(self) -> Segment:
        if not self._own or self._own[-1].size >= SEGMENT_BYTES:
            self._own.append(self._new())
        return self._own[-1]

    def _new(self) -> Segment:
        if self._folder is None:
            return MemorySegment()
        try:
            return FileSegment.make(self._folder)
        except BlockingIOError:
            return FileSegment.make(self._folder)

    def _drop(self, segment: Segment) -> None:
        """It has nothing more: the one that is written to begins anew, others go."""
        if self._own and segment is self._own[-1] and not segment.count:
            if segment.size > len(MAGIC):
                segment.clear()
            return
        # Forgotten before it is closed: a child forked between the two must not close it again.
        for segments in (self._own, self._adopted):
            if segment in segments:
                segments.remove(segment)
        segment.remove()

    def _without_disk(self, error: OSError) -> None:
        log.warning("handrail: events wait in memory alone, for %s", error)
        self._folder = None
        self._most_bytes = min(self._most_bytes, MEMORY_BYTES)
