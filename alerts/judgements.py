"""What a rule can conclude from a change of state."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from uuid import UUID

LONGEST_FINGERPRINT = 200


@dataclass(frozen=True, slots=True)
class Raise:
    """Somebody must know: open the episode of this fingerprint, or add to it."""

    fingerprint: str
    level: str
    type: str
    title: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    agent: str = ""
    run_id: str = ""
    execution_id: UUID | None = None
    conversation_id: str = ""


@dataclass(frozen=True, slots=True)
class Settle:
    """The trouble is over: resolve the open episode, if there is one."""

    fingerprint: str
    note: str
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """Worth a line in the timeline of the latest episode; wakes nobody."""

    fingerprint: str
    note: str


Judgement = Raise | Settle | Remark | None


def fingerprint(*parts: object) -> str:
    """The parts as one name of a cause; what is too long is cut, and still told apart."""
    name = ":".join(map(str, parts))
    if len(name) <= LONGEST_FINGERPRINT:
        return name
    told_apart = f"…{sha256(name.encode()).hexdigest()[:32]}"
    return name[: LONGEST_FINGERPRINT - len(told_apart)] + told_apart
