"""How much room the database has left: people are warned in time, and agents' doors shut before it is full.

Each web process measures for itself, so that nobody has to be alive but the one that is asked. The job `look` tells of
it: once when it grows tight, once when doors shut, and once when there is room again.
"""

import logging
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from monitor import changes, commons
from monitor.models import Project, RoomLevel, RoomState, Subject
from monitor.tenancy import crossing, tenant

log = logging.getLogger(__name__)

# Once warned or stopped, so much has to be free again before that is over: else it would come and go by the minute.
RELIEF = 0.03
LOOK_EVERY = timedelta(seconds=2)
# Summing up the files of a database takes its time.
SUM_EVERY = timedelta(seconds=30)
NAME = "database"
ORDER = [RoomLevel.ROOMY, RoomLevel.WARNED, RoomLevel.STOPPED]


@dataclass(frozen=True)
class Room:
    """The room that the database has: a disk, or where nobody sees that a limit; `total_bytes` is above 0."""

    used_bytes: int
    total_bytes: int
    is_disk: bool

    @property
    def share(self) -> float:
        """How much of it is used, 0 to 1."""
        return self.used_bytes / self.total_bytes

    @property
    def left_bytes(self) -> int:
        return max(self.total_bytes - self.used_bytes, 0)

    @property
    def name(self) -> str:
        return "disk" if self.is_disk else "room of the database"


def measure() -> Room | None:
    """The room now, the tighter of the two where both are known; None where nothing is."""
    rooms = [disk_of(settings.DISK_PATH), _limit(_database_bytes()) if settings.DB_MAX_BYTES else None]
    return max((one for one in rooms if one), key=lambda one: one.share, default=None)


def level(share: float, was: str = RoomLevel.ROOMY) -> RoomLevel:
    """What a share means after `was`."""
    if share >= settings.DISK_STOP - (RELIEF if was == RoomLevel.STOPPED else 0):
        return RoomLevel.STOPPED
    if share >= settings.DISK_WARN - (RELIEF if was != RoomLevel.ROOMY else 0):
        return RoomLevel.WARNED
    return RoomLevel.ROOMY


def level_now(share: float) -> RoomLevel:
    """What a share means after what was told last."""
    means = level(share)
    # Mostly it means the same whatever was, and nobody has to be asked.
    return means if means == level(share, RoomLevel.STOPPED) else level(share, told())


def told() -> str:
    """The level that was told last."""
    return RoomState.objects.filter(name=NAME).values_list("level", flat=True).first() or RoomLevel.ROOMY


def disk_of(folder: Path | None) -> Room | None:
    """A folder's file system, None where it is not seen; what is kept for root counts neither as used nor as free."""
    if folder is None:
        return None
    try:
        found = os.statvfs(folder)
    except OSError:
        # Before the first start, or for the moment: the database will say so itself.
        return None
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    return Room(used, max(used + found.f_bavail * found.f_frsize, 1), is_disk=True)


def _limit(used_bytes: int) -> Room:
    return Room(used_bytes, settings.DB_MAX_BYTES, is_disk=False)


def _database_bytes() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        (size,) = cursor.fetchone()
        return int(size)


class Gate:
    """Whether a process takes what lets the database grow; what it saw is two seconds old at most."""

    def __init__(self) -> None:
        self.level: RoomLevel | None = None
        self._saw_disk = False
        self._looked_at: datetime | None = None
        self._summed: tuple[datetime, int] | None = None

    def is_shut(self, *, now: datetime) -> bool:
        """Look again if it is time. What can't be seen at the moment leaves it as it is."""
        if self._looked_at is None or not timedelta() <= now - self._looked_at < LOOK_EVERY:
            # First, so that threads that come meanwhile go by what is known.
            self._looked_at = now
            self._look(now=now)
        return self.level == RoomLevel.STOPPED

    def _look(self, *, now: datetime) -> None:
        disk = disk_of(settings.DISK_PATH)
        if disk is None and self._saw_disk:
            return
        self._saw_disk = disk is not None
        try:
            limit = _limit(self._database_bytes(now=now)) if settings.DB_MAX_BYTES else None
            found = max((one for one in (disk, limit) if one), key=lambda one: one.share, default=None)
            if found is not None:
                # A process that begins goes by what was told, as those beside it.
                self.level = level_now(found.share) if self.level is None else level(found.share, self.level)
        except (DatabaseError, InterfaceError) as error:
            log.warning("how much room the database has is not known: %s", error)

    def _database_bytes(self, *, now: datetime) -> int:
        if self._summed is None or not timedelta() <= now - self._summed[0] < SUM_EVERY:
            self._summed = now, _database_bytes()
        return self._summed[1]


gate = Gate()


def look(*, now: datetime) -> int:
    """Measure, and tell of it where it is not as it was; returns how many steps it went up or down."""
    room = measure()
    if room is None:
        return 0
    with crossing():
        RoomState.objects.bulk_create([_state(room, now=now)], ignore_conflicts=True)
        row = RoomState.objects.select_for_update().get(name=NAME)
        was, now_is = RoomLevel(row.level), level(room.share, row.level)
        fields = {"used_bytes": room.used_bytes, "total_bytes": room.total_bytes, "measured_at": now}
        if not Project.objects.exists():
            # There is nowhere to tell of it yet.
            RoomState.objects.filter(name=NAME).update(**fields)
            return 0
        RoomState.objects.filter(name=NAME).update(level=now_is, **fields)
        steps = _steps(was, now_is)
        for before, after in steps:
            _tell(room, before, after, now=now)
    return len(steps)


def _steps(was: RoomLevel, now_is: RoomLevel) -> list[tuple[RoomLevel, RoomLevel]]:
    """The way from one level to another, step by step: each has an alert of its own to open or to end."""
    first, last = ORDER.index(was), ORDER.index(now_is)
    way = 1 if last > first else -1
    return [(ORDER[at], ORDER[at + way]) for at in range(first, last, way)]


def _tell(room: Room, before: RoomLevel, after: RoomLevel, *, now: datetime) -> None:
    keeper = commons.keeper()
    with tenant(keeper):
        changes.record(
            keeper,
            Subject.ROOM,
            NAME,
            from_state=before,
            to_state=after,
            cause="measured",
            actor="crank",
            now=now,
            data={
                "used_bytes": room.used_bytes,
                "total_bytes": room.total_bytes,
                "share": round(room.share, 4),
                "is_disk": room.is_disk,
                "stops_at": settings.DISK_STOP,
            },
        )


def _state(room: Room, *, now: datetime) -> RoomState:
    return RoomState(name=NAME, used_bytes=room.used_bytes, total_bytes=room.total_bytes, measured_at=now)
