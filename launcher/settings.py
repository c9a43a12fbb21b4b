"""What `manage.py up` reads from the environment; each setting is described in docs/settings.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from launcher.fault import Fault
from launcher.places import Places

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
SHORTEST_KEY = 50


@dataclass(frozen=True)
class Settings:
    """None for a server's URL means the embedded one."""

    places: Places
    host: str
    port: int
    public_url: str
    web_processes: int
    worker_concurrency: int
    database_url: str | None
    redis_url: str | None
    log_level: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Raises Fault E001, E003 or E011 for what can't be meant."""
        port = _number(environ, "HANDRAIL_PORT", default=8000, most=65535)
        redis_url = environ.get("REDIS_URL") or None
        if redis_url and urlsplit(redis_url).scheme not in {"redis", "rediss", "unix"}:
            raise Fault(
                "E003",
                "REDIS_URL must begin with redis://, rediss:// or unix://. "
                "Give redis://host:6379/0, or unset it for the embedded server.",
            )
        key = environ.get("HANDRAIL_SECRET_KEY")
        if key and len(key) < SHORTEST_KEY:
            raise Fault(
                "E001",
                f"HANDRAIL_SECRET_KEY has {len(key)} characters. Give at least {SHORTEST_KEY} random ones, "
                "or unset it for the one that the first start makes.",
            )
        return cls(
            places=Places.from_environment(),
            host=environ.get("HANDRAIL_HOST") or "127.0.0.1",
            port=port,
            public_url=_address(environ, "HANDRAIL_PUBLIC_URL", default=f"http://localhost:{port}"),
            web_processes=_number(environ, "HANDRAIL_WEB_PROCESSES", default=1, most=64),
            worker_concurrency=_number(environ, "HANDRAIL_WORKER_CONCURRENCY", default=2, most=256),
            database_url=environ.get("DATABASE_URL") or None,
            redis_url=redis_url,
            log_level=_one_of(environ, "HANDRAIL_LOG_LEVEL", LOG_LEVELS, default="INFO"),
        )


def _number(environ: Mapping[str, str], name: str, *, default: int, most: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise Fault("E011", f"{name} is {text!r}. Give a whole number from 1 to {most}, or unset it for {default}.")
    return int(text)


def _one_of(environ: Mapping[str, str], name: str, words: Sequence[str], *, default: str) -> str:
    text = environ.get(name) or default
    if text not in words:
        raise Fault("E011", f"{name} is {text!r}. Give one of {', '.join(words)}, or unset it for {default}.")
    return text


def _address(environ: Mapping[str, str], name: str, *, default: str) -> str:
    text = environ.get(name) or default
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise Fault("E011", f"{name} is {text!r}. Give http://host:port or https://host, or unset it for {default}.")
    return text.rstrip("/")
