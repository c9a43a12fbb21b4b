"""The days, weeks and months of a time zone: one rule for when each begins, for all who cut time or read what was cut.

A day begins at its first midnight; where clocks leap over midnight, at the moment they do. It ends where the next one
begins, so that every moment is in one day, whatever clocks are put forward or back.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

Calendar = Literal["day", "week", "month"]
DAY = timedelta(days=1)


def midnight(day: date, here: ZoneInfo) -> datetime:
    """When the day begins, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=here).astimezone(UTC)


def day_of(at: datetime, here: ZoneInfo) -> date:
    """The day that holds a moment."""
    day = at.astimezone(here).date()
    # Clocks that are put back over midnight show the day before once more.
    return day + DAY if midnight(day + DAY, here) <= at else day


def bounds(at: datetime, here: ZoneInfo) -> tuple[datetime, datetime]:
    """When the day that holds a moment begins and ends, in UTC."""
    day = day_of(at, here)
    return midnight(day, here), midnight(day + DAY, here)


def starts(calendar: Calendar, since: datetime, until: datetime, here: ZoneInfo) -> Iterator[datetime]:
    """When each day, week (from Monday) or month begins that has a part of the time, in UTC; the first always."""
    day = day_of(since, here)
    if calendar == "week":
        day -= timedelta(days=day.weekday())
    elif calendar == "month":
        day = day.replace(day=1)
    began = midnight(day, here)
    yield began
    while (began := midnight(day := _next(day, calendar), here)) < until:
        yield began


def _next(day: date, calendar: Calendar) -> date:
    if calendar == "month":
        return (day + timedelta(days=31)).replace(day=1)
    return day + timedelta(days=7 if calendar == "week" else 1)
