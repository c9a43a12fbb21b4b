"""The migrated PostgreSQL cluster of earlier test runs, kept as files: migrating takes seconds, copying does not.

It is found by a digest of every file that the migrations can reach, so that it can never be an old one.
"""

import ast
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".cache" / "test-clusters"
ALSO = ("config/settings.py", "requirements.lock", "launcher/postgres.py", "launcher/throwaway.py")


def _files_of(module: str) -> list[Path]:
    """The project's files behind a dotted name: the module itself, and the packages around it."""
    found = []
    for end in range(1, len(module.split(".")) + 1):
        path = ROOT.joinpath(*module.split(".")[:end])
        found += [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return found


def _imports(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def digest() -> str:
    """Of the migrations and all that they import from this project, however far."""
    waiting = sorted(ROOT.glob("*/migrations/*.py"))
    seen: set[Path] = {ROOT / name for name in ALSO}
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += [found for name in _imports(file) for found in _files_of(name)]
    total = hashlib.sha256(str(os.geteuid()).encode())
    for file in sorted(seen):
        total.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return total.hexdigest()[:24]


def restore(name: str, data: Path) -> bool:
    """Copy the kept cluster to `data`; False when none of that name is kept."""
    source = KEPT / name
    if not source.is_dir():
        return False
    data.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(source), str(data)], check=True)
    os.utime(source)
    return True


def keep(name: str, data: Path) -> None:
    """Keep a stopped cluster under that name, and only the three latest; a race of two runs is harmless."""
    KEPT.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = KEPT / f"new-{os.getpid()}"
    subprocess.run(["cp", "-a", str(data), str(new)], check=True)
    try:
        new.rename(KEPT / name)
    except OSError:
        shutil.rmtree(new)
    for old in sorted(KEPT.iterdir(), key=lambda path: path.stat().st_mtime)[:-3]:
        shutil.rmtree(old, ignore_errors=True)
