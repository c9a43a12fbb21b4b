"""Programs with the Python client against a running Handrail, in processes of their own that meet with accidents."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.flows.running import address, api, make_key
from tests.launcher.instance import ROOT, Instance, free_port, until

WITHIN_S = 60


@pytest.fixture(scope="module")
def key(handrail: Instance) -> str:
    return make_key(handrail, "client")


def begin(program: str, url: str, key: str, spool: Path, *words: str, **settings: str) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "sdk/src"),
        "HANDRAIL_URL": url,
        "HANDRAIL_API_KEY": key,
        "HANDRAIL_SPOOL": str(spool),
        "PYTHONUNBUFFERED": "1",
        **settings,
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(program: str, url: str, key: str, spool: Path, *words: str, within_s: float = WITHIN_S) -> str:
    process = begin(program, url, key, spool, *words)
    said, complained = process.communicate(timeout=within_s)
    assert process.returncode == 0, complained
    return said.strip()


def found(instance: Instance, key: str, **query: str) -> list[dict[str, Any]]:
    with api(instance, key) as client:
        return client.get("/api/v1/executions", params=query).raise_for_status().json()["results"]


def detail(instance: Instance, key: str, identity: str) -> dict[str, Any]:
    with api(instance, key) as client:
        return client.get(f"/api/v1/executions/{identity}").raise_for_status().json()


def costs(instance: Instance, key: str, run_id: str) -> dict[str, Any]:
    with api(instance, key) as client:
        return client.get(f"/api/v1/runs/{run_id}/costs").raise_for_status().json()


@contextmanager
def door(instance: Instance, port: int) -> Iterator[threading.Event]:
    """The instance at another port, which may be closed: then nobody answers there."""
    is_open = threading.Event()
    ends = threading.Event()
    listener = socket.create_server(("127.0.0.1", port))
    listener.settimeout(0.1)

    def pump(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            end.close()

    def serve() -> None:
        while not ends.is_set():
            try:
                caller, _ = listener.accept()
            except TimeoutError:
                continue
            if not is_open.is_set():
                caller.close()
                continue
            behind = socket.create_connection(("127.0.0.1", instance.port))
            for pair in ((caller, behind), (behind, caller)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield is_open
    finally:
        ends.set()
        server.join()
        listener.close()


WORK = """
import handrail
with handrail.execution("planner", run_id="plain", task="Book a room", inputs={"city": "Leeds"}) as ex:
    ex.progress(40, "comparing prices")
    ex.call(model="gpt-4o-mini", input_tokens=1200, output_tokens=80)
    with ex.tool("find_room", {"city": "Leeds"}) as tool:
        tool.output = {"room": 7}
    with handrail.execution("helper") as child:
        child.call(model="gpt-4o-mini", input_tokens=100, output_tokens=10)
    ex.complete({"room": 7})
print(ex.id, child.id)
"""


def test_a_program_that_is_over_at_once_leaves_nothing_unsaid(handrail: Instance, key: str, tmp_path: Path) -> None:
    parent, child = run(WORK, address(handrail), key, tmp_path, within_s=15).split()
    work = detail(handrail, key, parent)
    assert (work["status"], work["output"], work["progress"], work["message"]) == (
        "completed",
        {"room": 7},
        40,
        "comparing prices",
    )
    assert (work["input_tokens"], work["api_calls"], work["inputs"]) == (1200, 1, {"city": "Leeds"})
    assert detail(handrail, key, child)["parent_id"] == parent
    sums = costs(handrail, key, "plain")
    assert (sums["total_calls"], sums["tool_calls"], sums["input_tokens"]) == (2, 1, 1300)
    assert not list(tmp_path.rglob("*.events"))


BEATING = """
import handrail, sys, time
beats = {"heartbeat_s": int(sys.argv[2]), "timeout_s": 300}
with handrail.execution("sleeper", run_id=sys.argv[1], interrupts=True, **beats) as ex:
    print(ex.id)
    if "hang" in sys.argv:
        time.sleep(600)
    try:
        while True:
            ex.progress(message="working")
            time.sleep(0.05)
    except handrail.Paused as paused:
        print("paused:", paused.reason)
        paused.wait(50)
        print("resumed")
    while True:
        ex.progress(message="working")
        time.sleep(0.05)
"""


def test_a_person_pauses_resumes_and_cancels_it(handrail: Instance, key: str, tmp_path: Path) -> None:
    process = begin(BEATING, address(handrail), key, tmp_path, "commanded", "16")
    assert process.stdout is not None
    identity = process.stdout.readline().strip()
    until(lambda: any(one["last_heartbeat_at"] for one in found(handrail, key, run_id="commanded")), "it beats")
    with api(handrail, key) as person:
        person.post(f"/api/v1/executions/{identity}/pause", json={"note": "wait for tomorrow"}).raise_for_status()
        assert process.stdout.readline() == "paused: wait for tomorrow\n"
        person.post(f"/api/v1/executions/{identity}/resume", json={}).raise_for_status()
        assert process.stdout.readline() == "resumed\n"
        person.post(f"/api/v1/executions/{identity}/cancel", json={"note": "enough"}).raise_for_status()
    _, complained = process.communicate(timeout=WITHIN_S)
    assert "handrail._errors.Cancelled: sleeper: cancel: enough" in complained
    work = detail(handrail, key, identity)
    moves = [one["to_state"] for one in work["transitions"] if one["to_state"] != one["from_state"]]
    assert moves == ["running", "paused", "running", "cancelled"]
    assert [(one["command"], one["effect"]) for one in work["commands"]] == [
        ("pause", "stopped at a safe point and waits"),
        ("continue", "goes on"),
        ("cancel", "stopped its work"),
    ]
    # While it waits it hears by its long-poll: the next heartbeat may be 8 s away.
    assert [one["delivered_by"] for one in work["commands"]][:2] == ["heartbeat", "agent-events"]
    assert all(one["delivered_at"] and one["acknowledged_at"] for one in work["commands"])


def test_heartbeats_survive_a_thread_that_hangs(handrail: Instance, key: str, tmp_path: Path) -> None:
    process = begin(BEATING, address(handrail), key, tmp_path, "hung", "1", "hang")
    assert process.stdout is not None
    identity = process.stdout.readline().strip()
    time.sleep(4)  # More than the 1.5 s after which the server takes it for dead.
    work = detail(handrail, key, identity)
    process.kill()
    process.communicate()
    assert (work["status"], work["attempt"]) == ("running", 1)
    assert len([one for one in work["transitions"] if one["to_state"] == "retrying"]) == 0


RETRYING = """
import handrail
for attempt in handrail.attempts("stubborn", run_id="again", attempts=3):
    with attempt as ex:
        print(ex.attempt, flush=True)
        if ex.attempt < 3:
            raise OSError("503 from the model")
"""


def test_the_servers_backoff_rules(handrail: Instance, key: str, tmp_path: Path) -> None:
    assert run(RETRYING, address(handrail), key, tmp_path).split() == ["1", "2", "3"]
    (work,) = found(handrail, key, run_id="again")
    journal = detail(handrail, key, work["id"])["transitions"]
    assert (work["status"], work["attempt"]) == ("completed", 3)
    assert {one["cause"] for one in journal} <= {"registered", "error", "picked_up", "completed"}


def test_when_retries_are_spent_a_person_decides(handrail: Instance, key: str, tmp_path: Path) -> None:
    program = RETRYING.replace('run_id="again", attempts=3', 'run_id="spent", max_retries=0')
    process = begin(program, address(handrail), key, tmp_path)
    until(
        lambda: [one["status"] for one in found(handrail, key, run_id="spent")] == ["hitl_paused"], "a person is asked"
    )
    (work,) = found(handrail, key, run_id="spent")
    with api(handrail, key) as person:
        for _ in range(2):
            until(lambda: detail(handrail, key, work["id"])["status"] == "hitl_paused", "a person is asked again")
            person.post(f"/api/v1/executions/{work['id']}/retry", json={}).raise_for_status()
    said, complained = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, said.split()) == (0, ["1", "2", "3"]), complained
    assert detail(handrail, key, work["id"])["status"] == "completed"


AWAY = """
import handrail, sys, time
with handrail.execution("islander", run_id=sys.argv[1]) as ex:
    for n in range(300):
        ex.call(model="gpt-4o-mini", input_tokens=1, output_tokens=1)
    for n in range(3):
        ex.tool("look", {"n": n}, duration_ms=1)
print("done", flush=True)
if "stays" in sys.argv:
    print(handrail.flush(50), flush=True)
"""


def test_the_server_is_away_and_comes_back(handrail: Instance, key: str, tmp_path: Path) -> None:
    port = free_port()
    with door(handrail, port) as is_open:
        process = begin(AWAY, f"http://127.0.0.1:{port}", key, tmp_path, "island", "stays")
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        until(lambda: any(one.stat().st_size > 1000 for one in tmp_path.rglob("*.events")), "it is on disk")
        assert found(handrail, key, run_id="island") == []
        is_open.set()
        assert process.stdout.readline() == "True\n"
        process.communicate(timeout=WITHIN_S)
    assert not list(tmp_path.rglob("*.events"))
    (work,) = found(handrail, key, run_id="island")
    sums = costs(handrail, key, "island")
    assert (work["status"], work["input_tokens"]) == ("completed", 300)
    assert (sums["total_calls"], sums["tool_calls"]) == (300, 3)


def test_programs_that_end_while_the_server_is_away_are_told_by_the_next(
    handrail: Instance, key: str, tmp_path: Path
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    run(AWAY, nobody, key, tmp_path, "left", within_s=10)
    killed = begin(AWAY, nobody, key, tmp_path, "left", "stays")
    assert killed.stdout is not None
    assert killed.stdout.readline() == "done\n"
    until(lambda: len(list(tmp_path.rglob("*.events"))) == 2, "both are on disk")
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    # The same account, as it would be at the same address.
    (folder,) = tmp_path.iterdir()
    account = run(
        "import handrail; print(handrail.client().settings.account)", address(handrail), key, tmp_path / "elsewhere"
    )
    folder.rename(tmp_path / account)
    run("import handrail\nwith handrail.execution('heir') as ex: pass", address(handrail), key, tmp_path)
    until(lambda: costs(handrail, key, "left").get("total_calls") == 600, "all calls have arrived")
    assert [one["status"] for one in found(handrail, key, run_id="left")] == ["completed", "completed"]
    run("import handrail\nwith handrail.execution('heir') as ex: pass", address(handrail), key, tmp_path)
    assert costs(handrail, key, "left")["total_calls"] == 600
    assert not list(tmp_path.rglob("*.events"))


FORKING = """
import handrail, multiprocessing, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)

def work(n):
    with handrail.execution(f"child-{n}", run_id="forked") as ex:
        ex.call(model="gpt-4o-mini", input_tokens=1, output_tokens=1)

with handrail.execution("parent", run_id="forked") as ex:
    for n in range(200):
        ex.call(model="gpt-4o-mini", input_tokens=1, output_tokens=1)
    children = [multiprocessing.get_context("fork").Process(target=work, args=(n,)) for n in range(5)]
    for child in children:
        child.start()
    pid = os.fork()
    if pid == 0:
        work(99)
        sys.exit(0)
    os.waitpid(pid, 0)
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 5
print(ex.id)
"""


def test_forked_children_tell_their_own_and_nothing_twice(handrail: Instance, key: str, tmp_path: Path) -> None:
    parent = run(FORKING, address(handrail), key, tmp_path).split()[-1]
    # On a slow server a child may leave its events to whoever comes next.
    run("import handrail\nwith handrail.execution('heir') as ex: pass", address(handrail), key, tmp_path)
    until(lambda: costs(handrail, key, "forked").get("total_calls") == 206, "all calls have arrived")
    assert not list(tmp_path.rglob("*.events"))
    works = {one["agent"]: one for one in found(handrail, key, run_id="forked")}
    assert {name: one["status"] for name, one in works.items()} == {
        "parent": "completed",
        **{f"child-{n}": "completed" for n in (0, 1, 2, 3, 4, 99)},
    }
    assert all(one["parent_id"] == parent for name, one in works.items() if name != "parent")


def test_what_is_open_when_the_program_ends_has_failed(handrail: Instance, key: str, tmp_path: Path) -> None:
    program = "import handrail\nprint(handrail.execution('careless').start().id)"
    work = detail(handrail, key, run(program, address(handrail), key, tmp_path))
    assert (work["status"], work["error"]) == ("failed", "the program ended before its work did")


def test_a_poisonous_event_blocks_nothing(handrail: Instance, key: str, tmp_path: Path) -> None:
    program = """
import handrail
with handrail.execution("planner", run_id="poison") as ex:
    ex.call(model="gpt-4o-mini", input_tokens=1)
    ex.call(model="gpt-4o-mini", input_tokens=-1)
    ex.call(model="gpt-4o-mini", input_tokens=2)
    ex.call(model="m" * 500, input_tokens=2)
print(handrail.flush(20), handrail.client().dropped)
"""
    assert run(program, address(handrail), key, tmp_path) == "True 2"
    assert costs(handrail, key, "poison")["input_tokens"] == 3
    with api(handrail, key) as client:
        spans = client.get("/api/v1/monitoring/tasks", params={"limit": 1}).raise_for_status().json()
    assert json.dumps(spans)


def test_a_key_that_is_refused_harms_nobody(handrail: Instance, tmp_path: Path) -> None:
    run(WORK, address(handrail), "hr_wrong", tmp_path, within_s=10)
    assert list(tmp_path.rglob("*.events"))
