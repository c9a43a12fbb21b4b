"""Starts parts in order, brings back those that die, stops them in the reverse order."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType

from launcher.child import Child
from launcher.fault import Fault
from launcher.logs import Console, Log

READY_WITHIN_S = 120.0  # Hardly ever more than five; an overloaded machine is not a fault.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STOPPED_WITHIN_S = 9.5
STEADY_AFTER_S = 30.0  # A part that lived this long is brought back at once.


class Stopped(Exception):
    """Raised out of a wait when the user asked to stop."""


@dataclass
class Part:
    """One process of the product. Parts of the same rank are stopped together, the highest rank first."""

    name: str
    rank: int
    command: Callable[[], list[str]]
    is_ready: Callable[[], bool] | None = None  # None: when it says `says_when_ready`, at once if empty
    says_when_ready: str = ""
    hushed: tuple[str, ...] = ()
    prepare: Callable[[], None] | None = None
    on_end: Callable[[], None] | None = None  # when it ended by itself
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 3.0
    env: Mapping[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()


class Kept:
    """A part and its present process."""

    def __init__(self, part: Part, console: Console) -> None:
        self.part = part
        self.log = Log(part.name, console, awaited=part.says_when_ready, hushed=part.hushed)
        self.child: Child | None = None
        self.pause_s = FIRST_PAUSE_S
        self.start_at_s = 0.0

    def start(self) -> None:
        if self.part.prepare is not None:
            self.part.prepare()
        self.child = Child(
            self.part.command(),
            env=os.environ | dict(self.part.env),
            output=subprocess.PIPE,
            stop_signal=self.part.stop_signal,
            grace_s=self.part.grace_s,
            pass_fds=self.part.pass_fds,
        )
        assert self.child.output is not None
        self.log.follow(self.child.output)

    def is_ready(self) -> bool:
        return self.log.saw_awaited if self.part.is_ready is None else self.part.is_ready()


class Supervisor:
    """Everything that runs, and the one wish to stop it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.kept: list[Kept] = []
        self.told_to_stop = False
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)

    def listen_for_signals(self) -> None:
        """Ctrl-C, SIGTERM and a closed terminal are wishes to stop; the death of a child only wakes us."""
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, self._on_wish)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _on_wish(self, number: int, frame: FrameType | None) -> None:
        self.told_to_stop = True

    def rest(self, timeout_s: float | None) -> None:
        """Sleep until a signal arrives or the time is over; raises Stopped when asked to stop."""
        if not self.told_to_stop and select.select([self._woken], [], [], timeout_s)[0]:
            os.read(self._woken, 4096)
        if self.told_to_stop:
            raise Stopped

    def start(self, *parts: Part) -> None:
        """Start the parts, then await each in order; Fault E015 when one ends or is not ready in time."""
        started = [Kept(part, self.console) for part in parts]
        for kept in started:
            self.kept.append(kept)
            kept.start()
        for kept in started:
            self._await_ready(kept)

    def _await_ready(self, kept: Kept) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not kept.is_ready():
            self.rest(0.05)
            assert kept.child is not None
            if not kept.child.is_running():
                kept.log.finish()
                raise Fault(
                    "E015", f"{kept.part.name} ended at its start. Its last words:\n" + "\n".join(kept.log.last)
                )
            if time.monotonic() > deadline_s:
                raise Fault(
                    "E015", f"{kept.part.name} was not ready in {READY_WITHIN_S:.0f} s. See {self.console.folder}."
                )

    def run(self, name: str, command: list[str], *, env: Mapping[str, str] | None = None) -> int:
        """Run a command to its end, its lines in the log; the exit code."""
        log = Log(name, self.console)
        child = Child(command, env=os.environ | dict(env or {}), output=subprocess.PIPE, grace_s=3)
        assert child.output is not None
        log.follow(child.output)
        try:
            while child.is_running():
                self.rest(0.05)
        finally:
            child.stop()
            log.finish()
        return child.wait()

    def ask(self, command: list[str]) -> str:
        """Run a command and return what it prints, which is kept in no log; Fault E018 when it fails."""
        child = Child(command, output=subprocess.PIPE, errors=None, grace_s=3)
        assert child.output is not None
        try:
            while child.is_running():
                self.rest(0.05)
        finally:
            child.stop()
        with child.output as pipe:
            text = pipe.read().decode(errors="replace")
        if child.wait() != 0:
            raise Fault("E018", f"`{' '.join(command[-2:])}` failed; the reason stands above.")
        return text

    def watch(self) -> None:
        """Bring back what dies, with growing pauses; returns when asked to stop."""
        try:
            while True:
                now_s = time.monotonic()
                waits = [wait_s for kept in self.kept if (wait_s := self._look_after(kept, now_s)) is not None]
                self.rest(min(waits, default=None))
        except Stopped:
            return

    def _look_after(self, kept: Kept, now_s: float) -> float | None:
        """Notice a death and start again when due; the seconds until then, None when it runs."""
        if kept.child is not None:
            code = kept.child.exit_code()
            if code is None:
                return None
            steady = now_s - kept.child.started_at_s >= STEADY_AFTER_S
            kept.pause_s = FIRST_PAUSE_S if steady else min(kept.pause_s * 2, LONGEST_PAUSE_S)
            kept.start_at_s = now_s + (0 if steady else kept.pause_s)
            kept.child = None
            if kept.part.on_end is not None:
                kept.part.on_end()
            self.console.say(f"{kept.part.name} ended with code {code}; it starts again.")
        if now_s >= kept.start_at_s:
            try:
                kept.start()
                return None
            except (Fault, OSError) as error:
                self.console.say(f"{kept.part.name} cannot start yet: {error}")
                kept.pause_s = min(kept.pause_s * 2, LONGEST_PAUSE_S)
                kept.start_at_s = now_s + kept.pause_s
        return max(0.0, kept.start_at_s - now_s)

    def stop(self) -> None:
        """Stop all, rank by rank from the highest; each has its grace, then it is killed, and all share 9.5 s."""
        deadline_s = time.monotonic() + STOPPED_WITHIN_S
        for rank in sorted({kept.part.rank for kept in self.kept}, reverse=True):
            leaving = [kept for kept in self.kept if kept.part.rank == rank and kept.child is not None]
            for kept in leaving:
                assert kept.child is not None
                kept.child.let_go()
            for kept in leaving:
                assert kept.child is not None
                kept.child.stop(within_s=max(0.1, deadline_s - time.monotonic()))
                kept.log.finish()
                self.console.say(f"{kept.part.name} has stopped.")
