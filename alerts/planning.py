"""What is to be sent: delivery rows, written in the transaction of the event that they tell of."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.conf import settings

from alerts.models import (
    Alert,
    AlertEvent,
    AlertStatus,
    Channel,
    ChannelKind,
    Delivery,
    DeliveryStatus,
    EventKind,
    Level,
)
from alerts.wording import link, one_line

# The step of the policy that an event stands for, and what the subject line begins with beside the level.
STEPS = {
    EventKind.FIRED: "",
    EventKind.RAISED: "",
    EventKind.ESCALATED: "nobody has answered: ",
    EventKind.REOPENED: "again: ",
    EventKind.WOKEN: "still there: ",
}
EVERY_LEVEL = list(Level.values)
MAY_BE_A_REPEAT = " (may be a repeat)"


def plan(alert: Alert, event: AlertEvent, *, now: datetime) -> int:
    """Write a delivery for each enabled channel that takes the alert's level; returns how many."""
    _overtake(alert)
    subject = one_line(f"[{alert.level}] {STEPS[EventKind(event.kind)]}{alert.title}", 300)
    deliveries = [
        Delivery(
            project_id=alert.project_id,
            alert=alert,
            channel=channel,
            key=key(alert, event, step=event.kind, loop=0, channel=channel),
            due_at=now,
            subject=subject,
            body=_body(alert, event, channel),
            created_at=now,
        )
        for channel in _channels(alert.project_id)
        if channel.enabled and alert.level in channel.levels
    ]
    Delivery.objects.bulk_create(deliveries)
    return len(deliveries)


def plan_repeat(delivery: Delivery, *, marked: bool, now: datetime) -> bool:
    """Plan what is in doubt once more, never twice; `marked` says so at the end of the text."""
    *rest, loop, channel = delivery.key.split(":")
    if int(loop) > 0:
        return False
    mark = MAY_BE_A_REPEAT if marked else ""
    repeat = Delivery(
        project_id=delivery.project_id,
        alert_id=delivery.alert_id,
        channel_id=delivery.channel_id,
        key=":".join([*rest, "1", channel]),
        due_at=now,
        subject=delivery.subject + mark,
        body=delivery.body + (f"\n{mark.strip()}" if mark else ""),
        created_at=now,
    )
    Delivery.objects.bulk_create([repeat], ignore_conflicts=True)
    return True


def first_of(delivery: Delivery) -> UUID:
    """The id that a message keeps when it is sent once more: its first delivery's."""
    *rest, loop, channel = delivery.key.split(":")
    if loop == "0":
        return delivery.pk
    return Delivery.objects.values_list("pk", flat=True).get(key=":".join([*rest, "0", channel]))


def cancel_pending(alert: Alert, *, outcome: str) -> int:
    """Cancel what is not yet on its way, in the transaction that made it needless."""
    return Delivery.objects.filter(
        project_id=alert.project_id, alert_id=alert.pk, status=DeliveryStatus.PENDING
    ).update(status=DeliveryStatus.CANCELLED, outcome=outcome)


def is_wanted(alert: Alert, *, now: datetime) -> bool:
    """Whether anybody still has to be told."""
    return alert.status == AlertStatus.FIRING and not (alert.snoozed_until and alert.snoozed_until > now)


def key(alert: Alert, event: AlertEvent, *, step: str, loop: int, channel: Channel) -> str:
    return f"{alert.pk}:{event.pk}:{step}:{loop}:{channel.pk}"


def ensure_defaults(project_id: int) -> None:
    """Give a project its first channels: console and in-app for everything, the configured address for criticals."""
    kinds = set(Channel.objects.filter(project_id=project_id).values_list("kind", flat=True))
    wanted = []
    if not kinds:
        wanted += [
            Channel(project_id=project_id, kind=ChannelKind.CONSOLE, name="console", levels=EVERY_LEVEL),
            Channel(project_id=project_id, kind=ChannelKind.IN_APP, name="in-app", levels=EVERY_LEVEL),
        ]
    if settings.ALERT_EMAIL_TO and ChannelKind.EMAIL not in kinds:
        wanted.append(
            Channel(
                project_id=project_id,
                kind=ChannelKind.EMAIL,
                name="email",
                target=settings.ALERT_EMAIL_TO,
                levels=[Level.CRITICAL],
            )
        )
    if wanted:
        Channel.objects.bulk_create(wanted, ignore_conflicts=True)


def _overtake(alert: Alert) -> None:
    """What still waits is replaced by newer words, where the same channel gets those."""
    Delivery.objects.filter(
        project_id=alert.project_id,
        alert_id=alert.pk,
        status=DeliveryStatus.PENDING,
        channel__enabled=True,
        channel__levels__contains=[alert.level],
    ).update(status=DeliveryStatus.CANCELLED, outcome="overtaken by newer words")


def _channels(project_id: int) -> Sequence[Channel]:
    ensure_defaults(project_id)
    return list(Channel.objects.filter(project_id=project_id))


def _body(alert: Alert, event: AlertEvent, channel: Channel) -> str:
    parts = [alert.message or alert.title]
    if link("/") not in alert.message:
        parts.append(link(f"/alerts/{alert.pk}"))
    count = f", seen {alert.count} times" if alert.count > 1 else ""
    parts.append(f"You get this because the channel “{channel.name}” takes {alert.level} alerts{count}.")
    return "\n".join(parts)
