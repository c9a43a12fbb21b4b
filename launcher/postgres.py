"""The embedded PostgreSQL: one cluster in the state folder, reached by a unix socket only."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from launcher import binaries
from launcher.fault import Fault
from launcher.folders import make_private
from launcher.places import Places
from launcher.survivors import end_survivors, working_in

NOBODY = 65534
OWNER = "handrail"
MAKE_OWNER = r"""
SELECT 'CREATE ROLE handrail LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'handrail') \gexec
ALTER ROLE handrail LOGIN NOSUPERUSER NOBYPASSRLS NOREPLICATION CREATEROLE CREATEDB;
SELECT 'CREATE DATABASE handrail OWNER handrail'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'handrail') \gexec
\connect handrail
CREATE EXTENSION IF NOT EXISTS vector;
"""
STOP_SIGNAL = signal.SIGINT  # "fast": running statements are cancelled, everything committed is kept.

# A user namespace where root is nobody: the server's own check is content and its files stay root's.
NAMESPACE = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--"]
# Where namespaces are blocked (many containers): really nobody, but able to reach a state folder of root's.
AS_NOBODY = [
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--pdeathsig=INT", "--"),
]


def _works(prefix: list[str]) -> bool:
    try:
        return subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def way_down() -> list[str]:
    """The prefix that makes a command run as other than uid 0, which PostgreSQL refuses; empty for other users."""
    if os.geteuid() != 0:
        return []
    for prefix in (NAMESPACE, AS_NOBODY):
        if _works(prefix):
            return prefix
    raise Fault(
        "E014",
        "PostgreSQL does not run as root, and this system allows neither user namespaces nor a change of user. "
        "Start Handrail as a normal user, or set DATABASE_URL.",
    )


class Postgres:
    """The cluster of one state folder. `durable=False` forgoes fsync, for throw-away servers."""

    def __init__(self, places: Places, *, durable: bool = True, way: list[str] | None = None) -> None:
        self.data = places.postgres_data
        self.sockets = places.sockets
        self.durable = durable
        self.way = way_down() if way is None else way

    def prepare(self) -> None:
        """Make the cluster unless it is there, and end a server that outlived its supervisor."""
        make_private(self.data.parent)
        make_private(self.sockets)
        for half_made in self.data.parent.glob("postgres.new-*"):
            shutil.rmtree(half_made, ignore_errors=True)
        if not self.data.exists():
            self._make()
        end_survivors(self.data, "postgres", STOP_SIGNAL)
        self._give(self.data)
        self._forget_reused_pid()

    def command(self) -> list[str]:
        folder = str(self.sockets).replace('"', '""')
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{folder}"',
            "unix_socket_permissions": "0700",
            "shared_buffers": "256MB" if self.durable else "64MB",
            "wal_compression": "on",
            "max_wal_size": "1GB",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %q%d ",
            # What it refuses it would quote there, row and statement.
            "log_error_verbosity": "terse",
            "log_min_error_statement": "panic",
            "lc_messages": "C",
        }
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [*self.way, binaries.postgres("postgres"), "-D", str(self.data), *options]

    def is_ready(self) -> bool:
        return answers("-h", str(self.sockets), "-U", "postgres")

    def make_owner(self) -> None:
        """The login role that owns the database `handrail`, and the database; the same however often it runs.

        The extension is made here because only a superuser may.
        """
        self.run_sql(MAKE_OWNER)

    def run_sql(self, sql: str) -> str:
        """Run psql input as the superuser; its output, or CalledProcessError with the reason in stderr."""
        command = [binaries.postgres("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", str(self.sockets)]
        done = subprocess.run(
            [*command, "-U", "postgres", "-d", "postgres"],
            input=sql,
            capture_output=True,
            text=True,
            check=True,
            env={"PGOPTIONS": "-c client_min_messages=warning"} | without_libpq_settings(),
        )
        return done.stdout

    def _make(self) -> None:
        """initdb beside the final place, then one rename: there is never a half-made cluster."""
        new = self.data.with_name(f"postgres.new-{os.getpid()}")
        make_private(new)
        self._give(new)
        command = [*self.way, binaries.postgres("initdb"), "-D", str(new), "-U", "postgres", "-A", "trust"]
        command += ["-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        done = subprocess.run(
            command if self.durable else [*command, "--no-sync"],
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
        if done.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise Fault("E015", f"the database could not be made in {self.data}: {done.stderr.strip()[-500:]}")
        new.rename(self.data)

    def _give(self, folder: Path) -> None:
        """The files to the user that the server runs as; it may have been another one at the last start."""
        if os.geteuid() != 0:
            return
        owner = NOBODY if self.way == AS_NOBODY else 0
        if folder.stat().st_uid == owner:
            return
        for base, folders, files in os.walk(folder, topdown=False):
            for name in (*folders, *files):
                os.chown(Path(base) / name, owner, owner, follow_symlinks=False)
        os.chown(folder, owner, owner)

    def _forget_reused_pid(self) -> None:
        """Remove lock files whose process id now belongs to a stranger: the server would refuse to start.

        A lock of a dead process stays: PostgreSQL checks more than the id and removes it itself.
        """
        for lock in (self.data / "postmaster.pid", self.sockets / ".s.PGSQL.5432.lock"):
            try:
                pid = int(lock.read_text().split("\n", 1)[0])
            except (FileNotFoundError, ValueError):
                continue
            if pid not in working_in(self.data) and Path(f"/proc/{pid}").exists():
                lock.unlink(missing_ok=True)


def answers(*target: str) -> bool:
    """Whether a PostgreSQL accepts connections there: pg_isready's options or `-d URL`."""
    command = [binaries.postgres("pg_isready"), "-q", "-t", "3", *target]
    return subprocess.run(command, check=False, env=without_libpq_settings()).returncode == 0


def without_libpq_settings() -> dict[str, str]:
    """The environment without PGHOST, PGUSER and the like, which would lead elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
