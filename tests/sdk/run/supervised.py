"""`handrail run` as a user starts it, in a process of its own."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx

from tests.launcher.instance import ROOT, clean_environment, until


class Supervised:
    """One started `handrail run`; every process of it carries a mark, so that a test sees what is left."""

    def __init__(
        self, folder: Path, *words: str, url: str = "", key: str = "", options: tuple[str, ...] = (), **streams: Any
    ) -> None:
        self.agent = f"agent-{uuid.uuid4().hex[:12]}"
        self.folder = folder
        settings = {"HANDRAIL_URL": url, "HANDRAIL_API_KEY": key, "SUPERVISED": self.agent}
        settings |= {"PYTHONPATH": ROOT / "sdk/src", "FOLDER": folder}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "handrail", "run", "--agent", self.agent, *options, "--", *words],
            env=clean_environment(**settings),
            stdout=streams.get("stdout", subprocess.PIPE),
            stderr=streams.get("stderr", subprocess.PIPE),
            stdin=subprocess.DEVNULL,
        )

    def ends(self, within_s: float = 30) -> tuple[int, bytes, bytes]:
        """Its exit code and all that it wrote."""
        try:
            out, err = self.process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, err

    def left(self) -> dict[int, str]:
        """Its living processes, the supervisor's own included, by the mark in their environment."""
        mark, found = f"SUPERVISED={self.agent}".encode(), {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def file(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def until_written(self, name: str, text: str) -> None:
        until(lambda: text in self.file(name), f"{text!r} in {name}: {self.file(name)!r}")

    def execution(self, people: httpx.Client) -> dict[str, Any]:
        """The execution as the server has it; empty before it was registered."""
        found = people.get("/api/v1/executions", params={"agent": self.agent}).raise_for_status().json()["results"]
        assert len(found) <= 1
        return found[0] if found else {}

    def until_status(self, people: httpx.Client, status: str, *, within_s: float = 30) -> dict[str, Any]:
        until(
            lambda: self.execution(people).get("status") == status,
            f"{status}: {self.execution(people)}",
            within_s=within_s,
        )
        return self.execution(people)

    def journal(self, people: httpx.Client) -> list[tuple[str, str, str]]:
        one = people.get(f"/api/v1/executions/{self.execution(people)['id']}").raise_for_status().json()
        return [(step["from_state"], step["to_state"], step["cause"]) for step in one["transitions"]]

    def command(self, people: httpx.Client, verb: str) -> None:
        people.post(f"/api/v1/executions/{self.execution(people)['id']}/{verb}", json={}).raise_for_status()

    def close(self) -> None:
        """Whatever happened in the test, nothing stays."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.left():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
