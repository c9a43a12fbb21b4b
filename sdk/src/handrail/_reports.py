"""What an execution reports beside its own state: calls of models and tools, steps, operations, messages."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Union

from handrail import _ids, _spans
from handrail._plain import plain, text, words

if TYPE_CHECKING:
    from handrail._client import Client

log = logging.getLogger("handrail")
Usd = Union[Decimal, str, float, int]
MOST_ERROR = 20_000


def _whole(ms: float | None) -> int | None:
    """Whole milliseconds; None of what is no number."""
    try:
        return None if ms is None else int(ms)
    except (TypeError, ValueError, OverflowError):
        log.info("handrail: a time is a number of milliseconds, not %r", type(ms))
        return None


class Timed:
    """Something that takes time: measured by `with` or `async with`, told when the block is left."""

    def __init__(self, reports: Reports, said: dict[str, Any], duration: str) -> None:
        self._reports = reports
        self._said = said
        self._duration = duration
        self._began_s = 0.0
        #: What came of it; set it within the block.
        self.output: Any = None

    def __enter__(self) -> Timed:
        self._began_s = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ms = int((time.perf_counter() - self._began_s) * 1000)
        outcome: dict[str, Any] = {self._duration: ms, "success": error is None, "output": self.output}
        if error is not None:
            outcome["error"] = words(error)
        self._reports._report({**self._said, **outcome})

    async def __aenter__(self) -> Timed:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class Reports:
    """Everything here takes microseconds, never waits and never raises for what the server thinks of it."""

    id: str
    agent: str
    run_id: str
    conversation_id: str
    _client: Client

    def call(
        self,
        *,
        model: str,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        provider: str | None = None,
        cache_read_tokens: int | None = None,
        cache_write_tokens: int | None = None,
        reasoning_tokens: int | None = None,
        audio_input_tokens: int | None = None,
        audio_output_tokens: int | None = None,
        images: int | None = None,
        cost_usd: Usd | None = None,
        latency_ms: int | None = None,
        success: bool = True,
        error: BaseException | str | None = None,
        response_id: str | None = None,
    ) -> None:
        """A call of a model. Input tokens are all input, what came from a cache included.

        Where an instrumentation tells of the same call by the provider's `response_id`, the same id here keeps it
        from being counted twice.
        """
        said = {
            "type": "call",
            "model": model,
            "provider": provider,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cache_read_tokens": cache_read_tokens,
            "cache_write_tokens": cache_write_tokens,
            "reasoning_tokens": reasoning_tokens,
            "audio_input_tokens": audio_input_tokens,
            "audio_output_tokens": audio_output_tokens,
            "images": images,
            "cost_usd": None if cost_usd is None else str(cost_usd),
            "latency_ms": _whole(latency_ms),
            "success": success and error is None,
            "error": error,
            "response_id": response_id,
        }
        self._report(said)

    def tool(
        self,
        name: str,
        arguments: Any = None,
        *,
        tool_call_id: str | None = None,
        cost_usd: Usd | None = None,
        cached: bool | None = None,
        output: Any = None,
        error: BaseException | str | None = None,
        duration_ms: int | None = None,
    ) -> Timed:
        """A call of a tool. `with ex.tool("search", {"q": …}) as tool:` measures it; set `tool.output`.

        With `duration_ms`, `output` or `error` it is over, and told at once.
        """
        said = {
            "type": "tool_call",
            "tool": name,
            "arguments": arguments,
            "tool_call_id": tool_call_id,
            "cost_usd": None if cost_usd is None else str(cost_usd),
            "cached": cached,
        }
        is_over = not (output is None and error is None and duration_ms is None)
        return self._timed(said, "duration_ms", is_over, duration_ms, error, output=output)

    def step(
        self,
        name: str,
        *,
        index: int | None = None,
        input: Any = None,
        output: Any = None,
        mode: str | None = None,
        declared_mode: str | None = None,
        required_human: bool | None = None,
        required_compensation: bool | None = None,
        success: bool | None = None,
        duration_ms: int | None = None,
    ) -> Timed:
        """A step of the work. A block measures it; with `success` or `duration_ms` it is over, and told at once."""
        said = {
            "type": "step",
            "name": name,
            "index": index,
            "input": input,
            "mode": mode,
            "declared_mode": declared_mode,
            "required_human": required_human,
            "required_compensation": required_compensation,
        }
        is_over = not (success is None and duration_ms is None)
        error = "" if success is False else None
        return self._timed(said, "tool_duration_ms", is_over, duration_ms, error, output=output)

    def operation(
        self,
        name: str,
        *,
        duration_ms: int | None = None,
        success: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Timed:
        """A named operation. A block measures it; with `duration_ms` it is over, and told at once."""
        said = {"type": "operation", "operation": name, "metadata": metadata}
        error = "" if success is False else None
        return self._timed(said, "duration_ms", duration_ms is not None, duration_ms, error)

    def message(
        self, content: str, *, role: str = "assistant", conversation_id: str | None = None, **more: Any
    ) -> None:
        """Something said in the conversation; by the agent, unless `role` is `user`, `system` or `tool`."""
        conversation = conversation_id or self.conversation_id
        if not conversation:
            log.warning("handrail: a message needs a conversation_id, its own or the execution's")
            return
        said = {"type": "message", "conversation_id": conversation, "role": role, "content": content, **more}
        self._report(said)

    def _timed(
        self,
        said: dict[str, Any],
        duration: str,
        is_over: bool,
        duration_ms: int | None,
        error: BaseException | str | None,
        **outcome: Any,
    ) -> Timed:
        if is_over:
            ms = 0 if duration_ms is None and said["type"] == "operation" else _whole(duration_ms)
            self._report({**said, **outcome, duration: ms, "success": error is None, "error": error or None})
        else:
            self._touch()
        return Timed(self, said, duration)

    def _report(self, said: dict[str, Any]) -> None:
        """Take a bounded copy and go on. What has happened is told before a command is raised."""
        if self._client.is_active:
            try:
                self._client._tell(self._event(said))
            except Exception:
                log.exception("handrail: a %s could not be told", said.get("type"))
        self._touch()

    def _event(self, said: dict[str, Any]) -> dict[str, Any]:
        event = {name: value for name, value in said.items() if value is not None}
        identity = str(_ids.uuid7())
        now = datetime.now(timezone.utc).isoformat()
        if event["type"] == "message":
            return {**plain(event), "client_id": identity, "agent": self.agent, "occurred_at": now}
        if event["type"] == "step":
            event.pop("error", None)
        elif "error" in event:
            event["error"] = text(words(event["error"]), MOST_ERROR)
        if event["type"] == "operation":
            event = {name: value for name, value in event.items() if name not in ("error", "output")}
        event = dict(plain(event))
        event.update(id=identity, execution_id=self.id, agent=self.agent, occurred_at=now, **_spans.here())
        if self.run_id:
            event["run_id"] = self.run_id
        if self.conversation_id:
            event["conversation_id"] = self.conversation_id
        return event

    def _touch(self) -> None:
        raise NotImplementedError
