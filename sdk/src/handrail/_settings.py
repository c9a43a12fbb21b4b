"""What a client may be told, by argument or by environment."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from handrail._options import SettingsOptions

MIB = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """Everything a client needs to know. Times in seconds."""

    url: str = ""
    api_key: str = ""
    # Where events wait while the server is away; None keeps them in memory alone.
    spool: Path | None = None
    spool_bytes: int = 64 * MIB
    spool_events: int = 100_000
    # Events that the program may be ahead of the thread that stores them.
    queue_events: int = 10_000
    timeout_s: float = 10.0
    # Heartbeats come at a third of the interval that the server expects, at least so often.
    beat_every_s: float = 10.0
    # The work stands still when nothing of it moved for so long; 0 never looks.
    hangs_after_s: float = 180.0
    # How long the end of the program may wait for what is unsent.
    exit_s: float = 2.0
    # The execution of `handrail run` that this program is the command of, and its run; "" of any other program.
    within_id: str = ""
    within_run: str = ""

    @property
    def is_complete(self) -> bool:
        return bool(self.url and self.api_key)

    @property
    def account(self) -> str:
        """What stands for this server and key where neither may be read."""
        return hashlib.sha256(f"{self.url}\n{self.api_key}".encode()).hexdigest()[:16]


def read(
    *,
    url: str | None = None,
    api_key: str | None = None,
    spool: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    **others: Unpack[SettingsOptions],
) -> Settings:
    """Settings from the arguments, else from HANDRAIL_URL, HANDRAIL_API_KEY and HANDRAIL_SPOOL.

    What `handrail run` set for its command counts only towards the same server.
    `spool` is a folder; an empty text stores nothing on disk. Without one it is a folder of the user's.
    """
    environ = os.environ if environ is None else environ
    url = environ.get("HANDRAIL_URL", "") if url is None else url
    api_key = environ.get("HANDRAIL_API_KEY", "") if api_key is None else api_key
    folder = environ.get("HANDRAIL_SPOOL") if spool is None else os.fspath(spool)
    url = url.strip().rstrip("/")
    if folder is None:
        # Nothing is stored of an inert client.
        own = _own_folder(environ) if url and api_key.strip() else None
    else:
        own = Path(folder) if folder else None
    is_within = url == environ.get("HANDRAIL_URL", "").strip().rstrip("/")
    return Settings(
        url=url,
        api_key=api_key.strip(),
        spool=own,
        within_id=_identity(environ.get("HANDRAIL_EXECUTION_ID", "")) if is_within else "",
        within_run=environ.get("HANDRAIL_RUN_ID", "")[:200] if is_within else "",
        **others,
    )


def _identity(said: str) -> str:
    """The id in its usual form; "" when it is none."""
    try:
        return str(UUID(said))
    except ValueError:
        return ""


def _own_folder(environ: Mapping[str, str]) -> Path | None:
    state = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if os.path.isabs(state) and _is_writable(Path(state)):
        return Path(state) / "handrail" / "spool"
    return _temporary_folder()


def _temporary_folder() -> Path | None:
    """Among the temporary files, where others write as well; None when others may write to this one."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir()) / f"handrail-{user}"
        # Made now, for nobody can put another in the place of one that is there and ours.
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_ours = found.st_uid == user and stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022
    return folder / "spool" if is_ours or not hasattr(os, "getuid") else None


def _is_writable(folder: Path) -> bool:
    """Whether folders can be made here, whether or not it is there yet."""
    # Path.exists would raise where we may not look.
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)
