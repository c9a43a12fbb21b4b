"""Runs one command and ends it when its holder is gone.

    python leash.py FD STOP_SIGNAL GRACE_S COMMAND…

FD is one end of a socket pair whose other end only the holder has. When the holder closes it, or dies in whatever
way, the command gets STOP_SIGNAL and after GRACE_S seconds its whole process group is killed. The command's
process id is written to FD; the exit code is the command's. A script of the standard library alone, so that it
weighs little: it runs once beside every child.
"""

import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1


def _die_with(leash_pid: int, stop_signal: int) -> None:
    """Ask the kernel to signal this process when the leash itself is killed (Linux)."""
    try:
        # Imported here, in the child that is about to become another program, to keep the leash small.
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, stop_signal, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != leash_pid:
        os._exit(1)


def _become(command: list[str], stop_signal: int, leash_pid: int) -> None:
    """Turn this forked process into the command, at the head of its own session."""
    os.setsid()
    _die_with(leash_pid, stop_signal)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def main(fd: int, stop_signal: int, grace_s: float, command: list[str]) -> int:
    """Hold the command until it ends or the holder lets go; the command's exit code, 128 + n for signal n."""
    os.set_inheritable(fd, False)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    leash_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(command, stop_signal, leash_pid)
    try:
        os.write(fd, b"%d\n" % pid)
    except OSError:
        pass  # The holder is gone already; the end of file below says so again.

    watched = [fd, woken]
    kill_at = None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        left_s = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        readable = select.select(watched, [], [], left_s)[0]
        signals = os.read(woken, 64) if woken in readable else b""
        let_go = fd in readable or any(number != signal.SIGCHLD for number in signals)
        if let_go and kill_at is None:
            watched = [woken]
            kill_at = time.monotonic() + grace_s
            try:
                os.kill(pid, stop_signal)
            except ProcessLookupError:
                pass
        elif kill_at is not None and time.monotonic() >= kill_at:
            _signal_group(pid, signal.SIGKILL)
            kill_at = time.monotonic() + 1
    _signal_group(pid, signal.SIGKILL)  # What the command left behind in its group.
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
