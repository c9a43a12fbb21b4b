"""What grows: the cost of ingest, pages and calls at 200,000, 2 and 10 million executions with five spans each.

Rows come by COPY, spread over 89 days, narrow as agents without payloads send them; sums are computed from them. Then
each page and call is opened as a person or a program would, and every trip to PostgreSQL is timed. It takes an hour and
60 GB below TMPDIR; HANDRAIL_SCALE names other numbers of executions, such as `20000,100000`.
"""

import os
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import psycopg
from django.db import connection, connections
from django.test import Client

from bench import _agents
from bench._history import AGENTS, DAYS, SPANS_EACH, load, sum_up
from monitor import closing, groupcommit, keys, otlp, pipeline, retention, rollups
from monitor.calendars import Calendar
from monitor.models import Agent, Membership, Person, Project
from monitor.tenancy import crossing, tenant

STAGES = [int(number) for number in os.environ.get("HANDRAIL_SCALE", "200000,2000000,10000000").split(",")]
LOOKS = 5
BATCHES = 40
SLOW_MS, MANY = 50, 12
WIDTH = "SELECT avg(pg_column_size(s.*)) FROM (SELECT * FROM monitor_span LIMIT 10000) AS s"
RAW = """
SELECT date_trunc(%(step)s, started_at), count(*), sum(cost_usd), sum(input_tokens), sum(output_tokens)
  FROM monitor_span
 WHERE project_id = %(project_id)s AND kind = 'llm' AND started_at >= %(since)s AND started_at < %(until)s GROUP BY 1
"""
SIZE = "SELECT pg_database_size(current_database())"


class Looked(NamedTuple):
    """One page or call: its trips to PostgreSQL, the slowest of them and their sum in ms, and how long the whole took.

    Several statements may share a trip.
    """

    trips: int
    statements: int
    slowest_ms: float
    total_ms: float
    took_ms: float
    slowest: str


def main() -> None:
    now = datetime.now(UTC)
    with crossing():
        project = Project.objects.create(name="scale")
        person = Person.objects.create_user("scale@example.com", os.urandom(12).hex(), name="Mara Lind")
        Membership.objects.create(project=project, person=person, role="admin")
        Agent.objects.bulk_create(Agent(project=project, name=name, last_seen_at=now) for name in AGENTS)
        _, key = keys.make(project, "scale", ["read"], general_per_minute=0, now=now)
    retention.make_partitions(now=now)
    host = re.search(r"@([^/]+)/(\w+)", os.environ["DATABASE_URL"])
    assert host is not None
    owner = psycopg.connect(
        host=host[1].replace("%2F", "/"), user="postgres", dbname=host[2], autocommit=True
    )  # The superuser of a server that is thrown away.
    owner.execute("SELECT set_config('app.project', %s, false)", [str(project.pk)])
    for parent in ("monitor_span", "monitor_ledgerentry", "monitor_statechange"):
        owner.execute(
            "SELECT handrail_make_partitions(%s::regclass, %s, %s)",
            [parent, (now - timedelta(days=DAYS)).date(), now.date()],
        )
    browser = Client()
    browser.force_login(person)
    loaded = 0
    found: list[tuple[dict[str, Looked], float]] = []
    for executions in STAGES:
        began_s = time.monotonic()
        load(owner, project.pk, loaded, executions, now=now)
        loaded = executions
        sum_up(owner, now=now)
        ((size,),) = owner.execute(SIZE).fetchall()
        ((width,),) = owner.execute(WIDTH).fetchall()
        print(
            f"  {executions:,} executions, {executions * SPANS_EACH:,} spans of {width:.0f} bytes, {size / 1e9:.1f} GB,"
            f" loaded in {time.monotonic() - began_s:.0f} s",
            flush=True,
        )
        looks = _look(browser, key, now=now)
        for name, look in looks.items():
            marks = ("  SLOW" if look.slowest_ms > SLOW_MS else "") + ("  MANY" if look.trips > MANY else "")
            print(
                f"    {name:34} {look.trips:3} trips of {look.statements:3} statements,"
                f" slowest {look.slowest_ms:7.1f} ms, all {look.total_ms:7.1f}, page {look.took_ms:7.1f}{marks}",
                flush=True,
            )
            if look.slowest_ms > SLOW_MS:
                print(f"      {' '.join(look.slowest.split())[:300]}")
        _charts(project.pk, now=now)
        took_us = _ingest(project.pk)
        print(f"    ingest: {took_us:.0f} µs of CPU a span", flush=True)
        found.append((looks, took_us))
    first, last = found[0], found[-1]
    print(f"  from the first to the last: ingest × {last[1] / first[1]:.2f}")
    for name, look in last[0].items():
        print(f"    {name:34} × {look.total_ms / max(first[0][name].total_ms, 0.1):.2f}")


def _look(browser: Client, key: str, *, now: datetime) -> dict[str, Looked]:
    """Every page and call that lists or sums up, the median of several looks at each."""
    bearer = {"Authorization": f"Bearer {key}"}
    week = (now - timedelta(days=7)).isoformat().replace("+00:00", "Z")
    with crossing(), connection.cursor() as cursor:
        cursor.execute("SELECT id, run_id FROM monitor_execution ORDER BY id DESC LIMIT 1")
        identity, run = cursor.fetchone()
    pages, calls = asked(identity, run, week)
    found = {}
    for name, path in (pages | calls).items():
        headers = bearer if name in calls else {}
        looks = [_one(browser, path, headers) for _ in range(LOOKS)]
        found[name] = sorted(looks, key=lambda one: one.slowest_ms)[LOOKS // 2]
    return found


def asked(identity: object, run: str, week: str) -> tuple[dict[str, str], dict[str, str]]:
    """The pages and the calls by name, for an execution, a run and the moment a week ago."""
    pages = {
        "overview": "/",
        "executions": "/executions",
        "executions of a week": "/executions?range=7d",
        "failed executions": "/executions?status=failed",
        "executions of an agent": "/executions?agent=agent-03",
        "an execution": f"/executions/{identity}",
        "agents": "/agents",
        "an agent": "/agents/agent-03",
        "costs": "/costs",
        "costs of a month": "/costs?range=30d",
        "costs of a run": f"/costs/runs/{run}",
        "alerts": "/alerts",
        "queue": "/queue",
        "system": "/system",
        "growth": "/system/growth",
        "search": f"/search?q={run}",
    }
    calls = {
        "GET executions": "/api/v1/executions",
        "GET failed executions": f"/api/v1/executions?status=failed&started_after={week}",
        "GET executions of a run": f"/api/v1/executions?run_id={run}",
        "GET costs/summary by agent": "/api/v1/costs/summary?period=daily&group_by=agent",
        "GET costs/daily": "/api/v1/costs/daily",
        "GET runs/…/costs": f"/api/v1/runs/{run}/costs",
        "GET monitoring/tasks": "/api/v1/monitoring/tasks",
        "GET agents": "/api/v1/agents",
        "GET metrics": "/api/metrics",
        "GET operations": "/api/v1/operations",
    }
    return pages, calls


def _one(browser: Client, path: str, headers: dict[str, str]) -> Looked:
    client = Client() if headers else browser
    with _timed() as trips:
        began_s = time.perf_counter()
        answer = client.get(path, headers=headers)
        took_ms = (time.perf_counter() - began_s) * 1000
    if answer.status_code != 200:
        raise RuntimeError(f"{path} answered {answer.status_code}: {answer.content[:300]!r}")
    slowest = max(trips, key=lambda one: one[0], default=(0.0, 0, ""))
    statements = sum(number for _, number, _ in trips)
    return Looked(len(trips), statements, slowest[0], sum(ms for ms, _, _ in trips), took_ms, slowest[2])


@contextmanager
def _timed() -> Iterator[list[tuple[float, int, str]]]:
    """This thread's trips while it lasts, (ms, statements, SQL), whichever way; not what begins a transaction."""
    trips: list[tuple[float, int, str]] = []
    flush = pipeline.flush

    def timed(statements: Any) -> Any:
        began_s = time.perf_counter()
        rows = flush(statements)
        took_ms = (time.perf_counter() - began_s) * 1000
        trips.append((took_ms, len(statements), "; ".join(one.sql for one in statements)))
        return rows

    def around(execute: Any, text: str, parameters: Any, many: bool, context: Any) -> Any:
        began_s = time.perf_counter()
        result = execute(text, parameters, many, context)
        if "set_config(" not in text:
            trips.append(((time.perf_counter() - began_s) * 1000, 1, text))
        return result

    pipeline.flush = timed
    try:
        with connection.execute_wrapper(around):
            yield trips
    finally:
        pipeline.flush = flush


def _charts(project_id: int, *, now: datetime) -> None:
    """Calls, costs and tokens by the hour or the day: from sums, and from the spans themselves."""
    charts: tuple[tuple[int, str, Calendar | None], ...] = ((1, "hour", None), (7, "hour", None), (30, "day", "day"))
    for days, step, calendar in charts:
        since = now - timedelta(days=days)
        read = partial(rollups.series, project_id, since=since, until=now, calendar=calendar, kinds=["llm"])
        with tenant(project_id), connection.cursor() as cursor:
            ours_ms = _median_ms(read, looks=LOOKS)
            raw: dict[str, Any] = {"project_id": project_id, "step": step, "since": since, "until": now}
            raw_ms = _median_ms(partial(cursor.execute, RAW, raw), looks=3)
        print(
            f"    {days:2} days by the {step}: {ours_ms:.1f} ms, from spans {raw_ms:.0f} ms, × {raw_ms / ours_ms:.0f}",
            flush=True,
        )


def _median_ms(ask: Callable[[], Any], *, looks: int) -> float:
    took_ms = []
    for _ in range(looks):
        began_s = time.perf_counter()
        ask()
        took_ms.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(took_ms)


def _ingest(project_id: int) -> float:
    """µs of CPU for a span, of this process and of its session in PostgreSQL: the median batch."""
    bodies = _agents.exports(BATCHES * 128, per_request=128, seed=time.time_ns())
    with crossing(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        ((pid,),) = cursor.fetchall()
    spent = []
    for body in bodies:
        spans, _ = otlp.spans(otlp.decode(body, otlp.PROTOBUF))
        before_us = _cpu_us(pid)
        done = groupcommit.accept(project_id, spans, now=datetime.now(UTC))
        spent.append((_cpu_us(pid) - before_us) / len(spans))
        if done.accepted != len(spans):
            raise RuntimeError(f"{done.accepted} of {len(spans)} spans were taken")
    closing.close_hours(now=datetime.now(UTC))
    connections.close_all()
    return statistics.median(spent)


def _cpu_us(pid: int) -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as told:
        return (used.ru_utime + used.ru_stime) * 1e6 + int(told.read().split()[0]) / 1000
