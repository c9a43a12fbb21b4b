"""The names of what may be given, for editors and type checkers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict
from uuid import UUID


class SettingsOptions(TypedDict, total=False):
    spool_bytes: int
    spool_events: int
    queue_events: int
    timeout_s: float
    beat_every_s: float
    hangs_after_s: float
    exit_s: float


class ExecutionOptions(TypedDict, total=False):
    run_id: str | None
    task: str | None
    id: UUID | str | None
    parent_id: UUID | str | None
    conversation_id: str | None
    crew_id: str | None
    department: str | None
    mode: str | None
    timeout_s: int | None
    heartbeat_s: int | None
    max_retries: int | None
    stall_s: int | None
    on_stall: str | None
    inputs: Any
    metadata: Mapping[str, Any] | None
    interrupts: bool
    retryable: bool
