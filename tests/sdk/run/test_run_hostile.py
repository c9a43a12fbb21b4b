"""Whatever answers in the server's place, the command runs, and its end is that of the supervisor."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.sdk.run.stand_in import StandIn
from tests.sdk.run.supervised import Supervised

Supervise = Callable[..., Supervised]
ONCE = ("--retries", "0", "--grace", "1")


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.end()


@pytest.mark.parametrize(
    "registered",
    [
        {"timeout_s": None, "heartbeat_s": "x", "max_retries": [1]},
        {"timeout_s": 10**400, "heartbeat_s": 0, "max_retries": -1},
        {"timeout_s": -5, "heartbeat_s": 1e308, "max_retries": {}},
    ],
)
def test_odd_clocks_are_none(supervise: Supervise, stand_in: StandIn, registered: dict[str, Any]) -> None:
    stand_in.answers["executions"] = [(201, registered)]
    code, out, err = supervise("sh", "-c", "sleep 0.5; echo done", options=ONCE, url=stand_in.url, key="k").ends()
    assert (code, out) == (0, b"done\n"), err
    assert len(stand_in.told("heartbeat")) < 10
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    "order",
    [
        {"command": "dance", "status": "running", "attempt": 1},
        {"command": "retry", "status": "retrying", "attempt": 10**400, "retry_at": "9999-12-31T23:59:59Z"},
        {"command": "cancel", "status": ["cancelled"], "attempt": "x"},
        {"command": ["cancel"], "status": "cancelled", "attempt": 1},
    ],
)
def test_an_odd_order_is_none(supervise: Supervise, stand_in: StandIn, order: dict[str, Any]) -> None:
    stand_in.order = order
    code, out, err = supervise("sh", "-c", "sleep 0.5; echo done", options=ONCE, url=stand_in.url, key="k").ends()
    assert (code, out) == (0, b"done\n"), err
    assert b"takes no heartbeats" in err
    assert b"Traceback" not in err


def test_a_command_without_a_name_is_not_found(supervise: Supervise) -> None:
    code, _, err = supervise("", options=ONCE).ends()
    assert code == 127
    assert b"could not be started" in err
    assert b"Traceback" not in err
