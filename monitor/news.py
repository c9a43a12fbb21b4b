"""Live news over Redis: a hint, after commit, that something changed. Losing one loses nothing."""

import logging
import time

import orjson
import redis
from django.conf import settings
from django.db import transaction

log = logging.getLogger(__name__)
PATIENCE_S = 0.25
AWAY_FOR_S = 2.0

_client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S)
_away_until = 0.0


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
    global _away_until
    if time.monotonic() < _away_until:
        return
    try:
        _client.publish(name, message)
    except redis.RedisError as error:
        # A Redis that hangs must not cost every request its patience.
        _away_until = time.monotonic() + AWAY_FOR_S
        # Pages and long-polls fall back to looking by themselves.
        log.warning("live news not sent: %s", error)
