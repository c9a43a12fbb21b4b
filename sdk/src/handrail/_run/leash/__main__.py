"""Holds one command and all that it starts, and ends them when told to or when the holder is gone.

    python leash FD GRACE_S COMMAND…

FD is one end of a socket pair whose other end only the holder has. The leash writes to it, a line each:

    pid N       the command runs, at the head of its own session and process group
    refused N   it could not be started; N is the errno
    exit N      the command itself has ended; N is its exit code, or minus the signal
    left N …    these processes could not be ended

and then ends itself, when nothing of the command is left. The holder writes:

    signal N    to every process of the command
    end         SIGTERM to every process, and SIGKILL after GRACE_S to those that are left

When the holder closes its end, or dies in whatever way, that is `end` too. What the command leaves behind when it
ends is ended likewise. A script of the standard library alone, so that it weighs little beside each command.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
import time

import family  # type: ignore[import-not-found]
import kernel  # type: ignore[import-not-found]

LOOK_EVERY_S = 0.05
# A process in an uninterruptible wait outlives even SIGKILL.
GIVE_UP_AFTER_S = 5.0
REFUSED = 127


class Leash:
    def __init__(self, line: socket.socket, grace_s: float, command: list[str]) -> None:
        self.line = line
        self.grace_s = grace_s
        self.pid = os.getpid()
        self.head = 0
        self.exit_code: int | None = None
        self.kill_at_s: float | None = None
        self._told = b""
        self._woken, wake = os.pipe()
        for fd in (self._woken, wake):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        kernel.inherit_orphans()
        self._start(command)

    def hold(self) -> None:
        """Return when nothing of the command is left."""
        while self.head:
            self._reap()
            if self.kill_at_s is None:
                self._listen(None)
                continue
            if not family.of(self.head, self.pid):
                self._reap()
                return
            if time.monotonic() >= self.kill_at_s + GIVE_UP_AFTER_S:
                left = " ".join(str(process.pid) for process in family.of(self.head, self.pid))
                self._tell(f"left {left}")
                return
            if time.monotonic() >= self.kill_at_s:
                family.signal_all(self.head, self.pid, signal.SIGKILL)
            self._listen(LOOK_EVERY_S)

    def end(self) -> None:
        """Begin to end everything; what is stopped must go on to hear of it."""
        if self.kill_at_s is None:
            self.kill_at_s = time.monotonic() + self.grace_s
            family.signal_all(self.head, self.pid, signal.SIGTERM)
            family.signal_all(self.head, self.pid, signal.SIGCONT)

    def _start(self, command: list[str]) -> None:
        heard, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(heard)
            self._become(command, say)
        os.close(say)
        refused = os.read(heard, 16)
        os.close(heard)
        if refused:
            os.waitpid(pid, 0)
            self._tell(f"refused {refused.decode()}")
            return
        self.head = pid
        self._tell(f"pid {pid}")

    def _become(self, command: list[str], say: int) -> None:
        """Turn this forked process into the command; what `say` gets is why it could not."""
        try:
            os.setsid()
            kernel.die_with_parent()
            if os.getppid() != self.pid:
                os._exit(REFUSED)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(command[0], command)
        except OSError as error:
            os.write(say, str(error.errno).encode())
        except ValueError:
            # Nothing has an empty name.
            os.write(say, str(errno.ENOENT).encode())
        os._exit(REFUSED)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.head:
                self.exit_code = os.waitstatus_to_exitcode(status)
                self._tell(f"exit {self.exit_code}")
                self.end()

    def _listen(self, within_s: float | None) -> None:
        watched = [self._woken] if self.line.fileno() < 0 else [self._woken, self.line.fileno()]
        readable = select.select(watched, [], [], within_s)[0]
        if self._woken in readable:
            heard = os.read(self._woken, 256)
            if any(number != signal.SIGCHLD for number in heard):
                self.end()
        if self.line.fileno() in readable:
            try:
                told = self.line.recv(4096)
            except OSError:
                told = b""
            if not told:
                self.line.close()
                self.end()
                return
            *lines, self._told = (self._told + told).split(b"\n")
            for line in lines:
                self._obey(line.decode().split())

    def _obey(self, words: list[str]) -> None:
        if words[0] == "signal":
            family.signal_all(self.head, self.pid, int(words[1]))
        elif words[0] == "end":
            self.end()

    def _tell(self, words: str) -> None:
        try:
            self.line.sendall(f"{words}\n".encode())
        except OSError:
            pass  # The holder is gone; the end of the line says so again.


def main(fd: int, grace_s: float, command: list[str]) -> None:
    os.set_inheritable(fd, False)
    with socket.socket(fileno=fd) as line:
        Leash(line, grace_s, command).hold()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
