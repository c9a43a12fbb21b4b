"""A polite key beside a greedy one: what traces, heartbeats, pages and health take with and without a flood of traces.

One web process; the keys are of two projects, and then of one, where both stand in one line for the same rows. The
flood comes on 64 connections that send the next trace of 128 spans as soon as one is answered, and come back after
0.1 s when they are shed. HANDRAIL_INGEST_THREADS and HANDRAIL_BENCH_SECONDS apply.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from socket import create_server
from typing import Any

import httpx
import psutil
from django.conf import settings

from launcher.web import SERVE
from monitor import keys
from monitor.models import Project
from monitor.tenancy import crossing, tenant

SECONDS = float(os.environ.get("HANDRAIL_BENCH_SECONDS", "15"))
CONNECTIONS = 64
PROGRAM = Path(__file__).with_name("_overload_program.py")
NO_LIMIT = 10_000_000
SERVER = {"HANDRAIL_DB_POOL": "10", "HANDRAIL_STANDBY": "0"}
# The projects of the polite key and of the greedy one.
CASES = {"two projects": ("polite", "greedy"), "one project": ("both", "both")}


@contextmanager
def web() -> Iterator[tuple[int, psutil.Process]]:
    """A web process and its port."""
    with create_server(("127.0.0.1", 0), backlog=1024) as listener:
        command = [sys.executable, "-W", "ignore", *SERVE, "config.asgi:application", "--no-access-log"]
        command += ["--fd", str(listener.fileno()), "--log-level", "warning"]
        process = subprocess.Popen(command, env=os.environ | SERVER, pass_fds=(listener.fileno(),))
        port = listener.getsockname()[1]
    try:
        httpx.get(f"http://127.0.0.1:{port}/ready", timeout=60)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def a_key(of_project: str, name: str) -> str:
    with crossing():
        project, _ = Project.objects.get_or_create(name=of_project)
    with tenant(project.pk):
        no_limit = {"general_per_minute": NO_LIMIT, "ingest_per_minute": NO_LIMIT}
        return keys.make(project, name, ("ingest", "read"), now=datetime.now(UTC), **no_limit)[1]  # type: ignore[arg-type]


def begin(way: str, port: int, key: str, more: object) -> "subprocess.Popen[str]":
    command = [sys.executable, str(PROGRAM), way, str(port), key, str(SECONDS), str(more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(program: "subprocess.Popen[str]") -> dict[str, Any]:
    out, _ = program.communicate(timeout=SECONDS + 60)
    return json.loads(out)


def show(title: str, measured: dict[str, Any]) -> None:
    for name, lasted_ms in measured["lasted_ms"].items():
        cuts = statistics.quantiles(lasted_ms, n=100)
        others = {status: count for status, count in measured["statuses"][name].items() if int(status) >= 300}
        print(
            f"  {title:<15} {name:<10} p50 {cuts[49]:7.1f} ms   p99 {cuts[98]:7.1f} ms   n {len(lasted_ms)}  {others}"
        )


def main() -> None:
    given = {"HANDRAIL_INGEST_THREADS": settings.INGEST_THREADS, "HANDRAIL_BENCH_SECONDS": f"{SECONDS:g}"}
    print(f"  {_words(given)} make bench ARGS=overload, one web process with {_words(SERVER)}")
    for title, (polite, greedy) in CASES.items():
        print(f"  {title}")
        measure(a_key(polite, "polite"), a_key(greedy, "greedy"))


def _words(environment: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in environment.items())


def measure(polite_key: str, greedy_key: str) -> None:
    with web() as (port, process):
        body = {"agent": "a", "task": "t", "timeout_s": 3600}
        headers = {"authorization": f"Bearer {polite_key}"}
        made = httpx.post(f"http://127.0.0.1:{port}/api/v1/executions", json=body, headers=headers, timeout=60)
        work = made.raise_for_status().json()["id"]
        show("alone", result(begin("polite", port, polite_key, work)))
        for title, is_beside in (("flood alone", False), ("beside a flood", True)):
            flood = begin("flood", port, greedy_key, CONNECTIONS)
            if is_beside:
                show(title, result(begin("polite", port, polite_key, work)))
            most = 0
            while flood.poll() is None:
                most = max(most, process.memory_info().rss)
                time.sleep(0.1)
            taken = result(flood)["statuses"]["traces"]
            spans = taken.get("200", 0) * 128 / SECONDS
            print(f"  {title:<15} the flood: {spans:,.0f} spans/s, {taken}, {most / 2**20:.0f} MiB resident")
