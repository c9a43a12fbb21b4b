"""Live news over Redis: a hint, after commit, that something changed. Losing one loses nothing."""

import orjson
from django.db import transaction

from monitor.redisline import RedisLine

# Pages and long-polls fall back to looking by themselves.
_line = RedisLine("live news not sent")


def channel(project_id: int) -> str:
    """The pub/sub channel of a project."""
    return f"handrail:live:{project_id}"


def channel_pattern() -> str:
    """The pub/sub pattern that hears every project."""
    return "handrail:live:*"


def tell(project_id: int, topic: str, subject_id: str = "") -> None:
    """Once the running transaction has committed, tell open pages and waiting agents of `topic`.

    Topics: executions, alerts, queue, conversations, events, costs, spans, jobs, agents, keys.
    """
    message = orjson.dumps({"topic": topic, "id": subject_id})
    transaction.on_commit(lambda: _line.ask(lambda client: client.publish(channel(project_id), message)))
