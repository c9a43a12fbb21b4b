"""The simulated fleet: it works, calls for people, reacts to what they do, and leaves nothing at work."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.docs.conftest import client, make_key
from tests.launcher.instance import ROOT, Instance, until

pytestmark = pytest.mark.xdist_group("docs instance")

ME = {"as": "operator@localhost"}
STOPPED = "stopped at a safe point and waits"
EFFECTS_OF_A_PAUSE = {
    STOPPED,
    "went on before it looked",
    "ended its work before it looked",
    "failed before it looked",
    "its work had ended",
}


@pytest.fixture
def api(instance: Instance) -> Iterator[httpx.Client]:
    with client(instance, make_key(instance, project="demo")) as talking:
        yield talking


def results(api: httpx.Client, path: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        api.get(f"/api/v1{path}", params={"limit": 100, **query}).raise_for_status().json()["results"]
    )
    return found


def said_by(api: httpx.Client, conversation_id: str, role: str) -> list[str]:
    messages = results(api, f"/conversations/{conversation_id}/messages")
    return [message["content"] for message in messages if message["role"] == role]


def one(api: httpx.Client, execution_id: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/api/v1/executions/{execution_id}").raise_for_status().json()
    return found


def somebody_is(api: httpx.Client, status: str) -> list[str]:
    """Who is first found in this state, by its id."""
    until(lambda: bool(results(api, "/executions", status=status)), status, within_s=150)
    return [each["id"] for each in results(api, "/executions", status=status)[:1]]


def whose_pause(api: httpx.Client, is_so: Callable[[dict[str, Any]], bool], what: str) -> str:
    """Whoever is paused first so that it is so of the pause, by its id."""
    paused: dict[str, None] = {}

    def found() -> list[str]:
        paused.update(dict.fromkeys(each["id"] for each in results(api, "/executions", status="paused")))
        return [each for each in paused if is_so(one(api, each)["commands"][0])]

    until(lambda: bool(found()), what, within_s=150)
    return found()[0]


def test_a_fleet_works_hands_over_goes_on_after_a_person_and_stops(instance: Instance, api: httpx.Client) -> None:
    address = f"http://127.0.0.1:{instance.port}"
    fleet = subprocess.Popen(
        [sys.executable, "manage.py", "demo", "--url", address], cwd=ROOT, env=instance.environment
    )
    try:
        until(lambda: len(results(api, "/executions", status="running")) >= 15, "a fleet at work")
        until(lambda: bool(results(api, "/queue", kind="chat")), "a handover")
        assert len({each["agent"] for each in results(api, "/executions")}) >= 7

        (item,) = results(api, "/queue", kind="chat")
        name = item["conversation_id"]
        asked = len(said_by(api, name, "user"))
        api.post(f"/api/v1/conversations/{name}/claim", json=ME).raise_for_status()
        reply = ME | {"role": "human", "content": "I am looking into it."}
        api.post(f"/api/v1/conversations/{name}/messages", json=reply).raise_for_status()
        until(lambda: len(said_by(api, name, "user")) == asked + 1, "the customer answers the person")

        back = ME | {"instruction": "Send the receipt by mail."}
        api.post(f"/api/v1/conversations/{name}/return", json=back).raise_for_status()
        until(lambda: api.get(f"/api/v1/conversations/{name}").json()["state"] == "finished", "the agent goes on")
        assert said_by(api, name, "assistant")[-1] == "I am back. Send the receipt by mail."

        # Who ends before its next heartbeat hears of no pause.
        heard = whose_pause(api, lambda pause: pause["delivered_at"] is not None, "somebody hears of a pause")
        until(lambda: one(api, heard)["status"] != "paused", "it goes on, or has ended")
        until(lambda: one(api, heard)["commands"][0]["effect"] != "", "what came of the pause")
        assert one(api, heard)["commands"][0]["effect"] in EFFECTS_OF_A_PAUSE

        paused = whose_pause(api, lambda pause: pause["effect"] == STOPPED, "somebody stops at a safe point")
        until(lambda: one(api, paused)["status"] != "paused", "it goes on")
        said = [(each["command"], each["delivered_by"], each["effect"]) for each in one(api, paused)["commands"]]
        assert said[0] == ("pause", "heartbeat", STOPPED)
        assert said[1][0] == "continue"

        (silent,) = somebody_is(api, "hitl_paused")
        assert one(api, silent)["attempt"] == 2
        api.post(f"/api/v1/executions/{silent}/retry", json={"note": "Once more."}).raise_for_status()
        until(lambda: (one(api, silent)["status"], one(api, silent)["attempt"]) == ("running", 3), "it begins anew")

        fleet.send_signal(signal.SIGTERM)
        assert fleet.wait(15) == 0
    finally:
        fleet.kill()
        fleet.wait()
    until(lambda: not results(api, "/executions", status=["pending", "running", "retrying"]), "nothing at work")
    assert "cancelled" in {each["status"] for each in results(api, "/executions")}


def test_a_fleet_ends_by_itself_after_its_time(instance: Instance, api: httpx.Client) -> None:
    command = [sys.executable, "manage.py", "demo", "--url", f"http://127.0.0.1:{instance.port}", "--seconds", "3"]
    done = subprocess.run(command, cwd=ROOT, env=instance.environment, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "The fleet has stopped.")
    assert results(api, "/executions")
    assert results(api, "/executions", status="running") == []
