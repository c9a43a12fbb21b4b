"""Servers that outlived their supervisor: found by the folder they work in, and ended."""

import os
import signal
import time
from pathlib import Path

from launcher.fault import Fault


def working_in(folder: Path) -> list[int]:
    """The processes whose working folder is `folder` (Linux; elsewhere none are seen)."""
    target = os.path.realpath(folder)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == target:
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def end_survivors(folder: Path, program: str, first: signal.Signals, *, patience_s: float = 8.0) -> None:
    """End every process of `program` that works in `folder`: signal `first`, then SIGKILL; Fault E019 if one stays."""
    deadline_s = time.monotonic() + patience_s
    asked: set[int] = set()
    while pids := [pid for pid in working_in(folder) if _program_of(pid) == program]:
        late = time.monotonic() > deadline_s
        # A server ends its own children; one that were asked beside it could seem to have crashed.
        heads = {pid for pid in pids if _parent_of(pid) not in pids}
        for pid in pids if late else heads - asked:
            _signal(pid, signal.SIGKILL if late else first)
        asked |= heads
        if time.monotonic() > deadline_s + 3:
            raise Fault("E019", f"process {pids[0]} still works in {folder} and cannot be ended. End it, then start.")
        time.sleep(0.05)


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _program_of(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
