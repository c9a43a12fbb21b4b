"""The last words of a command, fit to be shown."""

from __future__ import annotations

import re
import threading

KEPT_BYTES = 8192
LINE_CHARACTERS = 300
# Colours, cursor movements and titles of windows.
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


class Tail:
    """Keeps the end of everything that was written. Safe for threads."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept = bytearray()
        self._kept_bytes = kept_bytes
        self._is_cut = False
        self._lock = threading.Lock()

    def add(self, chunk: bytes) -> None:
        with self._lock:
            self._kept += chunk[-self._kept_bytes :]
            if len(self._kept) > self._kept_bytes or len(chunk) > self._kept_bytes:
                del self._kept[: -self._kept_bytes]
                self._is_cut = True

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._is_cut = False

    def lines(self, most: int) -> list[str]:
        """The last lines with something in them, oldest first, without control characters, none of them long."""
        with self._lock:
            text, is_cut = bytes(self._kept).decode(errors="replace"), self._is_cut
        told = text.split("\n")
        if is_cut and len(told) > 1:
            del told[0]
        found: list[str] = []
        for line in reversed(told):
            if len(found) == most:
                break
            if words := _shown(line):
                found.append(words)
        return found[::-1]


def _shown(line: str) -> str:
    # A bar of progress writes its line again and again: the last of them is what stands there.
    line = ESCAPES.sub("", line).rstrip("\r").rpartition("\r")[2]
    shown = "".join(one if one.isprintable() else " " if one.isspace() else "" for one in line).strip()
    return shown if len(shown) <= LINE_CHARACTERS else f"{shown[: LINE_CHARACTERS - 1]}…"
