"""Alerts, their history, the channels they go out by, and each delivery."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from monitor.ids import uuid7
from monitor.models import Project


class Level(models.TextChoices):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class AlertStatus(models.TextChoices):
    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


OPEN_ALERTS = (AlertStatus.FIRING, AlertStatus.ACKNOWLEDGED)

# {to: {from, …}}; the same table stands as a trigger in the database.
MOVES: dict[str, set[str]] = {
    AlertStatus.FIRING: {AlertStatus.ACKNOWLEDGED, AlertStatus.RESOLVED},
    AlertStatus.ACKNOWLEDGED: {AlertStatus.FIRING},
    AlertStatus.RESOLVED: {AlertStatus.FIRING, AlertStatus.ACKNOWLEDGED},
}


class Alert(models.Model):
    """One episode of one trouble: repeats raise `count`; at most one is open per fingerprint."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    fingerprint = models.CharField(max_length=200)
    level = models.CharField(max_length=8, choices=Level.choices)
    type = models.CharField(max_length=60)
    title = models.CharField(max_length=300)
    message = models.TextField(blank=True, default="")
    data = models.JSONField(default=dict)
    agent = models.CharField(max_length=200, blank=True, default="")
    run_id = models.CharField(max_length=200, blank=True, default="")
    execution_id = models.UUIDField(null=True)
    # The client's own string, as the execution has it.
    conversation_id = models.CharField(max_length=200, blank=True, default="")
    status = models.CharField(max_length=12, choices=AlertStatus.choices, default=AlertStatus.FIRING)
    count = models.PositiveIntegerField(default=1)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    # When a firing warning becomes critical; null when nothing is due.
    escalate_at = models.DateTimeField(null=True)
    snoozed_until = models.DateTimeField(null=True)
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_by = models.CharField(max_length=200, blank=True, default="")
    resolved_at = models.DateTimeField(null=True)
    resolved_by = models.CharField(max_length=200, blank=True, default="")
    reopened = models.PositiveSmallIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "fingerprint"],
                condition=models.Q(status__in=OPEN_ALERTS),
                name="alert_one_open_per_cause",
            ),
            models.CheckConstraint(condition=models.Q(level__in=Level.values), name="alert_level_is_known"),
            models.CheckConstraint(condition=models.Q(status__in=AlertStatus.values), name="alert_status_is_known"),
        ]
        indexes = [
            models.Index(fields=["project", "-last_seen_at", "-id"], name="alert_newest"),
            models.Index(fields=["project", "fingerprint", "-resolved_at"], name="alert_by_fingerprint"),
            # Read by the list's choice of types.
            models.Index(fields=["project", "type"], name="alert_by_type"),
            # Read by escalation.due.
            models.Index(
                fields=["escalate_at"],
                name="alert_escalation_due",
                condition=models.Q(escalate_at__isnull=False),
            ),
            # Read by escalation.due too.
            models.Index(
                fields=["snoozed_until"],
                name="alert_snooze_over",
                condition=models.Q(snoozed_until__isnull=False),
            ),
            # Read by retention.
            models.Index(fields=["resolved_at"], name="alert_by_age", condition=models.Q(status=AlertStatus.RESOLVED)),
        ]


class EventKind(models.TextChoices):
    FIRED = "fired"
    REPEATED = "repeated"
    RAISED = "raised"  # to a higher level, by news
    ESCALATED = "escalated"  # to a higher level, by time
    ACKNOWLEDGED = "acknowledged"
    SNOOZED = "snoozed"
    WOKEN = "woken"
    RESOLVED = "resolved"
    REOPENED = "reopened"
    NOTED = "noted"


class AlertEvent(models.Model):
    """What happened to an alert; append-only. `change_id` is the state change that caused it, judged once."""

    id = models.BigAutoField(primary_key=True)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=20, choices=EventKind.choices)
    actor = models.CharField(max_length=200, blank=True, default="")
    note = models.TextField(blank=True, default="")
    data = models.JSONField(default=dict)
    change_id = models.BigIntegerField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["alert", "change_id"], name="alert_event_once_per_state_change"),
        ]


class ChannelKind(models.TextChoices):
    CONSOLE = "console"
    EMAIL = "email"
    IN_APP = "in_app"


class Channel(models.Model):
    """A way out of the system. `target` is an address of the kind: an email, "" for the console."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    kind = models.CharField(max_length=10, choices=ChannelKind.choices)
    name = models.CharField(max_length=100)
    target = models.CharField(max_length=300, blank=True, default="")
    levels = ArrayField(models.CharField(max_length=8, choices=Level.choices))
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="channel_one_per_name")]


class DeliveryStatus(models.TextChoices):
    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    UNKNOWN = "unknown"  # in doubt: the sender died between sending and saying so
    CANCELLED = "cancelled"


DELIVERY_MOVES: dict[str, set[str]] = {
    DeliveryStatus.PENDING: {DeliveryStatus.SENDING},
    DeliveryStatus.SENDING: {DeliveryStatus.PENDING, DeliveryStatus.UNKNOWN},
    DeliveryStatus.SENT: {DeliveryStatus.SENDING},
    DeliveryStatus.FAILED: {DeliveryStatus.SENDING},
    DeliveryStatus.UNKNOWN: {DeliveryStatus.SENDING},
    DeliveryStatus.CANCELLED: {DeliveryStatus.PENDING, DeliveryStatus.SENDING},
}


class Delivery(models.Model):
    """One message to one channel, planned in the transaction of its event; sent under a lease."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="deliveries")
    key = models.CharField(max_length=200, unique=True)  # alert:event:step:loop:channel
    status = models.CharField(max_length=10, choices=DeliveryStatus.choices, default=DeliveryStatus.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField()
    lease_until = models.DateTimeField(null=True)
    subject = models.TextField()
    body = models.TextField()
    outcome = models.TextField(blank=True, default="")
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status="sending", lease_until__isnull=False) | ~models.Q(status="sending"),
                name="delivery_is_sent_under_a_lease",
            ),
        ]
        indexes = [
            # Read by delivery.claim.
            models.Index(fields=["due_at"], name="delivery_due", condition=models.Q(status__in=["pending", "sending"])),
        ]
