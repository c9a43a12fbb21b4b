"""The examples of the documents, run as they stand there against a real instance."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest

from tests.docs.conftest import client, make_key
from tests.flows.running import address
from tests.launcher.instance import ROOT, Instance

pytestmark = pytest.mark.xdist_group("docs instance")

BLOCK = re.compile(r"^```(?P<language>\w+) (?P<mark>run|env)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
RECORDED = ROOT / "tests" / "contract" / "otlp" / "oi_anthropic" / "1.body.gz"


def blocks(document: str, language: str, mark: str) -> list[str]:
    found = BLOCK.finditer((ROOT / document).read_text())
    return [one["text"] for one in found if (one["language"], one["mark"]) == (language, mark)]


def run(instance: Instance, command: list[str], script: str, key: str) -> str:
    """What the script prints; the test fails with all that it said when the script does."""
    here = script.replace("http://localhost:8000", f"http://127.0.0.1:{instance.port}")
    given = {"HANDRAIL_API_KEY": key, "HANDRAIL_URL": address(instance), "PYTHONPATH": str(ROOT / "sdk" / "src")}
    environment = instance.environment | given
    done = subprocess.run(
        command, input=here, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def run_shell(instance: Instance, script: str, key: str) -> str:
    return run(instance, ["bash", "-euxo", "pipefail"], script, key)


@pytest.fixture(scope="module")
def key(instance: Instance) -> str:
    return make_key(instance, project="default")


def test_the_examples_of_the_api_run_in_one_shell(instance: Instance, key: str) -> None:
    script = "\n".join(blocks("docs/api.md", "sh", "run"))
    assert script.count("\nhr ") > 20
    run_shell(instance, script, key)
    with client(instance, key) as api:
        assert api.get("/api/v1/conversations/order-4711").json()["state"] == "ai_processing"
        assert api.get("/api/v1/executions", params={"run_id": "trip-7"}).json()["results"][0]["status"] == "completed"


def test_the_examples_of_the_agents_run_in_one_shell(instance: Instance, key: str) -> None:
    (script,) = blocks("docs/agents.md", "sh", "run")
    run_shell(instance, script, key)
    with client(instance, key) as api:
        auditor = api.get("/api/v1/agents/night/auditor").json()
    assert (auditor["applied"]["timeout_s"], auditor["expected_every_s"], auditor["running"]) == (60, 86400, 1)


def test_the_python_of_the_readme_records_a_priced_call(instance: Instance, key: str) -> None:
    (script,) = blocks("README.md", "python", "run")
    assert run(instance, [sys.executable, "-"], script, key) == ""
    with client(instance, key) as api:
        (work,) = api.get("/api/v1/executions", params={"search": "first try"}).json()["results"]
    assert (work["status"], work["output"], work["api_calls"]) == ("completed", {"answer": 42}, 1)
    assert float(work["cost_usd"]) > 0
    assert (work["progress"], work["message"]) == (50, "asking the model")


def test_the_curl_of_the_readme_answers_a_command(instance: Instance, key: str) -> None:
    (script,) = blocks("README.md", "sh", "run")
    assert '"command":"continue"' in run_shell(instance, script, key)


@pytest.mark.parametrize("document", ["README.md"])
def test_the_variables_for_opentelemetry_lead_an_exporter_to_us(instance: Instance, key: str, document: str) -> None:
    (script,) = blocks(document, "sh", "env")
    said = run_shell(instance, f"{script}\nenv", key)
    told = dict(line.split("=", 1) for line in said.splitlines() if line.startswith("OTEL_"))
    assert told["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"
    # As the specification of the exporters reads these variables.
    headers = dict(pair.split("=", 1) for pair in told["OTEL_EXPORTER_OTLP_HEADERS"].split(","))
    answer = httpx.post(
        f"{told['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/traces",
        content=gzip.decompress(Path(RECORDED).read_bytes()),
        headers={name: unquote(value) for name, value in headers.items()} | {"content-type": "application/x-protobuf"},
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-protobuf")


def test_every_block_that_is_marked_is_run() -> None:
    marked = {
        (str(path.relative_to(ROOT)), found["language"], found["mark"])
        for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for found in BLOCK.finditer(path.read_text())
    }
    assert marked == {
        ("README.md", "sh", "env"),
        ("README.md", "sh", "run"),
        ("README.md", "python", "run"),
        ("docs/api.md", "sh", "run"),
        ("docs/agents.md", "sh", "run"),
        ("docs/client.md", "python", "run"),
        # By tests/docs/test_supervise.py.
        ("docs/supervise.md", "sh", "run"),
        ("docs/supervise.md", "python", "run"),
    }
    assert os.access(RECORDED, os.R_OK)
