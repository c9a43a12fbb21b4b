"""The examples of docs/supervise.md, as they stand there; those that listen are also told to stop."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.docs.conftest import client, make_key
from tests.docs.test_examples import blocks
from tests.launcher.instance import ROOT, Instance, until

pytestmark = pytest.mark.xdist_group("docs instance")

DOCUMENT = "docs/supervise.md"
Start = Callable[[list[str], str], "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def key(instance: Instance) -> str:
    return make_key(instance, project="supervise")


@pytest.fixture
def start(instance: Instance, key: str, tmp_path: Path) -> Start:
    """Starts a program that reads its script, with `handrail` on its path as an installation puts it there."""
    installed = tmp_path / "handrail"
    installed.write_text(f'#!/bin/sh\nexec {sys.executable} -m handrail "$@"\n')
    installed.chmod(0o755)
    environment = instance.environment | {
        "HANDRAIL_URL": f"http://127.0.0.1:{instance.port}",
        "HANDRAIL_API_KEY": key,
        "PATH": f"{tmp_path}:{instance.environment['PATH']}",
        "PYTHONPATH": str(ROOT / "sdk/src"),
    }

    def begin(program: list[str], script: str) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        begun = subprocess.Popen(program, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe)
        assert begun.stdin is not None
        begun.stdin.write(script)
        begun.stdin.close()
        begun.stdin = None
        return begun

    return begin


def said(program: "subprocess.Popen[str]") -> str:
    out, err = program.communicate(timeout=60)
    assert program.returncode == 0, f"{out[-2000:]}\n{err[-2000:]}"
    return out


def works(api: httpx.Client, task: str) -> list[tuple[str, int]]:
    found = api.get("/api/v1/executions", params={"search": task}).raise_for_status().json()["results"]
    return [(one["status"], one["attempt"]) for one in found]


def test_the_commands_run_under_supervision(instance: Instance, start: Start, key: str) -> None:
    first, again, _ = blocks(DOCUMENT, "sh", "run")
    assert said(start(["bash", "-eu"], first)) == "shelf 1\nshelf 2\n"
    assert said(start(["bash", "-eu"], again)) == "attempt 1\nattempt 2\n"
    with client(instance, key) as api:
        assert works(api, "Sort the returns") == [("completed", 1)]
        assert api.get("/api/v1/executions", params={"agent": "librarian"}).json()["results"][0]["attempt"] == 2


def test_the_loop_of_curl_beats_and_tells_the_end(instance: Instance, start: Start, key: str) -> None:
    *_, script = blocks(DOCUMENT, "sh", "run")
    assert said(start(["sh", "-eu"], script)) == "watering\n"
    with client(instance, key) as api:
        assert works(api, "Water the beds") == [("completed", 1)]


def test_the_loop_of_curl_stops_its_work_when_told_to(instance: Instance, start: Start, key: str) -> None:
    *_, script = blocks(DOCUMENT, "sh", "run")
    script = replaced(script, "Water the beds", "Water the lawn")
    with client(instance, key) as api:
        started = start(["sh", "-eu"], replaced(script, "'echo watering; sleep 1'", "'exec sleep 300'"))
        cancel(api, "Water the lawn")
        assert said(started) == ""
        assert works(api, "Water the lawn") == [("cancelled", 1)]


def test_the_python_beats_and_tells_the_end(instance: Instance, start: Start, key: str) -> None:
    (script,) = blocks(DOCUMENT, "python", "run")
    assert said(start([sys.executable, "-"], script)) == "pruning 0\npruning 1\npruning 2\n"
    with client(instance, key) as api:
        assert works(api, "Prune the roses") == [("completed", 1)]


def test_the_python_stops_when_told_to(instance: Instance, start: Start, key: str) -> None:
    (script,) = blocks(DOCUMENT, "python", "run")
    script = replaced(replaced(script, "every_s=10", "every_s=0.2"), "Prune the roses", "Prune the hedge")
    with client(instance, key) as api:
        started = start(
            [sys.executable, "-"], replaced(script, "in range(3):", "in range(600):\n        ended.wait(0.1)")
        )
        cancel(api, "Prune the hedge")
        # It is over already, so its own word of the end is refused; it has stopped, which is what counts.
        _, err = started.communicate(timeout=60)
        assert started.returncode == 1
        assert "InterruptedError: Handrail said so" in err
        assert works(api, "Prune the hedge") == [("cancelled", 1)]


def cancel(api: httpx.Client, task: str) -> None:
    def beaten() -> list[str]:
        found = api.get("/api/v1/executions", params={"search": task}).json()["results"]
        return [one["id"] for one in found if one["last_heartbeat_at"]]

    until(lambda: bool(beaten()), "it beats")
    api.post(f"/api/v1/executions/{beaten()[0]}/cancel", json={}).raise_for_status()


def replaced(script: str, old: str, new: str) -> str:
    assert script.count(old) == 1, old
    return script.replace(old, new)
