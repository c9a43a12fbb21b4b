"""Which moments may be told of: so long ago, and as far ahead as clocks that run fast."""

from datetime import datetime, timedelta

OLDEST = timedelta(days=7)
MOST_AHEAD = timedelta(minutes=5)


def misplaced(at: datetime, *, now: datetime) -> str | None:
    """Why a moment that a report names can't be taken, None when it can."""
    if at < now - OLDEST:
        return f"lies more than {OLDEST.days} days back"
    return ahead(at, now=now)


def ahead(at: datetime, *, now: datetime) -> str | None:
    """Why a moment lies too far ahead, None when it does not."""
    return f"lies more than {MOST_AHEAD.seconds // 60} minutes ahead" if at > now + MOST_AHEAD else None
