"""Recorded conversations in the formats of tau-bench and tau2-bench, read into one neutral shape."""

import gzip
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

TRANSFER = "transfer_to_human"
STOP_SIGNS = ("###STOP###", "###TRANSFER###", "###OUT-OF-SCOPE###")
# tau-bench keeps no times; this pace is ours and only puts the turns in order.
PACE_MS = 6_000
CUSTOMER_ID = re.compile(r"\b[a-z]+_[a-z]+_\d{4}\b")
FAILED_ENDINGS = {"max_steps", "too_many_errors", "infrastructure_error"}


class UnknownFormat(ValueError):
    """The file is neither a tau-bench nor a tau2-bench recording."""


@dataclass(frozen=True)
class Usage:
    """One model call as recorded; `input_tokens` includes `cache_read_tokens`, `cost_usd` None is unknown."""

    model: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cost_usd: Decimal | None


@dataclass(frozen=True)
class ToolCall:
    id: str
    tool: str
    arguments: Any
    requestor: str = "assistant"

    @property
    def is_transfer(self) -> bool:
        return self.tool.startswith(TRANSFER)


@dataclass(frozen=True)
class Turn:
    """One recorded message, `at_ms` after the start of its conversation."""

    at_ms: int
    role: str
    content: str
    usage: Usage | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Recording:
    """One conversation: `run` names its file, `name` is unique over all files."""

    run: str
    name: str
    agent: str
    customer_id: str
    turns: tuple[Turn, ...]
    duration_ms: int
    ending: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return self.ending in FAILED_ENDINGS

    @property
    def customer(self) -> str:
        """The customer's name, as far as the recorded user id tells it."""
        return " ".join(part.capitalize() for part in self.customer_id.split("_")[:2])

    @property
    def task(self) -> str:
        """What it is about: the customer's first words."""
        first = next((turn.content for turn in self.turns if turn.role == "user" and turn.content), "")
        return textwrap.shorten(first, 120, placeholder="…")

    @property
    def model(self) -> str:
        """Which model the agent asked first; empty where the recording tells of no calls."""
        return next((turn.usage.model for turn in self.turns if turn.usage and turn.role == "assistant"), "")


def recordings(paths: list[Path]) -> Iterator[Recording]:
    """Every recorded conversation in the files and folders given, in a fixed order."""
    for path in paths:
        files = sorted(path.rglob("*.jsonl.gz")) if path.is_dir() else [path]
        if not files:
            raise UnknownFormat(f"{path} holds no *.jsonl.gz recordings")
        for file in files:
            yield from _read(file)


def _read(file: Path) -> Iterator[Recording]:
    run = f"{file.parent.name}/{file.name.removesuffix('.jsonl.gz')}"
    agent = file.name.removesuffix(".jsonl.gz").replace("_", "-")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    header: dict[str, Any] = {}
    if rows and "_header" in rows[0]:
        header = rows.pop(0)["_header"].get("info") or {}
    for number, row in enumerate(rows):
        if "messages" in row:
            yield _tau2(run, agent, number, row, header)
        elif "traj" in row:
            yield _tau(run, agent, number, row)
        else:
            raise UnknownFormat(f"{file} row {number + 1} has neither `messages` nor `traj`")


def _tau(run: str, agent: str, number: int, row: dict[str, Any]) -> Recording:
    turns = tuple(
        Turn(
            at_ms=index * PACE_MS,
            role=message["role"],
            content=_spoken(message.get("content")),
            tool_calls=tuple(
                ToolCall(
                    call.get("id") or f"turn-{index}-{place}",
                    call["function"]["name"],
                    _arguments(call["function"]["arguments"]),
                )
                for place, call in enumerate(message.get("tool_calls") or ())
            ),
            tool_call_id=message.get("tool_call_id") or "",
            failed=message["role"] == "tool" and _spoken(message.get("content")).startswith("Error"),
        )
        for index, message in enumerate(row["traj"])
        # The system prompt is the agent's instructions, the same for each conversation, and nobody said it.
        if message["role"] != "system"
    )
    # The list index is not unique over trials; the row number is.
    return Recording(
        run=run,
        name=f"{run}#{number}",
        agent=agent,
        customer_id=_customer_id(turns),
        turns=turns,
        duration_ms=turns[-1].at_ms + PACE_MS if turns else 0,
        ending="recorded",
        metadata={"task_id": row.get("task_id"), "trial": row.get("trial"), "reward": row.get("reward")},
    )


def _tau2(run: str, agent: str, number: int, row: dict[str, Any], header: dict[str, Any]) -> Recording:
    llms = {
        "assistant": ((header.get("agent_info") or {}).get("llm")) or "",
        "user": ((header.get("user_info") or {}).get("llm")) or "",
    }
    started = datetime.fromisoformat(row["start_time"]) if row.get("start_time") else None
    turns = []
    for index, message in enumerate(row["messages"] or ()):
        at_ms = index * PACE_MS
        if started is not None and message.get("timestamp"):
            at_ms = max(round((datetime.fromisoformat(message["timestamp"]) - started).total_seconds() * 1000), 0)
        turns.append(
            Turn(
                at_ms=at_ms,
                role=message["role"],
                content=_spoken(message.get("content")),
                usage=_usage(message, llms.get(message["role"], "")),
                tool_calls=tuple(
                    ToolCall(call["id"], call["name"], call["arguments"], call.get("requestor") or message["role"])
                    for call in message.get("tool_calls") or ()
                ),
                tool_call_id=message.get("id") or "" if message["role"] == "tool" else "",
                failed=bool(message.get("error")),
            )
        )
    recorded_ms = round((row.get("duration") or 0) * 1000)
    return Recording(
        run=run,
        name=f"{run}#{number}",
        agent=agent,
        customer_id=_customer_id(turns),
        turns=tuple(turns),
        duration_ms=max(recorded_ms, turns[-1].at_ms if turns else 0),
        ending=row.get("termination_reason") or "recorded",
        metadata={
            "task_id": row.get("task_id"),
            "trial": row.get("trial"),
            "reward": (row.get("reward_info") or {}).get("reward"),
        },
    )


def _usage(message: dict[str, Any], llm: str) -> Usage | None:
    recorded = message.get("usage")
    if not recorded:
        return None
    raw = message.get("raw_data") or {}
    details = raw.get("usage") or {}
    cached = details.get("prompt_cache_hit_tokens") or (details.get("prompt_tokens_details") or {}).get("cached_tokens")
    cached = cached or 0
    prompt = recorded["prompt_tokens"]
    cost = message.get("cost")
    return Usage(
        model=raw.get("model") or llm,
        # Some proxies leave the cached tokens out of the prompt's count.
        input_tokens=prompt + cached if cached > prompt else prompt,
        output_tokens=recorded["completion_tokens"],
        cache_read_tokens=cached,
        cost_usd=None if cost is None else Decimal(repr(cost)),
    )


def _arguments(recorded: str) -> Any:
    try:
        return json.loads(recorded)
    except ValueError:
        return recorded


def _spoken(content: str | None) -> str:
    """What was said, without the simulator's own stop signs."""
    text = content or ""
    for sign in STOP_SIGNS:
        text = text.replace(sign, "")
    return text.strip()


def _customer_id(turns: list[Turn] | tuple[Turn, ...]) -> str:
    for turn in turns:
        found = CUSTOMER_ID.search(turn.content)
        if found:
            return found.group()
    return ""
