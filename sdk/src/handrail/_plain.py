"""A copy of whatever a program hands us: JSON, of a bounded size, made in bounded time, without running its code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from os import PathLike
from typing import Any
from uuid import UUID

MOST_PARTS = 1_000
MOST_DEPTH = 20
MOST_CHARACTERS = 200_000
MOST_IN_ONE = 50_000
LONGEST_INT = 2**63
CUT = "…"


def text(value: object, most: int = MOST_IN_ONE) -> str:
    """At most so many characters that the server takes: no NUL."""
    said = value if isinstance(value, str) else str(value)
    if len(said) > most:
        said = said[: most - 1] + CUT
    return said.replace("\0", "\ufffd") if "\0" in said else said


def words(error: object) -> str:
    """An error as a traceback ends; its type alone when it has no words, or fails to find them."""
    try:
        return f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
    except Exception:
        return type(error).__name__


def plain(value: Any) -> Any:
    """The value as JSON has it. What is too much is cut, what JSON does not know stands as the name of its type."""
    if value is None or value is True or value is False:
        return value
    return _Copy().of(value, 0)


class _Copy:
    def __init__(self) -> None:
        self.parts = 0
        self.characters = 0

    def of(self, value: Any, depth: int) -> Any:
        self.parts += 1
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            whole = int(value)
            return whole if -LONGEST_INT <= whole < LONGEST_INT else self._text(hex(whole))
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(value)
        if depth >= MOST_DEPTH or self.parts >= MOST_PARTS:
            return CUT
        try:
            return self._parts_of(value, depth)
        except Exception:
            # Another thread changes it while we look, or its own methods fail.
            return f"<{type(value).__qualname__}>"

    def _parts_of(self, value: Any, depth: int) -> Any:
        if isinstance(value, Enum):
            return self.of(value.value, depth + 1)
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._sequence(value, depth)
        return self._other(value)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for name, one in value.items():
            if self.parts >= MOST_PARTS:
                copy[CUT] = f"{len(value) - len(copy)} more"
                break
            copy[self._text(name if isinstance(name, str) else words(name))] = self.of(one, depth + 1)
        return copy

    def _sequence(self, value: Any, depth: int) -> list[Any]:
        copy: list[Any] = []
        for one in value:
            if self.parts >= MOST_PARTS:
                copy.append(f"{CUT} {len(value) - len(copy)} more")
                break
            copy.append(self.of(one, depth + 1))
        return copy

    def _other(self, value: Any) -> str:
        if isinstance(value, (datetime, date)):
            return value.isoformat()
        if isinstance(value, (UUID, Decimal)):
            return str(value)
        if isinstance(value, PathLike):
            return self._text(str(value))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return f"<{len(value)} bytes>"
        if isinstance(value, BaseException):
            return self._text(words(value))
        return f"<{type(value).__qualname__}>"

    def _text(self, value: str) -> str:
        self.characters += len(value)
        if self.characters <= MOST_IN_ONE and "\0" not in value:
            return value
        left = MOST_CHARACTERS - (self.characters - len(value))
        said = text(value, min(MOST_IN_ONE, max(1, left)))
        self.characters += len(said) - len(value)
        return said
