"""A database that runs out of room: people are warned, doors shut in time, and open again by themselves."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from monitor import registration, room
from monitor.models import Execution, LedgerEntry, Project, RoomLevel, RoomState, Span, StateChange, Subject
from monitor.registration import NewExecution
from monitor.tenancy import crossing, tenant
from tests.monitor.api.conftest import client_with, make_key
from tests.monitor.spending import NOW, a_project, close_connection

Fill = Callable[[float], None]
SECOND = timedelta(seconds=1)
JSON = "application/json"


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> Fill:
    """Fills the disk of the database up to a share."""
    disk = SimpleNamespace(f_blocks=1000, f_bfree=400, f_bavail=400, f_frsize=2**20)
    settings.DISK_PATH = tmp_path
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    monkeypatch.setattr(room, "gate", room.Gate())

    def to(share: float) -> None:
        disk.f_bfree = disk.f_bavail = round(1000 * (1 - share))
        room.gate = room.Gate()

    return to


def told() -> list[tuple[str, str]]:
    with crossing():
        found = StateChange.objects.filter(subject=Subject.ROOM).order_by("id")
        return list(found.values_list("from_state", "to_state"))


@pytest.mark.parametrize(
    ("share", "was", "means"),
    [
        (0.79, "roomy", "roomy"),
        (0.80, "roomy", "warned"),
        (0.78, "warned", "warned"),
        (0.77, "warned", "warned"),
        (0.769, "warned", "roomy"),
        (0.95, "warned", "stopped"),
        (0.949, "warned", "warned"),
        (0.92, "stopped", "stopped"),
        (0.919, "stopped", "warned"),
        (0.5, "stopped", "roomy"),
        (1.0, "roomy", "stopped"),
    ],
)
def test_a_level_ends_only_when_more_is_free_than_when_it_began(share: float, was: str, means: str) -> None:
    assert room.level(share, was) == means


def test_each_level_is_told_once_in_both_directions(db: None, fill: Fill) -> None:
    a_project()
    for share, steps in ((0.5, 0), (0.81, 1), (0.9, 0), (0.96, 1), (0.93, 0), (0.5, 2), (0.5, 0), (0.99, 2)):
        fill(share)
        assert room.look(now=NOW) == steps, share
    assert told() == [
        ("roomy", "warned"),
        ("warned", "stopped"),
        ("stopped", "warned"),
        ("warned", "roomy"),
        ("roomy", "warned"),
        ("warned", "stopped"),
    ]
    with crossing():
        state = RoomState.objects.get()
    assert (state.level, state.used_bytes, state.total_bytes) == (RoomLevel.STOPPED, 990 * 2**20, 1000 * 2**20)


def test_what_nobody_could_be_told_is_told_when_there_is_a_project(db: None, fill: Fill) -> None:
    fill(0.96)
    with crossing():
        Project.objects.all().delete()
    assert room.look(now=NOW) == 0
    a_project()
    assert room.look(now=NOW) == 2


def test_of_many_who_look_at_once_one_tells(committed_db: None, fill: Fill) -> None:
    a_project()
    fill(0.85)

    def look(_: int) -> int:
        try:
            return room.look(now=NOW)
        finally:
            close_connection()

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(look, range(8))) == 1
    assert told() == [("roomy", "warned")]


def test_nothing_is_measured_where_nothing_can_be_seen(db: None, settings: Any) -> None:
    settings.DISK_PATH, settings.DB_MAX_BYTES = None, 0
    assert room.measure() is None
    assert room.look(now=NOW) == 0
    assert not room.Gate().is_shut(now=NOW)


def test_a_database_elsewhere_is_held_to_its_limit(db: None, settings: Any) -> None:
    a_project()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        size = cursor.fetchone()[0]
    settings.DISK_PATH, settings.DB_MAX_BYTES = None, round(size / 0.85)
    found = room.measure()
    assert found is not None
    assert (round(found.share, 2), found.is_disk) == (0.85, False)
    assert room.look(now=NOW) == 1
    gate = room.Gate()
    assert not gate.is_shut(now=NOW)
    settings.DB_MAX_BYTES = size
    # The size is asked for twice a minute; the limit stands in the settings of the process.
    assert gate.is_shut(now=NOW + 2 * SECOND)


def test_a_process_looks_again_every_two_seconds(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(0.96)
    gate, looks = room.gate, []
    seen = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: looks.append(path) or seen(path))
    for n in range(10):
        assert gate.is_shut(now=NOW + n * SECOND / 10)
    assert len(looks) == 1
    fill(0.94)
    # What was shut opens only with more room.
    assert gate.is_shut(now=NOW + 3 * SECOND)
    fill(0.91)
    assert gate.is_shut(now=NOW + 4 * SECOND)
    assert not gate.is_shut(now=NOW + 5 * SECOND)
    assert len(looks) == 3


def test_a_process_that_begins_goes_by_what_was_told(db: None, fill: Fill) -> None:
    a_project()
    for share, is_shut in ((0.94, False), (0.96, True), (0.93, True), (0.91, False), (0.93, False)):
        fill(share)  # With a gate that has seen nothing yet.
        assert room.gate.is_shut(now=NOW) == is_shut, share
        room.look(now=NOW)


@pytest.mark.parametrize("limit", [0, 10**15])
def test_a_disk_that_is_not_seen_for_a_moment_changes_nothing(
    db: None, fill: Fill, settings: Any, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    settings.DB_MAX_BYTES = limit
    fill(0.96)
    gate = room.gate
    assert gate.is_shut(now=NOW)

    def is_gone(_: Path) -> None:
        raise OSError

    monkeypatch.setattr(os, "statvfs", is_gone)
    assert gate.is_shut(now=NOW + 3 * SECOND)


def a_trace() -> dict[str, Any]:
    at = int(datetime.now(UTC).timestamp() * 1e9)
    span = {"traceId": uuid4().hex, "spanId": "00000000000000a1", "name": "chat", "kind": 1}
    times = {"startTimeUnixNano": str(at - 10**9), "endTimeUnixNano": str(at)}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span | times]}]}]}


@pytest.fixture
def project(db: None) -> Project:
    return a_project()


@pytest.fixture
def client(project: Project) -> Client:
    return client_with(make_key(project)[1])


GROWS = [
    ("/v1/traces", a_trace()),
    ("/api/public/otel/v1/traces", a_trace()),
    ("/v1/logs", {"resourceLogs": []}),
    ("/api/v1/batch", {"events": [{"type": "call", "model": "gpt-4o", "input_tokens": 1}]}),
    ("/api/v1/calls", {"model": "gpt-4o", "input_tokens": 1}),
    ("/api/v1/executions", {"agent": "planner"}),
    ("/api/v1/conversations", {"conversation_id": "talk"}),
]


@pytest.mark.parametrize(("path", "body"), GROWS, ids=[path for path, _ in GROWS])
def test_what_grows_is_refused_while_nothing_is_left_and_taken_again_afterwards(
    client: Client, project: Project, fill: Fill, path: str, body: dict[str, Any]
) -> None:
    fill(0.96)
    refused = client.post(path, body, content_type=JSON)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["detail"].startswith("The disk of the database is nearly full.")
    with tenant(project.pk):
        assert not Span.objects.exists()
        assert not LedgerEntry.objects.exists()
        assert not Execution.objects.exists()
    fill(0.9)
    assert client.post(path, body, content_type=JSON).status_code in (200, 201)


def test_a_stranger_is_not_told_how_full_the_disk_is(project: Project, fill: Fill) -> None:
    fill(0.96)
    assert Client().post("/v1/traces", a_trace(), content_type=JSON).status_code == 401


def registered(project: Project, **said: Any) -> str:
    with tenant(project.pk):
        work, _ = registration.register(
            project.pk, NewExecution(agent="planner", **said), now=datetime.now(UTC), actor="key:test"
        )
        return str(work.id)


def states(project: Project) -> dict[str, str]:
    with tenant(project.pk):
        return {str(name): state for name, state in Execution.objects.values_list("id", "status")}


def test_what_ends_beats_or_asks_for_a_person_works_to_the_last(client: Client, project: Project, fill: Fill) -> None:
    beats, ends, fails = (registered(project) for _ in range(3))
    assert client.post("/api/v1/conversations", {"conversation_id": "talk"}, content_type=JSON).status_code == 201
    fill(0.99)
    for path, body in (
        (f"/api/v1/executions/{beats}/heartbeat", {}),
        (f"/api/v1/executions/{ends}/complete", {}),
        (f"/api/v1/executions/{fails}/fail", {"error": "HTTP 500", "retryable": False}),
        (f"/api/v1/executions/{beats}/cancel", {}),
        ("/api/v1/conversations/talk/messages", {"role": "user", "content": "Let me speak to a human"}),
    ):
        answer = client.post(path, body, content_type=JSON)
        assert answer.status_code in (200, 201), (path, answer.content)
    assert client.get("/api/v1/executions").status_code == 200
    assert client.get("/ready").status_code == 200
    assert states(project) == {beats: "cancelled", ends: "completed", fails: "failed"}


def test_of_a_batch_the_ends_are_taken_and_the_rest_is_to_be_sent_again(
    client: Client, project: Project, fill: Fill
) -> None:
    work = registered(project)
    fill(0.96)
    events = [
        {"type": "call", "model": "gpt-4o", "input_tokens": 1},
        {"type": "execution.completed", "execution_id": work},
        {"type": "execution.started", "agent": "planner"},
        {"type": "unheard of"},
        {"type": "message", "conversation_id": "talk", "role": "user", "content": "A person, please"},
    ]
    answer = client.post("/api/v1/batch", {"events": events}, content_type=JSON).json()
    assert answer["accepted"] == 2
    assert [(one["index"], one["retryable"]) for one in answer["rejected"]] == [(0, True), (2, True), (3, False)]
    assert answer["rejected"][0]["errors"] == [
        {"field": "event", "message": "was not stored: the disk of the database is nearly full"}
    ]
    fill(0.5)
    again = [events[one["index"]] for one in answer["rejected"] if one["retryable"]]
    assert client.post("/api/v1/batch", {"events": again}, content_type=JSON).json()["accepted"] == 2


def test_of_a_batch_what_ends_comes_again_with_the_beginning_that_found_no_room(
    client: Client, project: Project, fill: Fill
) -> None:
    fill(0.96)
    known, done, failed, tracked = registered(project), *(str(uuid4()) for _ in range(3))
    no_room = "was not stored: the disk of the database is nearly full", True
    no_beginning = "was not stored: the beginning of its execution was not either", True
    told: list[tuple[dict[str, Any], tuple[str, bool] | None]] = [
        ({"type": "execution.started", "agent": "planner", "id": known}, no_room),
        ({"type": "execution.started", "agent": "planner", "id": done}, no_room),
        ({"type": "execution.started", "agent": "planner", "id": failed}, no_room),
        ({"type": "execution.tracked", "agent": "planner", "id": tracked, "status": "cancelled"}, no_room),
        ({"type": "execution.heartbeat", "execution_id": tracked}, no_beginning),
        ({"type": "execution.heartbeat", "execution_id": done}, no_beginning),
        ({"type": "execution.completed", "execution_id": done}, no_beginning),
        ({"type": "execution.failed", "execution_id": failed, "error": "", "retryable": False}, no_beginning),
        ({"type": "execution.completed", "execution_id": known}, None),
        ({"type": "execution.completed", "execution_id": str(uuid4())}, ("There is no execution with this id.", False)),
    ]
    answer = client.post("/api/v1/batch", {"events": [event for event, _ in told]}, content_type=JSON).json()
    refused = {one["index"]: (one["errors"][0]["message"], one["retryable"]) for one in answer["rejected"]}
    assert refused == {index: why for index, (_, why) in enumerate(told) if why}
    assert (answer["accepted"], states(project)) == (1, {known: "completed"})
    fill(0.5)
    again = [told[one["index"]][0] for one in answer["rejected"] if one["retryable"]]
    answer = client.post("/api/v1/batch", {"events": again}, content_type=JSON).json()
    assert [one for one in answer["rejected"] if one["retryable"]] == []
    assert states(project) == {known: "completed", done: "completed", failed: "failed", tracked: "cancelled"}


def test_protobuf_is_refused_in_the_same_words(client: Client, fill: Fill) -> None:
    fill(0.96)
    body = trace_service_pb2.ExportTraceServiceRequest().SerializeToString()
    answer = client.post("/v1/traces", body, content_type="application/x-protobuf")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
