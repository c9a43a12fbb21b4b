"""`manage.py up`: everything Handrail needs, started in order and kept running until Ctrl-C."""

import errno
import fcntl
import hashlib
import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from launcher import external
from launcher.fault import Fault
from launcher.folders import make_private
from launcher.logs import Console
from launcher.places import Places
from launcher.postgres import STOP_SIGNAL as POSTGRES_STOP_SIGNAL
from launcher.postgres import Postgres
from launcher.settings import Settings
from launcher.static import collect_when_stale
from launcher.supervisor import Part, Stopped, Supervisor
from launcher.valkey import STOP_SIGNAL as VALKEY_STOP_SIGNAL
from launcher.valkey import Valkey
from launcher.web import Port

ROOT = Path(__file__).resolve().parent.parent
MANAGE = [sys.executable, "manage.py"]
CELERY = [sys.executable, "-m", "celery", "--quiet", "--app", "config"]
# Celery warns of root on every start; in a container that is how it is.
CELERY_ENV = {"PYTHONWARNINGS": "ignore:You're running the worker"}
# What the web processes have unless it is set: see docs/settings.md.
OF_WEB = {"HANDRAIL_DB_POOL": "10", "HANDRAIL_STATEMENT_TIMEOUT_S": "30"}
OWNER = {"HANDRAIL_DB_ROLE": "owner"}
LEAVING_S = 10.0  # The children of a killed supervisor are gone by then, and its port is free.


def main(argv: list[str]) -> int:
    """The exit code: 0 after a clean stop or when it runs already, 1 when the start failed."""
    if argv not in ([], ["--demo"]):
        print("usage: manage.py up [--demo]   (settings are environment variables: docs/settings.md)")
        return 2
    try:
        settings = Settings.from_environment(os.environ)
        os.environ["HANDRAIL_HOME"] = str(settings.places.home)
        os.environ["PYTHONUNBUFFERED"] = "1"
        os.chdir(ROOT)
        make_private(settings.places.home)
        make_private(settings.places.logs)
        return _with_lock(settings, demo=bool(argv))
    except Fault as fault:
        print(fault, file=sys.stderr)
        return 1


def _with_lock(settings: Settings, *, demo: bool) -> int:
    lock = os.open(settings.places.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return _runs_already(settings.places.lock_file)
    was_killed = os.fstat(lock).st_size > 0
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()} {settings.host} {settings.port} {settings.public_url}\n".encode(), 0)
    code = _run(settings, demo=demo, patience_s=LEAVING_S if was_killed else 0)
    os.ftruncate(lock, 0)
    return code


def _runs_already(lock_file: Path) -> int:
    words = lock_file.read_text().split()
    if len(words) != 4:
        print(f"Handrail is stopping or starting just now ({lock_file} is held). Try again.", file=sys.stderr)
        return 1
    pid, host, port, url = words
    answers = web_answers(host, int(port))
    state = "answers" if answers else "does not answer yet"
    print(f"Handrail already runs at {url} (process {pid}) and {state}. Its state is in {lock_file.parent}.")
    return 0 if answers else 1


def _run(settings: Settings, *, demo: bool, patience_s: float) -> int:
    console = Console(settings.places.logs)
    supervisor = Supervisor(console)
    supervisor.listen_for_signals()
    try:
        with (
            _bind(settings, patience_s=patience_s) as listener,
            Port(listener, settings.web_processes) as port,
        ):
            _start(settings, supervisor, port)
            if demo:
                supervisor.start(Part("demo", rank=3, command=_constant([*MANAGE, "demo"]), grace_s=1.0))
            supervisor.watch()
            console.say("Stopping.")
    except Stopped:
        console.say("Stopping before the start was complete.")
    finally:
        supervisor.stop()
    return 0


def _start(settings: Settings, supervisor: Supervisor, port: Port) -> None:
    began_s = time.monotonic()
    places, console = settings.places, supervisor.console
    write_secret_key(places)
    if settings.database_url is None:
        postgres = Postgres(places)
        supervisor.start(postgres_part(postgres))
        postgres.make_owner()
    else:
        external.await_postgres(settings.database_url, supervisor.rest)
    if settings.redis_url is None:
        supervisor.start(valkey_part(Valkey(places)))
    else:
        external.await_redis(settings.redis_url, supervisor.rest)
    console.say("Making the tables fit.")
    code = supervisor.run("migrate", [*MANAGE, "migrate", "--verbosity", "0"], env=OWNER)
    if code != 0:
        what = "a setting is wrong" if code == os.EX_CONFIG else "the database could not be migrated"
        raise Fault("E018", f"{what}; the reason stands above.")
    welcome = supervisor.ask([*MANAGE, "bootstrap"])
    try:
        console.say("Starting web, worker and beat.")
        collect_when_stale(ROOT, lambda command: supervisor.run("static", [*MANAGE, *command]))
        supervisor.start(*web_parts(settings, port), worker_part(settings), beat_part())
    finally:
        # Last, so that it is seen; and also when the start ends here, for it is shown once.
        if welcome.strip():
            console.plain(f"\n{welcome.strip()}\n")
    console.say(f"Handrail is ready after {time.monotonic() - began_s:.1f} s: {settings.public_url}")
    console.say(f"State in {places.home}, logs in {places.logs}. Ctrl-C stops everything.")


def _bind(settings: Settings, *, patience_s: float) -> socket.socket:
    """The web's listening socket, ours so that no request is refused while the web process starts again."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            listener = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline_s:
                raise _refused(settings, error) from error
            time.sleep(0.1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _refused(settings: Settings, error: OSError) -> Fault:
    if error.errno == errno.EADDRINUSE:
        return Fault("E010", f"port {settings.port} is in use. Set HANDRAIL_PORT to a free one, for example 8001.")
    if error.errno == errno.EACCES:
        return Fault("E010", f"port {settings.port} is for root only. Set HANDRAIL_PORT to one above 1023.")
    return Fault("E011", f"HANDRAIL_HOST is {settings.host!r}, which is no address of this machine.")


def write_secret_key(places: Places) -> None:
    """The key that signs sessions, made once, whole or not at all."""
    if places.secret_key_file.exists():
        return
    new = places.secret_key_file.with_suffix(".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(os.urandom(48).hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(places.secret_key_file)


def postgres_part(server: Postgres) -> Part:
    return Part(
        name="postgres",
        rank=0,
        command=server.command,
        prepare=server.prepare,
        is_ready=server.is_ready,
        stop_signal=POSTGRES_STOP_SIGNAL,
        # It is asked until it answers.
        hushed=("the database system is starting up",),
        grace_s=8.0,  # A checkpoint on a slow disk; without it the next start replays the log.
    )


def valkey_part(server: Valkey) -> Part:
    return Part(
        name="valkey",
        rank=1,
        command=server.command,
        prepare=server.prepare,
        is_ready=server.is_ready,
        stop_signal=VALKEY_STOP_SIGNAL,
        # Advice for servers that save snapshots; ours appends.
        hushed=("Memory overcommit must be enabled",),
        grace_s=1.5,
    )


def web_parts(settings: Settings, port: Port) -> list[Part]:
    """One process or several, all accepting from the one socket."""
    command = port.command(log_level=settings.log_level.lower())
    own = {name: os.environ.get(name, default) for name, default in OF_WEB.items()}
    numbers = range(settings.web_processes)
    return [
        Part(
            name="web" if settings.web_processes == 1 else f"web-{number + 1}",
            rank=2,
            command=_constant(command),
            is_ready=lambda: web_answers(settings.host, settings.port),
            grace_s=3.0,
            env=own | port.env(number),
            pass_fds=port.fds,
            on_end=partial(port.ended, number),
        )
        for number in numbers
    ]


def worker_part(settings: Settings) -> Part:
    digest = hashlib.sha256(os.fsencode(settings.places.home)).hexdigest()[:8]
    command = [*CELERY, "worker", "--without-gossip", "--without-mingle"]
    command += ["--concurrency", str(settings.worker_concurrency), "--hostname", f"handrail-{digest}@%h"]
    return Part(
        name="worker",
        rank=2,
        command=_constant([*command, "--loglevel", "INFO"]),
        says_when_ready=" ready.",
        hushed=("] received", "] succeeded in "),
        grace_s=3.0,
        env=CELERY_ENV,
    )


def beat_part() -> Part:
    command = [*CELERY, "beat", "--loglevel", "INFO"]
    return Part(
        name="beat",
        rank=2,
        command=_constant([*command, "--pidfile", ""]),
        says_when_ready="beat: Starting",
        hushed=("Scheduler: Sending due task",),
        grace_s=2.0,
    )


def _constant(command: list[str]) -> Callable[[], list[str]]:
    return lambda: command


def web_answers(host: str, port: int) -> bool:
    """Whether an HTTP server answers there, whatever it says."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        with socket.create_connection((target, port), timeout=2) as line:
            line.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return line.recv(5) == b"HTTP/"
    except OSError:
        return False
