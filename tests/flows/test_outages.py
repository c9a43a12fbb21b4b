"""Servers that are away, emptied or silent: ingest says so at once and in time, and real exporters lose nothing."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import redis

from launcher.places import Places
from launcher.postgres import Postgres
from tests.flows import clientprograms
from tests.flows.running import address, ask, make_key
from tests.launcher.instance import Instance, send, send_all, until
from tests.monitor.otlp_builders import as_protobuf, export, json_span

PROTOBUF = {"content-type": "application/x-protobuf"}
SPANS = "SELECT count(*) FROM monitor_span WHERE project_id = (SELECT id FROM monitor_project WHERE name = %(project)s)"
# Exporters give up after 10 s, and what they waited for is lost; a second is for a slow machine.
IN_TIME_S = 9.0


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
def client(handrail: Instance) -> Iterator[httpx.Client]:
    # Made once: a client takes longer to make than an answer.
    headers = {"authorization": f"Bearer {make_key(handrail, 'outages')}"}
    with httpx.Client(base_url=address(handrail), headers=headers, timeout=60) as made:
        yield made


def a_body() -> bytes:
    return as_protobuf(export(json_span(trace=uuid4().hex)))


def doors() -> list[tuple[str, bytes, dict[str, str]]]:
    call = b'{"model":"gpt-4o","input_tokens":1,"output_tokens":1}'
    in_json = {"content-type": "application/json"}
    return [
        ("/v1/traces", a_body(), PROTOBUF),
        ("/api/v1/calls", call, in_json),
        ("/api/v1/batch", b'{"events":[{"type":"call",' + call[1:] + b"]}", in_json),
    ]


def tell(client: httpx.Client, door: tuple[str, bytes, dict[str, str]]) -> tuple[int, float, httpx.Response]:
    """The status, the seconds that it took, and the answer."""
    path, body, headers = door
    began_s = time.monotonic()
    answer = client.post(path, content=body, headers=headers)
    return answer.status_code, time.monotonic() - began_s, answer


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


def test_without_valkey_everything_is_taken(handrail: Instance, client: httpx.Client) -> None:
    def all_taken() -> None:
        for door in doors():
            status, lasted_s, answer = tell(client, door)
            assert status in (200, 201), answer.text
            assert lasted_s < IN_TIME_S

    valkey = redis.Redis(unix_socket_path=str(Places(handrail.home).sockets / "valkey.sock"))
    all_taken()
    valkey.flushall()
    all_taken()
    with away(handrail, "valkey"):
        all_taken()
    with hanging(handrail, "valkey-server unixsocket"):
        all_taken()
    all_taken()


@pytest.mark.parametrize("trouble", ["away", "silent"])
def test_without_postgres_every_ingest_door_says_so_in_time(
    handrail: Instance, client: httpx.Client, trouble: str
) -> None:
    web = handrail.pid_of("web")
    for door in doors():
        assert tell(client, door)[0] in (200, 201)
    threads = threads_of(web)
    with away(handrail, "postgres") if trouble == "away" else hanging(handrail, "postgres"):
        with ThreadPoolExecutor(30) as senders:
            answers = list(senders.map(lambda door: tell(client, door), doors()[:1] * 60))
            answers += list(senders.map(lambda door: tell(client, door), doors() * 10))
        assert {status for status, _, _ in answers} <= {429, 503}, {status for status, *_ in answers}
        assert max(lasted_s for _, lasted_s, one in answers if one.url.path == "/v1/traces") < IN_TIME_S
        for _, _, answer in answers:
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
        assert threads_of(web) <= threads + 20, "threads pile up"
        assert httpx.get(f"{address(handrail)}/health", timeout=5).status_code == 200
    began_s = time.monotonic()
    until(lambda: tell(client, doors()[0])[0] == 200, "ingest goes on", within_s=30)
    assert handrail.pid_of("web") == web
    until(lambda: all(tell(client, door)[0] in (200, 201) for door in doors()), "all doors are open")
    assert time.monotonic() - began_s < 30


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


def hanging_postgres(handrail: Instance) -> AbstractContextManager[None]:
    return hanging(handrail, "postgres")


@pytest.mark.parametrize("trouble", [refusing, hanging_postgres, web_killed])
def test_a_real_exporter_outlasts_an_outage_as_it_comes(
    handrail: Instance, trouble: Callable[[Instance], AbstractContextManager[None]]
) -> None:
    project = f"exporter-{trouble.__name__}"
    key = make_key(handrail, project, scopes="ingest")
    program = [str(clientprograms.interpreter()), str(Path(__file__).with_name("exporter.py")), "12", "100"]
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": address(handrail),
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {key}",
        "NO_PROXY": "127.0.0.1",
    }
    with subprocess.Popen(
        program, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as exporter:
        until(lambda: stored(handrail, project) > 0, "the first spans are there", within_s=30)
        with trouble(handrail):
            # So long that amid it an export comes due: one is every 5 s.
            time.sleep(6)
        out, err = exporter.communicate(timeout=90)
    assert exporter.returncode == 0, err
    assert trouble is not refusing or "Transient error" in err, "the outage met no export"
    until(lambda: stored(handrail, project) == int(out), f"{out} spans are there", within_s=10)


def stored(handrail: Instance, project: str) -> int:
    try:
        return ask(handrail, SPANS, project=project)[0][0]
    except Exception:
        return 0
