"""A disk that is really full: agents are refused, an exporter holds on, and nothing is lost once there is room."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from launcher.child import Child
from launcher.web import SERVE
from monitor.models import Span
from monitor.tenancy import tenant
from tests.flows.clientprograms import interpreter
from tests.launcher.instance import free_port, until
from tests.monitor.api.conftest import make_key
from tests.monitor.spending import a_project

MB = 2**20
# One span by a real exporter with its own limits: ten seconds for all attempts.
EXPORTER = """
import sys
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
with provider.get_tracer("shop").start_as_current_span("while the disk is full"):
    pass
provider.force_flush()
provider.shutdown()
"""


class Disk:
    """A file system of 16 MiB that only the web process sees, filled from outside by way of that process."""

    def __init__(self, child: Child, folder: Path) -> None:
        self._ballast = Path(f"/proc/{child.pid}/root{folder}/ballast")

    def fill(self, share: float) -> None:
        self._ballast.write_bytes(b"x" * round(16 * MB * share))

    def empty(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def sdk() -> Path:
    """A Python with a real exporter."""
    return interpreter()


@pytest.fixture
def small(committed_db: None, tmp_path: Path) -> Iterator[tuple[str, Disk]]:
    """A web process whose database is said to lie on a small disk; its address, and that disk."""
    folder, port = tmp_path / "disk", free_port()
    folder.mkdir()
    mount = f"mount -t tmpfs -o size=16m tmpfs {folder}"
    if shutil.which("unshare") is None or _can_mount(mount) != 0:
        pytest.skip("no file system can be mounted here without rights; NO FULL DISK WAS TRIED")
    web = f"exec {sys.executable} -W ignore {' '.join(SERVE)} config.asgi:application --port {port} --log-level warning"
    env = os.environ | {"HANDRAIL_DISK_PATH": str(folder), "HANDRAIL_STANDBY": "0", "HANDRAIL_DB_POOL": "5"}
    # `exec` twice, so that the child is the web process itself and its view of the disk can be reached.
    child = Child(["unshare", "-rm", "sh", "-c", f"{mount} && {web}"], env=env, grace_s=5)
    try:
        until(lambda: _answers(port), "the web answers")
        yield f"http://127.0.0.1:{port}", Disk(child, folder)
    finally:
        child.stop()


def _can_mount(mount: str) -> int:
    return subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_an_exporter_holds_on_until_there_is_room(sdk: Path, small: tuple[str, Disk], tmp_path: Path) -> None:
    url, disk = small
    project = a_project()
    key = make_key(project)[1]
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30) as client:
        _tell(client, disk, sdk, key, tmp_path / "exporter.log")
    with tenant(project.pk):
        assert list(Span.objects.values_list("name", flat=True)) == ["while the disk is full"]


def _tell(client: httpx.Client, disk: Disk, sdk: Path, key: str, log: Path) -> None:
    def start() -> int:
        return client.post("/api/v1/executions", json={"agent": "planner"}).status_code

    running = client.post("/api/v1/executions", json={"agent": "planner"}).json()["id"]
    disk.fill(0.97)
    until(lambda: start() == 503, "the door shuts")
    refused = client.post("/api/v1/calls", json={"model": "gpt-4o", "input_tokens": 1})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert client.post(f"/api/v1/executions/{running}/heartbeat", json={}).json()["command"] == "continue"
    assert client.post(f"/api/v1/executions/{running}/complete", json={}).status_code == 200
    assert client.get("/sign-in").status_code == 200

    with log.open("w") as told:
        exporter = subprocess.Popen(
            [str(sdk), "-c", EXPORTER],
            env=os.environ
            | {
                "OTEL_EXPORTER_OTLP_ENDPOINT": str(client.base_url),
                "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {key}",
                "NO_PROXY": "127.0.0.1",
            },
            stderr=told,
        )
        try:
            until(lambda: "retrying" in log.read_text(), "the exporter was refused and tries again")
            disk.empty()
            assert exporter.wait(120) == 0
        finally:
            exporter.kill()
            exporter.wait()
    assert start() == 201
