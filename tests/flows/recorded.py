"""The recorded conversations as their files have them, read without any of the project's own code for it."""

import gzip
import json
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared/data"
SIGNS = ("###STOP###", "###TRANSFER###", "###OUT-OF-SCOPE###")
SPEAKERS = {"assistant": "agent", "user": "user"}
FINEST_USD = Decimal("1e-10")


@dataclass(frozen=True)
class Usage:
    """One model call; `prompt` includes `cached`, `usd` is what the recording says, 0 where it says nothing."""

    model: str
    prompt: int
    cached: int
    completion: int
    usd: Decimal


@dataclass
class Talk:
    """One conversation: what was said as (role, text, visibility), in order."""

    name: str
    run: str
    failed: bool
    handed_over: bool = False
    said: list[tuple[str, str, str]] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    tool_calls: int = 0


def files(*names: str) -> list[Path]:
    """The recordings in these folders or files; skips the test, saying so, where there is no such data."""
    paths = [DATA / name for name in names]
    for path in paths:
        if not path.exists():
            pytest.skip(f"the recorded conversations are not here: {path}")
    return paths


def talks(paths: list[Path]) -> list[Talk]:
    found = []
    for path in paths:
        for file in sorted(path.rglob("*.jsonl.gz")) if path.is_dir() else [path]:
            found += _of_file(file)
    return found


def _of_file(file: Path) -> list[Talk]:
    with gzip.open(file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    models: dict[str, str] = {}
    if "_header" in rows[0]:
        info = rows.pop(0)["_header"]["info"] or {}
        models = {role: (info.get(f"{who}_info") or {}).get("llm", "") for role, who in SPEAKERS.items()}
    run = f"{file.parent.name}/{file.name.split('.')[0]}"
    return [_talk(f"{run}#{n}", run, row, models) for n, row in enumerate(rows)]


def _talk(name: str, run: str, row: dict[str, Any], models: dict[str, str]) -> Talk:
    ended_badly = row.get("termination_reason") in ("max_steps", "too_many_errors", "infrastructure_error")
    talk = Talk(name, run, ended_badly)
    for message in row.get("messages") or row.get("traj") or []:
        role = message["role"]
        if role in ("user", "assistant"):
            text = message.get("content") or ""
            for sign in SIGNS:
                text = text.replace(sign, "")
            if text := text.strip():
                kept_back = talk.handed_over and role == "assistant"
                talk.said.append((role, text, "suppressed" if kept_back else "public"))
        calls = message.get("tool_calls") or []
        talk.tool_calls += len(calls)
        names = [call.get("name") or call["function"]["name"] for call in calls]
        talk.handed_over |= any(one.startswith("transfer_to_human") for one in names)
        if message.get("usage"):
            talk.usages.append(_usage(message, models[role]))
    return talk


def _usage(message: dict[str, Any], model: str) -> Usage:
    raw = message.get("raw_data") or {}
    told = raw.get("usage") or {}
    cached = told.get("prompt_cache_hit_tokens") or (told.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    prompt = message["usage"]["prompt_tokens"]
    return Usage(
        model=raw.get("model") or model,
        # More cached than prompt tokens: this sender left the cached ones out.
        prompt=prompt + cached if cached > prompt else prompt,
        cached=cached,
        completion=message["usage"]["completion_tokens"],
        # Floats with noise in the sixteenth digit; the books keep ten-billionths of a dollar.
        usd=Decimal(repr(message.get("cost") or 0)).quantize(FINEST_USD),
    )
