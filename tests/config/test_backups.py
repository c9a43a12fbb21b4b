"""A backup shows one moment, whatever is killed; a restore brings it back to the last row, right and number."""

import gzip
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from django.apps import apps
from django.core.cache import cache
from django.db import connections
from django.test import Client

from alerts.judge import judge
from config import crank, schedule
from config.backups import folder, manifest, tables, writing
from config.backups.restoring import EVENTS_AHEAD
from monitor import jobs
from monitor.models import JobHeartbeat
from tests.config.backups import a_database, ask, back_up, begin, contents, kill_after, manage, refusal, rows, rules
from tests.monitor.api.conftest import client_with, make_key, make_project
from tests.monitor.otlp_builders import as_json, export, json_span
from tests.plugin import servers

API = "/api/v1"
SPENT = "SELECT coalesce(sum(cost_usd), 0) FROM monitor_ledgerentry"
CALLS = [
    {
        "type": "call",
        "model": "gpt-4o",
        "input_tokens": 1000,
        "output_tokens": 100,
        "run_id": "trip-7",
        "agent": "planner",
    },
    {"type": "tool_call", "tool": "find_room", "arguments": {"city": "Leeds"}, "run_id": "trip-7", "agent": "planner"},
]
UNPRICED = {"type": "call", "model": "house-model", "input_tokens": 10, "run_id": "trip-7", "agent": "planner"}


def post(client: Client, where: str, **body: Any) -> Any:
    answer = client.post(where, body, content_type="application/json")
    assert answer.status_code < 300, (where, answer.content)
    return answer.json()


def fill(client: Client, name: str) -> None:
    """Executions, an alert, calls, a trace, and a conversation that waits for a person."""
    for number in range(5):
        work = post(
            client, f"{API}/executions", agent="planner", run_id="trip-7", task=f"{name} {number}\ttab\\ Ümlaut\n"
        )
        where = f"{API}/executions/{work['id']}"
        post(client, f"{where}/heartbeat", attempt=1, progress=40)
        if number < 4:
            post(client, f"{where}/fail", attempt=1, error="the page is gone", retryable=False)
    post(client, f"{API}/batch", events=[*CALLS * 3, UNPRICED])
    usage = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 1000}
    spans = export(*(json_span(name=f"chat {number}", attributes=usage) for number in range(20)))
    assert client.post("/v1/traces", as_json(spans), content_type="application/json").json() == {}
    post(client, f"{API}/conversations", conversation_id=f"order-{name}", agent="clerk")
    chat = f"{API}/conversations/order-{name}"
    post(client, f"{chat}/messages", role="user", content="My lamp arrived broken.\r\n\\N \x07")
    post(client, f"{chat}/handover", reason="A refund", epoch=0)


@pytest.fixture
def clients(committed_db: None) -> Iterator[dict[str, Client]]:
    """Two filled projects, each with a client."""
    cache.clear()
    made = {name: client_with(make_key(make_project(name))[1]) for name in ("north", "south")}
    for name, client in made.items():
        fill(client, name)
    judge(now=datetime.now(UTC))
    yield made
    cache.clear()


@pytest.fixture
def url(clients: dict[str, Client]) -> str:
    """The filled database."""
    return servers.database_url


@pytest.fixture
def target() -> Iterator[str]:
    connections.close_all()
    with a_database() as url:
        yield url


def test_a_restore_is_the_backup_to_the_last_row_and_right(url: str, target: str, tmp_path: Path) -> None:
    backup = back_up(url, tmp_path)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in backup.iterdir()} == {0o600}
    assert not (backup / "secret_key").exists()
    before, spent = rows(url), ask(url, SPENT)
    assert {"alerts_alert", "monitor_queueevent", "monitor_message", "monitor_execution"} < set(before)
    assert spent > 0

    said = manage(target, "restore", backup)

    assert "every sum is the same" in said
    after = rows(target)
    # Only the numbers of events go on further above.
    before.pop("monitor_eventcounter"), after.pop("monitor_eventcounter")
    assert after == before
    assert ask(target, SPENT) == spent
    assert rules(target) == rules(url)
    highest = "SELECT max(last_seq) FROM monitor_eventcounter"
    assert ask(target, highest) == ask(url, highest) + EVENTS_AHEAD
    for sequence in ("monitor_statechange_id_seq", "alerts_alertevent_id_seq", "monitor_project_id_seq"):
        assert ask(target, f"SELECT nextval('{sequence}')") == ask(url, f"SELECT nextval('{sequence}')")


def test_a_restored_tenant_sees_its_own_rows_and_writes_no_others(url: str, target: str, tmp_path: Path) -> None:
    north = ask(url, "SELECT id FROM monitor_project WHERE name = 'north'")
    south = ask(url, "SELECT id FROM monitor_project WHERE name = 'south'")
    manage(target, "restore", back_up(url, tmp_path))
    count = "SELECT count(*) FROM monitor_span"
    with psycopg.connect(target, options="-c role=handrail_app") as session:
        assert session.execute(count).fetchone() == (0,)
        session.execute("SELECT set_config('app.project', %s, false)", [str(north)])
        seen = session.execute(count).fetchone()
        assert session.execute("SELECT DISTINCT project_id FROM monitor_span").fetchall() == [(north,)]
        assert seen == (ask(target, f"{count} WHERE project_id = %s", north),) != (0,)
        (leaf,) = session.execute("SELECT tableoid::regclass::text FROM monitor_span LIMIT 1").fetchone() or ("",)
    guard = psycopg.errors.CheckViolation
    with psycopg.connect(target) as owner:
        owner.execute(f"CREATE TEMP TABLE one AS SELECT * FROM {leaf} WHERE project_id = %s LIMIT 1", [north])
        owner.execute("SELECT set_config('app.project', %s, false)", [str(south)])
        with pytest.raises(guard, match="monitor_span_only_for_its_project"):
            owner.execute(f"INSERT INTO {leaf} SELECT * FROM one")
    with psycopg.connect(target) as owner:
        tomorrow = datetime.now(UTC).date() + timedelta(days=30)
        made = "SELECT handrail_make_partitions('monitor_span', %s, %s)"
        assert owner.execute(made, [tomorrow, tomorrow]).fetchone() == (1,)


def test_a_backup_while_others_write_shows_one_moment(
    clients: dict[str, Client], url: str, target: str, tmp_path: Path
) -> None:
    sent: list[str] = []
    stop = threading.Event()

    def write() -> None:
        try:
            while not stop.is_set():
                ids = [str(uuid4()) for _ in CALLS]
                post(
                    clients["north"],
                    f"{API}/batch",
                    events=[one | {"id": id} for one, id in zip(CALLS, ids, strict=True)],
                )
                sent.extend(ids)
        finally:
            connections.close_all()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(sent) < 20:
            assert writer.is_alive()
        before = set(sent)
        backup = back_up(url, tmp_path)
        assert len(sent) > len(before), "nobody wrote meanwhile"
    finally:
        stop.set()
        writer.join()
    manage(target, "restore", backup)
    with psycopg.connect(target) as connection:
        known = {str(key) for (key,) in connection.execute("SELECT key FROM monitor_ingestkey")}
        ledger = connection.execute("SELECT project_id, sum(cost_usd), count(*) FROM monitor_ledgerentry GROUP BY 1")
        spans = connection.execute("SELECT project_id, sum(cost_usd) FROM monitor_span GROUP BY 1")
        minutes = connection.execute(
            "SELECT project_id, sum(cost_usd) FROM monitor_minuterollup WHERE kind <> 'execution' GROUP BY 1"
        )
        runs = connection.execute("SELECT project_id, sum(cost_usd) FROM monitor_run GROUP BY 1")
        booked = {project: usd for project, usd, _ in ledger}
        assert before <= known
        # What a transaction wrote is there as a whole or not at all, in every table.
        assert booked == dict(spans.fetchall()) == dict(minutes.fetchall())
        assert set(booked) == set(dict(runs.fetchall()))


def test_unchanged_tables_are_taken_over_and_changed_ones_are_not(url: str, tmp_path: Path) -> None:
    first = back_up(url, tmp_path)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE monitor_person SET name = name")
        connection.execute("UPDATE monitor_conversation SET channel = 'phone'")
    second = back_up(url, tmp_path, keep=1)
    assert folder.finished(tmp_path) == [second]
    assert not first.exists()
    third = back_up(url, tmp_path)
    links = {path.name: path.stat().st_nlink for path in third.glob("*.gz")}
    assert set(links.values()) == {2}
    assert b"phone" in gzip.decompress((third / "monitor_conversation.copy.gz").read_bytes())


def test_old_ones_are_forgotten_before_a_new_one_needs_their_room(url: str, tmp_path: Path) -> None:
    made = [back_up(url, tmp_path) for _ in range(3)]
    with psycopg.connect(url) as lock:
        lock.execute("LOCK TABLE monitor_trip IN ACCESS EXCLUSIVE MODE")
        kill_after(begin(url, "backup", tmp_path, "--keep", "2"), " monitor_trace:")
    assert folder.finished(tmp_path) == made[1:]


def test_one_of_a_clock_that_was_ahead_is_not_kept_instead_of_the_newest(url: str, tmp_path: Path) -> None:
    back_up(url, tmp_path).rename(tmp_path / "2100-01-01T000000Z")
    made = back_up(url, tmp_path, keep=1)
    assert folder.finished(tmp_path) == [made]


def test_those_of_another_database_in_the_folder_are_left_alone(url: str, tmp_path: Path) -> None:
    other = back_up(url, tmp_path)
    manifest.write(msgspec.structs.replace(manifest.read(other), database="7/7"), other)
    first, second = (back_up(url, tmp_path, keep=1) for _ in range(2))
    assert folder.finished(tmp_path) == [other, second]
    assert not first.exists()


def test_what_a_backup_sees_is_on_disk(committed_db: None) -> None:
    with tables.connect() as beside, psycopg.connect(servers.database_url, autocommit=True) as other:
        other.execute("SET synchronous_commit = off")
        other.execute("CREATE TEMP TABLE told AS SELECT 1")
        other.execute("UPDATE monitor_eventcounter SET last_seq = last_seq")
        written = ask(servers.database_url, "SELECT pg_current_wal_insert_lsn()::text")
        beside.execute(writing.FLUSH)
        assert beside.execute("SELECT pg_current_wal_flush_lsn() >= %s::pg_lsn", [written]).fetchone() == (True,)


def test_a_killed_backup_goes_on_and_ends_as_one_moment(url: str, target: str, tmp_path: Path) -> None:
    with psycopg.connect(url) as lock:
        lock.execute("LOCK TABLE monitor_trip IN ACCESS EXCLUSIVE MODE")  # The backup waits here.
        process = begin(url, "backup", tmp_path)
        said = kill_after(process, " monitor_trace:")
    assert folder.finished(tmp_path) == []
    with psycopg.connect(url) as connection:  # Of a table that was complete, and of one that was not.
        connection.execute("UPDATE monitor_project SET time_zone = 'Europe/Berlin'")
        connection.execute("UPDATE monitor_trace SET first_at = first_at - interval '1 hour'")

    again = manage(url, "backup", tmp_path)

    assert again.count("unchanged") >= len(said) - 2
    (backup,) = folder.finished(tmp_path)
    assert not list(backup.glob(f"*{folder.NOTE}"))
    manage(target, "restore", backup)
    before, after = rows(url), rows(target)
    before.pop("monitor_eventcounter"), after.pop("monitor_eventcounter")
    assert after == before


def test_a_backup_holds_up_nobody(url: str, tmp_path: Path) -> None:
    held = """
    SELECT array_agg(DISTINCT relation::regclass::text) FROM pg_locks JOIN pg_stat_activity USING (pid)
     WHERE application_name = 'handrail backup' AND granted AND relation >= 16384
    """
    with psycopg.connect(url) as lock:
        lock.execute("LOCK TABLE monitor_trip IN ACCESS EXCLUSIVE MODE")
        process = begin(url, "backup", tmp_path)
        assert process.stdout is not None
        assert any(" monitor_trace:" in line for line in process.stdout)
        # Most tables are read, and none of them is locked any more: only the list of migrations is.
        assert set(ask(url, held)) == {"django_migrations", "django_migrations_pkey"}
        with psycopg.connect(url) as other:
            other.execute("SET LOCAL lock_timeout = '5s'")
            other.execute("SELECT handrail_make_partitions('monitor_span', current_date + 40, current_date + 40)")
            other.rollback()
        # But no day is dropped meanwhile: who drops it would hold up writers until it is read.
        with jobs.alone("retention.drop_partitions") as mine:
            assert not mine
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert len(folder.finished(tmp_path)) == 1


def test_days_may_be_dropped_as_soon_as_it_has_ended(url: str, tmp_path: Path) -> None:
    back_up(url, tmp_path)
    with jobs.alone("retention.drop_partitions") as mine:
        assert mine


def test_a_file_that_broke_is_written_again_and_not_trusted(url: str, tmp_path: Path) -> None:
    first = back_up(url, tmp_path)
    broken = first / "monitor_message.copy.gz"
    broken.write_bytes(broken.read_bytes()[:-9] + b"123456789")
    said = manage(url, "backup", tmp_path)
    assert f"{broken} is not as it was written" in said
    second = folder.finished(tmp_path)[-1]
    assert "as they were written" in manage(url, "restore", second, "--check")


def test_a_killed_restore_goes_on_where_it_was(url: str, target: str, tmp_path: Path) -> None:
    backup = back_up(url, tmp_path)
    kill_after(begin(target, "restore", backup), r"^1/\d+ ")
    loaded = ask(target, "SELECT array_agg(name) FROM handrail_restoring.loaded")
    assert 0 < len(loaded) < sum(part["sections"] != [] for part in contents(backup)["parts"]) - 1
    # Until it has ended nothing starts on it, and the application's role enters nothing.
    assert "handrail.E008" in refusal(target, "migrate", HANDRAIL_DB_ROLE="owner")
    # Nor is half of it backed up, and the whole forgotten for it.
    assert "has not ended, so there is nothing whole" in refusal(target, "backup", tmp_path, "--keep", "1")
    assert folder.finished(tmp_path) == [backup]
    with (
        psycopg.connect(target, options="-c role=handrail_app") as session,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        session.execute("SELECT FROM public.monitor_project")
    on = kill_after(begin(target, "restore", backup), "every sum is the same")
    assert any("Going on with the restore" in line for line in on)
    assert not any(f" {name}:" in line for line in on for name in loaded)

    manage(target, "restore", backup)

    before, after = rows(url), rows(target)
    before.pop("monitor_eventcounter"), after.pop("monitor_eventcounter")
    assert after == before
    assert rules(target) == rules(url)
    ahead = "SELECT max(last_seq) FROM monitor_eventcounter"
    assert ask(target, ahead) == ask(url, ahead) + EVENTS_AHEAD


def test_a_damaged_backup_is_refused_and_named(url: str, target: str, tmp_path: Path) -> None:
    backup = back_up(url, tmp_path)
    broken = backup / "monitor_execution.copy.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert f"{broken} is not as it was written" in refusal(target, "restore", backup)
    broken.unlink()
    assert f"{broken} can't be read" in refusal(target, "restore", backup, "--check")
    broken.write_bytes(whole)
    contents_page = backup / manifest.NAME
    contents_page.write_text(contents_page.read_text().replace("monitor_execution.copy.gz", "monitor_exercise.copy.gz"))
    assert f"{contents_page} is not as it was written" in refusal(target, "restore", backup)
    assert "is no finished backup" in refusal(target, "restore", tmp_path)
    assert rows(target) == {}


def test_a_filled_instance_is_replaced_only_by_its_name(url: str, target: str, tmp_path: Path) -> None:
    backup = back_up(url, tmp_path)
    manage(target, "migrate", "--verbosity", "0", HANDRAIL_DB_ROLE="owner")
    manage(target, "bootstrap")
    before = rows(target)
    name = f"{target.rpartition('@')[2]}"
    assert f"--replace {name}" in refusal(target, "restore", backup)
    assert "but this instance is" in refusal(target, "restore", backup, "--replace", "handrail")
    assert rows(target) == before
    with psycopg.connect(target, application_name="a web process"):
        assert "a web process" in refusal(target, "restore", backup, "--replace", name)
    # Another role's session shows its owner nothing but its role.
    with psycopg.connect(servers.url("postgres", target.rpartition("/")[2])):
        assert "postgres (process " in refusal(target, "restore", backup, "--replace", name)
    assert rows(target) == before
    manage(target, "restore", backup, "--replace", name)
    assert rows(target)["monitor_execution"] == rows(url)["monitor_execution"]


def test_a_database_that_was_only_begun_is_replaced_by_its_name(url: str, target: str, tmp_path: Path) -> None:
    backup = back_up(url, tmp_path)
    manage(target, "migrate", "auth", "--verbosity", "0", HANDRAIL_DB_ROLE="owner")
    assert "what was begun and has not ended, or is of another program" in refusal(target, "restore", backup)
    name = f"{target.rpartition('@')[2]}"
    said = manage(target, "restore", backup, "--replace", name, REDIS_URL="redis://127.0.0.1:1/0")
    assert "Redis could not be emptied" in said
    assert rows(target)["monitor_execution"] == rows(url)["monitor_execution"]


def test_an_older_backup_is_migrated_forward(target: str, tmp_path: Path, committed_db: None) -> None:
    manage(target, "migrate", "monitor", "0009", "--verbosity", "0", HANDRAIL_DB_ROLE="owner")
    with psycopg.connect(target) as old:
        old.execute("INSERT INTO auth_group (name) VALUES ('old')")
    backup = back_up(target, tmp_path)
    assert ["monitor", "0010_cancelled_counted"] not in contents(backup)["migrations"]
    with a_database() as new:
        manage(new, "restore", backup)
        assert ask(new, "SELECT name FROM auth_group") == "old"
        migrated = [
            {row for row in rules(one)["rights"] if "_p20" not in row[0]} for one in (new, servers.database_url)
        ]
        assert migrated[0] == migrated[1]
        assert (
            manage(new, "migrate", "--plan", HANDRAIL_DB_ROLE="owner")
            .strip()
            .endswith("No planned migration operations.")
        )


def test_a_backup_of_a_newer_version_is_refused(url: str, target: str, tmp_path: Path) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('monitor', '9999_to_come', now())"
        )
    try:
        backup = back_up(url, tmp_path)
    finally:
        with psycopg.connect(url) as connection:
            connection.execute("DELETE FROM django_migrations WHERE name = '9999_to_come'")
    assert "monitor.9999_to_come are unknown here" in refusal(target, "restore", backup)


def test_two_backups_into_one_folder_take_turns(url: str, tmp_path: Path) -> None:
    with folder.writing(tmp_path):
        assert "Another backup is being written" in refusal(url, "backup", tmp_path)


def test_every_table_of_ours_is_backed_up(url: str, tmp_path: Path) -> None:
    """No model's table is called otherwise than a backup looks for."""
    parts = contents(back_up(url, tmp_path))["parts"]
    saved = {part["table"] for part in parts} | {part["parent"] for part in parts}
    assert {model._meta.db_table for model in apps.get_models(include_auto_created=True)} <= saved


def test_by_schedule_a_backup_is_a_job_like_others(url: str, tmp_path: Path) -> None:
    wanted = {"HANDRAIL_BACKUP_DIR": tmp_path / "safe", "HANDRAIL_BACKUP_KEEP": 2}
    for _ in range(3):
        assert "backup.write: ok" in manage(url, "tick", "--all", **wanted)
    assert len(folder.finished(tmp_path / "safe")) == 2
    state = "SELECT error FROM monitor_jobheartbeat WHERE name = 'backup.write' AND last_ok_at IS NOT NULL"
    assert ask(url, state) == ""
    occupied = tmp_path / "occupied"
    occupied.write_text("no folder")
    assert "backup.write" in refusal(url, "tick", "--all", **wanted | {"HANDRAIL_BACKUP_DIR": occupied})
    assert "E012" in ask(url, state)
    # Who no longer wants it is not told that it is silent.
    manage(url, "bootstrap")
    assert ask(url, "SELECT count(*) FROM monitor_jobheartbeat WHERE name = 'backup.write'") == 0


def test_a_web_process_that_stands_in_leaves_backups_to_workers(
    committed_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crank, "JOBS", (schedule.BACKUP,))
    monkeypatch.setitem(crank.FUNCTIONS, schedule.BACKUP.name, lambda *, now: None)
    now = datetime.now(UTC)
    assert crank.Standby().look(now=now) is True
    assert not JobHeartbeat.objects.filter(name=schedule.BACKUP.name, last_ok_at__isnull=False).exists()
    assert crank.turn(now=now) == {schedule.BACKUP.name: "ok"}


@pytest.mark.parametrize(
    "setting", [{"HANDRAIL_BACKUP_EVERY_S": 5}, {"HANDRAIL_BACKUP_EVERY_S": "soon"}, {"HANDRAIL_BACKUP_KEEP": 0}]
)
def test_what_cannot_be_meant_ends_the_start(setting: dict[str, Any]) -> None:
    assert f"handrail.E011: {next(iter(setting))} is" in refusal(servers.database_url, "check", **setting)
