"""The lines that an empty project shows, each run as it stands there, with the key that the page makes."""

import gzip
import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest

from tests.flows.running import api, ask, make_key, manage, sign_in
from tests.launcher.instance import ROOT, Instance

BOX = re.compile(r'<pre class="code" id="code-(?P<name>\w+)"[^>]*>(?P<lines>.*?)</pre>', re.DOTALL)
PROJECT = "first-lines"
OPERATOR = "first@example.org"
RECORDED = ROOT / "tests/contract/otlp/oi_anthropic/1.body.gz"


@pytest.fixture(scope="module")
def shown(handrail: Instance) -> dict[str, str]:
    """What stands in each tab, after the key was made."""
    password = manage(handrail, "create_operator", OPERATOR, "--role", "operator", "--project", PROJECT)
    with sign_in(handrail, OPERATOR, password) as browser:
        page = browser.get("/").raise_for_status().text
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert token is not None
        made = browser.post("/first-run/key", data={"csrfmiddlewaretoken": token[1]}).raise_for_status().text
    return {box["name"]: html.unescape(re.sub(r"<[^>]+>", "", box["lines"])) for box in BOX.finditer(made)}


@pytest.fixture(scope="module")
def reading(handrail: Instance) -> Iterator[httpx.Client]:
    with api(handrail, make_key(handrail, PROJECT, scopes="read")) as client:
        yield client


def run(command: list[str], lines: str, folder: Path) -> str:
    """What it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "sdk/src"), "HANDRAIL_SPOOL": str(folder)}
    done = subprocess.run(command, input=lines, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_there_are_four_ways(shown: dict[str, str]) -> None:
    assert list(shown) == ["otel", "python", "js", "curl"]
    assert [name for name, lines in shown.items() if "YOUR_KEY" in lines] == []


@pytest.mark.parametrize(
    ("name", "command"),
    [("python", [sys.executable, "-"]), ("js", ["node", "--input-type=module", "-"]), ("curl", ["bash", "-eu"])],
)
def test_the_lines_make_an_execution(
    shown: dict[str, str], reading: httpx.Client, tmp_path: Path, name: str, command: list[str]
) -> None:
    before = {one["id"] for one in reading.get("/api/v1/executions").json()["results"]}
    run(command, shown[name], tmp_path)
    (work,) = (one for one in reading.get("/api/v1/executions").json()["results"] if one["id"] not in before)
    assert (work["agent"], work["task"]) == ("my-agent", "first try")
    if name != "curl":
        assert (work["status"], work["output"], work["api_calls"]) == ("completed", {"answer": 42}, 1)


def test_the_variables_lead_an_exporter_here(handrail: Instance, shown: dict[str, str], tmp_path: Path) -> None:
    # In the place of an agent that would read them.
    said = run(["bash", "-eu"], f"python() {{ env; }}\n{shown['otel']}", tmp_path)
    told = dict(line.split("=", 1) for line in said.splitlines() if line.startswith("OTEL_"))
    assert told["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"
    name, value = told["OTEL_EXPORTER_OTLP_HEADERS"].split("=", 1)
    # As the specification has it, and exporters read it.
    value = unquote(value)
    answer = httpx.post(
        f"{told['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/traces",
        content=gzip.decompress(RECORDED.read_bytes()),
        headers={name: value, "content-type": "application/x-protobuf"},
    )
    assert answer.status_code == 200
    spans = "SELECT count(*) FROM monitor_span JOIN monitor_project p ON p.id = project_id WHERE p.name = %(project)s"
    assert ask(handrail, f"{spans} AND provider = 'anthropic'", project=PROJECT) != [(0,)]
