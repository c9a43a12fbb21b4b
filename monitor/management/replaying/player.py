"""A recorded conversation, told to Handrail by HTTP as its agent would have told it."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx

from monitor.management.replaying.formats import Recording, ToolCall, Turn

# Ids follow from the recording's name, so that playing it again adds nothing.
NAMESPACE = uuid.UUID("6f2b1a52-3d0e-5a64-9d0c-0b7f5f0c4a11")
EVENTS_A_REQUEST = 500
# A server that starts again after a crash first replays its log.
PATIENCE_S = 90.0
LONGEST_PAUSE_S = 5.0


class Refused(RuntimeError):
    """Handrail did not take what a recording says."""


@dataclass(frozen=True)
class Outcome:
    """What playing one recording did."""

    added: int
    repeated: int
    handed_over: bool


@dataclass(frozen=True)
class Player:
    """Plays recordings into one project; `speed` 0 sends as fast as the server takes them."""

    client: httpx.Client
    speed: float = 0.0

    def play(self, recording: Recording, *, starts_at: datetime) -> Outcome:
        """Tell everything that was recorded; what is known already is repeated and changes nothing."""
        execution_id = uuid.uuid5(NAMESPACE, recording.name)
        known = self._send("GET", f"/api/v1/executions/{execution_id}", accept=(200, 404))
        if known.status_code == 200:
            # Times belong to the first telling: the same event must not come back with another time.
            starts_at = datetime.fromisoformat(known.json()["started_at"])
        story = Story(recording, execution_id, starts_at)
        self._send("POST", "/api/v1/conversations", json=story.conversation(), accept=(200, 201))
        added, repeated = self._tell([story.started() if self.speed else story.tracked()])
        handed_over = False
        pending: list[dict[str, Any]] = []
        last_ms = 0
        for turn, events in story.turns():
            if self.speed:
                time.sleep((turn.at_ms - last_ms) / 1000 / self.speed)
                last_ms = turn.at_ms
            pending += events
            transfer = next((call for call in turn.tool_calls if call.is_transfer), None)
            hands_over = transfer is not None and not handed_over
            if hands_over or self.speed or len(pending) >= EVENTS_A_REQUEST:
                added, repeated = _plus((added, repeated), self._tell(pending))
                pending = []
            if transfer is not None and hands_over:
                path = f"/api/v1/conversations/{story.conversation_id}/handover"
                self._send("POST", path, json=story.handover(transfer), accept=(200, 201))
                handed_over = True
        if self.speed:
            pending.append(story.ended())
        added, repeated = _plus((added, repeated), self._tell(pending))
        return Outcome(added, repeated, handed_over)

    def _tell(self, events: list[dict[str, Any]]) -> tuple[int, int]:
        """Tell the events in order, again what the server had to leave; how many were new to it and how many known."""
        told = 0, 0
        while events:
            answer = self._send("POST", "/api/v1/batch", json={"events": events}, accept=(200,)).json()
            told = _plus(told, (answer["accepted"], answer["duplicates"]))
            for one in answer["rejected"]:
                if not one["retryable"]:
                    raise Refused(f"{events[one['index']]['type']}: {one['errors']}")
            events = [events[one["index"]] for one in answer["rejected"]]
        return told

    def _send(self, method: str, path: str, *, accept: tuple[int, ...], json: Any = None) -> httpx.Response:
        """One request, tried again while the server is away or busy; raises Refused for any other answer."""
        deadline_s = time.monotonic() + PATIENCE_S
        pause_s = 0.1
        while time.monotonic() < deadline_s:
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                answer = self.client.request(method, path, json=json)
            except httpx.TransportError:
                time.sleep(pause_s)
                continue
            if answer.status_code in accept:
                return answer
            if answer.status_code not in (429, 502, 503):
                raise Refused(f"{method} {path} answered {answer.status_code}: {answer.text[:500]}")
            time.sleep(min(float(answer.headers.get("retry-after", 1)), LONGEST_PAUSE_S))
        raise Refused(f"{method} {path}: no answer within {PATIENCE_S:.0f} s")


@dataclass(frozen=True)
class Story:
    """The recording as bodies of the public API."""

    recording: Recording
    execution_id: uuid.UUID
    starts_at: datetime

    @property
    def conversation_id(self) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{self.recording.name}/conversation"))

    def at(self, offset_ms: int) -> str:
        return (self.starts_at + timedelta(milliseconds=offset_ms)).isoformat()

    def conversation(self) -> dict[str, Any]:
        customer = {"id": self.recording.customer_id, "name": self.recording.customer}
        return {
            "conversation_id": self.conversation_id,
            "agent": self.recording.agent,
            "channel": "recorded",
            "customer": {key: value for key, value in customer.items() if value},
            "metadata": {"recording": self.recording.name},
        }

    def started(self) -> dict[str, Any]:
        return {
            "type": "execution.started",
            "id": str(self.execution_id),
            "agent": self.recording.agent,
            "run_id": self.recording.run,
            "task": self.recording.task,
            "model": self.recording.model,
            "conversation_id": self.conversation_id,
            "department": "Support",
            "started_at": self.at(0),
            "metadata": {"recording": self.recording.name, **self.recording.metadata},
        }

    def tracked(self) -> dict[str, Any]:
        """The execution as work already done, told first: its start is what a second telling keeps to."""
        ended = {"type": "execution.tracked", "ended_at": self.at(self.recording.duration_ms)}
        if self.recording.failed:
            return self.started() | ended | {"status": "failed", "error": self.recording.ending}
        return self.started() | ended | {"status": "completed", "output": {"ending": self.recording.ending}}

    def ended(self) -> dict[str, Any]:
        """The end of an execution that was told as it went on."""
        body = {"execution_id": str(self.execution_id)}
        if self.recording.failed:
            return body | {"type": "execution.failed", "error": self.recording.ending, "retryable": False}
        return body | {"type": "execution.completed", "output": {"ending": self.recording.ending}}

    def handover(self, transfer: ToolCall) -> dict[str, Any]:
        arguments = transfer.arguments if isinstance(transfer.arguments, dict) else {}
        return {
            "reason": "The agent asked for a person",
            "summary": str(arguments.get("summary", ""))[:2000],
            "context": {"tool": transfer.tool, "tool_call_id": transfer.id, "execution_id": str(self.execution_id)},
        }

    def turns(self) -> Iterator[tuple[Turn, list[dict[str, Any]]]]:
        """Each recorded turn with the events that tell it."""
        results = {turn.tool_call_id: turn for turn in self.recording.turns if turn.role == "tool"}
        before_ms = 0
        for number, turn in enumerate(self.recording.turns):
            events = []
            if turn.usage is not None:
                events.append(self._call(number, turn, latency_ms=turn.at_ms - before_ms))
            if turn.content and turn.role in ("user", "assistant"):
                events.append(self._message(number, turn))
            for place, call in enumerate(turn.tool_calls):
                events.append(self._tool_call(number, place, turn, call, results.get(call.id)))
            before_ms = turn.at_ms
            yield turn, events

    def _common(self, number: int, what: str, turn: Turn) -> dict[str, Any]:
        # The simulated customer is a model too; its calls cost money but are not the agent's.
        simulated = turn.role == "user"
        return {
            "id": str(uuid.uuid5(NAMESPACE, f"{self.recording.name}/{number}/{what}")),
            "execution_id": str(self.execution_id),
            "run_id": self.recording.run,
            "conversation_id": self.conversation_id,
            "agent": "customer-simulator" if simulated else self.recording.agent,
            "department": "Support",
            "occurred_at": self.at(turn.at_ms),
        }

    def _call(self, number: int, turn: Turn, *, latency_ms: int) -> dict[str, Any]:
        usage = turn.usage
        assert usage is not None
        lasted_ms = max(latency_ms, 0)
        call = self._common(number, "call", turn) | {
            "type": "call",
            "model": usage.model,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_read_tokens": usage.cache_read_tokens,
            "latency_ms": lasted_ms,
        }
        return call if usage.cost_usd is None else call | {"cost_usd": format(usage.cost_usd, "f")}

    def _tool_call(self, number: int, place: int, turn: Turn, call: ToolCall, result: Turn | None) -> dict[str, Any]:
        lasted_ms = max(result.at_ms - turn.at_ms, 0) if result and self._keeps_times else 0
        return self._common(number, f"tool/{place}", turn) | {
            "type": "tool_call",
            "occurred_at": self.at(turn.at_ms + lasted_ms),
            "tool": call.tool,
            "tool_call_id": call.id,
            "arguments": call.arguments,
            "output": result.content if result else None,
            "success": not (result and result.failed),
            "error": result.content[:500] if result and result.failed else "",
            "duration_ms": lasted_ms,
        }

    def _message(self, number: int, turn: Turn) -> dict[str, Any]:
        common = self._common(number, "message", turn)
        return {
            "type": "message",
            "client_id": common["id"],
            "conversation_id": self.conversation_id,
            "occurred_at": common["occurred_at"],
            "role": turn.role,
            "author": self.recording.agent if turn.role == "assistant" else self.recording.customer,
            "content": turn.content,
        }

    @property
    def _keeps_times(self) -> bool:
        return self.recording.run.startswith("tau2")


def _plus(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    return left[0] + right[0], left[1] + right[1]
