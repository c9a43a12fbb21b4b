"""System: what runs on time, what is ill and what that means; About: what it is made of."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from django.http import HttpResponse

from alerts.models import Channel, Delivery
from config import schedule
from config.tasks import TASKS
from dashboard import health
from monitor import changes, doorcounts, jobs, listening, room, vitals
from monitor.folding import RollupDelta, fold
from monitor.models import JobHeartbeat, Subject
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import signed_in
from tests.dashboard.test_alerts_page import an_alert

GB = 10**9


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every story needs the database."""


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> SimpleNamespace:
    """The database's disk in these stories: 100 GB, of which 60 are free."""
    found = SimpleNamespace(f_blocks=100_000, f_bfree=60_000, f_bavail=60_000, f_frsize=10**6)
    settings.DISK_PATH = tmp_path
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    monkeypatch.setattr(room, "gate", room.Gate())
    return found


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of these stories has time, whatever the one they run on has."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.4, 0.4, 0.4))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=8 * GB, percent=40.0))


def a_job(name: str, *, every_s: float = 5, ago_s: float = 2, **fields: Any) -> None:
    now = datetime.now(UTC)
    values = {"last_started_at": now, "last_ok_at": now - timedelta(seconds=ago_s), "runs": 7, "took_ms": 12} | fields
    with crossing():
        JobHeartbeat.objects.create(name=name, every_s=every_s, **values)


def all_well() -> None:
    """Somebody has turned the crank for an hour, and whatever should sign has signed."""
    a_job(jobs.CRANK, last_started_at=datetime.now(UTC) - timedelta(hours=1))
    for name in ("alerts.deliver", "watch.overdue", "process:beat", "process:worker@one", "listening"):
        a_job(name)


def words_of(answer: HttpResponse) -> str:
    assert answer.status_code == 200
    return answer.content.decode().replace("\xa0", " ").replace("&#x27;", "'")


def test_when_everything_turns_it_says_so() -> None:
    visitor = signed_in(role="viewer")
    all_well()
    page = words_of(visitor.client.get("/system"))
    assert "Everything runs on time." in page
    assert "Redis and 1 worker answer" in page
    # The page and the frame around it count the same jobs.
    assert "2 jobs, the last" in page
    assert "2 jobs, last" in page
    assert "Sends notifications" in page
    assert "monitor_span" in page
    assert "PostgreSQL" in page
    assert vitals.own_version() in page
    assert 'href="/about"' in page


def test_what_was_refused_of_the_project_in_the_last_day_is_told_and_only_then() -> None:
    visitor, other = signed_in(), signed_in("south")
    all_well()
    now = datetime.now(UTC)
    assert "could not be taken" not in words_of(visitor.client.get("/system"))
    doorcounts.refuse(visitor.project_id, "too old", spans=9, now=now - timedelta(hours=25))
    doorcounts.refuse(visitor.project_id, "it ends: <b>early</b>", spans=36, now=now - timedelta(hours=22))
    doorcounts.refuse(visitor.project_id, "it lies <far> ahead", spans=1, now=now - timedelta(minutes=5))
    page = words_of(visitor.client.get("/system?part=health"))
    assert "In the last day 37 spans of this project could not be taken." in page
    assert "5 min ago</time>: it lies &lt;far&gt; ahead.</span>" in page
    # It is no illness of the instance.
    assert "Everything runs on time." in page
    doorcounts.refuse(visitor.project_id, "A body may have 7 bytes", exports=1, now=now)
    page = words_of(visitor.client.get("/system"))
    assert "In the last day 37 spans and 1 whole export of this project could not be taken." in page
    assert ": A body may have 7 bytes.</span>" in page
    doorcounts.refuse(visitor.project_id, "it ends: <b>early</b>", exports=1, now=now)
    assert ": it ends.</span>" in words_of(visitor.client.get("/system"))
    assert "could not be taken" not in words_of(other.client.get("/system"))


def test_a_silent_job_is_told_with_what_it_means() -> None:
    visitor = signed_in()
    all_well()
    with crossing():
        JobHeartbeat.objects.filter(name="alerts.deliver").update(last_ok_at=datetime.now(UTC) - timedelta(minutes=5))
    page = words_of(visitor.client.get("/system?part=health"))
    assert "The job alerts.deliver has not run for 5 min." in page
    assert "Nobody is notified." in page
    assert "<html" not in page


def test_a_missing_worker_is_told() -> None:
    visitor = signed_in()
    all_well()
    with crossing():
        JobHeartbeat.objects.filter(name__startswith="process:worker").delete()
    page = words_of(visitor.client.get("/system"))
    assert "Worker is not running." in page
    assert "turn the crank" in page


def test_a_disk_that_fills_up_is_told_before_it_is_full(disk: SimpleNamespace) -> None:
    visitor = signed_in()
    all_well()
    disk.f_bfree = disk.f_bavail = 10_000
    page = words_of(visitor.client.get("/system"))
    assert "The disk is 90 % full." in page
    assert "When it is full the database stops" in page
    assert "10.0 GB left of 100.0 GB" in page
    disk.f_bfree = disk.f_bavail = 4_000
    page = words_of(visitor.client.get("/system"))
    assert "The disk is 96 % full." in page
    assert "new work is refused; heartbeats" in page


def test_every_page_says_one_thing_of_one_disk(disk: SimpleNamespace) -> None:
    visitor = signed_in()
    all_well()
    # 16 GB are kept for root: nobody uses them and nobody may.
    disk.f_bfree, disk.f_bavail = 44_000, 28_000
    page = words_of(visitor.client.get("/system"))
    assert '<div class="figure">67<span class="unit">%</span></div>' in page
    assert "28.0 GB left of 84.0 GB" in page
    assert "The disk is 67 % full." in words_of(visitor.client.get("/system/growth"))


@pytest.mark.parametrize(("free", "is_told"), [(60_000, False), (15_000, True), (4_000, True)])
def test_where_the_disk_of_the_database_is_not_seen_that_of_this_machine_is_told_as_such(
    disk: SimpleNamespace, settings: Any, free: int, is_told: bool
) -> None:
    visitor = signed_in()
    all_well()
    settings.DISK_PATH, settings.DB_MAX_BYTES = None, 0
    disk.f_bfree = disk.f_bavail = free
    page = words_of(visitor.client.get("/system"))
    assert "Disk of this machine" in page
    assert "left; the database’s is not seen" in page
    assert (f"The disk of this machine is {(100_000 - free) // 1000} % full." in page) is is_told
    # No door depends on it, and the database lies elsewhere.
    assert "work is refused" not in page
    assert "the database stops" not in page


def test_where_no_disk_is_seen_the_page_says_so(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    def is_gone(_: object) -> None:
        raise FileNotFoundError

    visitor = signed_in()
    all_well()
    settings.DB_MAX_BYTES = 0
    monkeypatch.setattr(os, "statvfs", is_gone)
    page = words_of(visitor.client.get("/system"))
    assert "is not seen from here" in page
    assert "Everything runs on time." in page


def test_a_limit_that_is_nearer_than_the_disk_is_what_the_page_shows(settings: Any) -> None:
    visitor = signed_in()
    all_well()
    settings.DB_MAX_BYTES = round(vitals.database().bytes / 0.85)
    page = words_of(visitor.client.get("/system"))
    assert "Room of the database" in page
    assert "The room of the database is 85 % full." in page


def test_every_job_of_the_schedule_has_words() -> None:
    names = {job.name for job in schedule.JOBS} | {schedule.BACKUP.name, listening.EARS}
    assert set(health.JOBS) == names
    assert all(does and means for does, means in health.JOBS.values())


def test_redis_that_does_not_answer_is_told(settings: Any) -> None:
    visitor = signed_in()
    all_well()
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    vitals._redis.cache_clear()
    try:
        page = words_of(visitor.client.get("/system"))
    finally:
        vitals._redis.cache_clear()
    assert "Redis does not answer." in page
    assert "Alerts still go out." in page


def test_what_waits_too_long_is_told_without_whose_it_is() -> None:
    visitor, other = signed_in("mine"), signed_in("theirs")
    all_well()
    long_ago = datetime.now(UTC) - timedelta(minutes=3)
    alert = an_alert(other.project_id, "their secret")
    with tenant(other.project_id):
        changes.record(other.project_id, Subject.MODEL, "secret-model", to_state="unpriced", cause="", now=long_ago)
        channel = Channel.objects.filter(project_id=other.project_id).first()
        assert channel is not None
        Delivery.objects.filter(alert_id=alert.pk, channel=channel).update(due_at=long_ago)
    page = words_of(visitor.client.get("/system"))
    assert "2 things are ill." in page
    assert "A notification has been due for 3 min." in page
    assert "An event has waited 3 min to be judged." in page
    assert "secret" not in page


def test_an_error_is_quoted_only_to_who_runs_the_instance() -> None:
    visitor = signed_in()
    all_well()
    with crossing():
        JobHeartbeat.objects.filter(name="alerts.deliver").update(error="IntegrityError: Key (email)=(a@b.c)")
    page = words_of(visitor.client.get("/system"))
    assert "The job alerts.deliver fails." in page
    assert "IntegrityError" in page
    assert "a@b.c" not in page
    with crossing():
        type(visitor.person).objects.filter(pk=visitor.person.pk).update(is_instance_admin=True)
    assert "a@b.c" in words_of(visitor.client.get("/system"))


def test_what_comes_in_is_counted_over_all_projects_by_whole_minutes() -> None:
    other = signed_in()
    now = datetime.now(UTC)
    with tenant(other.project_id):
        fold(other.project_id, [RollupDelta(at=now - timedelta(minutes=2), kind="llm") for _ in range(30)], now=now)
        fold(other.project_id, [RollupDelta(at=now - timedelta(hours=1), kind="llm")], now=now)
    intake = vitals.intake(now=now)
    assert sum(intake.calls) == 30
    assert len(intake.calls) == 15
    assert intake.per_minute == 2


def test_partitions_count_for_their_table() -> None:
    sizes = {one.name: one for one in vitals.table_sizes(now=datetime.now(UTC), most=100)}
    assert sizes["monitor_span"].days > 1
    assert sizes["monitor_span"].day_bytes is not None
    assert sizes["monitor_jobheartbeat"].day_bytes is None
    assert not any("_p2" in name for name in sizes)


def test_about_names_every_part_with_its_licence() -> None:
    visitor = signed_in(role="viewer")
    page = words_of(visitor.client.get("/about"))
    assert "Django" in page
    assert "BSD" in page
    text = visitor.client.get("/about?text=Django")
    assert text.headers["content-type"].startswith("text/plain")
    assert "Redistribution" in text.content.decode()
    assert visitor.client.get("/about?text=nothing").status_code == 404


def test_tasks_that_no_worker_has_taken_are_the_backlog() -> None:
    queue = vitals._redis()
    before = vitals.redis().backlog
    try:
        for _ in range(3):
            TASKS["alerts.judge"].delay()
        assert vitals.redis().backlog == before + 3
    finally:
        queue.ltrim("handrail", 3, -1)
    assert vitals.redis().backlog == before


@pytest.mark.parametrize(
    ("path", "is_offered"),
    [("/system", False), ("/system/growth", False), ("/system/keeping", False), ("/costs", True)],
)
def test_a_time_range_is_offered_where_the_page_obeys_it(path: str, is_offered: bool) -> None:
    page = signed_in(role="admin").client.get(path).content.decode()

    assert ('aria-label="Time range"' in page) is is_offered
