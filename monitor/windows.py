"""The windows of budgets: where each begins and ends, by the calendar of a time zone."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from monitor.models.money import BudgetScope, Period

# A run's window has no calendar: it begins with time itself and is never over.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The project under which the windows of global budgets are kept.
INSTANCE = 0
# Everybody locks the windows in this order: what few share first, what all share last.
SCOPES = (BudgetScope.RUN, BudgetScope.AGENT, BudgetScope.DEPARTMENT, BudgetScope.PROJECT, BudgetScope.GLOBAL)
_place: dict[str, int] = {scope: place for place, scope in enumerate(SCOPES)}


class Key(NamedTuple):
    """Which window: its project (INSTANCE for a global one), scope, target, period and start."""

    project_id: int
    scope: str
    target: str
    period: str
    starts_at: datetime

    @property
    def order(self) -> tuple[int, str, str, datetime]:
        """Its place in the order of locks."""
        return _place[self.scope], self.target, self.period, self.starts_at


def starts_at(period: str, time_zone: str, *, now: datetime) -> datetime:
    """When the window of `period` that holds `now` began, in UTC; weeks begin on Mondays."""
    if period == Period.RUN:
        return EPOCH
    here = now.astimezone(ZoneInfo(time_zone))
    if period == Period.HOUR:
        # Counted back in UTC: where clocks are put back, one name of an hour means two of them.
        return now.astimezone(UTC) - timedelta(minutes=here.minute, seconds=here.second, microseconds=here.microsecond)
    day = here.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period == Period.WEEK:
        day -= timedelta(days=day.weekday())
    elif period == Period.MONTH:
        day = day.replace(day=1)
    return day.astimezone(UTC)


def ends_at(period: str, time_zone: str, *, now: datetime) -> datetime | None:
    """When the window that holds `now` is over and the next begins; None for a run, which has but one."""
    if period == Period.RUN:
        return None
    began = starts_at(period, time_zone, now=now)
    if period == Period.HOUR:
        return began + timedelta(hours=1)
    longest = {Period.DAY: 1, Period.WEEK: 7, Period.MONTH: 31}[Period(period)]
    # Half a day more jumps over changes of the clock; the window found there begins where this one ends.
    return starts_at(period, time_zone, now=began + timedelta(days=longest, hours=12))
