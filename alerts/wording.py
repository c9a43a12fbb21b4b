"""How an alert speaks: the parts that somebody woken at 3 am looks for, always in the same order."""

from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from django.conf import settings


def link(path: str) -> str:
    """The full address of one of our pages."""
    return f"{settings.PUBLIC_URL.rstrip('/')}{path}"


def message(*, where: str, since: str, bad: str, done: str, otherwise: str, path: str) -> str:
    """The body of an alert: where, since when, how bad, what was done already, what follows, one link."""
    lines = [
        f"Where: {where}",
        f"Since: {since}",
        f"How bad: {bad}",
        f"Done already: {done}",
        f"If nobody acts: {otherwise}",
        link(path),
    ]
    return "\n".join(lines)


def clock(moment: datetime | None) -> str:
    """A moment in UTC, to the second, with its day: `3 Mar 14:05:30 UTC`."""
    return "unknown" if moment is None else f"{moment.day} {moment:%b %H:%M:%S} UTC"


def span(length: timedelta) -> str:
    """A length of time, rounded down to what a person would say: `45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    seconds = max(0, int(length.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    return f"{minutes // 1440} d" + (f" {minutes % 1440 // 60} h" if minutes % 1440 // 60 else "")


def interval(length: timedelta) -> str:
    """What comes after "every": `hour`, `day`, `45 s`, `2 h 30 min`."""
    units = {timedelta(minutes=1): "minute", timedelta(hours=1): "hour", timedelta(days=1): "day"}
    return units.get(length) or span(length)


def usd(amount: Any) -> str:
    """An amount of US dollars to the cent, or below one to two digits; `an unknown amount` when unreadable."""
    try:
        value = Decimal(str(amount))
    except InvalidOperation:
        return "an unknown amount"
    if not value.is_finite():
        return "an unknown amount"
    if value == 0 or abs(value) >= Decimal("0.01"):
        return f"${value:.2f}"
    return f"${Decimal(f'{value:.2g}').normalize():f}"


def size(count: int) -> str:
    """A number of bytes: `812 MB`, `1.3 GB`."""
    units = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    return next((f"{count / unit:.1f} {name}" for unit, name in units if count >= unit), f"{count} bytes")


def one_line(text: str, limit: int) -> str:
    """The text on one line, cut at `limit` characters with an ellipsis."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else f"{flat[: limit - 1]}…"
