"""The embedded servers alone: any user, any folder, any mess that an earlier start left."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from launcher.child import Child
from launcher.places import SOCKET_PATH_BYTES, Places
from launcher.postgres import AS_NOBODY, NAMESPACE, STOP_SIGNAL, Postgres
from launcher.survivors import working_in
from launcher.throwaway import start_valkey
from tests.launcher.instance import ROOT, until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="about root's ways of running PostgreSQL")


@contextmanager
def serving(server: Postgres) -> Iterator[Child]:
    server.prepare()
    with (server.data.parent / "log").open("ab") as log:
        child = Child(server.command(), output=log, stop_signal=STOP_SIGNAL)
    try:
        until(server.is_ready, "PostgreSQL answers")
        yield child
    finally:
        child.stop()


@needs_root
@pytest.mark.parametrize(("way", "user"), [(NAMESPACE, 0), (AS_NOBODY, 65534)], ids=["namespace", "nobody"])
def test_root_can_run_it_either_way_and_change_ways_over_the_same_data(
    tmp_path: Path, way: list[str], user: int
) -> None:
    home = tmp_path / "home"
    with serving(Postgres(Places(home), durable=False)) as child:
        Postgres(Places(home)).make_owner()
    assert child.wait() == 0
    with serving(Postgres(Places(home), durable=False, way=way)) as child:
        assert Path(f"/proc/{child.pid}").stat().st_uid == user
        with psycopg.connect(Places(home).database_url) as connection:
            connection.execute("CREATE TABLE proof (word text)")
    assert (home / "postgres").stat().st_uid == user
    with serving(Postgres(Places(home), durable=False)), psycopg.connect(Places(home).database_url) as connection:
        assert connection.execute("SELECT count(*) FROM proof").fetchone() == (0,)


@needs_root
@pytest.mark.parametrize("way", [NAMESPACE, AS_NOBODY], ids=["namespace", "nobody"])
def test_it_ends_even_when_leash_and_holder_are_killed(tmp_path: Path, way: list[str]) -> None:
    server = Postgres(Places(tmp_path / "home"), durable=False, way=way)
    with serving(server) as child:
        os.kill(child.leash_pid, signal.SIGKILL)
        until(lambda: not working_in(server.data), "no process is left")


def test_its_log_quotes_neither_row_nor_statement(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving(Postgres(Places(home), durable=False)):
        Postgres(Places(home)).make_owner()
        with psycopg.connect(Places(home).database_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE proof (word text CONSTRAINT proof_is_long CHECK (length(word) > 20))")
            with pytest.raises(psycopg.errors.CheckViolation, match="hunter22"):
                connection.execute("INSERT INTO proof VALUES ('hunter22')")
    log = (home / "log").read_text()
    assert 'violates check constraint "proof_is_long"' in log
    assert "hunter22" not in log


AS_SOMEONE = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", 'exec "$@"', "sh"]


def everyones_python() -> str | None:
    """A Python of our own version that any user may run; ours may be in a folder of root's."""
    version = f"import sys, psycopg; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        command = [*AS_SOMEONE, python, "-c", version]
        if subprocess.run(command, env=someones_environment(), cwd=ROOT, capture_output=True).returncode == 0:
            return python
    return None


def someones_environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | more


@needs_root
def test_a_normal_user_can_run_it() -> None:
    python = everyones_python()
    if python is None:
        pytest.skip("SKIPPED: no Python here may be run by other users than root")
    script = "import os, psycopg; c = psycopg.connect(os.environ['DATABASE_URL']); "
    script += "print(os.geteuid(), *c.execute('select current_user').fetchone())"
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        done = subprocess.run(
            [*AS_SOMEONE, python, "-m", "launcher.throwaway", "--", python, "-c", script],
            cwd=ROOT,
            env=someones_environment(TMPDIR=folder),
            capture_output=True,
            text=True,
        )
        assert (done.stdout.strip(), done.stderr) == ("65534 handrail", "")
        assert list(Path(folder).iterdir()) == []


@pytest.mark.parametrize("folder", ["d" * 100, "a b, 100% mine?"], ids=["deep", "odd"])
def test_a_home_too_deep_or_too_odd_for_sockets_uses_a_short_private_folder(tmp_path: Path, folder: str) -> None:
    places = Places(tmp_path / folder / "home")
    with serving(Postgres(places, durable=False)) as child:
        Postgres(places).make_owner()
        valkey = start_valkey(places)
        assert redis.Redis.from_url(places.redis_url).ping() is True
        with psycopg.connect(places.database_url) as connection:
            assert connection.info.host == str(places.sockets)
        assert len(os.fsencode(places.sockets / ".s.PGSQL.5432")) <= SOCKET_PATH_BYTES
        assert places.home not in places.sockets.parents
        assert places.sockets.stat().st_mode & 0o777 == 0o700
        valkey.stop()
        assert valkey.wait() == 0
    assert child.wait() == 0
    places.sockets.rmdir()


def test_a_pid_file_of_a_killed_server_whose_number_is_a_strangers_now_does_not_stop_the_next(tmp_path: Path) -> None:
    server = Postgres(Places(tmp_path / "home"), durable=False)
    with serving(server) as child:
        os.kill(child.pid or 0, signal.SIGKILL)
        until(lambda: not working_in(server.data), "it is dead")
        pid_file = server.data / "postmaster.pid"
        old_pid = pid_file.read_text().split("\n")[0]
        for lock in (pid_file, server.sockets / ".s.PGSQL.5432.lock"):
            lock.write_text(lock.read_text().replace(old_pid, str(os.getppid()), 1))
    with serving(server) as child:
        assert child.is_running()


def test_a_server_that_outlived_its_supervisor_is_ended_first(tmp_path: Path) -> None:
    server = Postgres(Places(tmp_path / "home"), durable=False)
    server.prepare()
    survivor = subprocess.Popen(server.command(), stderr=subprocess.DEVNULL, start_new_session=True)
    until(server.is_ready, "the survivor answers")
    with serving(server) as child:
        assert survivor.wait(10) == 0
        assert child.is_running()


def test_what_a_command_started_itself_ends_with_it(tmp_path: Path) -> None:
    child = Child(["sh", "-c", f"cd {tmp_path}; sleep 60 & sleep 60 & wait"], grace_s=1)
    until(lambda: len(working_in(tmp_path)) == 3, "the three run")
    child.stop()
    assert working_in(tmp_path) == []


def test_a_command_that_ignores_its_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = Child(["sh", "-c", f"trap '' TERM; cd {tmp_path}; while :; do sleep 0.1; done"], grace_s=0.3)
    until(lambda: bool(working_in(tmp_path)), "it runs")
    child.stop()
    assert child.wait() == 128 + signal.SIGKILL
    assert working_in(tmp_path) == []
