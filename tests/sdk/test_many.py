"""Many executions of one program, and a server that takes its time for each request."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import handrail
import pytest
from handrail._stand_in import until

from tests.launcher.instance import ROOT

MANY = 1_000
TAKES_S = 0.1
# One request after the other they would take 100 s.
WITHIN_S = 40


class Slow(ThreadingHTTPServer):
    """Takes batches at once, and `TAKES_S` for all that is about one execution; counts what it was asked.

    `twice` are those that had two heartbeats on their way at the same time.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.beats: Counter[str] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.twice: set[str] = set()
        self.command: dict[str, Any] = {"command": "continue"}
        self._lock = threading.Lock()
        self._at_work: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        *_, execution_id, verb = path.split("/")
        if verb == "batch":
            return {"accepted": len(body["events"]), "duplicates": 0, "rejected": []}
        # Each answer takes its time: that is the server that is stood in for, and what the client has to keep up with.
        if verb == "acknowledge":
            time.sleep(TAKES_S)
            with self._lock:
                self.acknowledged[execution_id] += 1
            return {}
        with self._lock:
            if execution_id in self._at_work:
                self.twice.add(execution_id)
            self._at_work.add(execution_id)
        time.sleep(TAKES_S)
        with self._lock:
            self._at_work.remove(execution_id)
            self.beats[execution_id] += 1
        return self.command


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Slow

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = json.dumps(self.server.answer(self.path, body)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def slow() -> Iterator[Slow]:
    with Slow() as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()


def helpers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "handrail-help"]


def test_a_thousand_executions_are_beaten_for_in_their_time_and_heard(slow: Slow) -> None:
    with handrail.Client(url=slow.url, api_key="k", spool="", hangs_after_s=0) as made, ExitStack() as open_:
        crowd = [open_.enter_context(made.execution("clerk", heartbeat_s=60)) for _ in range(MANY)]
        ours = {one.id for one in crowd}
        until(lambda: slow.beats.keys() == ours, "each has been beaten for", WITHIN_S)
        assert 0 < len(helpers()) <= 19
        slow.command = {"command": "cancel", "command_seq": 1}
        until(lambda: all(one.cancelled for one in crowd), "each has heard it", WITHIN_S)
        until(lambda: slow.acknowledged.keys() == ours, "each has said so", WITHIN_S)
    assert slow.twice == set()
    until(lambda: not helpers(), "nobody is left", 5)


def test_few_executions_need_no_help(slow: Slow) -> None:
    with handrail.Client(url=slow.url, api_key="k", spool="") as made, ExitStack() as open_:
        few = {open_.enter_context(made.execution("clerk")).id for _ in range(4)}
        until(lambda: slow.beats.keys() == few, "each has been beaten for", WITHIN_S)
        assert not helpers()


FORKS = """
import os, sys, threading, handrail
from handrail._stand_in import until

def begin(agent):
    works = [handrail.execution(agent, heartbeat_s=30).start() for _ in range(60)]
    until(lambda: "handrail-help" in [one.name for one in threading.enumerate()], "it has help", 20)
    return works

begin("parent")
child = os.fork()
if child == 0:
    for work in begin("child"):
        work.complete()
    sys.exit(not handrail.flush(20))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_has_help_of_its_own_and_both_come_to_an_end(slow: Slow) -> None:
    settings = {"HANDRAIL_URL": slow.url, "HANDRAIL_API_KEY": "k", "HANDRAIL_SPOOL": ""}
    environment = os.environ | settings | {"PYTHONPATH": str(ROOT / "sdk/src")}
    done = subprocess.run([sys.executable, "-c", FORKS], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
