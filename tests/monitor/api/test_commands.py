"""Commands over HTTP: heard by a heartbeat or as an event, acknowledged, and given to many at once."""

from typing import Any
from uuid import uuid4

import pytest
from django.db import connections
from django.test import Client

from monitor.models import Project
from tests.monitor.api.conftest import client_with, make_key, make_project
from tests.monitor.api.test_batch import batch_that_breaks_at

ROOT = "/api/v1/executions"
SHAPE = {
    "seq", "command", "reason", "actor", "attempt", "issued_at", "delivered_at", "delivered_by", "acknowledged_at",
    "effect", "outcome", "outcome_at",
}  # fmt: skip


@pytest.fixture
def client(project: Project) -> Client:
    return client_with(make_key(project)[1])


def call(client: Client, address: str, body: Any = None, *, status: int = 200) -> dict[str, Any]:
    answer = client.post(f"{ROOT}{address}", body or {}, content_type="application/json")
    assert answer.status_code == status, answer.content
    return answer.json()


def an_id(client: Client, **body: Any) -> str:
    return call(client, "", {"agent": "planner"} | body, status=201)["id"]


def commands(client: Client, one: str) -> list[dict[str, Any]]:
    return client.get(f"{ROOT}/{one}").json()["commands"]


def test_a_command_is_carried_by_a_heartbeat_and_acknowledged_with_its_effect(client: Client) -> None:
    one = an_id(client)
    assert call(client, f"/{one}/heartbeat")["command_seq"] is None
    call(client, f"/{one}/pause", {"note": "wait"})
    [given] = commands(client, one)
    assert set(given) == SHAPE
    assert (given["command"], given["reason"], given["actor"], given["attempt"]) == ("pause", "wait", "key:test", 1)
    assert (given["delivered_at"], given["delivered_by"], given["acknowledged_at"]) == (None, "", None)

    told = call(client, f"/{one}/heartbeat", {"attempt": 1})
    assert (told["command"], told["command_seq"]) == ("pause", given["seq"])
    heard = call(client, f"/{one}/acknowledge", {"seq": given["seq"], "effect": "stopped its work", "attempt": 1})
    assert (heard["seq"], heard["delivered_by"], heard["effect"]) == (given["seq"], "heartbeat", "stopped its work")
    assert heard["acknowledged_at"] >= heard["delivered_at"] >= heard["issued_at"]
    assert call(client, f"/{one}/acknowledge", {"seq": given["seq"], "effect": "something else"}) == heard
    assert commands(client, one) == [heard]


def test_a_heartbeat_may_acknowledge_and_an_unknown_number_does_it_no_harm(client: Client) -> None:
    one = an_id(client)
    call(client, f"/{one}/pause")
    seq = call(client, f"/{one}/heartbeat")["command_seq"]
    call(client, f"/{one}/heartbeat", {"acknowledged": seq, "effect": "waits"})
    call(client, f"/{one}/heartbeat", {"acknowledged": seq + 7})
    [heard] = commands(client, one)
    assert (heard["effect"], heard["acknowledged_at"] is None) == ("waits", False)


def test_reading_the_events_delivers_and_a_reader_without_ingest_does_not(client: Client, project: Project) -> None:
    one = an_id(client)
    call(client, f"/{one}/retry", {"note": "the network is back"})
    watcher = client_with(make_key(project, name="eyes", scopes=["read"])[1])
    [event] = watcher.get("/api/v1/agent-events", {"execution_id": one}).json()["events"]
    assert commands(client, one)[0]["delivered_at"] is None
    assert client.get("/api/v1/agent-events", {"execution_id": one}).json()["events"] == [event]
    [given] = commands(client, one)
    assert (given["seq"], given["delivered_by"]) == (event["seq"], "agent-events")
    assert event["data"].pop("retry_at") is not None
    assert event["data"] == {"command": "retry", "reason": "the network is back", "attempt": 2}
    # It stays the first time, whatever the agent hears later.
    call(client, f"/{one}/heartbeat", {"attempt": 1})
    assert commands(client, one) == [given]


def test_what_has_ended_still_acknowledges_and_a_strange_number_is_a_404(client: Client, project: Project) -> None:
    one, other = an_id(client), an_id(client)
    call(client, f"/{one}/cancel", {"note": "enough"})
    seq = call(client, f"/{one}/heartbeat")["command_seq"]
    assert call(client, f"/{one}/acknowledge", {"seq": seq})["acknowledged_at"] is not None
    assert (
        call(client, f"/{one}/acknowledge", {"seq": seq, "effect": "put the work down"})["effect"]
        == "put the work down"
    )
    for execution, number in ((one, seq + 1), (other, seq), (uuid4(), seq)):
        call(client, f"/{execution}/acknowledge", {"seq": number}, status=404)
    stranger = client_with(make_key(make_project("south"))[1])
    call(stranger, f"/{one}/acknowledge", {"seq": seq}, status=404)
    call(client, f"/{one}/acknowledge", {"seq": seq, "effect": "x" * 501}, status=400)


def test_many_are_commanded_at_once_and_each_has_its_own_result(client: Client) -> None:
    going, done, unknown = an_id(client), an_id(client), str(uuid4())
    call(client, f"/{done}/complete")
    results = call(client, "/commands", {"command": "pause", "ids": [going, done, unknown, going], "note": "wait"})
    assert results["results"] == [
        {"id": going, "done": True, "status": "paused", "detail": ""},
        {
            "id": done,
            "done": False,
            "status": "completed",
            "detail": "the execution is completed; it can't become paused.",
        },
        {"id": unknown, "done": False, "status": None, "detail": "There is no execution with this id."},
    ]
    assert [(c["command"], c["reason"]) for c in commands(client, going)] == [("pause", "wait")]


def test_what_is_left_when_the_database_goes_away_is_named(committed_db: None) -> None:
    project = make_project("north")
    client = client_with(make_key(project)[1])
    ids = [an_id(client) for _ in range(3)]
    answer = batch_that_breaks_at(
        ids[1],
        project.pk,
        lambda: client.post(f"{ROOT}/commands", {"command": "pause", "ids": ids}, content_type="application/json"),
    )
    connections.close_all()
    assert answer.status_code == 200, answer.content
    left = {"done": False, "status": None, "detail": "It was not tried: the database did not answer."}
    assert answer.json()["results"] == [
        {"id": ids[0], "done": True, "status": "paused", "detail": ""},
        {"id": ids[1], **left},
        {"id": ids[2], **left},
    ]
    assert [client.get(f"{ROOT}/{one}").json()["status"] for one in ids] == ["paused", "running", "running"]


def test_a_bulk_command_needs_the_scope_and_between_one_and_200_ids(client: Client, project: Project) -> None:
    one = an_id(client)
    agent = client_with(make_key(project, name="agent", scopes=["ingest", "read"])[1])
    call(agent, "/commands", {"command": "pause", "ids": [one]}, status=403)
    call(client, "/commands", {"command": "pause", "ids": []}, status=400)
    call(client, "/commands", {"command": "pause", "ids": [str(uuid4()) for _ in range(201)]}, status=400)
    call(client, "/commands", {"command": "complete", "ids": [one]}, status=400)
    assert client.get(f"{ROOT}/{one}").json()["status"] == "running"


def test_children_are_told_of_and_found_by_their_parent(client: Client) -> None:
    parent = an_id(client)
    first, second = an_id(client, parent_id=parent), an_id(client, parent_id=parent, agent="coder")
    call(client, f"/{first}/complete")
    assert client.get(f"{ROOT}/{parent}").json()["children"] == [
        {"id": first, "agent": "planner", "status": "completed"},
        {"id": second, "agent": "coder", "status": "running"},
    ]
    below = client.get(ROOT, {"parent_id": parent}).json()["results"]
    assert {one["id"] for one in below} == {first, second}


def test_a_child_of_a_cancelled_parent_is_born_cancelled_and_told_so(client: Client) -> None:
    parent = an_id(client)
    call(client, f"/{parent}/cancel", {"note": "not worth it"})
    child = call(client, "", {"agent": "coder", "parent_id": parent}, status=201)
    assert child["status"] == "cancelled"
    told = call(client, f"/{child['id']}/heartbeat", {"attempt": 1})
    assert (told["command"], told["reason"]) == ("cancel", "not worth it")
    assert told["command_seq"] == commands(client, child["id"])[0]["seq"]


def test_the_clock_of_progress_is_shown_and_zero_is_none(client: Client) -> None:
    made = call(client, "", {"agent": "planner", "stall_s": 300, "on_stall": "retry"}, status=201)
    assert (made["stall_s"], made["on_stall"], made["stalled_at"]) == (300, "retry", None)
    plain = call(client, "", {"agent": "planner", "stall_s": 0}, status=201)
    assert (plain["stall_s"], plain["on_stall"]) == (None, "warn")
    call(client, f"/{plain['id']}/heartbeat", {"progressing": False, "message": "waits for a lock"})
    assert client.get(f"{ROOT}/{plain['id']}").json()["stalled_at"] is not None
    told = call(client, f"/{made['id']}/heartbeat", {"progressing": False})
    assert (told["command"], told["status"], told["attempt"]) == ("retry", "retrying", 2)
    seen = client.get(f"{ROOT}/{made['id']}").json()
    assert (seen["verdict"], seen["error"]) == ("stalled", "alive but says that it makes no progress")
    assert told["command_seq"] == seen["commands"][0]["seq"]
