"""For those who run it: up, ready, watched, measured."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg
import pytest
from django.core.cache import cache
from django.db import ProgrammingError, connection, connections
from django.test import Client

from monitor import closing, folding, jobs, keeping, latency, retention
from monitor.checks import role_problems
from monitor.folding import RollupDelta
from monitor.models import HourRollup, JobHeartbeat, LifetimeTally, Project
from monitor.tallies import Key, tallies
from monitor.tenancy import crossing, tenant
from tests.monitor.api.conftest import make_project, now
from tests.plugin import servers


def test_health_asks_nothing_of_anybody() -> None:
    """Without the `db` fixture: a query would be an error."""
    answer = Client().get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_ready_says_that_the_database_answers_and_is_migrated(db: None) -> None:
    assert Client().get("/ready").json() == {"status": "ok"}


def test_a_node_that_is_ahead_of_its_database_is_not_ready(committed_db: None, owner_dsn: str) -> None:
    with crossing(), connection.cursor() as cursor:
        cursor.execute("SELECT has_table_privilege('django_migrations', 'DELETE')")
        assert cursor.fetchone() == (False,), "the application cannot pretend to be migrated"
    with psycopg.connect(owner_dsn, autocommit=True) as owner:
        last = owner.execute("SELECT max(id) FROM django_migrations WHERE app = 'monitor'").fetchone()
        assert last is not None
        owner.execute("UPDATE django_migrations SET app = 'gone' WHERE id = %s", last)
        answer = Client().get("/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable"})
    assert answer.headers["Retry-After"] == "2"


def beat(name: str, *, ago_s: float, every_s: float = 5) -> None:
    at = now() - timedelta(seconds=ago_s)
    with crossing():
        JobHeartbeat.objects.create(name=name, every_s=every_s, last_started_at=at, last_ok_at=at)


def crank_turns() -> None:
    beat(jobs.CRANK, ago_s=3600)
    JobHeartbeat.objects.filter(name=jobs.CRANK).update(last_ok_at=now())


def test_watch_is_content_while_everything_gives_signs(db: None) -> None:
    crank_turns()
    for name in ("process:beat", "process:worker@a", "executions.watch"):
        beat(name, ago_s=4)
    beat("rollups.close_hours", ago_s=170, every_s=60)
    answer = Client().get("/health/watch")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "silent": []})


def test_watch_names_what_is_silent_without_naming_nodes(db: None) -> None:
    crank_turns()
    beat("process:beat", ago_s=16)
    beat("process:worker@secret-host", ago_s=16)
    beat("executions.watch", ago_s=16)
    beat("rollups.close_hours", ago_s=181, every_s=60)
    beat("jobs.silence", ago_s=14)
    answer = Client().get("/health/watch")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "silent",
        "silent": ["beat", "executions.watch", "rollups.close_hours", "worker"],
    }


def test_watch_misses_workers_that_were_never_started(db: None) -> None:
    assert Client().get("/health/watch").json()["silent"] == ["beat", "worker"]


# Metrics


def count(name: str, **fields: Any) -> None:
    """Something that happened in a project, as the rollups keep it."""
    project = make_project(name)
    for ago in (timedelta(days=30), timedelta(days=9), timedelta(hours=30), timedelta(0)):
        with tenant(project.pk):
            folding.fold(project.pk, [RollupDelta(at=now() - ago, **fields)], now=now())


def test_tallies_count_everything_once_whether_settled_or_not(db: None) -> None:
    call = {"kind": "tool", "agent": "a", "model": "m", "duration_ms": 500, "cost_usd": Decimal("0.25")}
    count("north", **call, input_tokens=10)
    count("south", **call, failed=1)
    for _ in range(3):
        found = tallies()
        tally = found[Key("tool", "a", "m")]
        assert (tally.count, tally.failed, tally.input_tokens) == (8, 4, 40)
        assert (tally.cost_usd, tally.duration_ms) == (Decimal(2), 4000)
        assert (latency.at_most(tally.histogram, 400), latency.at_most(tally.histogram, 600)) == (0, 8)
        closing.close_hours(now=now())
    later = tallies()
    assert later[Key("tool", "a", "m")] == tally


def call(project: Project, ago: timedelta, *, to: str = "m") -> None:
    with tenant(project.pk):
        told = RollupDelta(at=now() - ago, kind="tool", agent="a", model=to, duration_ms=500, cost_usd=Decimal(1))
        folding.fold(project.pk, [told], now=now())


def counted(of: str = "m") -> int:
    tally = tallies()[Key("tool", "a", of)]
    assert (tally.cost_usd, tally.duration_ms) == (tally.count, 500 * tally.count)
    assert latency.at_most(tally.histogram, 600) == tally.count
    return tally.count


def test_a_counter_does_not_go_back_when_the_hour_of_a_late_call_is_closed(db: None) -> None:
    project = make_project("north")
    call(project, timedelta(days=20))
    closing.close_hours(now=now())
    assert counted() == 1
    for late, ago in enumerate((timedelta(days=20), timedelta(days=80)), start=2):
        call(project, ago)
        assert counted() == late
        closing.close_hours(now=now())
        assert [counted(), counted()] == [late, late]


def test_a_counter_does_not_go_back_when_old_hours_leave(db: None) -> None:
    project = make_project("north")
    for days in (0, 20, 30):
        call(project, timedelta(days=days))
    closing.close_hours(now=now() + timedelta(hours=1))
    assert counted() == 3
    with tenant(project.pk):
        keeping.change(project.pk, {"hours": 35, "minutes": 10, "spans": 8}, actor="ann@example.org", now=now())
    cache.clear()
    assert retention.prune(now=now() + timedelta(days=14)) > 0
    with tenant(project.pk):
        assert HourRollup.objects.count() == 2
    assert counted() == 3
    call(project, timedelta(days=9))
    closing.close_hours(now=now())
    assert counted() == 4


def test_an_hour_that_is_not_closed_stays_until_it_is(db: None) -> None:
    project = make_project("north")
    call(project, timedelta(days=40))
    closing.close_hours(now=now())
    call(project, timedelta(days=40))
    with tenant(project.pk):
        lately = now() - keeping.SHORTENED_AFTER
        keeping.change(project.pk, {"hours": 35, "spans": 30}, actor="ann@example.org", now=lately)
    for _ in range(2):
        retention.prune(now=now())
        assert counted() == 2
        closing.close_hours(now=now())


def test_no_scrape_falls_between_calls_that_come_late_and_their_closing(committed_db: None) -> None:
    projects = [make_project("north"), make_project("south")]
    told = threading.Event()

    def working(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            finally:
                connections.close_all()

        return run

    def tell(project: Project) -> None:
        for n in range(40):
            call(project, timedelta(days=20, hours=n % 5), to="xy"[n % 2])

    def close() -> None:
        while not told.is_set():
            closing.close_hours(now=now())

    call(projects[0], timedelta(days=20))
    with ThreadPoolExecutor(4) as pool:
        closers = [pool.submit(working(close)) for _ in range(2)]
        tellers = [pool.submit(working(partial(tell, project))) for project in projects]
        seen = []
        try:
            while not all(one.done() for one in tellers):
                seen.append(sum(one.count for one in tallies().values()))
        finally:
            told.set()
        for one in (*tellers, *closers):
            one.result()
    assert seen == sorted(seen)
    for _ in range(2):
        assert [counted(), counted("x"), counted("y")] == [1, 40, 40]
        closing.close_hours(now=now())


def test_a_project_sees_nothing_of_what_all_have_counted(db: None) -> None:
    project = make_project("north")
    with pytest.raises(ProgrammingError), tenant(project.pk):
        LifetimeTally.objects.count()


def test_the_exposition_has_the_promised_names(db: None) -> None:
    count("north", kind="execution", agent="a", duration_ms=4_000)
    count("east", kind="execution", agent="a", duration_ms=4_000, failed=1)
    count("centre", kind="execution", agent="a", duration_ms=4_000, cancelled=1)
    count("south", kind="llm", agent="a", model="m", input_tokens=10, output_tokens=5, cost_usd=Decimal("0.25"))
    count("west", kind="tool", agent="a", model="search", duration_ms=300)
    beat("executions.watch", ago_s=30)
    text = Client().get("/metrics").content.decode()
    for line in (
        'agent_executions_total{agent_type="a",status="completed",workflow=""} 4.0',
        'agent_executions_total{agent_type="a",status="failed",workflow=""} 4.0',
        'agent_executions_total{agent_type="a",status="cancelled",workflow=""} 4.0',
        'agent_execution_duration_seconds_bucket{agent_type="a",le="1.0",workflow=""} 0.0',
        'agent_execution_duration_seconds_bucket{agent_type="a",le="5.0",workflow=""} 12.0',
        'agent_execution_duration_seconds_sum{agent_type="a",workflow=""} 48.0',
        'agent_iterations_total{agent_type="a"} 4.0',
        'llm_cost_usd_total{agent_type="a",model="m"} 1.0',
        'llm_tokens_total{agent_type="a",model="m",type="input"} 40.0',
        'llm_tokens_total{agent_type="a",model="m",type="output"} 20.0',
        'tool_executions_total{status="success",tool_name="search"} 4.0',
        'tool_execution_duration_seconds_count{tool_name="search"} 4.0',
        'handrail_job_period_seconds{job="executions.watch"} 5.0',
        "handrail_notification_oldest_undelivered_seconds 0.0",
    ):
        assert line in text, line
    lag = next(line for line in text.splitlines() if line.startswith("handrail_job_lag_seconds{"))
    assert 29 < float(lag.rpartition(" ")[2]) < 60


@pytest.mark.parametrize(
    ("request_headers", "address", "status"),
    [
        ({}, "127.0.0.1", 200),
        ({}, "::1", 200),
        ({}, "10.0.0.7", 403),
        ({"X-Forwarded-For": "10.0.0.7"}, "127.0.0.1", 403),
        ({"Authorization": "Bearer wrong"}, "10.0.0.7", 403),
        ({"Authorization": "Bearer "}, "10.0.0.7", 403),
        ({"Authorization": "Bearer a-long-token"}, "10.0.0.7", 200),
    ],
)
def test_metrics_are_for_loopback_or_the_token(
    db: None, settings: Any, request_headers: dict[str, str], address: str, status: int
) -> None:
    settings.METRICS_TOKEN = "a-long-token"
    assert Client(headers=request_headers).get("/metrics", REMOTE_ADDR=address).status_code == status


def test_without_a_token_in_the_settings_an_empty_one_opens_nothing(db: None) -> None:
    assert Client(headers={"Authorization": "Bearer "}).get("/metrics", REMOTE_ADDR="10.0.0.7").status_code == 403


# The session's role


def test_the_application_runs_under_a_role_that_policies_bind(db: None) -> None:
    assert role_problems() == []


def test_a_session_of_the_owner_or_a_superuser_is_found_out(committed_db: None) -> None:
    def ids_as(user: str) -> list[str]:
        code = "import django; django.setup()\nfrom django.db import connection\n"
        code += "from monitor.checks import role_problems\n"
        code += "connection.cursor().execute('RESET ROLE; SET ROLE NONE')\nprint([p.id for p in role_problems()])"
        env = os.environ | {
            "DATABASE_URL": servers.url(user, servers.database),
            "DJANGO_SETTINGS_MODULE": "config.settings",
        }
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        return done.stdout.strip().strip("[]").replace("'", "").split(", ")

    assert ids_as("handrail") == ["handrail.E004"]
    assert ids_as("postgres") == ["handrail.E004", "handrail.E005", "handrail.E006"]
