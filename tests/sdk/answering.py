"""A server whose answers to batches are the test's, and a client of it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import handrail
import httpx
from handrail._beats import Pace
from handrail._stand_in import until
from handrail.testing import Captured

WITHIN_S = 5
HANGS_AFTER_S = 20
QUICK = Pace(tick_s=0.01, beat_gap_s=0.01, linger_s=0.01)
Answering = Callable[[list[dict[str, Any]]], httpx.Response]


def taken(*rejected: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"accepted": 1, "duplicates": 0, "rejected": list(rejected)})


class Server:
    """Batches go to the first answer that is still in line, then to the last; executions are always well."""

    def __init__(self, *answers: Answering | int) -> None:
        self.answers = list(answers)
        self.batches: list[list[dict[str, Any]]] = []
        self.kept: list[dict[str, Any]] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/batch"):
            return httpx.Response(200, json={"command": "continue"})
        events = json.loads(request.content)["events"]
        self.batches.append(events)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, int):
            response = httpx.Response(answer, json={"detail": "no"}, headers={"retry-after": "0.05"})
        else:
            response = answer(events)
        if response.status_code == 200:
            refused = {one["index"] for one in response.json()["rejected"]}
            self.kept += [one for index, one in enumerate(events) if index not in refused]
        return response


@contextmanager
def client(server: Server, **settings: Any) -> Iterator[handrail.Client]:
    transport = httpx.MockTransport(server.handle)
    given = {"spool": "", "hangs_after_s": 0, "pace": QUICK, **settings}
    with handrail.Client(url="http://x", api_key="k", transport=transport, **given) as made:
        yield made


def tell(client: handrail.Client, count: int) -> None:
    with client.execution("clerk") as ex:
        for n in range(count):
            ex.call(model="m", input_tokens=n)


def effects(captured: Captured) -> list[tuple[str, str | None]]:
    """Each command and what came of it, when that is told of all."""
    until(lambda: all(one.effect for one in captured.commands), "what came of each is told", WITHIN_S)
    return [(one.command, one.effect) for one in captured.commands]


def over(act: Callable[[], object]) -> None:
    """Do it. Raises AssertionError when it has not ended in time: a test that hangs says nothing."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(HANGS_AFTER_S)
    assert not thread.is_alive(), f"it has not ended after {HANGS_AFTER_S} s"


def tokens(server: Server) -> list[int]:
    return [one["input_tokens"] for one in server.kept if one["type"] == "call"]
