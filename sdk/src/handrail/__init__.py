"""Makes an AI agent supervisable: heartbeats, commands, costs and retries, without getting in its way."""

from handrail._attempts import Attempt, Attempts
from handrail._client import Client
from handrail._errors import Cancelled, Command, HandrailError, Paused, Stopped, Superseded
from handrail._execution import Execution, current
from handrail._face import attempts, carried, client, configure, execution, flush, shutdown, supervised
from handrail._transport import VERSION as __version__

__all__ = [
    "Attempt",
    "Attempts",
    "Cancelled",
    "Client",
    "Command",
    "Execution",
    "HandrailError",
    "Paused",
    "Stopped",
    "Superseded",
    "__version__",
    "attempts",
    "carried",
    "client",
    "configure",
    "current",
    "execution",
    "flush",
    "shutdown",
    "supervised",
]
