"""Hands on what a command writes, byte by byte, as it comes."""

from __future__ import annotations

import os
import select
import threading
import time

from handrail._run.tail import Tail

CHUNK_BYTES = 65_536


class Passing:
    """One stream from the command to whoever reads ours.

    A slow reader slows the command, as it would without us. When the reader is gone the stream is still read, so
    that the command lives on.
    """

    def __init__(self, source: int, target: int, tail: Tail) -> None:
        self.moved_at_s = time.monotonic()
        self.reader_is_gone = False
        self._source, self._target, self._tail = source, target, tail
        self._is_writing = False
        self._thread = threading.Thread(target=self._pass, name=f"handrail output {target}", daemon=True)
        self._thread.start()

    @property
    def is_held_up(self) -> bool:
        """Whether the reader keeps the command waiting."""
        return self._is_writing

    def finish(self, within_s: float) -> bool:
        """Whether everything was handed on within this time."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _pass(self) -> None:
        try:
            while chunk := os.read(self._source, CHUNK_BYTES):
                self.moved_at_s = time.monotonic()
                self._tail.add(chunk)
                self._write(chunk)
                self.moved_at_s = time.monotonic()
        finally:
            os.close(self._source)

    def _write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        self._is_writing = True
        while left and not self.reader_is_gone:
            try:
                left = left[os.write(self._target, left) :]
            except BlockingIOError:
                # Whoever gave us this stream made it non-blocking.
                select.select([], [self._target], [])
            except OSError:
                self.reader_is_gone = True
        self._is_writing = False
