"""How long things are kept, and how they grow."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Literal

import msgspec
from django.conf import settings
from django.urls import path
from msgspec import Meta

from monitor import growth, keeping, leaving
from monitor.api.door import Door, Request, endpoint
from monitor.api.problems import Forbidden, Problem, bad_field
from monitor.keeping import KINDS, BadDays, Change, Kept
from monitor.models import RoomLevel
from monitor.room import Room

Of = Literal["project", "instance"]


class KeepingQuery(msgspec.Struct, kw_only=True):
    of: Of = "project"


class ChangedKeeping(msgspec.Struct, kw_only=True):
    """Days by kind, null for those that hold without. What deletes needs `confirm`."""

    days: dict[str, Annotated[int, Meta(ge=1, le=10_000)] | None]
    of: Of = "project"
    confirm: bool = False


class KeptOut(msgspec.Struct, kw_only=True):
    """`own_days` is what the project, or the instance, says itself; `default_days` holds without."""

    kind: str
    days: int
    own_days: int | None
    default_days: int
    least_days: int
    most_days: int


class KeepingOut(msgspec.Struct, kw_only=True):
    """`span_may_be_late_s`: a span that started longer ago is refused."""

    of: Of
    kinds: list[KeptOut]
    span_may_be_late_s: int


class Retention(Door):
    """For how many days each kind is kept, by the project or, `of=instance`, by all that say nothing themselves."""

    @endpoint(scope="admin", query=KeepingQuery, answer=KeepingOut)
    def get(self, request: Request, query: KeepingQuery) -> KeepingOut:
        return _out(query.of, _held(request, query.of), now=request.now)

    @endpoint(scope="admin", body=ChangedKeeping, answer=KeepingOut, also=(409,))
    def patch(self, request: Request, body: ChangedKeeping) -> KeepingOut:
        """Set days; the others stay. Without `confirm` what deletes is a 409 that says how much would leave.

        Spans are kept for no longer than what they change: days that do not fit together are a 400.
        """
        caller, now = request.caller, request.now
        try:
            plan = keeping.planned(body.days, _held(request, body.of))
            if any(one.is_shorter for one in plan) and not body.confirm:
                raise _unconfirmed(request, body.of, plan)
            if body.of == "instance":
                keeping.change_for_all(body.days, actor=caller.actor, now=now)
            else:
                keeping.change(caller.project_id, body.days, actor=caller.actor, now=now)
        except BadDays as error:
            raise bad_field(f"days.{error.kind}", error.message) from error
        return _out(body.of, _held(request, body.of), now=now)


def _held(request: Request, of: Of) -> dict[str, Kept]:
    if of == "project":
        return keeping.of_project(request.caller.project_id)
    if not request.caller.is_instance_admin:
        raise Forbidden("What all projects keep belongs to the admins of the instance.")
    return keeping.of_instance()


def _unconfirmed(request: Request, of: Of, plan: list[Change]) -> Problem:
    if of == "instance":
        left = leaving.of_all(plan, now=request.now)
    else:
        left = leaving.of_project(plan, request.caller.project_id, now=request.now)
    return Problem(
        409,
        "Not confirmed",
        "This deletes what is older, and nothing brings it back. Send it again with `confirm`.",
        leaves=[one._asdict() for one in left],
    )


def _out(of: Of, held: Mapping[str, Kept], *, now: datetime) -> KeepingOut:
    late = now - keeping.lateness(held).oldest(now=now)
    kinds = [
        KeptOut(
            kind=kind,
            days=one.days,
            own_days=one.own,
            default_days=one.default,
            least_days=KINDS[kind].least,
            most_days=KINDS[kind].most,
        )
        for kind, one in held.items()
    ]
    return KeepingOut(of=of, kinds=kinds, span_may_be_late_s=round(late.total_seconds()))


class RoomOut(msgspec.Struct, kw_only=True):
    """The disk of the database, or the limit that was set for it; shares are of one."""

    is_disk: bool
    used_bytes: int
    total_bytes: int
    share: float
    level: str
    warns_at: float
    stops_at: float


class GrowingKind(msgspec.Struct, kw_only=True):
    """`rows` is an estimate. A day's growth is the mean of at most seven, less what left; null before there is one."""

    kind: str
    bytes: int
    rows: int
    bytes_a_day: float | None
    rows_a_day: float | None
    oldest_at: datetime | None
    days: int | None


class DaysOut(msgspec.Struct, kw_only=True):
    """The partitions of a kind that lies in days."""

    kind: str
    days: int
    first: date | None
    ahead: int
    wanted_ahead: int


class ForecastOut(msgspec.Struct, kw_only=True):
    """At the pace of the last `days`; `soonest` and `latest` hold four times of five. Null: it is never full.

    `jumps_bytes` are days that are out of all proportion to the others, and that the pace is drawn without.
    """

    days: int
    bytes_a_day: float
    margin_bytes_a_day: float
    full_in_days: float | None
    soonest_in_days: float | None
    latest_in_days: float | None
    jumps_bytes: list[float]


class GrowthOut(msgspec.Struct, kw_only=True):
    """Of the whole instance. `room` is null where the disk is not seen, `forecast` before there are three days."""

    bytes: int
    room: RoomOut | None
    forecast: ForecastOut | None
    kinds: list[GrowingKind]
    partitions: list[DaysOut]


class Growth(Door):
    """How large each kind of data is, how it grows, and when the disk is full at this pace."""

    @endpoint(scope="read", answer=GrowthOut)
    def get(self, request: Request) -> GrowthOut:
        found = growth.look(now=request.now)
        return GrowthOut(
            bytes=found.bytes,
            room=_room(found.room, found.level),
            forecast=_forecast(found.forecast),
            kinds=[
                GrowingKind(
                    kind=one.kind,
                    bytes=one.size.bytes,
                    rows=one.size.rows,
                    bytes_a_day=one.bytes_a_day,
                    rows_a_day=one.rows_a_day,
                    oldest_at=one.oldest_at,
                    days=one.days,
                )
                for one in found.kinds
            ],
            partitions=[
                DaysOut(kind=one.kind, days=one.days, first=one.first, ahead=one.ahead, wanted_ahead=one.wanted_ahead)
                for one in found.partitions
            ],
        )


def _room(found: Room | None, level: RoomLevel) -> RoomOut | None:
    if found is None:
        return None
    return RoomOut(
        is_disk=found.is_disk,
        used_bytes=found.used_bytes,
        total_bytes=found.total_bytes,
        share=found.share,
        level=level,
        warns_at=settings.DISK_WARN,
        stops_at=settings.DISK_STOP,
    )


def _forecast(found: growth.Forecast | None) -> ForecastOut | None:
    if found is None:
        return None
    return ForecastOut(
        days=found.days,
        bytes_a_day=found.bytes_a_day,
        margin_bytes_a_day=found.margin_a_day,
        full_in_days=found.full_in_days,
        soonest_in_days=found.soonest_in_days,
        latest_in_days=found.latest_in_days,
        jumps_bytes=list(found.jumps),
    )


urlpatterns = [
    path("retention", Retention.as_view()),
    path("monitoring/growth", Growth.as_view()),
]
