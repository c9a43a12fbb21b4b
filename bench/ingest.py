"""Traces over OTLP and calls over the batch, as agents send them, against the least that a server can do.

Two web processes take exports of 128 spans over eight connections; so does a bare server that decodes, copies and
commits, on the same PostgreSQL and in turns. Counted is what was acknowledged, and CPU time of the web processes and of
PostgreSQL.

The batch takes 500 calls a request, of one run each and of a few. It is compared with Django REST framework on the same
events, in three ways: reading them against a serializer that validates them, in one process and without a server;
storing them against a view, served likewise, that validates and saves each; and storing them against only validating.
What PostgreSQL takes at most, rows of such calls in one COPY, stands beside them.
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
import psycopg
from django.db import connection

from bench import _agents, _bare, _calls
from launcher.child import Child
from launcher.web import Port
from monitor.api import batch, bodies
from monitor.api.problems import Problem

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 2
CONNECTIONS = 8
PER_REQUEST = 128
SPANS, SPANS_BARE = 16_000, 48_000
EVENTS, PER_BATCH = 8_000, 500
CALLS_A_RUN = (1, 10, 50)
# Where calls are kept, by us and by what we compare with.
TABLES = ("monitor_ledgerentry", "bench_call")
ROUNDS = 5
READY_WITHIN_S = 60
LONGEST_S = 120
QUIET = {"HANDRAIL_LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}


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
        self.port = self._listener.getsockname()[1]
        self.key = key
        env = os.environ | QUIET | environment
        with Port(self._listener, PROCESSES) as shared:
            command = shared.command(app, log_level="error")
            self._children = [
                Child(command, env=env | shared.env(number), grace_s=5, pass_fds=shared.fds)
                for number in range(PROCESSES)
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
        cursor.execute(_calls.TABLE)
        cursor.execute("RESET ROLE")
    with ExitStack() as stack:
        ours = Server("config.asgi:application", key, HANDRAIL_STANDBY="0", HANDRAIL_DB_POOL="10")
        stack.callback(ours.stop)
        bare = Server("bench._bare:app")
        stack.callback(bare.stop)
        view = Server("bench._rest:app", HANDRAIL_DB_ROLE="owner", HANDRAIL_DB_POOL="10")
        stack.callback(view.stop)
        for server in (ours, bare, view):
            _await_ready(server)
        _traces(ours, bare, database)
        _reading()
        for per_run in CALLS_A_RUN:
            _batch(ours, view, database, per_run)


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
    stored = _count("monitor_span")
    if stored != SPANS * (ROUNDS + 1):
        raise RuntimeError(f"{stored:,} spans are stored where {SPANS * (ROUNDS + 1):,} were acknowledged")


def _reading() -> None:
    """Decode and check the bodies of batches, beside a serializer that does it, and a COPY of what they hold."""
    found: list[tuple[float, float, float]] = []
    for number in range(ROUNDS + 1):
        sent = _bodies(seed=500 + number)
        taken = _read_per_s(sent), _validated_per_s(sent), _copied_per_s(sent)
        if number:
            found.append(taken)
    print(
        f"  batch, decoded and checked in one process: {_spread([ours for ours, _, _ in found])} calls/s\n"
        f"    {_spread([ours / theirs for ours, theirs, _ in found], '.1f')} times a serializer that validates them, "
        f"{_spread([theirs for _, theirs, _ in found])} calls/s; "
        f"one COPY of them takes {_spread([copied for _, _, copied in found])} rows/s"
    )


def _batch(ours: Server, view: Server, database: psutil.Process, per_run: int) -> None:
    found: list[tuple[Measured, Measured, float]] = []
    before = [_count(table) for table in TABLES]
    for number in range(ROUNDS + 1):
        sent = _bodies(seed=1_000 * per_run + number, per_run=per_run)
        taken = (
            _round(ours, "/api/v1/batch", sent, EVENTS, database, content_type="application/json"),
            _round(view, "/calls", sent, EVENTS, database, content_type="application/json"),
            _validated_per_s(sent),
        )
        if number:
            found.append(taken)
    stored = [_count(table) - was for table, was in zip(TABLES, before, strict=True)]
    if stored != [EVENTS * (ROUNDS + 1)] * 2:
        raise RuntimeError(f"{stored} calls are stored where {EVENTS * (ROUNDS + 1):,} were acknowledged of each")
    print(
        f"  batch, {per_run} of a run: {_spread([ours.per_s for ours, _, _ in found])} calls/s stored, "
        f"CPU {statistics.median(ours.web_us for ours, _, _ in found):.0f} + "
        f"{statistics.median(ours.database_us for ours, _, _ in found):.0f} µs a call\n"
        f"    {_spread([ours.per_s / saved.per_s for ours, saved, _ in found], '.2f')} times a view that validates and "
        f"saves each, {_spread([saved.per_s for _, saved, _ in found])} calls/s\n"
        f"    {_spread([ours.per_s / validated for ours, _, validated in found], '.2f')} of a serializer that "
        f"validates them in one process, {_spread([validated for _, _, validated in found])} calls/s"
    )


def _bodies(*, seed: int, per_run: int = 1) -> list[bytes]:
    events = _agents.events(EVENTS, seed=seed, per_run=per_run)
    return [json.dumps({"events": events[first : first + PER_BATCH]}).encode() for first in range(0, EVENTS, PER_BATCH)]


def _read_per_s(sent: Sequence[bytes]) -> float:
    began_s = time.perf_counter()
    for body in sent:
        for _, event in batch.read(bodies.decode(body, batch.BatchBody).events, None):
            if isinstance(event, Problem):
                raise event
    return EVENTS / (time.perf_counter() - began_s)


def _validated_per_s(sent: Sequence[bytes]) -> float:
    began_s = time.perf_counter()
    for body in sent:
        serializer = _calls.CallSerializer(data=json.loads(body)["events"], many=True)
        serializer.is_valid(raise_exception=True)
    return EVENTS / (time.perf_counter() - began_s)


def _copied_per_s(sent: Sequence[bytes]) -> float:
    """What a table with one index takes, without checking anything."""
    names = [field.name for field in _calls.Call._meta.fields if not field.primary_key]
    rows = [[event[name] for name in names] for body in sent for event in json.loads(body)["events"]]
    into = f"COPY bench_call ({', '.join(names)}) FROM STDIN"
    with psycopg.connect(os.environ["DATABASE_URL"]) as session, session.cursor() as cursor:
        began_s = time.perf_counter()
        with cursor.copy(into.encode()) as copy:
            for row in rows:
                copy.write_row(row)
        session.commit()
        return len(rows) / (time.perf_counter() - began_s)


def _spread(values: Sequence[float], form: str = ",.0f") -> str:
    """The median, and the least and the greatest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _count(table: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE none")
        cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608
        ((rows,),) = cursor.fetchall()
        cursor.execute("RESET ROLE")
    return int(rows)


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
