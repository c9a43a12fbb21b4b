"""What the API of alerts takes and gives."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from alerts.models import Alert, AlertEvent, Channel, Delivery
from monitor.api.pages import PageQuery

LevelName = Literal["info", "warning", "critical"]
StatusName = Literal["firing", "acknowledged", "resolved"]
DeliveryStatusName = Literal["pending", "sending", "sent", "failed", "unknown", "cancelled"]
KindName = Literal["console", "email", "in_app"]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Name = Annotated[str, msgspec.Meta(max_length=200)]
Text = Annotated[str, msgspec.Meta(max_length=10_000)]
Note = Annotated[str, msgspec.Meta(max_length=2_000)]


class AlertQuery(PageQuery, kw_only=True):
    level: list[LevelName] | None = None
    type: Annotated[str, msgspec.Meta(max_length=60)] | None = None
    status: list[StatusName] | None = None
    since: Moment | None = None
    search: Name | None = None


class NewAlert(msgspec.Struct, kw_only=True):
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    level: LevelName = "warning"
    type: Annotated[str, msgspec.Meta(min_length=1, max_length=60)] = "custom"
    message: Text = ""
    data: dict[str, Any] = {}
    fingerprint: Name = ""
    agent: Name = ""
    run_id: Name = ""
    execution_id: UUID | None = None
    conversation_id: Name = ""


class Act(msgspec.Struct, kw_only=True):
    note: Note = ""
    as_: Annotated[str, msgspec.Meta(max_length=254)] = msgspec.field(default="", name="as")


class Snooze(Act, kw_only=True):
    until: Moment


class SeedAcknowledge(msgspec.Struct, kw_only=True):
    alert_id: UUID = msgspec.field(name="alertId")
    note: Note = ""


class Success(msgspec.Struct, kw_only=True):
    success: bool


class AlertOut(msgspec.Struct, kw_only=True):
    id: UUID
    fingerprint: str
    level: str
    type: str
    title: str
    message: str
    data: dict[str, Any]
    agent: str
    run_id: str
    execution_id: UUID | None
    conversation_id: str
    status: str
    count: int
    first_seen_at: datetime
    last_seen_at: datetime
    escalate_at: datetime | None
    snoozed_until: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str
    resolved_at: datetime | None
    resolved_by: str
    reopened: int


class AlertPage(msgspec.Struct, kw_only=True):
    results: list[AlertOut]
    next: str | None


class EventOut(msgspec.Struct, kw_only=True):
    at: datetime
    kind: str
    actor: str
    note: str
    data: dict[str, Any]


class DeliveryOut(msgspec.Struct, kw_only=True):
    id: UUID
    alert_id: UUID
    channel_id: UUID
    status: str
    attempts: int
    due_at: datetime
    subject: str
    body: str
    outcome: str
    created_at: datetime
    sent_at: datetime | None


class DeliveryPage(msgspec.Struct, kw_only=True):
    results: list[DeliveryOut]
    next: str | None


# Each repeat of an alert is an event.
MOST_OF_EACH = 100


class AlertDetail(AlertOut, kw_only=True):
    """An alert with its last 100 events and deliveries, oldest first."""

    events: list[EventOut]
    deliveries: list[DeliveryOut]


class DeliveryQuery(PageQuery, kw_only=True):
    status: list[DeliveryStatusName] | None = None
    alert_id: UUID | None = None
    channel_id: UUID | None = None


class StatsQuery(msgspec.Struct, kw_only=True):
    window: Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,3}[mhd]$")] = "24h"


class Stats(msgspec.Struct, kw_only=True):
    window: str
    total: int
    open: int
    by_level: dict[str, int]
    by_status: dict[str, int]
    mean_time_to_acknowledge_ms: int | None
    mean_time_to_resolve_ms: int | None


class NewChannel(msgspec.Struct, kw_only=True):
    kind: KindName
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    target: Annotated[str, msgspec.Meta(max_length=300)] = ""
    levels: Annotated[list[LevelName], msgspec.Meta(min_length=1, max_length=3)]
    enabled: bool = True


class ChannelChange(msgspec.Struct, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    target: Annotated[str, msgspec.Meta(max_length=300)] | None = None
    levels: Annotated[list[LevelName], msgspec.Meta(min_length=1, max_length=3)] | None = None
    enabled: bool | None = None


class ChannelOut(msgspec.Struct, kw_only=True):
    id: UUID
    kind: str
    name: str
    target: str
    levels: list[str]
    enabled: bool
    created_at: datetime


class ChannelPage(msgspec.Struct, kw_only=True):
    results: list[ChannelOut]
    next: str | None


class TestOutcome(msgspec.Struct, kw_only=True):
    """`outcome` is sent, failed or unknown; `detail` the provider's id, or what went wrong."""

    outcome: str
    detail: str


def alert_out(alert: Alert) -> AlertOut:
    return AlertOut(**_fields(alert, AlertOut))


def alert_detail(alert: Alert, events: list[AlertEvent], deliveries: list[Delivery]) -> AlertDetail:
    return AlertDetail(
        **_fields(alert, AlertOut),
        events=[EventOut(**_fields(event, EventOut)) for event in events],
        deliveries=[delivery_out(delivery) for delivery in deliveries],
    )


def delivery_out(delivery: Delivery) -> DeliveryOut:
    return DeliveryOut(**_fields(delivery, DeliveryOut))


def channel_out(channel: Channel) -> ChannelOut:
    return ChannelOut(**_fields(channel, ChannelOut))


def _fields(row: Any, struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in struct.__struct_fields__}
