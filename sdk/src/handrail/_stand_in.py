"""A server in memory that plays the lifecycle of executions by the rules of the real one. For tests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx

ENDED = ("completed", "failed", "timeout", "cancelled")
LONGEST_POLL_S = 0.2


@dataclass
class Execution:
    """An execution as the server knows it."""

    id: str
    agent: str
    said: dict[str, Any]
    status: str = "running"
    attempt: int = 1
    max_retries: int = 3
    progress: float | None = None
    message: str = ""
    progressing: bool = True
    output: Any = None
    error: str = ""
    retry_at: datetime | None = None
    beats: int = 0
    #: States it has been in, oldest first.
    states: list[str] = field(default_factory=lambda: ["running"])
    command: str = ""
    reason: str = ""
    seq: int | None = None

    def move(self, status: str) -> None:
        self.status = status
        self.states.append(status)


@dataclass
class Given:
    """A command, and what the program made of it."""

    seq: int
    execution_id: str
    command: str
    reason: str
    effect: str | None = None


class Refusal(Exception):
    """`said` are further members of the answer."""

    def __init__(self, status: int, detail: str, **said: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.said = said


class StandIn:
    """Answers requests as the server would; `is_away` as if it were not there."""

    def __init__(self, *, backoff_s: float) -> None:
        self.executions: dict[str, Execution] = {}
        self.events: list[dict[str, Any]] = []
        self.commands: list[Given] = []
        self.requests: list[tuple[str, str]] = []
        self.is_away = False
        self._backoff_s = backoff_s
        self._known: set[str] = set()
        self._lock = threading.RLock()

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.is_away:
            raise httpx.ConnectError("the server is away", request=request)
        self.requests.append((request.method, request.url.path))
        body = json.loads(request.content) if request.content else {}
        path = request.url.path.split("/")[3:]
        try:
            if path == ["batch"]:
                return self._json(self._batch(body["events"]))
            if path == ["agent-events"]:
                return self._json(self._poll(dict(request.url.params)))
            if len(path) == 3 and path[0] == "executions":
                with self._lock:
                    return self._json(self._about(path[1], path[2], body))
            raise Refusal(404, "There is nothing here.")
        except Refusal as refusal:
            body = {"status": refusal.status, "detail": str(refusal), **refusal.said}
            return self._json(body, refusal.status)

    def order(self, execution_id: str, command: str, reason: str) -> None:
        """What a person does with a button."""
        with self._lock:
            one = self._get(execution_id)
            if one.status in ENDED:
                raise ValueError(f"the execution is {one.status}")
            told = command
            if command == "cancel":
                one.move("cancelled")
            elif command == "pause":
                one.move("paused")
            elif command == "resume":
                one.move("running")
                told = "continue"
            else:
                self.give_up(execution_id)
            self._command(one, told, reason or f"{command} by a person")

    def give_up(self, execution_id: str) -> None:
        """What a clock does: the next attempt is due, and the one at work hears of it when it asks."""
        with self._lock:
            one = self._get(execution_id)
            one.attempt += 1
            one.retry_at = _now()
            one.move("retrying")

    def _command(self, one: Execution, command: str, reason: str) -> None:
        given = Given(len(self.commands) + 1, one.id, command, reason)
        self.commands.append(given)
        one.command, one.reason, one.seq = command, reason, given.seq

    def _batch(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        answer: dict[str, Any] = {"accepted": 0, "duplicates": 0, "rejected": []}
        # As the real one: executions first, then what is reported of them.
        order = sorted(range(len(events)), key=lambda place: not events[place]["type"].startswith("execution."))
        for index in order:
            try:
                with self._lock:
                    answer["accepted" if self._take(events[index]) else "duplicates"] += 1
            except Refusal as refusal:
                errors = [{"field": "event", "message": str(refusal)}]
                answer["rejected"].append({"index": index, "errors": errors, "retryable": False})
        return answer

    def _take(self, event: dict[str, Any]) -> bool:
        kind = event["type"]
        identity = event.get("id") or event.get("client_id")
        if kind in ("execution.started", "execution.tracked"):
            if event["id"] in self.executions:
                return False
            one = Execution(event["id"], event["agent"], event, max_retries=event.get("max_retries", 3))
            if kind == "execution.tracked":
                one.status, one.output, one.states = event["status"], event.get("output"), [event["status"]]
            self.executions[one.id] = one
        elif kind == "execution.heartbeat":
            self._beat(self._get(event["execution_id"]), event)
        elif kind == "execution.completed":
            self._complete(self._get(event["execution_id"]), event)
        elif kind == "execution.failed":
            self._fail(self._get(event["execution_id"]), event)
        elif identity in self._known:
            return False
        self._known.add(str(identity))
        self.events.append(event)
        return True

    def _about(self, execution_id: str, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        one = self._get(execution_id)
        if verb == "heartbeat":
            return self._beat(one, body)
        if verb == "complete":
            self._complete(one, body)
        elif verb == "fail":
            self.events.append({"type": "execution.failed", "execution_id": execution_id, **body})
            self._fail(one, body)
        elif verb == "acknowledge":
            return self._acknowledge(one, body)
        else:
            raise Refusal(404, "There is nothing here.")
        return self._shown(one)

    def _beat(self, one: Execution, body: dict[str, Any]) -> dict[str, Any]:
        one.beats += 1
        attempt = body.get("attempt", one.attempt)
        if one.status in ENDED:
            return self._shown(one, "cancel")
        if attempt != one.attempt:
            return self._shown(one, "retry")
        for name in ("progress", "message", "progressing"):
            if name in body:
                setattr(one, name, body[name])
        if one.status == "retrying":
            one.move("running")
        return self._shown(one, "continue" if one.status == "running" else "pause")

    def _complete(self, one: Execution, body: dict[str, Any]) -> None:
        self._may_end(one, body)
        one.output = body.get("output")
        one.move("completed")

    def _fail(self, one: Execution, body: dict[str, Any]) -> None:
        self._may_end(one, body)
        one.error = body.get("error", "")
        if not body.get("retryable", True):
            one.move("failed")
        elif one.attempt <= one.max_retries:
            one.attempt += 1
            one.retry_at = _now() + timedelta(seconds=self._backoff_s)
            one.move("retrying")
        else:
            one.move("hitl_paused")

    def _may_end(self, one: Execution, body: dict[str, Any]) -> None:
        said = {"state": one.status, "attempt": one.attempt}
        if one.status in (*ENDED, "hitl_paused"):
            raise Refusal(409, f"the execution is {one.status}", **said)
        if body.get("attempt", one.attempt) != one.attempt:
            raise Refusal(409, f"attempt {body['attempt']} was given up", **said)

    def _acknowledge(self, one: Execution, body: dict[str, Any]) -> dict[str, Any]:
        for given in self.commands:
            if given.seq == body["seq"] and given.execution_id == one.id:
                given.effect = given.effect or body.get("effect", "")
                return {"seq": given.seq, "command": given.command, "effect": given.effect}
        raise Refusal(404, "There is no such command.")

    def _poll(self, query: dict[str, str]) -> dict[str, Any]:
        until_s = time.monotonic() + min(float(query.get("wait", 0)), LONGEST_POLL_S)
        after, wanted = int(query.get("after", 0)), query.get("execution_id")
        while True:
            found = [one for one in self.commands if one.seq > after and wanted in (None, one.execution_id)]
            if found or time.monotonic() >= until_s:
                events = [{"seq": one.seq, "kind": "command", "data": {"command": one.command}} for one in found]
                return {"events": events, "cursor": found[-1].seq if found else after}
            time.sleep(0.01)

    def _get(self, execution_id: str) -> Execution:
        if execution_id not in self.executions:
            raise Refusal(404, "There is no execution with this id.")
        return self.executions[execution_id]

    def _shown(self, one: Execution, command: str = "") -> dict[str, Any]:
        is_running = one.status == "running"
        return {
            "id": one.id,
            "agent": one.agent,
            "status": one.status,
            "attempt": one.attempt,
            "command": command,
            "reason": one.reason,
            "command_seq": one.seq,
            "retry_at": one.retry_at.isoformat() if one.status == "retrying" and one.retry_at else None,
            "deadline_at": (_now() + timedelta(seconds=45)).isoformat() if is_running else None,
        }

    def _json(self, body: Any, status: int = 200) -> httpx.Response:
        return httpx.Response(status, json=body)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def until(true: Callable[[], bool], what: str, within_s: float) -> None:
    """Raises AssertionError when it does not come true."""
    end_s = time.monotonic() + within_s
    while not true():
        if time.monotonic() > end_s:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(0.005)
