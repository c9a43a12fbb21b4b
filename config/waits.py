"""Which requests may wait, and so hold no thread."""

from functools import lru_cache
from urllib.parse import unquote_to_bytes

from django.urls import Resolver404, resolve

from config.bridge import Scope
from monitor.api.waiting import LongPoll

# How it is with a longer path is asked each time, for anybody may ask for any.
LONGEST_PATH = 200


def _is_long_poll(path: str) -> bool:
    return _known(path) if len(path) <= LONGEST_PATH else _resolved(path)


@lru_cache(maxsize=1000)
def _known(path: str) -> bool:
    return _resolved(path)


def _resolved(path: str) -> bool:
    try:
        view = resolve(path).func
    except Resolver404:
        return False
    return issubclass(getattr(view, "view_class", object), LongPoll)


def waits(scope: Scope) -> bool:
    """Whether a request may wait: a stream for pages, or a GET that says how long it waits or wants a stream.

    Whether the process is up is asked here too, for no thread must be needed to say so.
    """
    if scope["method"] != "GET":
        return False
    path = scope["path"]
    if path.startswith("/events/") or path == "/health":
        return True
    if not path.startswith("/api/"):
        return False
    # A name may be written in percent codes, too.
    asks = b"wait=" in unquote_to_bytes(scope["query_string"]) or any(
        name == b"accept" and value.startswith(b"text/event-stream") for name, value in scope["headers"]
    )
    return asks and _is_long_poll(path)
