"""Rows into figures: compact specs that charts.js draws. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from dashboard import words
from monitor.rollups import Totals

# The widths a bar may have, in seconds; a chart shows at most MOST_BARS of them.
STEPS_S = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 86400, 7 * 86400)
MOST_BARS = 130
DAY_S = 86400


@dataclass(frozen=True)
class Grid:
    """The bars of a chart: `count` of them, `step_s` wide, from `since` (on a whole step) to `until`."""

    since: datetime
    step_s: int
    count: int

    @property
    def until(self) -> datetime:
        return self.since + timedelta(seconds=self.step_s * self.count)

    def place(self, at: datetime) -> int:
        """The number of the bar that holds a moment; outside 0 … count - 1 it is not shown."""
        return int((at - self.since).total_seconds() // self.step_s)

    def fill(self, points: Iterable[tuple[datetime, float]]) -> list[float]:
        """The points summed into the bars, 0 where there are none."""
        bars = [0.0] * self.count
        for at, value in points:
            place = self.place(at)
            if 0 <= place < self.count:
                bars[place] += value
        return [int(bar) if bar == int(bar) else round(bar, 6) for bar in bars]

    @property
    def axis(self) -> dict[str, Any]:
        return {"t0": self.since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "dt": self.step_s}


def step_for(span: timedelta, most: int = MOST_BARS) -> int:
    """The narrowest bar, in seconds, with which the span needs no more than `most`."""
    return next((step for step in STEPS_S if span.total_seconds() / step <= most), STEPS_S[-1])


def step_words(step_s: int) -> str:
    """A bar's width in words: `15 min`, `3 h`, `1 d`."""
    for length_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if step_s >= length_s:
            return f"{step_s // length_s}{words.GAP}{unit}"
    return f"{step_s}{words.GAP}s"


def grid(since: datetime, until: datetime, step_s: int) -> Grid:
    """The whole bars that cover the span."""
    first = int(since.timestamp() // step_s) * step_s
    count = max(1, -(-int(until.timestamp() - first) // step_s))
    return Grid(datetime.fromtimestamp(first, UTC), step_s, count)


def day_grid(first: date, last: date, step_s: int = DAY_S) -> Grid:
    """Bars of whole days or weeks by the calendar; a day of any time zone stands at its name's midnight in UTC."""
    return Grid(midnight(first), step_s, (last - first).days * DAY_S // step_s + 1)


def midnight(day: date) -> datetime:
    """Where `day_grid` places a day."""
    return datetime.combine(day, time(), UTC)


def throughput(grid: Grid, now: Sequence[Totals], past: Sequence[Totals], *, shift: timedelta) -> dict[str, Any]:
    """Finished and failed executions as bars, the ones `shift` before as a dotted line where there were any."""
    series: list[dict[str, Any]] = [
        {"name": "finished", "role": "finished", "y": grid.fill((one.at, one.count - one.failed) for one in now)},
        {"name": "failed", "role": "failed", "y": grid.fill((one.at, one.failed) for one in now)},
    ]
    if past:
        dotted = grid.fill((one.at + shift, one.count) for one in past)
        series.append({"name": "a week before", "role": "past", "y": dotted})
    return {"kind": "throughput", **grid.axis, "series": series}


def line(grid: Grid, name: str, points: Iterable[tuple[datetime, float]], *, unit: str = "s") -> dict[str, Any]:
    """One line; where there is no point it is broken."""
    y: list[float | None] = [None] * grid.count
    for at, value in points:
        if 0 <= grid.place(at) < grid.count:
            y[grid.place(at)] = round(value, 3)
    return {"kind": "line", **grid.axis, "unit": unit, "series": [{"name": name, "y": y}]}


def stacked(
    grid: Grid,
    groups: Mapping[str, Iterable[tuple[datetime, float]]],
    *,
    unit: str = "$",
    limit: tuple[float, str] | None = None,
) -> dict[str, Any]:
    """One bar a step, made of the groups in the order given; `limit` is a line with its name."""
    series = [{"name": name, "y": grid.fill(points)} for name, points in groups.items()]
    spec: dict[str, Any] = {"kind": "stacked", **grid.axis, "unit": unit, "series": series}
    if limit is not None:
        spec["thresholds"] = [{"y": limit[0], "label": limit[1], "level": "limit"}]
    return spec
