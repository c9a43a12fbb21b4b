"""Loops among tool calls: the same call, or the same short cycle of calls, again and again in a row. Pure."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

# So many rounds in a row make a loop; a round is one call or a cycle of up to so many.
ROUNDS = 3
LONGEST_CYCLE = 6
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="deterministic").encode


class Stretch(NamedTuple):
    """Calls `first` to `last` (inclusive) of a sequence repeat their first `length` calls."""

    first: int
    last: int
    length: int

    @property
    def calls(self) -> int:
        return self.last - self.first + 1

    @property
    def rounds(self) -> int:
        """Whole rounds."""
        return self.calls // self.length


def find(keys: Sequence[str | None], *, rounds: int = ROUNDS, longest: int = LONGEST_CYCLE) -> list[Stretch]:
    """The stretches in which `rounds` rounds or more follow each other, as long as they go, by where they begin.

    Equal keys are equal calls; None is equal to nothing. A cycle is named by its shortest form: five equal calls
    are five rounds of one.
    """
    found: list[Stretch] = []
    for length in range(1, longest + 1):
        begun: int | None = None
        for at in range(length, len(keys) + 1):
            if at < len(keys) and keys[at] is not None and keys[at] == keys[at - length]:
                begun = at - length if begun is None else begun
                continue
            if begun is not None and at - begun >= rounds * length and _is_shortest(keys[begun : begun + length]):
                found.append(Stretch(begun, at - 1, length))
            begun = None
    return sorted(found)


def _is_shortest(cycle: Sequence[str | None]) -> bool:
    """Whether the cycle is no repetition of a shorter one."""
    size = len(cycle)
    return not any(
        size % part == 0 and all(cycle[at] == cycle[at - part] for at in range(part, size)) for part in range(1, size)
    )


def canonical(arguments: str) -> str:
    """The arguments in one spelling: JSON with sorted keys and without spaces, other text without those around it."""
    text = arguments.strip()
    try:
        value = _decode(text)
        if isinstance(value, str):
            # Some clients encode twice.
            value = _decode(value)
        return _encode(value).decode()
    except (ValueError, RecursionError):
        return text


def key(tool: str, arguments: str | None) -> str | None:
    """What is equal for equal calls; None where the arguments were not sent, for then nobody can tell."""
    if arguments is None:
        return None
    said = f"{tool}\0{canonical(arguments)}".encode(errors="replace")
    return blake2b(said, digest_size=16).hexdigest()


def fingerprint(cycle: Iterable[str]) -> str:
    """One name for a cycle, with whichever of its calls it is told first."""
    keys = list(cycle)
    turned = min(keys[at:] + keys[:at] for at in range(len(keys)))
    return blake2b("\0".join(turned).encode(), digest_size=16).hexdigest()
