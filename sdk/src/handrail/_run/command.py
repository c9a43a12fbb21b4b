"""One command as the supervisor holds it: started on a leash, its output handed on, ended with all that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from handrail._run.leash import family
from handrail._run.passing import Passing
from handrail._run.tail import Tail

LEASH = Path(__file__).with_name("leash")
# What an orphan outside our reach may go on writing after the end is not waited for.
LAST_WORDS_S = 5.0
LOOK_EVERY_S = 0.05


class End(NamedTuple):
    """How a command ended. `code` is minus the signal when one ended it; None when only the leash's end is known."""

    code: int | None
    # The errno when it could not be started.
    refused: int | None = None
    # Processes that not even SIGKILL ended.
    left: tuple[int, ...] = ()

    @property
    def exit_code(self) -> int:
        """As a shell would say it."""
        if self.refused is not None:
            return 127 if self.refused == 2 else 126
        if self.code is None:
            return 128 + signal.SIGKILL
        return self.code if self.code >= 0 else 128 - self.code

    def __str__(self) -> str:
        if self.refused is not None:
            return f"could not be started: {os.strerror(self.refused)}"
        if self.code is None:
            return "was killed together with its leash"
        if self.code < 0:
            return f"was ended by {signal_name(-self.code)}"
        return f"ended with exit code {self.code}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Command:
    """A running command; `ended` is called once, from a thread, when nothing of it is left."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        grace_s: float,
        tail: Tail,
        ended: Callable[[End], object],
    ) -> None:
        self._line, theirs = socket.socketpair()
        # Isolated and without site-packages: it starts in a few milliseconds.
        leash = [sys.executable, "-I", "-S", str(LEASH), str(theirs.fileno()), str(grace_s), *command]
        with theirs:
            self._leash = subprocess.Popen(
                leash,
                env=dict(environ),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        assert self._leash.stdout is not None
        assert self._leash.stderr is not None
        streams = ((self._leash.stdout, 1), (self._leash.stderr, 2))
        self._passing = [Passing(os.dup(stream.fileno()), target, tail) for stream, target in streams]
        for stream, _ in streams:
            stream.close()
        self.started_at_s = time.monotonic()
        self.pid: int | None = None
        self._is_given_up = False
        self._ended = ended
        self._thread = threading.Thread(target=self._hear, name="handrail leash", daemon=True)
        self._thread.start()

    @property
    def wrote_at_s(self) -> float:
        return max(one.moved_at_s for one in self._passing)

    @property
    def is_held_up(self) -> bool:
        """Whether it waits for the reader of its output."""
        return any(one.is_held_up for one in self._passing)

    @property
    def cpu_s(self) -> float:
        return 0.0 if self.pid is None else family.cpu_s(self.pid, self._leash.pid)

    def signal(self, number: int) -> None:
        """Signal all of its processes."""
        self._say(f"signal {int(number)}")

    def end(self) -> None:
        """Begin to end it: SIGTERM to all of its processes, SIGKILL after the grace."""
        self._is_given_up = True
        self._say("end")

    def kill(self) -> None:
        """End it at once."""
        self._is_given_up = True
        self._say(f"signal {int(signal.SIGKILL)}\nend")

    def _say(self, words: str) -> None:
        try:
            self._line.sendall(f"{words}\n".encode())
        except OSError:
            pass  # It has ended; that news is on its way.

    def _hear(self) -> None:
        end = End(None)
        for word, *numbers in self._told():
            if word == "pid":
                self.pid = int(numbers[0])
            elif word == "exit":
                end = end._replace(code=int(numbers[0]))
            elif word == "refused":
                end = end._replace(refused=int(numbers[0]))
            elif word == "left":
                end = end._replace(left=tuple(int(number) for number in numbers))
        self._leash.wait()
        if end.code is None and end.refused is None and self.pid is not None:
            self._kill_heirs(self.pid)
        for one in self._passing:
            while not one.finish(LAST_WORDS_S) and one.is_held_up and not self._is_given_up:
                pass
        self._line.close()
        self._ended(end)

    def _told(self) -> Iterator[list[str]]:
        """What the leash says, line by line, until it ends."""
        with self._line.makefile("r") as told:
            try:
                for line in told:
                    yield line.split()
            except ConnectionResetError:
                pass  # It ended before it had heard all that we said.

    def _kill_heirs(self, head: int) -> None:
        """Somebody killed the leash alone: on Linux what it held is ours now, elsewhere its session is known."""
        until_s = time.monotonic() + LAST_WORDS_S
        while family.of(head, os.getpid()) and time.monotonic() < until_s:
            family.signal_all(head, os.getpid(), signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
            time.sleep(LOOK_EVERY_S)
