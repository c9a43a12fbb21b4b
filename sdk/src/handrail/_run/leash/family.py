"""The processes of one command: which they are, what they have used of the processor, how they are signalled.

Linux tells of processes in /proc; elsewhere `ps` does. Of the standard library alone, so that the leash is light.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from typing import NamedTuple

PROC = "/proc"
PS = ["ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "pgid=", "-o", "sess=", "-o", "state=", "-o", "time="]
TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Process(NamedTuple):
    """`cpu_s` is its own processor time and that of the children that it has waited for."""

    pid: int
    parent: int
    group: int
    session: int
    state: str
    cpu_s: float


def listing() -> Iterator[Process]:
    """Every process of this machine that we may see."""
    return _from_proc() if os.path.exists(f"{PROC}/self/stat") else _from_ps()


def of(head: int, leash: int, among: Iterable[Process] | None = None) -> list[Process]:
    """The living processes of the command that `leash` started as `head`: whatever descends from it.

    On Linux the leash inherits the orphans, so nobody is lost. Elsewhere an orphan is known by its group or session.
    """
    children: dict[int, list[Process]] = {}
    found: dict[int, Process] = {}
    for process in listing() if among is None else among:
        children.setdefault(process.parent, []).append(process)
        if head in (process.group, process.session, process.pid):
            found[process.pid] = process
    parents = [leash, *found]
    while parents:
        for child in children.pop(parents.pop(), ()):
            found[child.pid] = child
            parents.append(child.pid)
    found.pop(leash, None)
    return [process for process in found.values() if process.state[:1] not in "ZX"]


def cpu_s(head: int, leash: int) -> float:
    """Processor seconds that the command has used so far, its ended children included where they were waited for."""
    everybody = list(listing())
    return sum(one.cpu_s for one in [*of(head, leash, everybody), *(one for one in everybody if one.pid == leash)])


def signal_all(head: int, leash: int, number: int) -> None:
    """Signal the whole group at once, and one by one those that left it."""
    try:
        os.killpg(head, number)
    except (ProcessLookupError, PermissionError):
        pass
    for process in of(head, leash):
        if process.group != head:
            try:
                os.kill(process.pid, number)
            except (ProcessLookupError, PermissionError):
                pass


def _from_proc() -> Iterator[Process]:
    for name in os.listdir(PROC):
        if not name.isdigit():
            continue
        try:
            with open(f"{PROC}/{name}/stat", "rb") as file:
                # The command's name stands in brackets and may hold anything, brackets too.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        ticks = sum(int(field) for field in fields[11:15])
        parent, group, session = (int(field) for field in fields[1:4])
        yield Process(int(name), parent, group, session, fields[0].decode(), ticks / TICKS_PER_S)


def _from_ps() -> Iterator[Process]:
    quiet = subprocess.DEVNULL
    with subprocess.Popen(PS, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, text=True) as ps:
        told = ps.communicate()[0]
    for line in told.splitlines():
        try:
            pid, parent, group, session, state, time = line.split()
            numbers = int(pid), int(parent), int(group)
        except ValueError:
            continue
        if numbers[0] == ps.pid:
            # Our own child for this moment, and nobody's work.
            continue
        # macOS writes an address where others write the session.
        yield Process(*numbers, int(session) if session.isdigit() else 0, state, seconds(time))


def seconds(time: str) -> float:
    """What `ps` writes as `[[days-]hours:]minutes:seconds`."""
    days, _, clock = time.rpartition("-")
    total = 0.0
    for part in clock.replace(",", ".").split(":"):
        total = total * 60 + float(part)
    return total + int(days or 0) * 86_400
