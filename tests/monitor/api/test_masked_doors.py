"""Every door of ingest masks what a project wants masked, before anything is stored; conversations stay readable."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.management import call_command
from django.test import Client
from psycopg import sql

from monitor import loopwatch
from monitor.api import openapi
from monitor.models import Loop, Message, Project
from monitor.tenancy import tenant
from tests.conftest import TABLES
from tests.monitor.api.conftest import client_with, make_key, make_project
from tests.monitor.fleets import an_execution
from tests.monitor.otlp_builders import as_json, as_protobuf, export, json_span, log, logs_export
from tests.plugin import servers

PII = {
    "[email]": "ann.secret@example.org",
    "[phone]": "+49 170 7654321",
    "[card]": "4111 1111 1111 1111",
    "[iban]": "DE89 3704 0044 0532 0130 00",
    "[ssn]": "078-05-1120",
    "[secret]": "sk-proj-abcdefghijklmnopqrstuv",
    "[ip]": "203.0.113.77",
}
TEXT = "; ".join(PII.values())
DEEP = {"note": TEXT, TEXT: [TEXT, {"deeper": json.dumps({"text": TEXT})}]}
EXECUTION = {"agent": "clerk", "task": TEXT, "inputs": DEEP, "metadata": DEEP}
EVENTS: list[dict[str, Any]] = [
    {"type": "call", "model": "gpt-4o", "success": False, "error": TEXT},
    {"type": "tool_call", "tool": "mail", "arguments": DEEP, "output": TEXT, "success": False, "error": TEXT},
    {"type": "operation", "agent": "clerk", "operation": "sort", "duration_ms": 1, "metadata": DEEP},
    {"type": "step", "agent": "clerk", "success": True, "name": TEXT[:200], "input": DEEP, "output": TEXT},
    {"type": "execution.started", "timeout_s": 60, **EXECUTION},
    {"type": "execution.tracked", "status": "failed", "output": DEEP, "error": TEXT, **EXECUTION},
]
SPAN = json_span(
    name=f"mail {TEXT}",
    attributes={
        "input.value": TEXT,
        "output.value": json.dumps(DEEP),
        "user.id": PII["[email]"],
        "other": TEXT,
        "nested": DEEP,
        "gen_ai.workflow.name": TEXT,
    },
    events=[("noted", 1, {"text": TEXT}), ("exception", 2, {"exception.message": TEXT})],
    status={"code": 2, "message": TEXT},
)
LOGS = logs_export(
    log("gen_ai.user.message", {"content": TEXT}),
    log("gen_ai.choice", {"message": {"content": json.dumps(DEEP)}}),
)
METRICS = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": TEXT, "description": TEXT}]}]}]}
JSON, PROTOBUF, LINES = "application/json", "application/x-protobuf", "application/x-ndjson"

# What customers and people say to each other has to arrive as it was said.
VERBATIM = {
    ("post", "/api/v1/conversations"),
    ("post", "/api/v1/conversations/{conversation}/messages"),
    ("post", "/api/v1/conversations/{conversation}/handover"),
    ("post", "/api/v1/conversations/{conversation}/finish"),
}


def told(one: str) -> dict[tuple[str, str], list[tuple[str, bytes]]]:
    """By door, what is sent there about the execution `one`, as media type and body."""

    def as_bodies(*bodies: dict[str, Any]) -> list[tuple[str, bytes]]:
        return [(JSON, json.dumps(body).encode()) for body in bodies]

    beat = {"type": "execution.heartbeat", "execution_id": one, "message": TEXT, "effect": TEXT}
    events = [*EVENTS, beat]
    spans, logs = export(SPAN), LOGS
    execution = "/api/v1/executions/{execution_id}"
    return {
        ("post", "/v1/traces"): [(JSON, as_json(spans)), (PROTOBUF, as_protobuf(export(SPAN | {"spanId": "07" * 8})))],
        ("post", "/api/public/otel/v1/traces"): [(JSON, as_json(export(SPAN | {"spanId": "08" * 8})))],
        ("post", "/v1/logs"): [(JSON, as_json(logs)), (PROTOBUF, as_protobuf(logs))],
        ("post", "/v1/metrics"): as_bodies(METRICS),
        ("post", "/api/v1/batch"): [
            *as_bodies({"events": events}),
            (LINES, b"\n".join(json.dumps(event).encode() for event in events)),
        ],
        ("post", "/api/v1/calls"): as_bodies({"model": "gpt-4o", "success": False, "error": TEXT}),
        ("post", "/api/v1/executions"): as_bodies(EXECUTION),
        ("post", f"{execution}/heartbeat"): as_bodies({"message": TEXT, "acknowledged": 1, "effect": TEXT}),
        ("post", f"{execution}/acknowledge"): as_bodies({"seq": 1, "effect": TEXT}),
        ("post", f"{execution}/fail"): as_bodies({"error": TEXT, "retryable": True}),
        ("post", f"{execution}/complete"): as_bodies({"output": DEEP}),
        ("post", "/api/v1/alerts"): as_bodies(
            {"title": TEXT[:200], "level": "warning", "type": "custom", "message": TEXT, "data": DEEP}
        ),
    }


@pytest.fixture
def masked(committed_db: None) -> Project:
    project = make_project("north")
    call_command("project", "north", "--mask-pii", "on", "--mask-ips", "on")
    return project


def everything() -> Iterator[tuple[str, str]]:
    """Every row of every table, as text."""
    with psycopg.connect(servers.url("postgres", servers.database)) as superuser:
        for (table,) in superuser.execute(TABLES).fetchall():
            for (row,) in superuser.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(table))):
                yield table, row


def send_all(client: Client, project: Project) -> None:
    execution = an_execution(project.pk)
    for (_, path), bodies in told(str(execution)).items():
        for kind, body in bodies:
            answer = client.post(path.format(execution_id=execution), body, content_type=kind)
            assert answer.status_code in (200, 201, 404), (path, answer.content)
            assert answer.status_code != 404 or path.endswith("acknowledge")
            if kind == PROTOBUF:
                assert answer.content == b"", answer.content
            else:
                assert b"rejected" not in answer.content or answer.json()["rejected"] == [], answer.content


def test_every_door_of_ingest_is_walked_here() -> None:
    doors = {
        (call.method, call.path) for call in openapi.calls() if "ingest" in call.contract.scope and call.method != "get"
    }
    assert told(str(uuid4())).keys() | VERBATIM == doors
    assert not told(str(uuid4())).keys() & VERBATIM


def test_nothing_personal_is_stored_anywhere(masked: Project) -> None:
    send_all(client_with(make_key(masked)[1]), masked)
    rows = list(everything())
    found = {(table, kind) for table, row in rows for kind, words in PII.items() if words in row}
    assert found == set()
    for table in ("monitor_span", "monitor_spanlog", "monitor_execution", "alerts_alert"):
        text = " ".join(row for name, row in rows if name == table)
        assert all(mask in text for mask in PII), table


def test_without_the_switch_everything_is_stored_as_it_came(committed_db: None) -> None:
    project = make_project("north")
    send_all(client_with(make_key(project)[1]), project)
    tables = {table for table, row in everything() if PII["[email]"] in row}
    assert tables >= {"monitor_span", "monitor_spanlog", "monitor_execution", "alerts_alert"}


def test_conversations_stay_as_they_were_said(masked: Project) -> None:
    client = client_with(make_key(masked)[1])
    said = {"type": "message", "conversation_id": "talk", "role": "user", "content": TEXT}
    opened = {"conversation_id": "talk", "agent": "clerk", "customer": {"email": PII["[email]"]}}
    assert client.post("/api/v1/conversations", opened, content_type=JSON).status_code == 201
    assert client.post("/api/v1/batch", {"events": [said]}, content_type=JSON).json()["accepted"] == 1
    with tenant(masked.pk):
        assert Message.objects.get().content == TEXT


def test_a_repeat_is_one_also_when_masking_began_meanwhile(committed_db: None) -> None:
    project = make_project("north")
    client = client_with(make_key(project)[1])
    calls = [EVENTS[n] | {"id": str(uuid4())} for n in range(4)]
    alone = {"id": str(uuid4()), "model": "gpt-4o", "success": False, "error": TEXT}
    once = client.post("/api/v1/batch", {"events": calls}, content_type=JSON).json()
    assert client.post("/api/v1/calls", alone, content_type=JSON).status_code == 201
    assert client.post("/v1/traces", as_json(export(SPAN)), content_type=JSON).json() == {}
    call_command("project", "north", "--mask-pii", "on")
    again = client.post("/api/v1/batch", {"events": calls}, content_type=JSON).json()
    assert (once["accepted"], again["accepted"], again["duplicates"]) == (4, 0, 4)
    assert client.post("/api/v1/calls", alone, content_type=JSON).status_code == 200
    assert client.post("/v1/traces", as_json(export(SPAN)), content_type=JSON).json() == {}
    assert sum(table == "monitor_span" for table, _ in everything()) == 6


def test_calls_that_look_alike_when_masked_are_no_loop(masked: Project) -> None:
    client = client_with(make_key(masked)[1])
    begin = datetime.now(UTC) - timedelta(seconds=60)

    def mail(*names: str) -> list[Loop]:
        trace = uuid4().hex
        events = [
            {
                "type": "tool_call",
                "tool": "send_mail",
                "agent": "clerk",
                "trace_id": trace,
                "arguments": {"to": f"{name}@example.org", "subject": "Your order has left"},
                "occurred_at": (begin + timedelta(seconds=n)).isoformat(),
            }
            for n, name in enumerate(names)
        ]
        assert client.post("/api/v1/batch", {"events": events}, content_type=JSON).json()["accepted"] == len(names)
        loopwatch.look(now=datetime.now(UTC))
        with tenant(masked.pk):
            return list(Loop.objects.all())

    assert mail("ann", "bob", "eve", "joe") == []
    [loop] = mail("ann", "ann", "ann")
    assert (loop.calls, loop.cycle) == (
        3,
        [{"tool": "send_mail", "arguments": '{"subject":"Your order has left","to":"[email]"}'}],
    )
    assert not [row for _, row in everything() if "example.org" in row]


def test_nor_are_those_whose_arguments_come_in_log_records(masked: Project) -> None:
    client = client_with(make_key(masked)[1])

    def mail(*names: str) -> int:
        trace, begin_ms = uuid4().hex, round(datetime.now(UTC).timestamp() * 1000) - 60_000
        spans, records = [], []
        for n, name in enumerate(names):
            at_ns = (begin_ms + n * 1000) * 10**6
            said = {"gen_ai.tool.name": "send_mail", "gen_ai.operation.name": "execute_tool"}
            one = json_span(trace=trace, span=n + 1, attributes=said)
            spans.append(one | {"startTimeUnixNano": str(at_ns), "endTimeUnixNano": str(at_ns + 10**6)})
            arguments = {"gen_ai.tool.call.arguments": {"to": f"{name}@example.org"}}
            records.append(log("gen_ai.tool.call", trace=trace, span=n + 1, attributes=arguments))
        for path, body in (("/v1/traces", export(*spans)), ("/v1/logs", logs_export(*records))):
            assert client.post(path, as_json(body), content_type=JSON).json() == {}
        loopwatch.look(now=datetime.now(UTC))
        with tenant(masked.pk):
            return Loop.objects.count()

    assert mail("ann", "bob", "eve", "joe") == 0
    assert mail("ann", "ann", "ann") == 1
    assert not [row for _, row in everything() if "example.org" in row]
