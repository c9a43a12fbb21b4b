"""What a client may be told, by argument or by environment."""

from __future__ import annotations

import hashlib
import os
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
    is_within = url == environ.get("HANDRAIL_URL", "").strip().rstrip("/")
    return Settings(
        url=url,
        api_key=api_key.strip(),
        spool=_own_folder(environ) if folder is None else Path(folder) if folder else None,
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


def _own_folder(environ: Mapping[str, str]) -> Path:
    state = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if os.path.isabs(state) and _is_writable(Path(state)):
        return Path(state) / "handrail" / "spool"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"handrail-{user}" / "spool"


def _is_writable(folder: Path) -> bool:
    """Whether folders can be made here, whether or not it is there yet."""
    # Path.exists would raise where we may not look.
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)
