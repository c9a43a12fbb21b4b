"""`manage.py up` as a user meets it: starts, keeps, comes back, stops, and never leaves anything behind."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.places import Places
from launcher.postgres import Postgres
from tests.launcher.instance import PARTS, ROOT, Instance, send, until

pytestmark = pytest.mark.xdist_group("up")


def mark(home: Path, statement: str) -> str:
    return Postgres(Places(home)).run_sql(f"\\connect handrail\n{statement}").strip()


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance after its first start and a clean stop, with a row that somebody wrote."""
    instance = Instance(tmp_path_factory.mktemp("used") / "home")
    try:
        instance.begin().ready()
        mark(instance.home, "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('first');")
        instance.stop()
        yield instance
    finally:
        instance.end()


@pytest.fixture(scope="module")
def running(used: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("running") / "home").copy_of(used)
    try:
        yield instance.begin().ready()
    finally:
        instance.end()


@pytest.fixture
def fresh(used: Instance, tmp_path: Path) -> Iterator[Instance]:
    instance = Instance(tmp_path / "home").copy_of(used)
    try:
        yield instance
    finally:
        instance.end()


def test_the_first_start_makes_a_private_home_and_a_clean_stop_leaves_nothing_running(used: Instance) -> None:
    assert used.home.stat().st_mode & 0o777 == 0o700
    assert (used.home / "secret_key").stat().st_mode & 0o777 == 0o600
    assert len((used.home / "secret_key").read_text().strip()) == 96
    assert {path.stem for path in (used.home / "logs").glob("*.log")} >= set(PARTS)
    assert used.process is not None
    assert used.process.returncode == 0
    assert used.processes() == {}
    stopped = re.findall(r"handrail \| (\w+) has stopped", used.text())
    assert sorted(stopped[:3]) == ["beat", "web", "worker"]
    assert stopped[3:] == ["valkey", "postgres"]


def test_the_second_start_keeps_data_and_a_second_up_does_no_harm(running: Instance, used: Instance) -> None:
    assert running.answers()
    assert mark(running.home, "SELECT word FROM kept;") == "first"
    assert (running.home / "secret_key").read_text() == (used.home / "secret_key").read_text()

    before = running.parts()
    assert None not in before.values()
    second = subprocess.run(
        [sys.executable, "manage.py", "up"], cwd=ROOT, env=running.environment, capture_output=True, text=True
    )
    assert second.returncode == 0
    assert f"Handrail already runs at http://localhost:{running.port}" in second.stdout
    assert running.parts() == before


@pytest.mark.parametrize("leash", [False, True], ids=["process", "leash"])
@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_comes_back(running: Instance, part: str, leash: bool) -> None:
    def pids() -> tuple[int | None, int | None]:
        return running.pid_of(part), running.pid_of(part, leash=True)

    def is_back() -> bool:
        # Both, for what a killed part leaves for a moment may look like a new one.
        return all(one is not None and one not in before for one in pids())

    before = pids()
    assert None not in before
    send(before[leash], signal.SIGKILL)
    until(is_back, f"{part} is back on its leash")
    until(running.answers, "the web answers")
    if part == "postgres":
        until(Postgres(Places(running.home)).is_ready, "PostgreSQL answers")
        assert mark(running.home, "SELECT word FROM kept;") == "first"


def test_two_instances_do_not_disturb_each_other_and_sigterm_stops_one_in_time(
    running: Instance, fresh: Instance
) -> None:
    others = running.parts()
    fresh.begin().ready()
    mark(fresh.home, "UPDATE kept SET word = 'second';")
    assert fresh.answers()
    fresh.stop(within_s=10)
    assert fresh.processes() == {}
    assert running.answers()
    assert running.parts() == others
    assert mark(running.home, "SELECT word FROM kept;") == "first"


def test_kill_9_of_the_supervisor_leaves_no_process_and_the_next_start_works_at_once(fresh: Instance) -> None:
    fresh.begin().ready()
    children = set(fresh.processes())
    assert len(children) > 10
    assert fresh.process is not None
    fresh.process.kill()
    fresh.process.wait()
    fresh.begin().ready()
    assert fresh.answers()
    assert children.isdisjoint(fresh.processes())
    assert mark(fresh.home, "SELECT word FROM kept;") == "first"

    send(fresh.pid_of("postgres", leash=True), signal.SIGKILL)
    fresh.process.kill()
    fresh.process.wait()
    until(lambda: not fresh.processes(), "nothing left", within_s=10)
