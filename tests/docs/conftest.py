"""One running instance for everything that the documents promise, and keys for it."""

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.launcher.instance import ROOT, Instance


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    running = Instance(tmp_path_factory.mktemp("docs") / "home")
    try:
        yield running.begin().ready(within_s=400)
    finally:
        running.end()


def make_key(instance: Instance, *, project: str) -> str:
    """A key that may do everything in the project."""
    command = [sys.executable, "manage.py", "create_key", "docs", "--project", project]
    command += ["--scopes", "ingest,read,operate,admin,act-as", "--general-per-minute", "100000"]
    made = subprocess.run(command, cwd=ROOT, env=instance.environment, capture_output=True, text=True, check=True)
    return made.stdout.strip()


def client(instance: Instance, key: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"http://127.0.0.1:{instance.port}", headers={"authorization": f"Bearer {key}"}, timeout=30
    )
