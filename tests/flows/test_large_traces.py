"""Exports as large as exporters make them: long prompts, as many spans at once as the exporter holds."""

import gzip
import os
import subprocess
from pathlib import Path
from uuid import uuid4

import httpx
from django.conf import settings

from tests.flows import clientprograms
from tests.flows.running import address, ask, make_key
from tests.launcher.instance import Instance
from tests.monitor.otlp_builders import as_protobuf, export, json_span

OF_PROJECT = "project_id = (SELECT id FROM monitor_project WHERE name = %(project)s)"
# As many as an exporter sends at once unless told otherwise.
BATCH, LETTERS = 512, 20_000


def test_a_batch_of_long_prompts_is_stored_whole(handrail: Instance) -> None:
    program = [str(clientprograms.interpreter()), str(Path(__file__).with_name("exporter.py"))]
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": address(handrail),
        # Never seen before: even a stranger's first body may be as large.
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {make_key(handrail, 'long', scopes='ingest')}",
        # It sends when it holds a batch, or at its end.
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [*program, "1", str(BATCH), str(LETTERS)], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    made = int(done.stdout)
    # More than five megabytes, which is the most that other doors take.
    assert settings.MAX_BODY_BYTES < made * LETTERS < settings.MAX_OTLP_BYTES
    stored = ask(
        handrail,
        "SELECT count(*)::int, min(length(input)), max(length(input)), count(DISTINCT xmin::text)::int"
        f" FROM monitor_span WHERE {OF_PROJECT}",
        project="long",
    )
    assert stored == [(made, LETTERS, LETTERS, 1)]


def test_a_larger_export_is_refused_and_says_how_much_it_may_be(handrail: Instance) -> None:
    key = make_key(handrail, "larger", scopes="ingest")
    body = as_protobuf(export(json_span(trace=uuid4().hex, attributes={"input.value": "x" * settings.MAX_OTLP_BYTES})))
    headers = {"authorization": f"Bearer {key}", "content-type": "application/x-protobuf"}
    with httpx.Client(base_url=address(handrail), headers=headers, timeout=60) as client:
        for path in ("/v1/traces", "/v1/logs", "/v1/metrics", "/api/public/otel/v1/traces"):
            for sent in (
                client.post(path, content=body),
                client.post(path, content=iter([body])),
                client.post(path, content=gzip.compress(body, 1), headers={"content-encoding": "gzip"}),
            ):
                assert sent.status_code == 413, (path, sent.text)
                assert sent.json()["detail"] == "A body may have 16,777,216 bytes, counted after decompression."
    assert ask(handrail, f"SELECT count(*)::int FROM monitor_span WHERE {OF_PROJECT}", project="larger") == [(0,)]
