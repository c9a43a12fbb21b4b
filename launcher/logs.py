"""The children's lines: to the terminal with the name before each, and to bounded files."""

import os
import sys
from pathlib import Path
from threading import Lock, Thread
from typing import IO

FILE_BYTES = 5 * 1024 * 1024  # Two such files are kept for each child.
COLOURS = {"postgres": 34, "valkey": 31, "web": 32, "worker": 35, "beat": 33}
NAME_WIDTH = 8


class Console:
    """The terminal, one line at a time whoever writes; without colour when it is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._gone = False
        self._lock = Lock()

    def say(self, text: str, *, name: str = "handrail") -> None:
        """Print each line of `text`; a terminal that is gone is not an error."""
        number = COLOURS.get(name.split("-")[0], 36)
        before = f"\x1b[{number}m{name:<{NAME_WIDTH}} |\x1b[0m " if self._colour else f"{name:<{NAME_WIDTH}} | "
        with self._lock:
            try:
                if not self._gone:
                    sys.stdout.write("".join(f"{before}{line}\n" for line in text.splitlines() or [""]))
                    sys.stdout.flush()
            except OSError:
                self._gone = True

    def plain(self, text: str) -> None:
        with self._lock:
            try:
                print(text, flush=True)
            except OSError:
                self._gone = True


class Log:
    """What one child says. `awaited` is the text that means it is ready; `last` are its latest lines.

    Lines with one of the `hushed` texts, which come every few seconds for ever, go to the file alone.
    """

    def __init__(self, name: str, console: Console, *, awaited: str = "", hushed: tuple[str, ...] = ()) -> None:
        self.name = name
        self.last: list[str] = []
        self.saw_awaited = not awaited
        self._awaited = awaited
        self._hushed = hushed
        self._console = console
        self._path = console.folder / f"{name}.log"
        self._file: IO[bytes] | None = None
        self._thread: Thread | None = None

    def follow(self, pipe: IO[bytes]) -> None:
        """Copy the child's output until it ends, in a thread of its own."""
        self.finish()
        self.saw_awaited = not self._awaited
        self._thread = Thread(target=self._copy, args=(pipe,), name=f"log of {self.name}", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until the lines of an ended child are written."""
        if self._thread is not None:
            self._thread.join(timeout=2)

    def _copy(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                self._keep(line)
                text = line.decode(errors="replace").rstrip("\r\n")
                self.last = [*self.last[-14:], text]
                if self._awaited and self._awaited in text:
                    self.saw_awaited = True
                if not any(words in text for words in self._hushed):
                    self._console.say(text, name=self.name)

    def _keep(self, line: bytes) -> None:
        """A full disk must not stop the child, who would block on a pipe that nobody reads."""
        try:
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            if self._file.tell() > FILE_BYTES:
                self._file.close()
                self._path.replace(self._path.with_suffix(".log.1"))
                self._file = self._path.open("ab", buffering=0)
            self._file.write(line)
        except OSError:
            self._file = None
