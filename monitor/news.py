"""Live news over Redis: a hint, after commit, that something changed. Losing one loses nothing."""

import logging

import orjson
import redis
from django.conf import settings
from django.db import transaction

log = logging.getLogger(__name__)
_client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)


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
    transaction.on_commit(lambda: _publish(channel(project_id), message))


def _publish(name: str, message: bytes) -> None:
    try:
        _client.publish(name, message)
    except redis.RedisError as error:
        # Pages and long-polls fall back to looking by themselves.
        log.warning("live news not sent: %s", error)
