"""Two favours that Linux does; elsewhere nothing happens. Of the standard library alone, as the leash is."""

from __future__ import annotations

import signal

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def inherit_orphans() -> None:
    """Whoever loses its parent below this process becomes its child."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """This process, whatever program it becomes, is killed when the one that started it ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    try:
        # Imported only here: not every Python has it.
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass
