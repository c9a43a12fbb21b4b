"""What a channel is given, and what it may say when it does not work.

ChannelError
├── Temporary   nothing was sent; again later
├── Permanent   nothing was sent, and trying again would not help
└── InDoubt     it may or may not have arrived
"""

from dataclasses import dataclass


class ChannelError(Exception):
    """The message is not known to have arrived."""


class Temporary(ChannelError):
    """Nothing was sent; the same may work later."""


class Permanent(ChannelError):
    """Nothing was sent, and trying again would not help: a bad address, a refused password."""


class InDoubt(ChannelError):
    """The line broke while sending: it may have arrived."""


@dataclass(frozen=True, slots=True)
class Message:
    """One rendered message. `id` stays the same over all attempts, so that an idempotent target can tell."""

    id: str
    project_id: int
    alert_id: str
    level: str
    target: str
    subject: str
    body: str
