"""Several web processes share the connections that come, over real sockets and with real processes."""

import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection

import psutil
import pytest

from launcher.child import Child
from launcher.web import Port
from tests.launcher.instance import until

TOGETHER = 8
ROUNDS = 10


class Group:
    """The web processes of one port."""

    def __init__(self, listener: socket.socket, port: Port, processes: int) -> None:
        self.address = listener.getsockname()
        self._port = port
        self._children = [self._begun(number) for number in range(processes)]
        for child in self._children:
            self._await(child)

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._children if child.pid is not None]

    def lines(self, count: int) -> list[HTTPConnection]:
        """So many connections, open before anything is asked on one of them."""
        lines = [HTTPConnection(*self.address, timeout=20) for _ in range(count)]
        for line in lines:
            line.connect()
        return lines

    def kill(self, number: int) -> None:
        """It ends without a word, and another begins in its place."""
        pid = self._children[number].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self._children[number].stop()
        self._children[number] = self._begun(number)
        self._await(self._children[number])

    def stop(self) -> list[int]:
        """The exit code of each."""
        for child in self._children:
            child.stop()
        return [child.wait() for child in self._children]

    def settle(self) -> None:
        """Until no connection is open, as the processes see it."""
        found = [psutil.Process(pid) for pid in self.pids]
        until(lambda: not any(connections(one) for one in found), "all connections end", within_s=20)

    def _begun(self, number: int) -> Child:
        command = self._port.command("tests.config.sample_process:application", log_level="warning")
        return Child(command, env=os.environ | self._port.env(number), pass_fds=self._port.fds, grace_s=5)

    def _await(self, child: Child) -> None:
        """Until it takes connections: an idle one has the fewest and gets one of any that come."""
        until(lambda: child.pid in answers(self.lines(len(self._children) * 2)), "it takes connections", within_s=30)


def connections(process: psutil.Process) -> int:
    return sum(one.status in {"ESTABLISHED", "CLOSE_WAIT"} for one in process.net_connections("tcp"))


def answers(lines: list[HTTPConnection], *, keep: bool = False) -> Counter[int]:
    """How many of the connections each process has; they are closed, or kept."""
    found: Counter[int] = Counter()
    for line in lines:
        line.request("GET", "/")
        found[int(line.getresponse().read())] += 1
        if not keep:
            line.close()
    return found


@contextmanager
def processes(count: int) -> Iterator[Group]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener, Port(listener, count) as port:
        group = Group(listener, port, count)
        try:
            yield group
        finally:
            group.stop()


@pytest.mark.parametrize("count", [2, 3])
def test_connections_that_come_together_are_shared(count: int) -> None:
    with processes(count) as group:
        fewest = 0
        for _ in range(ROUNDS):
            group.settle()
            found = answers(group.lines(TOGETHER))
            assert found.total() == TOGETHER
            fewest += min(found[pid] for pid in group.pids)
        # Nearly as many each; a machine that is busy with others may let one come too late.
        assert fewest >= ROUNDS * TOGETHER // count // 2


def test_what_stands_still_keeps_nobody_waiting_and_catches_up() -> None:
    with processes(2) as group:
        frozen, other = group.pids
        group.settle()
        os.kill(frozen, signal.SIGSTOP)
        try:
            lines = group.lines(TOGETHER)
            assert answers(lines, keep=True) == {other: TOGETHER}
        finally:
            os.kill(frozen, signal.SIGCONT)
        later = answers(group.lines(TOGETHER))
        assert later[frozen] > later[other]
        for line in lines:
            line.close()


def test_a_process_that_is_killed_begins_with_none() -> None:
    with processes(2) as group:
        killed, other = group.pids
        group.settle()
        held = group.lines(TOGETHER)
        assert set(answers(held, keep=True)) == {killed, other}
        group.kill(0)
        after = answers(group.lines(TOGETHER // 4))
        assert after[group.pids[0]] > after[other]
        for line in held:
            line.close()


def test_processes_that_are_told_to_end_do_so_and_answer_what_they_have() -> None:
    with processes(2) as group:
        lines = group.lines(TOGETHER)
        assert answers(lines, keep=True).total() == TOGETHER
        assert set(group.stop()) <= {0, -signal.SIGTERM, 128 + signal.SIGTERM}
        for line in lines:
            line.close()


def test_of_a_process_that_has_ended_nobody_thinks_that_it_has_few() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, Port(listener, 2) as port:
        # As each process says that it has none.
        os.pwrite(port.fds[1], bytes(8), 0)
        port.ended(1)
        assert os.pread(port.fds[1], 8, 0) == bytes(4) + b"\xff" * 4


def test_one_process_has_nothing_to_share() -> None:
    with processes(1) as group:
        assert answers(group.lines(TOGETHER)) == {group.pids[0]: TOGETHER}
