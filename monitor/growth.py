"""How large each kind of data is, how fast it grows, and when the room is full at this pace. Nothing is counted.

Sizes are those of files, rows are PostgreSQL's estimates. One sample a day is kept: the last.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from math import sqrt
from statistics import fmean, median, stdev
from typing import Any

from django.db import connection

from monitor import keeping, room
from monitor.models import GrowthSample, RoomLevel, RoomState
from monitor.pipeline import Statement
from monitor.retention import DAYS_AHEAD, EACH_PROJECT, PARTITIONED, PRUNED, tables_of
from monitor.room import Room
from monitor.tenancy import crossing
from monitor.together import Together
from monitor.vitals import ROWS

DAY = timedelta(days=1)
PACE_OVER = timedelta(days=7)
# A pace of less than a day says more about the hour than about the day.
LEAST_PACE = timedelta(hours=20)
# From so many days at least, and so many at most, a forecast is drawn; parts of a day are left out.
FORECAST_FROM, DAYS_FORECAST = 3, 7
LEAST_STEP = timedelta(hours=12)
SHOWN = timedelta(days=30)
SAMPLES_KEPT = timedelta(days=800)
OTHER, ROOM = "other", "room"
# The middle four of five outcomes lie within so many standard errors.
FOUR_OF_FIVE = 1.28
# A step is a jump when it is so many mean deviations of the others off their median, and so much of the room; of fewer
# steps none can be told.
JUMP, LEAST_JUMP, LEAST_JUDGED = 10, 0.01, 5
# The size of a file system that shares its room with others moves a little; a disk that was made larger is more.
SAME_ROOM = 0.01
SIZES = f"""
SELECT coalesce(parent.relname, own.relname) AS name, sum(pg_total_relation_size(own.oid))::bigint, {ROWS}
  FROM pg_class AS own
  LEFT JOIN pg_inherits AS tree ON tree.inhrelid = own.oid
  LEFT JOIN pg_class AS parent ON parent.oid = tree.inhparent
 WHERE own.relkind = 'r' AND own.relnamespace = 'public'::regnamespace
 GROUP BY 1
"""  # noqa: S608
# The days of each table, oldest first, and whether any files are left of them.
DAYS = """
SELECT parent.relname, to_date(right(own.relname, 8), 'YYYYMMDD') AS day, pg_relation_size(own.oid) > 0
  FROM pg_inherits AS tree
  JOIN pg_class AS own ON own.oid = tree.inhrelid
  JOIN pg_class AS parent ON parent.oid = tree.inhparent
 WHERE tree.inhparent = ANY(%(tables)s::regclass[]) AND own.relname ~ '_p[0-9]{8}$' ORDER BY day
"""
# Files may be left of rows that are gone: of so many days that have any, the first with a row is looked for.
LOOKED_AT = 10
SAMPLE = """
INSERT INTO monitor_growthsample ("on", name, at, rows, bytes)
SELECT %(on)s, name, %(at)s, rows, bytes FROM unnest(%(names)s::text[], %(rows)s::bigint[], %(bytes)s::bigint[])
    AS found (name, rows, bytes)
ON CONFLICT ("on", name) DO UPDATE SET at = excluded.at, rows = excluded.rows, bytes = excluded.bytes
"""


@dataclass(frozen=True)
class Size:
    """How large a kind is; `rows` is an estimate."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Held:
    """A kind of data: its size, by how much it grows a day (None: not known yet), how far back it reaches.

    `days` and `own_days` are how long it is kept at most by anybody, and by the instance; None for what stays.
    """

    kind: str
    size: Size
    rows_a_day: float | None
    bytes_a_day: float | None
    oldest_at: datetime | None
    days: int | None
    default_days: int | None

    @property
    def leaves_from(self) -> datetime | None:
        """When the first of it is as old as it is kept, and as much begins to leave as comes."""
        return self.oldest_at + timedelta(days=self.days) if self.oldest_at and self.days else None

    @property
    def label(self) -> str:
        return keeping.KINDS[self.kind].label if self.kind in keeping.KINDS else "Everything else"

    @property
    def holds(self) -> str:
        return (
            keeping.KINDS[self.kind].holds
            if self.kind in keeping.KINDS
            else "people, keys, budgets, agents and the like"
        )


@dataclass(frozen=True)
class Partitions:
    """The days of a kind: how many there are, and how many of those to come are made of those that should be."""

    kind: str
    days: int
    first: date | None
    ahead: int
    wanted_ahead: int

    @property
    def label(self) -> str:
        return keeping.KINDS[self.kind].label


@dataclass(frozen=True)
class Forecast:
    """When the room is full at the pace of the last days: between `soonest` and `latest`, four times of five.

    Each is None where it does not come to that. `bytes_a_day` is the pace; `days` say how many days it is drawn from,
    and `jumps` are what was left out of it, in bytes a day.
    """

    bytes_a_day: float
    margin_a_day: float
    days: int
    full_in_days: float | None
    soonest_in_days: float | None
    latest_in_days: float | None
    jumps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Growth:
    """All of it at one moment. `used` are the daily samples of the room, oldest first; `was` is what was told of it."""

    kinds: list[Held]
    partitions: list[Partitions]
    room: Room | None
    used: list[tuple[datetime, int]]
    forecast: Forecast | None
    was: str = RoomLevel.ROOMY

    @property
    def level(self) -> RoomLevel:
        """What the room means, after what was told last."""
        return room.level(self.room.share, self.was) if self.room else RoomLevel.ROOMY

    @property
    def bytes(self) -> int:
        return sum(one.size.bytes for one in self.kinds)

    @property
    def bytes_a_day(self) -> float | None:
        known = [one.bytes_a_day for one in self.kinds if one.bytes_a_day is not None]
        return sum(known) if known else None


def sample(*, now: datetime) -> int:
    """Write how large everything is; the last of a day stays. Returns how many kinds there are."""
    found: dict[str, Size] = sizes()
    known = room.measure()
    if known is not None:
        found = {**found, ROOM: Size(known.total_bytes, known.used_bytes)}
    with crossing(), connection.cursor() as cursor:
        values: dict[str, Any] = {
            "on": now.astimezone(UTC).date(),
            "at": now,
            "names": list(found),
            "rows": [one.rows for one in found.values()],
            "bytes": [one.bytes for one in found.values()],
        }
        cursor.execute(SAMPLE, values)
        GrowthSample.objects.filter(on__lt=(now - SAMPLES_KEPT).date()).delete()
    return len(found)


def sizes() -> dict[str, Size]:
    """The size of every kind, and of everything else together."""
    with connection.cursor() as cursor:
        cursor.execute(SIZES)
        tables = {name: Size(rows, size) for name, size, rows in cursor.fetchall()}
    found = {kind: _sum(tables.pop(table, Size(0, 0)) for table in tables_of(kind)) for kind in keeping.KINDS}
    return {**found, OTHER: _sum(tables.values())}


def look(*, now: datetime) -> Growth:
    """How everything has grown and will grow."""
    measured, found = room.measure(), sizes()
    since = (now - max(SHOWN, PACE_OVER + DAY)).date()
    first_tables = {kind: tables_of(kind)[0] for kind in keeping.KINDS}
    with Together(across=True) as asked:
        standing = keeping.asking(asked)
        states = asked.rows(RoomState.objects.filter(name=room.NAME))
        samples = asked.rows(GrowthSample.objects.filter(on__gte=since).order_by("on"))
        days = asked.ask(Statement(DAYS, {"tables": list(PARTITIONED)}), list)
    with Together(across=True) as asked:
        firsts = {
            kind: asked.ask(Statement(_OLDEST[table], {}), list)
            for kind, table in first_tables.items()
            if table not in PARTITIONED
        }
        firsts |= {
            kind: asked.ask(Statement(_first_filled(table, days), None), list)
            for kind, table in first_tables.items()
            if table in PARTITIONED
        }
    oldest = {kind: rows[0][0] for kind, rows in firsts.items()}
    kept = standing()
    by_name: dict[str, list[GrowthSample]] = {}
    for one in samples:
        by_name.setdefault(one.name, []).append(one)
    kinds = []
    for kind, size in found.items():
        paces = _pace(by_name.get(kind, ()), size, now=now)
        is_kept = kind in keeping.KINDS
        kinds.append(
            Held(
                kind=kind,
                size=size,
                rows_a_day=paces[0] if paces else None,
                bytes_a_day=paces[1] if paces else None,
                oldest_at=oldest.get(kind),
                days=kept.longest(kind) if is_kept else None,
                default_days=kept.default[kind] if is_kept else None,
            )
        )
    used = _of_same_room(by_name.get(ROOM, ()), measured) if measured else []
    return Growth(
        kinds=sorted(kinds, key=lambda one: (one.kind == OTHER, -one.size.bytes)),
        partitions=[_partitions(table, days, now=now) for table in PARTITIONED],
        room=measured,
        used=used,
        forecast=forecast(used[-DAYS_FORECAST - 1 :], measured) if measured else None,
        was=states[0].level if states else RoomLevel.ROOMY,
    )


def forecast(used: Sequence[tuple[datetime, int]], measured: Room) -> Forecast | None:
    """What the sizes of the last days say of the coming ones; None while they are too few to say anything."""
    steps = [
        (size - before) / ((at - began) / DAY)
        for (began, before), (at, size) in pairwise(used)
        if at - began >= LEAST_STEP
    ]
    if len(steps) < FORECAST_FROM:
        return None
    steps, jumps = _without_jumps(steps, least=LEAST_JUMP * measured.total_bytes)
    pace = fmean(steps)
    margin = FOUR_OF_FIVE * stdev(steps) / sqrt(len(steps))
    left = measured.left_bytes
    return Forecast(
        bytes_a_day=pace,
        margin_a_day=margin,
        days=len(steps),
        full_in_days=_days_until(left, pace),
        soonest_in_days=_days_until(left, pace + margin),
        latest_in_days=_days_until(left, pace - margin),
        jumps=tuple(jumps),
    )


def _without_jumps(steps: list[float], *, least: float) -> tuple[list[float], list[float]]:
    """The steps without what happened once and says nothing of the days to come, a copy or a deletion; and that.

    Two alike are no longer that. A median would do without this, and call what grows on two days of seven at rest.
    """
    jumps: list[float] = []
    while len(steps) >= LEAST_JUDGED:
        *others, far = sorted(steps, key=lambda one: abs(one - median(steps)))
        middle = median(others)
        if abs(far - middle) <= max(JUMP * fmean(abs(one - middle) for one in others), least):
            break
        steps = others
        jumps.append(far)
    return steps, jumps


def _of_same_room(samples: Sequence[GrowthSample], measured: Room) -> list[tuple[datetime, int]]:
    """The samples of the room as large as it is, each compared with the one after it; another one begins anew."""
    found, total = [], measured.total_bytes
    for one in reversed(samples):
        if abs(one.rows - total) <= SAME_ROOM * total:
            found.append((one.at, one.bytes))
            total = one.rows
    return found[::-1]


def _days_until(left: int, pace: float) -> float | None:
    return left / pace if pace > 0 else None


def _pace(samples: Iterable[GrowthSample], size: Size, *, now: datetime) -> tuple[float, float] | None:
    """(rows, bytes) a day since the sample of a week ago, or the oldest there is."""
    first = next((one for one in samples if one.at >= now - PACE_OVER - DAY), None)
    if first is None or now - first.at < LEAST_PACE:
        return None
    days = (now - first.at) / DAY
    return (size.rows - first.rows) / days, (size.bytes - first.bytes) / days


def _first_filled(table: str, days: Iterable[tuple[str, date, bool]]) -> str:
    """SQL for the first day of a table that holds a row. The days are its text, so that each looks at its own rows."""
    column = PARTITIONED[table].column
    filled = [day for name, day, has_files in days if name == table and has_files][:LOOKED_AT]
    cases = " ".join(
        f"""WHEN EXISTS (SELECT FROM {table} WHERE {column} >= '{day} 00:00Z' AND {column} < '{day + DAY} 00:00Z')
            THEN timestamptz '{day} 00:00Z'"""
        for day in filled
    )
    return f"SELECT CASE {cases} END" if cases else "SELECT NULL::timestamptz"


def _oldest_of(table: str, column: str, *, by_project: bool, where: str = "true") -> str:
    if not by_project:
        return f"SELECT min({column}) FROM {table} WHERE {column} IS NOT NULL AND {where}"  # noqa: S608
    return f"""
        SELECT min(first) FROM monitor_project AS project, LATERAL (
            SELECT min({column}) AS first FROM {table} WHERE project_id = project.id) AS found
    """  # noqa: S608


_OLDEST: Mapping[str, str] = {
    "alerts_alert": _oldest_of("alerts_alert", "resolved_at", by_project=False, where="status = 'resolved'"),
    **{
        one.table: _oldest_of(one.table, one.column, by_project=EACH_PROJECT in one.also)
        for one in PRUNED
        if one.table != "monitor_budgetwindow"
    },
}


def _partitions(table: str, found: Iterable[tuple[str, date, bool]], *, now: datetime) -> Partitions:
    days = [day for name, day, _ in found if name == table]
    today = now.astimezone(UTC).date()
    return Partitions(
        kind=PARTITIONED[table].kind,
        days=len(days),
        first=days[0] if days else None,
        ahead=sum(today < day <= today + timedelta(days=DAYS_AHEAD) for day in days),
        wanted_ahead=DAYS_AHEAD,
    )


def _sum(found: Iterable[Size]) -> Size:
    found = list(found)
    return Size(sum(one.rows for one in found), sum(one.bytes for one in found))
