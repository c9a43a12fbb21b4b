"""`make run` is backed up while agents report, and a fresh machine goes on from there."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.flows.running import api, make_key, manage
from tests.launcher.instance import ROOT, Instance, until

CALL = {
    "type": "call",
    "model": "gpt-4o",
    "input_tokens": 1000,
    "output_tokens": 100,
    "run_id": "r",
    "agent": "planner",
}
PROJECTS = ("backed-up-one", "backed-up-two")


@pytest.fixture
def restored(tmp_path: Path) -> Iterator[Instance]:
    """A state folder that nothing was started in yet."""
    instance = Instance(tmp_path / "fresh")
    try:
        yield instance
    finally:
        if instance.process is not None:
            instance.end()


def report(agent: httpx.Client) -> list[dict[str, object]]:
    """A batch of calls that is acknowledged."""
    events = [CALL | {"id": str(uuid4())} for _ in range(5)]
    answer = agent.post("/api/v1/batch", json={"events": events}).raise_for_status().json()
    assert answer == {"accepted": 5, "duplicates": 0, "rejected": []}
    return events


def test_a_fresh_machine_goes_on_from_a_backup_of_a_running_one(
    handrail: Instance, restored: Instance, tmp_path: Path
) -> None:
    keys = {name: make_key(handrail, name) for name in PROJECTS}
    executions, batches = {}, []
    for name, key in keys.items():
        with api(handrail, key) as agent:
            work = agent.post("/api/v1/executions", json={"agent": "planner", "task": name}).raise_for_status().json()
            where = f"/api/v1/executions/{work['id']}"
            agent.post(f"{where}/complete", json={"attempt": 1, "output": {"room": 7}}).raise_for_status()
            executions[name] = where, agent.get(where).raise_for_status().json()
    stop = threading.Event()

    def write() -> None:
        with api(handrail, keys[PROJECTS[0]]) as agent:
            while not stop.is_set():
                batches.append(report(agent))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: len(batches) >= 3 or not writer.is_alive(), "three batches")
        before = list(batches)
        said = manage(handrail, "backup", str(tmp_path / "safe"), "--with-secret-key")
        backup = Path(said.splitlines()[-1].partition(": ")[0])
        assert len(batches) > len(before), "nobody reported meanwhile"
    finally:
        stop.set()
        writer.join()

    # A restore needs an instance that is stopped; here it is a machine on which nothing ever ran.
    refused = subprocess.run(
        [sys.executable, "manage.py", "restore", str(backup)],
        cwd=ROOT,
        env=handrail.environment,
        capture_output=True,
        text=True,
    )
    assert (refused.returncode, "handrail.E020" in refused.stderr) == (1, True)
    manage(restored, "restore", str(backup))
    assert (restored.home / "secret_key").read_text() == (handrail.home / "secret_key").read_text()
    restored.begin().ready()

    assert "Sign in as" not in restored.text()
    with api(restored, keys[PROJECTS[0]]) as one, api(restored, keys[PROJECTS[1]]) as two:
        for agent, name, other in ((one, *PROJECTS), (two, *reversed(PROJECTS))):
            where, document = executions[name]
            assert agent.get(where).raise_for_status().json() == document
            assert agent.get(executions[other][0]).status_code == 404
        # What was acknowledged before the backup is known; what came after it is taken as new, and then known too.
        for events in before:
            again = one.post("/api/v1/batch", json={"events": events}).raise_for_status().json()
            assert again == {"accepted": 0, "duplicates": 5, "rejected": []}
        for events in batches[len(before) :]:
            one.post("/api/v1/batch", json={"events": events}).raise_for_status()
        report(two)
        spent = one.get("/api/v1/runs/r/costs").raise_for_status().json()
    with api(handrail, keys[PROJECTS[0]]) as agent:
        # All that was reported is there once, to the last cent; calls sent again have a later time.
        times = ("ended_at", "duration_ms")
        wanted = agent.get("/api/v1/runs/r/costs").raise_for_status().json()
        assert [spent[name] for name in spent if name not in times] == [
            wanted[name] for name in spent if name not in times
        ]
