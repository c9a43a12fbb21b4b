"""Instrumented programs inside of an execution of the client: one execution, and each of its calls counted once."""

import json
import os
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.flows import clientprograms
from tests.flows.running import address, api, ask, make_key
from tests.flows.test_real_clients import TEST_MODEL, priced, total
from tests.launcher.instance import ROOT, Instance

# The program reports by its instrumentation; where that tells the provider's ids, the client then reports the chat
# calls once more.
WRAPPED = """
import handrail, json, runpy, sys
with handrail.execution("caseworker", run_id="beside", task="A day's work", timeout_s=3600) as ex:
    runpy.run_path(sys.argv[1], run_name="__main__")
    for line in open(sys.argv[2]):
        one = json.loads(line)
        tells_ids = "pydantic_ai" in sys.argv[1]
        if tells_ids and one["status"] == 200 and one["kind"] == "chat" and one.get("usage_sent", True):
            tokens = {name: one[name] for name in ("input_tokens", "output_tokens")}
            tokens["cache_read_tokens"] = one["cached_tokens"]
            ex.call(model=one["model"], response_id="chatcmpl-" + one["response_id"], **tokens)
assert handrail.flush(30)
print(ex.id)
"""
SPANS = """
SELECT count(*), count(*) FILTER (WHERE execution_id IS NULL), count(DISTINCT trace_id) FROM monitor_span
 WHERE project_id = (SELECT id FROM monitor_project WHERE name = %(project)s)
"""


def run(name: str, instance: Instance, key: str, folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The id of the execution around the program, and what its model server served."""
    path, python = clientprograms.program(name), clientprograms.interpreter()
    with clientprograms.model_server(folder) as (models, truth):
        environment = os.environ | {
            "FAKE_URL": models,
            "OTLP_ENDPOINT": address(instance),
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {key}",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT / "sdk/src"),
            "HANDRAIL_URL": address(instance),
            "HANDRAIL_API_KEY": key,
            "HANDRAIL_SPOOL": str(folder / "spool"),
        }
        done = subprocess.run(
            [str(python), "-c", WRAPPED, str(path), str(truth)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.split()[-1], [json.loads(line) for line in truth.read_text().splitlines()]


@pytest.mark.parametrize("name", ["oi_openai", "pydantic_ai_native"])
def test_one_execution_and_each_call_once(handrail: Instance, tmp_path: Path, name: str) -> None:
    project = f"beside-{name}"
    key = make_key(handrail, project, scopes="ingest,read")
    identity, truth = run(name, handrail, key, tmp_path)
    served = [one for one in truth if one["status"] == 200]
    # This model server gives the same answer the same id, so that within one trace it is one call.
    told = [one for one in served if one.get("usage_sent", True)]
    if name.startswith("pydantic"):
        told = list({one["response_id"]: one for one in told}.values())

    [(spans, strays, _)] = ask(handrail, SPANS, project=project)
    assert spans > 0
    assert strays == 0

    with api(handrail, key) as client:
        works = client.get("/api/v1/executions?limit=500").raise_for_status().json()["results"]
        sums = client.get("/api/v1/costs/summary?group_by=run").raise_for_status().json()
    (work,) = (one for one in works if not one["from_spans"])
    assert (work["id"], work["status"], work["agent"]) == (identity, "completed", "caseworker")
    # Agents within agents are executions below it.
    family = {one["id"] for one in works}
    assert all(one["parent_id"] in family for one in works if one["from_spans"])

    assert [one["group"] for one in sums["groups"]] == ["beside"]
    rounds = TEST_MODEL["rounds"] if name.startswith("pydantic") else 0
    known = sums["summary"]
    assert known["input_tokens"] == total(told, "input_tokens") + rounds * TEST_MODEL["input_tokens"]
    assert known["output_tokens"] == total(told, "output_tokens") + rounds * TEST_MODEL["output_tokens"]
    assert Decimal(known["computed_cost_usd"]) == priced(told)
    assert sum(Decimal(one["cost_usd"]) for one in works) == Decimal(known["total_cost_usd"])
