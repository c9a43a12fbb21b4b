"""What `launcher/setup` leaves in the environment, beside the packages of the lock."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.launcher.instance import ROOT

AT_WORK = shutil.ignore_patterns("__pycache__")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with an empty lock, in whose environment the packages of ours are found."""
    tree = tmp_path / "tree"
    (tree / "launcher").mkdir(parents=True)
    shutil.copy(ROOT / "launcher" / "setup", tree / "launcher")
    shutil.copytree(ROOT / "sdk", tree / "sdk", ignore=AT_WORK)
    shutil.copy(ROOT / ".gitignore", tree)
    (tree / "requirements.lock").touch()
    subprocess.run([sys.executable, "-m", "venv", tree / ".venv"], check=True)
    (site_packages(tree) / "ours.pth").write_text(sysconfig.get_paths()["purelib"])
    subprocess.run(["git", "init", "--quiet", tree], check=True)
    subprocess.run(["git", "add", "."], cwd=tree, check=True)
    return tree


def site_packages(tree: Path) -> Path:
    (found,) = (tree / ".venv" / "lib").glob("python*/site-packages")
    return found


def set_up(tree: Path) -> str:
    """What it says."""
    done = subprocess.run(["sh", "launcher/setup"], cwd=tree, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def installed(tree: Path, away: Path) -> tuple[str, str]:
    """How the command begins its help, and from where the package is imported."""
    here = {"cwd": away, "env": {"PATH": "/usr/bin:/bin"}, "capture_output": True, "text": True, "check": True}
    shown = subprocess.run([tree / ".venv/bin/handrail", "run", "--help"], **here).stdout
    ask = "import handrail; print(handrail.__file__)"
    found = subprocess.run([tree / ".venv/bin/python", "-c", ask], **here).stdout
    return shown.split(" --agent")[0], found.strip()


def test_the_client_is_installed_from_its_folder_once_and_anew_in_another_place(tree: Path, tmp_path: Path) -> None:
    usage = "usage: handrail run"
    assert "installing the client" in set_up(tree)
    assert installed(tree, tmp_path) == (usage, str(tree / "sdk/src/handrail/__init__.py"))
    assert "installing the client" not in set_up(tree)
    seen = subprocess.run(["git", "status", "--porcelain"], cwd=tree, capture_output=True, text=True, check=True)
    assert [line for line in seen.stdout.splitlines() if not line.startswith("A ")] == []

    moved = tree.rename(tmp_path / "moved")
    assert "installing the client" in set_up(moved)
    assert installed(moved, tmp_path) == (usage, str(moved / "sdk/src/handrail/__init__.py"))
