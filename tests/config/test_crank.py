"""The crank and its signs of life: run when due, by one; failures leave a sign; silence is told once."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection

from alerts.judge import judge
from alerts.models import Alert
from config import crank
from config.schedule import BACKUP, DROP, JOBS, SCHEDULE, Job
from config.tasks import TASKS, Sign
from monitor import jobs
from monitor.models import JobHeartbeat, StateChange
from monitor.tenancy import crossing
from tests.alerts.builders import NOW, a_project, at_once, the_alert
from tests.monitor.days import drop_every_day
from tests.monitor.fleets import an_execution
from tests.plugin import servers

ROOT = Path(__file__).resolve().parents[2]
SECOND = timedelta(seconds=1)


def the_row(name: str) -> JobHeartbeat:
    with crossing():
        return JobHeartbeat.objects.get(name=name)


def turned_until(now: datetime, *, since: datetime) -> None:
    """The crank was turned every 5 s in between."""
    while since <= now:
        jobs.turning(now=since)
        since += 5 * SECOND


def test_every_job_has_a_task_and_a_message_that_expires(db: None) -> None:
    names = [job.name for job in JOBS]
    assert len(set(names)) == len(names)
    assert set(SCHEDULE) == set(TASKS) == set(names)
    assert {entry["task"] for entry in SCHEDULE.values()} == {task.name for task in TASKS.values()}
    assert all(entry["options"]["expires"] == entry["schedule"].total_seconds() for entry in SCHEDULE.values())


def test_a_turn_runs_what_is_due_and_leaves_signs(committed_db: None) -> None:
    assert crank.turn(now=NOW) == {job.name: "ok" for job in JOBS}
    assert crank.turn(now=NOW + SECOND) == {}
    again = crank.turn(now=NOW + 5 * SECOND)
    assert set(again) == {job.name for job in JOBS if job.every_s == 5}
    row = the_row("alerts.judge")
    assert (row.runs, row.every_s, row.last_started_at, row.error) == (2, 5, NOW + 5 * SECOND, "")
    assert row.last_ok_at >= NOW + 5 * SECOND
    assert row.took_ms is not None


def test_the_first_turn_after_a_long_sleep_makes_the_days_that_the_other_jobs_write_to(db: None) -> None:
    project = a_project()
    silent = an_execution(project, now=NOW - 300 * SECOND)
    drop_every_day()
    assert crank.turn(now=NOW) == {job.name: "ok" for job in JOBS}
    with crossing():
        assert StateChange.objects.get(subject_id=str(silent)).cause == "zombie"


def test_of_eight_that_turn_at_once_one_runs_each_job(committed_db: None) -> None:
    jobs.expect(crank.PERIODS)
    outcomes = at_once([partial(crank.turn, now=NOW)] * 8)
    assert sorted(name for outcome in outcomes for name in outcome) == sorted(job.name for job in JOBS)
    assert {the_row(job.name).runs for job in JOBS} == {1}


def fails(*, now: datetime) -> None:
    raise ValueError("the disk is gone")


def is_refused(*, now: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'hunter22'::bigint")


@pytest.mark.parametrize(
    ("function", "said"), [(fails, "ValueError: the disk is gone"), (is_refused, "DataError: SQLSTATE 22P02")]
)
def test_a_job_that_fails_leaves_its_error_and_stops_nobody(
    committed_db: None, function: Callable[..., None], said: str
) -> None:
    crank.FUNCTIONS["broken"] = function
    try:
        assert crank.run(Job("broken", 5, ""), now=NOW) == said
    finally:
        del crank.FUNCTIONS["broken"]
    row = the_row("broken")
    assert (row.error, row.last_ok_at, row.runs) == (said, None, 1)
    assert row.last_error_at is not None


def test_the_lock_of_a_singleton_is_held_by_one(committed_db: None) -> None:
    def try_it() -> bool:
        with jobs.alone("report") as locked:
            return locked

    with jobs.alone("report") as locked:
        assert locked
        assert at_once([try_it] * 2) == [False, False]
    assert at_once([try_it]) == [True]


@contextmanager
def held_elsewhere(job: Job) -> Iterator[None]:
    """Another session has the job's lock."""
    with psycopg.connect(servers.database_url) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('job:' || %s, 0))", [job.name])
        yield
        other.execute("SELECT pg_advisory_unlock_all()")


def test_a_turn_that_could_not_be_used_is_not_lost(committed_db: None) -> None:
    with held_elsewhere(DROP):
        assert crank.run(DROP, now=NOW) is None
    assert crank.run(DROP, now=NOW + SECOND) == "ok"
    assert crank.run(DROP, now=NOW + 2 * SECOND) is None
    # Beat comes again before the job is due the next time.
    assert SCHEDULE[DROP.name]["schedule"] < timedelta(seconds=DROP.every_s)


@pytest.mark.parametrize("ends_well", [True, False])
def test_days_that_a_backup_kept_from_leaving_leave_after_it(
    committed_db: None, monkeypatch: pytest.MonkeyPatch, ends_well: bool
) -> None:
    asked: list[str | None] = []

    def back_up(*, now: datetime) -> None:
        with held_elsewhere(DROP):
            asked.append(crank.run(DROP, now=now))
        if not ends_well:
            raise OSError("No space left on device")

    monkeypatch.setitem(crank.FUNCTIONS, BACKUP.name, back_up)
    now = jobs.database_now()
    assert crank.run(BACKUP, now=now) == ("ok" if ends_well else "OSError: No space left on device")
    assert asked == [None]
    row = the_row(DROP.name)
    assert (row.runs, row.error) == (1, "")
    assert row.last_ok_at is not None
    # It is due once an hour, however many backups there are.
    crank.run(BACKUP, now=now + timedelta(seconds=BACKUP.every_s))
    assert the_row(DROP.name).runs == 1


def test_silence_is_told_once_and_so_is_the_return(committed_db: None) -> None:
    a_project()
    later = NOW + 60 * SECOND
    jobs.sign_of_life("process:beat", 5, now=NOW)
    turned_until(later, since=NOW)
    assert jobs.report_silence(now=NOW + 15 * SECOND) == 0
    assert jobs.report_silence(now=later) == 1
    assert jobs.report_silence(now=later) == 0
    assert judge(now=later) == 1
    with crossing():
        alert = Alert.objects.get()
    assert (alert.level, alert.title) == ("critical", "The process beat of Handrail itself is silent")

    jobs.sign_of_life("process:beat", 5, now=later)
    assert jobs.report_silence(now=later) == 1
    judge(now=later)
    assert the_alert(alert.pk).status == "resolved"


def test_who_leaves_on_purpose_after_a_silence_is_not_silent_for_ever(committed_db: None) -> None:
    a_project()
    later = NOW + 60 * SECOND
    jobs.sign_of_life("process:worker@old", 5, now=NOW)
    turned_until(later, since=NOW)
    assert jobs.report_silence(now=later) == 1
    jobs.gone("process:worker@old", now=later)
    with crossing():
        assert list(StateChange.objects.order_by("id").values_list("to_state", flat=True)) == ["silent", "alive"]
        assert not JobHeartbeat.objects.filter(name__contains="worker").exists()


@pytest.mark.parametrize("away", [timedelta(seconds=11), timedelta(seconds=40), timedelta(hours=2)], ids=str)
def test_after_our_own_downtime_nobody_is_accused(committed_db: None, away: timedelta) -> None:
    a_project()
    jobs.sign_of_life("process:beat", 5, now=NOW - 5 * SECOND)
    jobs.turning(now=NOW)
    restarted = NOW + away
    jobs.turning(now=restarted)
    assert jobs.report_silence(now=restarted + SECOND) == 0
    turned_until(restarted + 20 * SECOND, since=restarted)
    assert [row.name for row in jobs.silent(now=restarted + 20 * SECOND)] == ["process:beat"]


def test_a_node_that_is_long_gone_is_forgotten_while_another_lives(committed_db: None) -> None:
    a_project()
    jobs.sign_of_life("process:worker@old", 5, now=NOW)
    later = NOW + timedelta(hours=2)
    jobs.sign_of_life("process:worker@new", 5, now=later)
    turned_until(later, since=later - 30 * SECOND)
    jobs.report_silence(now=later)
    with crossing():
        assert list(JobHeartbeat.objects.filter(name__contains="worker").values_list("name", flat=True)) == [
            "process:worker@new"
        ]
        assert list(StateChange.objects.order_by("id").values_list("to_state", flat=True)) == ["silent", "alive"]


def test_a_worker_signs_again_after_the_database_was_away(committed_db: None, owner_dsn: str) -> None:
    worker = SimpleNamespace(eventer=SimpleNamespace(hostname="handrail@here"))
    Sign().give(worker)
    assert the_row("process:worker@handrail@here").runs == 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = cursor.fetchone()
    with psycopg.connect(owner_dsn) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", backend)
    Sign().give(worker)
    Sign().give(worker)
    assert the_row("process:worker@handrail@here").runs == 2


def test_the_standby_turns_only_when_nobody_else_does(committed_db: None) -> None:
    with crossing():
        jobs.turning(now=NOW)
        JobHeartbeat.objects.filter(name="crank").update(node="elsewhere:1")
    standby = crank.Standby()
    assert standby.look(now=NOW + 14 * SECOND) is False
    assert standby.look(now=NOW + 15 * SECOND) is True
    # It goes on at its own pace until somebody else turns.
    assert standby.look(now=NOW + 20 * SECOND) is True
    with crossing():
        JobHeartbeat.objects.filter(name="crank").update(node="elsewhere:1")
    assert standby.look(now=NOW + 21 * SECOND) is False


def test_the_standby_thread_turns_by_itself_and_ends(committed_db: None) -> None:
    before = set(threading.enumerate())
    standby = crank.Standby(looks_every_s=0.05)
    standby.start()
    [turning] = set(threading.enumerate()) - before
    stopping = threading.Thread(target=standby.stop, daemon=True)
    try:
        eventually(lambda: JobHeartbeat.objects.filter(name="alerts.deliver", last_ok_at__isnull=False).exists())
        assert turning.is_alive()
    finally:
        stopping.start()
        stopping.join(60)
    assert not stopping.is_alive()
    assert not turning.is_alive()


def test_tick_says_what_it_did(committed_db: None, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("tick", "--all")
    assert capsys.readouterr().out.splitlines() == [f"{job.name}: ok" for job in JOBS]


@pytest.fixture
def processes() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start Celery processes that end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "--app", "config", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def test_a_real_worker_and_beat_turn_the_crank_and_show_that_they_live(
    committed_db: None, processes: Callable[..., Any], tmp_path: Path
) -> None:
    worker = processes("worker", "--concurrency", "1", "--hostname", "w@test", "--without-gossip", "--without-mingle")
    processes("beat", "--pidfile", "", "--schedule", str(tmp_path / "schedule"))
    rows = JobHeartbeat.objects.filter(last_ok_at__isnull=False)
    names = {"process:worker@w@test", "process:beat", "alerts.judge", "alerts.deliver"}
    eventually(lambda: names <= set(rows.values_list("name", flat=True)))

    worker.send_signal(signal.SIGTERM)
    worker.wait(timeout=30)
    assert not rows.filter(name="process:worker@w@test").exists()


def eventually(condition: Callable[[], bool], *, within_s: float = 60) -> None:
    ends_s = monotonic() + within_s
    while not condition():
        assert monotonic() < ends_s, "it did not happen in time"
        connection.close()
        sleep(0.1)
