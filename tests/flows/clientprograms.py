"""Real instrumented programs, run with their own libraries against a model server that notes what it served."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.running import address
from tests.launcher.instance import ROOT, Instance, free_port, until

BENCH = ROOT.parent / "shared/bench"
LIBRARIES = Path(__file__).parent / "clients.txt"
INSTALL_WITHIN_S = 600


def program(name: str) -> Path:
    """A client program; skips the test, saying so, where there is none."""
    path = BENCH / "clients" / f"{name}.py"
    if not path.exists():
        pytest.skip(f"the client programs are not here: {path}")
    return path


def interpreter() -> Path:
    """A Python with the clients' libraries, made once and kept; skips the test where they can't be installed."""
    digest = hashlib.sha256(LIBRARIES.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = ROOT / ".cache" / f"clients-venv-{digest}"
    home.parent.mkdir(exist_ok=True)
    # Tests that run side by side in several processes make it in turn: all but the first find it made.
    with home.with_suffix(".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            _install(home)
    return home / "bin/python"


def _install(home: Path) -> None:
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [*pip, "--only-binary", ":all:", "--no-deps", "--requirement", str(LIBRARIES)],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_WITHIN_S)
        except (OSError, subprocess.SubprocessError) as error:
            reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
            pytest.skip(f"the libraries of the client programs could not be installed: {' '.join(reason)[:200]}")
    (home / "complete").touch()


@contextmanager
def model_server(folder: Path) -> Iterator[tuple[str, Path]]:
    """The address of a model server, and the file in which it notes every call that it answered."""
    port, truth = free_port(), folder / "truth.jsonl"
    server = subprocess.Popen([sys.executable, str(BENCH / "fake_openai.py"), str(port), str(truth)])
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(answers, "the model server answers")
        yield url, truth
    finally:
        server.kill()
        server.wait()


def run(name: str, instance: Instance, key: str, folder: Path) -> list[dict[str, Any]]:
    """Run a program that reports to the instance with this key; what its model server served, call by call."""
    path, python = program(name), interpreter()
    with model_server(folder) as (models, truth):
        done = subprocess.run(
            [str(python), str(path)],
            env=os.environ
            | {
                "FAKE_URL": models,
                "OTLP_ENDPOINT": address(instance),
                "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {key}",
                "NO_PROXY": "127.0.0.1",
            },
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads(line) for line in truth.read_text().splitlines()]


def run_here(path: Path, environment: dict[str, str]) -> str:
    """Run a program of our own with the clients' libraries; what it printed. Its complaints are shown when it fails."""
    done = subprocess.run(
        [str(interpreter()), str(path)],
        env=os.environ | {"NO_PROXY": "127.0.0.1"} | environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
