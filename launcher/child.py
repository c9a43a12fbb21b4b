"""A process on a leash: it ends with its holder, however that one ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

LEASH = Path(__file__).with_name("leash.py")


class Child:
    """One running command; `pid` is the command's own, None when it could not be learned."""

    def __init__(
        self,
        command: list[str],
        *,
        env: dict[str, str] | None = None,
        output: int | IO[bytes] | None = None,
        errors: int | None = subprocess.STDOUT,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_s: float = 5.0,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        self.grace_s = grace_s
        self._line, theirs = socket.socketpair()
        leash = [
            sys.executable,
            "-I",
            "-S",
            str(LEASH),
            str(theirs.fileno()),
            str(int(stop_signal)),
            str(grace_s),
        ]
        with theirs:
            self._leash = subprocess.Popen(
                [*leash, *command],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else errors,
                pass_fds=(theirs.fileno(), *pass_fds),
                start_new_session=True,
            )
        self.output = self._leash.stdout
        self.started_at_s = time.monotonic()
        told = self._line.recv(32)
        self.pid = int(told) if told else None

    @property
    def leash_pid(self) -> int:
        return self._leash.pid

    def exit_code(self) -> int | None:
        """None while it runs. When only the leash was killed, the command is killed too and -9 answered."""
        code = self._leash.poll()
        if code is not None:
            self._line.close()
            if code < 0:
                self._kill_command()
        return code

    def is_running(self) -> bool:
        return self.exit_code() is None

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit code; raises TimeoutError when it still runs after `timeout_s`."""
        try:
            self._leash.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self._leash.args!r} still runs after {timeout_s} s") from None
        code = self.exit_code()
        assert code is not None
        return code

    def let_go(self) -> None:
        """Begin to stop it, without waiting for the end."""
        try:
            self._line.shutdown(socket.SHUT_RDWR)  # Also where a fork of ours still holds a copy.
        except OSError:
            pass  # It has ended already.
        self._line.close()

    def stop(self, *, within_s: float | None = None) -> None:
        """Stop it: its signal first, the kill of its group after the grace or after `within_s`, if that is less."""
        self.let_go()
        patience_s = self.grace_s + 2
        try:
            self.wait(patience_s if within_s is None else min(within_s, patience_s))
        except TimeoutError:
            self._leash.kill()
            self.wait()

    def _kill_command(self) -> None:
        if self.pid is None:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
