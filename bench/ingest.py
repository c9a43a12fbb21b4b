"""Traces over OTLP and calls over the batch, as agents send them, against the least that a server can do.

Two web processes take exports of 128 spans over eight connections; so does a bare server that decodes, copies and
commits, on the same PostgreSQL and in turns. Counted is what was acknowledged, and CPU time of the web processes and of
PostgreSQL. The batch is compared with a Django REST framework serializer that only validates the same events.
"""

import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil
from django.db import connection
from rest_framework import serializers

from bench import _agents, _bare
from launcher.child import Child

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 2
CONNECTIONS = 8
PER_REQUEST = 128
SPANS, SPANS_BARE = 16_000, 48_000
EVENTS, PER_BATCH = 8_000, 500
ROUNDS = 5
READY_WITHIN_S = 60
LONGEST_S = 120


class Measured(NamedTuple):
    """What one round took; CPU in µs for each item."""

    per_s: float
    web_us: float
    database_us: float
    p50_ms: float
    p99_ms: float


class Server:
    """Web processes that share a port, and the key to them."""

    def __init__(self, app: str, key: str = "", **environment: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        fd = self._listener.fileno()
        self.port = self._listener.getsockname()[1]
        self.key = key
        command = [sys.executable, "-W", "ignore", "-m", "uvicorn", app, "--fd", str(fd), "--no-access-log"]
        command += ["--log-level", "error"]
        self._children = [
            Child(command, env=os.environ | environment, grace_s=5, pass_fds=(fd,)) for _ in range(PROCESSES)
        ]

    def stop(self) -> None:
        for child in self._children:
            child.stop()
        self._listener.close()

    def cpu_s(self) -> float:
        return sum(_cpu_s(psutil.Process(child.pid)) for child in self._children)


def main() -> None:
    subprocess.run([sys.executable, "manage.py", "bootstrap"], cwd=ROOT, capture_output=True, check=True)
    made = [sys.executable, "manage.py", "create_key", "bench", "--scopes", "ingest", "--ingest-per-minute", "0"]
    key = subprocess.run(made, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    database = _database()
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE none")
        cursor.execute(_bare.TABLE)
        cursor.execute("RESET ROLE")
    with ExitStack() as stack:
        ours = Server("config.asgi:application", key, HANDRAIL_STANDBY="0", HANDRAIL_DB_POOL="10")
        stack.callback(ours.stop)
        bare = Server("bench._bare:app")
        stack.callback(bare.stop)
        for server in (ours, bare):
            _await_ready(server)
        _traces(ours, bare, database)
        _batch(ours, database)


def _traces(ours: Server, bare: Server, database: psutil.Process) -> None:
    found: list[tuple[Measured, Measured]] = []
    for number in range(ROUNDS + 1):
        pair = (
            _round(ours, "/v1/traces", _agents.exports(SPANS, per_request=PER_REQUEST, seed=number), SPANS, database),
            _round(bare, "/", _agents.exports(SPANS_BARE, per_request=PER_REQUEST, seed=-number), SPANS_BARE, database),
        )
        # The first one warms up.
        if number:
            found.append(pair)
            print(f"  round {number}: {_words(pair[0])}; bare {_words(pair[1])}", flush=True)
    ratios = [one.per_s / least.per_s for one, least in found]
    cpu = [(least.web_us + least.database_us) / (one.web_us + one.database_us) for one, least in found]
    print(
        f"  traces: {statistics.median(one.per_s for one, _ in found):,.0f} spans/s, "
        f"{statistics.median(ratios):.2f} of bare ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"by CPU time {statistics.median(cpu):.2f} ({min(cpu):.2f} to {max(cpu):.2f}), {ROUNDS} rounds"
    )
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE none")
        cursor.execute("SELECT count(*) FROM monitor_span")
        ((stored,),) = cursor.fetchall()
        cursor.execute("RESET ROLE")
    if stored != SPANS * (ROUNDS + 1):
        raise RuntimeError(f"{stored:,} spans are stored where {SPANS * (ROUNDS + 1):,} were acknowledged")


def _batch(ours: Server, database: psutil.Process) -> None:
    found: list[tuple[float, float]] = []
    for number in range(ROUNDS + 1):
        events = _agents.events(EVENTS, seed=1_000 + number)
        bodies = [
            json.dumps({"events": events[first : first + PER_BATCH]}).encode() for first in range(0, EVENTS, PER_BATCH)
        ]
        done = _round(ours, "/api/v1/batch", bodies, EVENTS, database, content_type="application/json")
        validated = _validated_per_s(bodies)
        if number:
            found.append((done.per_s, validated))
    ratios = [ours_per_s / least for ours_per_s, least in found]
    print(
        f"  batch: {statistics.median(per_s for per_s, _ in found):,.0f} calls/s, "
        f"{statistics.median(ratios):.2f} of a serializer that validates them in one process "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


class CallSerializer(serializers.Serializer):
    type = serializers.ChoiceField(choices=["call"])
    provider = serializers.CharField(max_length=100)
    model = serializers.CharField(max_length=200)
    input_tokens = serializers.IntegerField(min_value=0)
    output_tokens = serializers.IntegerField(min_value=0)
    cache_read_tokens = serializers.IntegerField(min_value=0)
    agent = serializers.CharField(max_length=200)
    run_id = serializers.CharField(max_length=200)
    latency_ms = serializers.IntegerField(min_value=0)
    success = serializers.BooleanField()
    response_id = serializers.CharField(max_length=200)


def _validated_per_s(bodies: Sequence[bytes]) -> float:
    began_s = time.perf_counter()
    for body in bodies:
        serializer = CallSerializer(data=json.loads(body)["events"], many=True)
        serializer.is_valid(raise_exception=True)
    return EVENTS / (time.perf_counter() - began_s)


def _round(
    server: Server,
    path: str,
    bodies: Sequence[bytes],
    items: int,
    database: psutil.Process,
    content_type: str = "application/x-protobuf",
) -> Measured:
    web_s, database_s = server.cpu_s(), _tree_cpu_s(database)
    began_s = time.perf_counter()
    took_s = sorted(asyncio.run(asyncio.wait_for(_send(server, path, bodies, content_type), LONGEST_S)))
    lasted_s = time.perf_counter() - began_s
    return Measured(
        items / lasted_s,
        (server.cpu_s() - web_s) / items * 1e6,
        (_tree_cpu_s(database) - database_s) / items * 1e6,
        took_s[len(took_s) // 2] * 1000,
        took_s[int(len(took_s) * 0.99)] * 1000,
    )


async def _send(server: Server, path: str, bodies: Sequence[bytes], content_type: str) -> list[float]:
    """Send all bodies over the connections; returns the seconds that each took. Raises on any answer but 200."""
    left = iter(bodies)
    took_s: list[float] = []

    async def sender() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for body in left:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.key}\r\n"
            head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
            began_s = time.perf_counter()
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer.lower())
            if length:
                await reader.readexactly(int(length[1]))
            elif b"chunked" in answer:
                await reader.readuntil(b"0\r\n\r\n")
            took_s.append(time.perf_counter() - began_s)
            if b" 200 " not in answer[:15]:
                raise RuntimeError(answer.decode(errors="replace"))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(sender() for _ in range(CONNECTIONS)))
    return took_s


def _await_ready(server: Server) -> None:
    until_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until_s:
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as asking:
                asking.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                if b" 200 " in asking.recv(100):
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise TimeoutError("the web processes did not answer")


def _database() -> psutil.Process:
    """The process that all sessions of PostgreSQL are children of."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        ((pid,),) = cursor.fetchall()
    return psutil.Process(psutil.Process(pid).ppid())


def _tree_cpu_s(root: psutil.Process) -> float:
    return sum(_cpu_s(one) for one in (root, *root.children(recursive=True)))


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _words(one: Measured) -> str:
    return (
        f"{one.per_s:,.0f} spans/s, p50 {one.p50_ms:.0f} ms, p99 {one.p99_ms:.0f} ms, "
        f"CPU {one.web_us:.0f} + {one.database_us:.0f} µs a span"
    )
