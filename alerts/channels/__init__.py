"""Ways out of the system. A new channel is one file beside this one and one line in CHANNELS."""

from collections.abc import Callable
from typing import NamedTuple

from alerts.channels import console, email, in_app
from alerts.channels.message import ChannelError, InDoubt, Message, Permanent, Temporary
from alerts.models import ChannelKind

__all__ = ["CHANNELS", "ChannelError", "InDoubt", "Message", "Permanent", "Temporary", "Way", "send"]


class Way(NamedTuple):
    """`send` answers the provider's id or raises a ChannelError. Sending twice is harmless where `idempotent`."""

    send: Callable[[Message], str]
    idempotent: bool
    # What is wrong with an address of this kind; "" when nothing is.
    objection: Callable[[str], str]


CHANNELS: dict[str, Way] = {
    ChannelKind.CONSOLE: Way(console.send, idempotent=False, objection=console.objection),
    ChannelKind.EMAIL: Way(email.send, idempotent=False, objection=email.objection),
    ChannelKind.IN_APP: Way(in_app.send, idempotent=True, objection=in_app.objection),
}


def send(kind: str, message: Message) -> str:
    """Send by the channel of this kind: the one way out, for real messages and for tests."""
    way = CHANNELS.get(kind)
    if way is None:
        raise Permanent(f"there is no channel of kind {kind!r}")
    return way.send(message)
