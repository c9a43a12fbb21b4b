"""How the data grows, in words and as a figure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings

from dashboard import charts, words
from dashboard.charts import DAY_S, Grid
from monitor import growth
from monitor.growth import Forecast, Growth
from monitor.models import RoomLevel
from monitor.room import Room

AHEAD_DAYS = 30
# Further ahead a straight line says nothing.
NEVER_DAYS = 3650
TONES = {RoomLevel.ROOMY: "", RoomLevel.WARNED: "amber", RoomLevel.STOPPED: "red"}


@dataclass(frozen=True)
class Told:
    """What the page says first, what it means, and the figure; `spec` is None while there is too little to draw."""

    sentence: str
    why: str
    tone: str
    spec: dict[str, Any] | None
    summary: str


def tell(found: Growth, *, now: datetime) -> Told:
    """The growth in words."""
    if found.room is None:
        sentence = f"The database holds {words.size(found.bytes)}."
        why = "Handrail does not see the disk that it lies on, so it can't say when that is full, and warns of nothing."
        return Told(sentence, why, "", None, "")
    spec = _spec(found, found.room, now=now)
    return Told(
        sentence=_sentence(found.room, found.forecast, found.level),
        why=" ".join(
            part
            for part in (_pace(found.forecast, found.room), _jumps(found.forecast), _leaves(found, now=now))
            if part
        ),
        tone=TONES[found.level],
        spec=spec,
        summary=_summary(found, found.room),
    )


def _sentence(of: Room, forecast: Forecast | None, level: RoomLevel) -> str:
    full = f"The {of.name} is {words.percent(of.share)} full"
    if level == RoomLevel.STOPPED:
        return f"{full}, and agents’ new work is refused."
    if forecast is None:
        return f"{full}."
    if forecast.full_in_days is None:
        return f"{full} and does not grow."
    if forecast.full_in_days > NEVER_DAYS:
        return f"{full}, and at this pace it lasts for more than ten years."
    return f"{full}. At this pace nothing is left in {days(forecast.full_in_days)}."


def _pace(forecast: Forecast | None, of: Room) -> str:
    if forecast is None:
        return f"A forecast takes {growth.FORECAST_FROM} days of samples; one is taken every hour."
    margin = words.size(round(forecast.margin_a_day))
    if forecast.bytes_a_day <= 0:
        return (
            f"{_over(forecast)} it shrank by {words.size(round(-forecast.bytes_a_day))} a day, give or take {margin}."
        )
    grew = f"{_over(forecast)} it grew by {words.size(round(forecast.bytes_a_day))} a day, give or take {margin}"
    soonest, latest = forecast.soonest_in_days, forecast.latest_in_days
    if soonest is None or soonest > NEVER_DAYS:
        return f"{grew}."
    if latest is None or latest > NEVER_DAYS:
        return f"{grew}: {days(soonest)} at the least, and perhaps it lasts."
    return f"{grew}: four times of five that means {between(soonest, latest)}."


def _over(forecast: Forecast) -> str:
    if forecast.jumps:
        return f"Over {forecast.days} of the last {forecast.days + len(forecast.jumps)} days"
    return f"Over the last {forecast.days} days"


def _jumps(forecast: Forecast | None) -> str:
    """The days that the pace is drawn without."""
    jumps = forecast.jumps if forecast else ()
    return " ".join(
        f"A day on which it {'grew' if one > 0 else 'shrank'} by {words.size(round(abs(one)))} is left out."
        for one in jumps
    )


def _leaves(found: Growth, *, now: datetime) -> str:
    """When what is kept longest in bytes begins to leave: from then on less is added."""
    coming = [one for one in found.kinds if one.leaves_from and one.leaves_from > now and one.size.bytes]
    if not coming:
        return ""
    first = max(coming, key=lambda one: one.size.bytes)
    assert first.leaves_from is not None
    on = f"{first.leaves_from:%-d %B}" + ("" if first.leaves_from.year == now.year else f" {first.leaves_from:%Y}")
    return f"{first.label} begin to leave on {on}, and grow more slowly from then on."


def days(count: float) -> str:
    """A stretch of days as one says it: `1 day`, `26 days`, `4 months`, `3 years`."""
    if count < 60:
        whole = max(round(count), 0)
        return "less than a day" if whole == 0 else f"{whole}{words.GAP}day{'' if whole == 1 else 's'}"
    return f"{count / 30.4:.0f}{words.GAP}months" if count < 730 else f"{count / 365:.0f}{words.GAP}years"


def between(low: float, high: float) -> str:
    """`31 to 55 days`, `9 days to 3 months`; one where both read the same."""
    first, last = days(low), days(high)
    if first == last:
        return first
    number, _, unit = first.partition(words.GAP)
    return f"{number} to {last}" if last.endswith(unit) and unit else f"{first} to {last}"


def _spec(found: Growth, of: Room, *, now: datetime) -> dict[str, Any] | None:
    """The share that is used by day, in percent, with the marks and, where it is known, what lies ahead."""
    points = {at.astimezone(UTC).date(): _percent(used, of) for at, used in found.used}
    if len(points) < 2:
        return None
    points[now.astimezone(UTC).date()] = _percent(of.used_bytes, of)
    grid = charts.day_grid(min(points), max(points))
    spec = charts.line(grid, "used", [(charts.midnight(day), value) for day, value in points.items()], unit="%")
    spec["thresholds"] = [
        {"y": settings.DISK_WARN * 100, "label": "people are warned", "level": "warning"},
        {"y": settings.DISK_STOP * 100, "label": "agents’ new work is refused", "level": "critical"},
    ]
    if found.forecast is not None:
        spec["forecast"] = _ahead(found.forecast, of, grid)
    return spec


def _ahead(forecast: Forecast, of: Room, grid: Grid) -> dict[str, Any]:
    began = grid.until - timedelta(days=1)
    steps = range(AHEAD_DAYS + 1)

    def at(pace: float) -> list[float]:
        return [min(max(_percent(of.used_bytes + pace * day, of), 0.0), 100.0) for day in steps]

    margin = forecast.margin_a_day
    return {
        "t0": began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "dt": DAY_S,
        "median": at(forecast.bytes_a_day),
        "low": at(forecast.bytes_a_day - margin),
        "high": at(forecast.bytes_a_day + margin),
    }


def _percent(used: float, of: Room) -> float:
    return round(used / of.total_bytes * 100, 2)


def _summary(found: Growth, of: Room) -> str:
    first = found.used[0] if found.used else None
    since = f", {words.percent(first[1] / of.total_bytes)} on {first[0]:%-d %B}" if first else ""
    return f"The {of.name} is {words.percent(of.share)} full now{since}."
