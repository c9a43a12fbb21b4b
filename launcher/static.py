"""Static files are collected again only when one of them, or what decides their names, has changed."""

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from launcher.fault import Fault


def _digest(root: Path) -> str:
    """Of the names, sizes and times of every source, and of the versions of the packages that bring some."""
    found = hashlib.sha256()
    for folder in sorted([root / "static", *root.glob("*/static")]):
        for base, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                stat = os.stat(os.path.join(base, name))
                found.update(f"{base}/{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    for name in ("requirements.lock", "config/settings.py"):
        path = root / name
        found.update(path.read_bytes() if path.exists() else b"")
    return found.hexdigest()


def collect_when_stale(root: Path, manage: Callable[[list[str]], int]) -> None:
    """Run collectstatic unless its result is current; two instances of one checkout take turns."""
    cache = root / ".cache"
    cache.mkdir(exist_ok=True)
    stamp = cache / "static.sha256"
    with (cache / "static.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        digest = _digest(root)
        if stamp.exists() and stamp.read_text() == digest and (root / "staticfiles").is_dir():
            return
        if manage(["collectstatic", "--noinput", "--clear", "--verbosity", "0"]) != 0:
            raise Fault("E018", "the static files could not be collected; the reason stands above.")
        stamp.write_text(digest)
