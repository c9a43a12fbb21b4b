"""Folders that only their owner may enter."""

import os
from pathlib import Path

from launcher.fault import Fault


def make_private(folder: Path) -> None:
    """Make the folder with mode 0700, or check that an existing one is our own and writable; else Fault E012.

    The mode of a folder that already holds things is left alone: it may be somebody's home.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if {folder.stat().st_uid, folder.lstat().st_uid} != {os.geteuid()}:
            raise Fault("E012", f"{folder} belongs to another user. Set HANDRAIL_HOME to a folder of your own.")
        if not any(folder.iterdir()):
            folder.chmod(0o700)
    except OSError as error:
        raise Fault(
            "E012",
            f"{folder} cannot be used ({error.strerror}). Set HANDRAIL_HOME to a folder that you may write.",
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Fault("E012", f"{folder} is not writable. Set HANDRAIL_HOME to a folder that you may write.")
