"""The examples of docs/client.md, each run as a program of its own against a real instance."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.conftest import client, make_key
from tests.docs.test_examples import blocks
from tests.launcher.instance import ROOT, Instance

pytestmark = pytest.mark.xdist_group("docs instance")

EXAMPLES = blocks("docs/client.md", "python", "run")


@pytest.fixture(scope="module")
def key(instance: Instance) -> str:
    return make_key(instance, project="client-docs")


@pytest.mark.parametrize("script", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs_as_it_stands(instance: Instance, key: str, script: str, tmp_path: Path) -> None:
    environment = instance.environment | {
        "PYTHONPATH": str(ROOT / "sdk/src"),
        "HANDRAIL_URL": f"http://127.0.0.1:{instance.port}",
        "HANDRAIL_API_KEY": key,
        "HANDRAIL_SPOOL": str(tmp_path / "spool"),
    }
    program = tmp_path / "test_example.py"
    program.write_text(script)
    tested = (
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)] if "def test_" in script else []
    )
    done = subprocess.run(
        [sys.executable, *tested, str(program)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert not list((tmp_path / "spool").rglob("*.events"))
    assert os.access(program, os.R_OK)


def test_the_examples_left_what_they_say(instance: Instance, key: str) -> None:
    with client(instance, key) as api:
        found = api.get("/api/v1/executions", params={"limit": 100}).json()["results"]
    works = {one["run_id"]: one for one in found if one["run_id"]}
    assert {one["status"] for one in found} == {"completed"}
    assert (works["trip-7"]["agent"], works["trip-7"]["progress"]) == ("planner", 40)
    (researcher,) = (one for one in found if one["agent"] == "researcher")
    assert (researcher["run_id"], researcher["output"]) == ("trip-8", {"sources": 4})
    assert any(one["attempt"] == 2 for one in found)
