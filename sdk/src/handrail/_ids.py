"""Ids that the client makes itself, so that nothing has to be asked for before work begins."""

from __future__ import annotations

import os
import time
from uuid import UUID


def uuid7() -> UUID:
    """A UUIDv7 (RFC 9562): the time in milliseconds, then chance."""
    chance = int.from_bytes(os.urandom(10), "big")
    ms = time.time_ns() // 1_000_000
    return UUID(int=(ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (chance >> 68) << 64 | 0b10 << 62 | chance & (1 << 62) - 1)


def trace_id() -> int:
    """16 bytes that are not zero, as OpenTelemetry's traces have them."""
    return int.from_bytes(os.urandom(16), "big") or 1


def span_id() -> int:
    return int.from_bytes(os.urandom(8), "big") or 1
