"""The real servers of a test run: loaded before pytest-django, because that one reads the settings first.

One throw-away PostgreSQL for the run, migrated once; for each process of the run its own database, copied from the
migrated one, and its own Valkey. They end with the run, however it ends.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import psycopg
import pytest
from psycopg import sql

from launcher.child import Child
from launcher.places import Places
from launcher.postgres import OWNER
from launcher.static import collect_when_stale
from launcher.throwaway import ThrowawayHome, environment, start_postgres, start_valkey
from tests import cluster

ROOT = Path(__file__).resolve().parent.parent
RUN_HOME = "HANDRAIL_TEST_RUN_HOME"
BROWSER_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER_SKIPS = "no Chromium"


def chromium() -> str | None:
    """The browser for tests: HANDRAIL_CHROMIUM, or the first of the usual names on the PATH."""
    named = os.environ.get("HANDRAIL_CHROMIUM")
    return named or next((path for name in BROWSER_NAMES if (path := shutil.which(name))), None)


class Servers:
    """What this process of the run uses: the run's PostgreSQL, and a database and a Valkey of its own."""

    def __init__(self) -> None:
        self.worker = os.environ.get("PYTEST_XDIST_WORKER", "")
        self._home = None if self.worker else ThrowawayHome()
        run_home = Path(os.environ[RUN_HOME]) if self._home is None else self._home.path
        self.run = Places(run_home)
        self.own = Places(run_home / (self.worker or "main"))
        self.database = f"{OWNER}_{self.worker or 'main'}"
        self._children: list[Child] = []
        self._cluster = ""
        self._error: BaseException | None = None
        self._thread = Thread(target=self._start, name="test servers")

    @property
    def database_url(self) -> str:
        return self.url(OWNER, self.database)

    def url(self, role: str, database: str) -> str:
        return f"{self.run.database_url.split('://')[0]}://{role}@{self._host}/{database}"

    @property
    def _host(self) -> str:
        return self.run.database_url.split("@")[1].split("/")[0]

    def set_environment(self) -> None:
        os.environ[RUN_HOME] = str(self.run.home)
        os.environ.update(environment(self.own) | {"DATABASE_URL": self.database_url})
        for name in ("HANDRAIL_DB_ROLE", "HANDRAIL_DB_POOL"):
            os.environ.pop(name, None)

    def start(self) -> None:
        """Begin to start; the collection of tests goes on meanwhile."""
        # Not in the thread: Python 3.11 can't parse in two at once, and collection parses.
        self._cluster = "" if self.worker else cluster.digest()
        self._thread.start()

    def ready(self) -> None:
        """Return when the servers answer and the run's database is migrated; raise what went wrong."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise pytest.UsageError(f"The test servers did not start: {self._error}") from self._error

    def _start(self) -> None:
        try:
            self._children.append(start_valkey(self.own))
            if not self.worker:
                self._start_postgres()
                collect_when_stale(ROOT, self._manage)
        except BaseException as error:
            self._error = error

    def _start_postgres(self) -> None:
        """The migrated cluster: a copy of a kept one, or made now and kept."""
        known = cluster.restore(self._cluster, self.run.postgres_data)
        _, postgres = start_postgres(self.run)
        self._children.append(postgres)
        if not known:
            self._migrate()
            self._children.remove(postgres)
            postgres.stop()
            cluster.keep(self._cluster, self.run.postgres_data)
            self._children.append(start_postgres(self.run)[1])

    def _migrate(self) -> None:
        """Every migration, as the owner, in the database that the others are copied from."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(ROOT / "manage.py"), "migrate", "--verbosity", "0"],
            env=os.environ | {"DATABASE_URL": self.url(OWNER, OWNER), "HANDRAIL_DB_ROLE": "owner"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the migrations failed:\n{done.stderr[-3000:]}")

    def _manage(self, command: list[str]) -> int:
        return subprocess.run([sys.executable, str(ROOT / "manage.py"), *command], check=False).returncode

    def make_database(self) -> None:
        """A fresh copy of the migrated database, for this process alone."""
        with psycopg.connect(self.url(OWNER, "postgres"), autocommit=True) as connection:
            name, template = sql.Identifier(self.database), sql.Identifier(OWNER)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(name, template))

    def stop(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()
        for child in self._children:
            child.stop()
        if self._home is not None:
            self._home.__exit__(None, None, None)


servers = Servers()
servers.set_environment()


def pytest_configure(config: pytest.Config) -> None:
    if not (config.option.help or config.option.version):
        servers.start()
    config.addinivalue_line("markers", "browser: needs a Chromium; skipped, loudly, where there is none")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """The processes of a parallel run begin only when what they share is ready."""
    if session.config.getoption("numprocesses", default=None):
        servers.ready()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    if not session.config.option.collectonly:
        servers.ready()
    return (yield)


def pytest_unconfigure() -> None:
    servers.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Side by side only one of several tests that go by one id would be run.
    named = Counter(item.nodeid for item in items)
    if twice := [name for name, count in named.items() if count > 1]:
        raise pytest.UsageError(f"Several tests go by one id: {', '.join(twice)}")
    if chromium() is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason=BROWSER_SKIPS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and BROWSER_SKIPS in report.longrepr[2]
    ]
    if skipped:
        terminalreporter.section("BROWSER TESTS WERE NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.line(
            f"{len(skipped)} tests were skipped: no Chromium was found. Install one, "
            "or set HANDRAIL_CHROMIUM to its path.",
            red=True,
            bold=True,
        )
