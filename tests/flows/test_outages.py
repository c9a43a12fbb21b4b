"""Servers that are away, emptied or silent: ingest says so at once and in time, and real exporters lose nothing."""

import json
import os
import signal
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
import redis

from launcher.places import Places
from launcher.postgres import Postgres
from tests.flows import clientprograms
from tests.flows.running import address, ask, make_key, manage, sign_in
from tests.launcher.instance import Instance, send, send_all, until
from tests.monitor.otlp_builders import as_protobuf, export, json_span, log, logs_export

PROTOBUF, JSON, LINES = "application/x-protobuf", "application/json", "application/x-ndjson"
SPANS = "SELECT count(*) FROM monitor_span WHERE project_id = (SELECT id FROM monitor_project WHERE name = %(project)s)"
# What was stored of these marks, a mark a row.
STORED = """
SELECT run_id FROM monitor_span WHERE run_id = ANY(%(marks)s)
 UNION ALL
SELECT run_id FROM monitor_execution WHERE run_id = ANY(%(marks)s)
 UNION ALL
SELECT replace(trace_id::text, '-', '') FROM monitor_spanlog WHERE trace_id = ANY(%(marks)s::uuid[])
"""
# Exporters give up after 10 s, and what they waited for is lost; a second is for a slow machine.
IN_TIME_S = 9.0
# What is asked of exporters alone: nobody else gives up so soon.
OF_EXPORTERS = ("/v1/", "/api/public/otel/")


@pytest.fixture(scope="module")
def handrail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One of its own: the others' should not be stopped."""
    instance = Instance(tmp_path_factory.mktemp("outages") / "home")
    try:
        yield instance.begin().ready()
    finally:
        send_all(instance.processes(), signal.SIGCONT)
        instance.end()


@pytest.fixture
def key(handrail: Instance) -> str:
    return make_key(handrail, "outages")


@pytest.fixture
def client(handrail: Instance) -> Iterator[httpx.Client]:
    # Made once: a client takes longer to make than an answer.
    with httpx.Client(base_url=address(handrail), timeout=60) as made:
        yield made


class Told(NamedTuple):
    """What is told at a door, and the mark of the row that is stored of it."""

    path: str
    body: bytes
    headers: dict[str, str]
    mark: str


def doors(key: str) -> list[Told]:
    """Something new for every door of ingest, and every way of writing there."""
    bearer, basic = f"Bearer {key}", f"Basic {b64encode(f'pk-lf-any:{key}'.encode()).decode()}"

    def told(path: str, write: Callable[[str], bytes], kind: str = JSON, *, signed: str = bearer) -> Told:
        mark = uuid4().hex
        return Told(path, write(mark), {"content-type": kind, "authorization": signed}, mark)

    def a_call(mark: str) -> dict[str, Any]:
        return {"model": "gpt-4o", "input_tokens": 1, "output_tokens": 1, "run_id": mark}

    def a_line(mark: str) -> bytes:
        return json.dumps(a_call(mark) | {"type": "call"}).encode()

    return [
        told("/v1/traces", a_trace, PROTOBUF),
        told("/v1/logs", a_log, PROTOBUF),
        told("/api/public/otel/v1/traces", a_trace, PROTOBUF, signed=basic),
        told("/api/v1/calls", lambda mark: json.dumps(a_call(mark)).encode()),
        told("/api/v1/batch", lambda mark: b'{"events":[' + a_line(mark) + b"]}"),
        told("/api/v1/batch", a_line, LINES),
        told("/api/v1/executions", lambda mark: json.dumps({"agent": "clerk", "run_id": mark}).encode()),
    ]


def a_trace(mark: str) -> bytes:
    return as_protobuf(export(json_span(trace=mark)))


def a_log(mark: str) -> bytes:
    return as_protobuf(logs_export(log("gen_ai.user.message", "Hello", trace=mark)))


def tell(client: httpx.Client, told: Told, *, within_s: float = 60) -> httpx.Response:
    return client.post(told.path, content=told.body, headers=told.headers, timeout=within_s)


def is_taken(answer: httpx.Response) -> bool:
    """Whether it was taken, and nothing of it refused."""
    if answer.status_code not in (200, 201):
        return False
    if answer.headers["content-type"] == PROTOBUF:
        return answer.content == b""
    return answer.json().get("rejected", []) == []


def assert_stored_once(handrail: Instance, told: Iterable[Told]) -> None:
    marks = sorted(one.mark for one in told)
    assert sorted(mark for (mark,) in ask(handrail, STORED, marks=marks)) == marks


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    send_all(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send_all(pids, signal.SIGCONT)


def pids_of(handrail: Instance, words: str) -> list[int]:
    return [pid for pid, command in handrail.processes().items() if words in command and "leash.py" not in command]


@contextmanager
def away(handrail: Instance, part: str) -> Iterator[None]:
    """Killed, and not brought back before the end."""
    assert handrail.process is not None
    pid = handrail.pid_of(part)
    with stopped([handrail.process.pid]):
        send(pid, signal.SIGKILL)
        yield
    until(lambda: handrail.pid_of(part) not in (None, pid), f"{part} is back")


@contextmanager
def hanging(handrail: Instance, words: str) -> Iterator[None]:
    """Alive, and silent: connections are taken up and nothing is answered."""
    with stopped(pids_of(handrail, words)):
        yield


def test_without_valkey_everything_is_taken(handrail: Instance, client: httpx.Client, key: str) -> None:
    def all_taken() -> None:
        told = doors(key)
        for one in told:
            answer = tell(client, one, within_s=IN_TIME_S)
            assert is_taken(answer), (one.path, answer.text)
        assert_stored_once(handrail, told)

    valkey = redis.Redis(unix_socket_path=str(Places(handrail.home).sockets / "valkey.sock"))
    all_taken()
    valkey.flushall()
    all_taken()
    with away(handrail, "valkey"):
        all_taken()
    with hanging(handrail, "valkey-server unixsocket"):
        all_taken()
    all_taken()


def test_without_valkey_no_key_has_a_limit(handrail: Instance, client: httpx.Client) -> None:
    key = make_key(handrail, "outages", per_minute=1)

    def statuses() -> list[int]:
        return [tell(client, doors(key)[0], within_s=IN_TIME_S).status_code for _ in range(3)]

    assert statuses() == [200, 429, 429]
    for trouble in (away(handrail, "valkey"), hanging(handrail, "valkey-server unixsocket")):
        with trouble:
            assert statuses() == [200, 200, 200]
        until(lambda: 429 in statuses(), "the limit holds again")


@pytest.mark.parametrize("trouble", ["away", "silent"])
def test_without_postgres_every_ingest_door_says_so_in_time(
    handrail: Instance, client: httpx.Client, key: str, trouble: str
) -> None:
    def tell_in_time(one: Told) -> httpx.Response:
        return tell(client, one, within_s=IN_TIME_S if one.path.startswith(OF_EXPORTERS) else 60)

    web = handrail.pid_of("web")
    taken = doors(key)
    for one in taken:
        assert is_taken(tell(client, one)), one.path
    threads = threads_of(web)
    with away(handrail, "postgres") if trouble == "away" else hanging(handrail, "postgres"):
        with ThreadPoolExecutor(30) as senders:
            answers = list(senders.map(tell_in_time, [doors(key)[0] for _ in range(60)]))
            answers += list(senders.map(tell_in_time, [one for _ in range(10) for one in doors(key)]))
        for answer in answers:
            assert answer.status_code in (429, 503), (answer.url.path, answer.status_code, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
        assert threads_of(web) <= threads + 20, "threads pile up"
        assert httpx.get(f"{address(handrail)}/health", timeout=5).status_code == 200

    def all_open() -> bool:
        told = doors(key)
        open_ones = [one for one in told if is_taken(tell_in_time(one))]
        taken.extend(open_ones)
        return open_ones == told

    until(all_open, "all doors are open", within_s=30)
    assert handrail.pid_of("web") == web
    assert_stored_once(handrail, taken)


def test_without_postgres_people_are_told_so(handrail: Instance) -> None:
    password = manage(handrail, "create_operator", "ada@example.org", "--project", "outages")
    with sign_in(handrail, "ada@example.org", password) as browser:
        for trouble in (refusing(handrail), away(handrail, "postgres")):
            with trouble:
                page, listening = browser.get("/"), browser.get("/events/")
            for answer, kind in ((page, "text/html"), (listening, "application/problem+json")):
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.headers["content-type"].startswith(kind)
            assert "The database cannot do this at the moment" in page.text
            until(lambda: browser.get("/").status_code == 200, "pages are there again")


def threads_of(pid: int | None) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@contextmanager
def refusing(handrail: Instance) -> Iterator[None]:
    """PostgreSQL throws everybody out and lets nobody in; unlike one that begins again, it is back when it should."""
    shut = """
        ALTER DATABASE handrail ALLOW_CONNECTIONS false;
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'handrail' AND pid <> pg_backend_pid()
    """
    server = Postgres(Places(handrail.home))
    server.run_sql(shut)
    try:
        yield
    finally:
        server.run_sql("ALTER DATABASE handrail ALLOW_CONNECTIONS true")


@contextmanager
def web_killed(handrail: Instance) -> Iterator[None]:
    send(handrail.pid_of("web"), signal.SIGKILL)
    yield


def postgres_killed(handrail: Instance) -> AbstractContextManager[None]:
    return away(handrail, "postgres")


def hanging_postgres(handrail: Instance) -> AbstractContextManager[None]:
    return hanging(handrail, "postgres")


@pytest.mark.parametrize(
    ("trouble", "told_off"), [(refusing, 2), (postgres_killed, 1), (hanging_postgres, 0), (web_killed, 0)]
)
def test_a_real_exporter_outlasts_an_outage_as_it_comes(
    handrail: Instance, tmp_path: Path, trouble: Callable[[Instance], AbstractContextManager[None]], told_off: int
) -> None:
    """In the outage an export begins, and is told so often to come back, or waits."""
    project, says = f"exporter-{trouble.__name__}", tmp_path / "says"
    key = make_key(handrail, project, scopes="ingest")
    program = [str(clientprograms.interpreter()), str(Path(__file__).with_name("exporter.py")), "12", "100"]
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": address(handrail),
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {key}",
        "NO_PROXY": "127.0.0.1",
    }

    def count(words: str) -> int:
        return says.read_text().count(words)

    with (
        says.open("w") as errors,
        subprocess.Popen(
            program, env=os.environ | settings, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as exporter,
    ):
        until(lambda: stored(handrail, project) > 0, "the first spans are there", within_s=30)
        with trouble(handrail):
            begun = count("export begins")
            # One comes due every 5 s.
            until(lambda: count("export begins") > begun, "an export meets the outage", within_s=15)
            if trouble is hanging_postgres:
                # Nothing happens that could be awaited: that it waits is what is shown, as long as exports are apart.
                time.sleep(5)
                assert count("export ends") < count("export begins"), "the export waits"
            elif trouble is not web_killed:
                until(lambda: count("Transient error") >= told_off, "the exporter is told to come back", within_s=15)
        out, _ = exporter.communicate(timeout=90)
    assert exporter.returncode == 0, says.read_text()
    until(lambda: stored(handrail, project) == int(out), f"{out} spans are there", within_s=10)


def stored(handrail: Instance, project: str) -> int:
    try:
        return ask(handrail, SPANS, project=project)[0][0]
    except Exception:
        return 0
