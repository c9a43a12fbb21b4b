"""The human queue: one list for chats, approvals, paused executions and trips; and the events of a project."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from monitor.ids import uuid7
from monitor.models.conversations import Conversation
from monitor.models.people import HumanAgent
from monitor.models.projects import Project


class ItemKind(models.TextChoices):
    CHAT = "chat"
    APPROVAL = "approval"
    PAUSED_EXECUTION = "paused_execution"
    TRIP = "trip"


class ItemStatus(models.TextChoices):
    PENDING = "pending"
    CLAIMED = "claimed"
    WAITING_USER = "waiting_user"
    RESOLVED = "resolved"
    BACK_TO_AI = "back_to_ai"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


HELD = (ItemStatus.CLAIMED, ItemStatus.WAITING_USER)
OPEN_ITEMS = (ItemStatus.PENDING, *HELD)
CLOSED_ITEMS = (ItemStatus.RESOLVED, ItemStatus.BACK_TO_AI, ItemStatus.EXPIRED, ItemStatus.CANCELLED)

# {to: {from, …}}; the same table stands as a trigger in the database.
ITEM_MOVES: dict[str, set[str]] = {
    ItemStatus.PENDING: set(HELD),
    ItemStatus.CLAIMED: {ItemStatus.PENDING, ItemStatus.WAITING_USER},
    ItemStatus.WAITING_USER: {ItemStatus.CLAIMED},
    ItemStatus.RESOLVED: set(OPEN_ITEMS),
    ItemStatus.BACK_TO_AI: set(OPEN_ITEMS),
    ItemStatus.EXPIRED: {ItemStatus.PENDING},
    ItemStatus.CANCELLED: set(OPEN_ITEMS),
}


class QueueItem(models.Model):
    """Something that waits for a person. `subject_id` names it: conversation, execution or trip."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    kind = models.CharField(max_length=16, choices=ItemKind.choices)
    subject_id = models.CharField(max_length=200)
    conversation = models.ForeignKey(Conversation, null=True, on_delete=models.CASCADE, related_name="queue_items")
    status = models.CharField(max_length=12, choices=ItemStatus.choices, default=ItemStatus.PENDING)
    title = models.CharField(max_length=300)
    agent = models.CharField(max_length=200, blank=True, default="")
    trigger = models.CharField(max_length=40)
    evidence = models.JSONField(default=dict)
    skills = ArrayField(models.CharField(max_length=100), default=list, blank=True)
    priority = models.SmallIntegerField(default=0)  # higher is sooner
    assignee = models.ForeignKey(HumanAgent, null=True, on_delete=models.SET_NULL, related_name="queue_items")
    version = models.PositiveIntegerField(default=0)  # rises with every claim and release
    requested_at = models.DateTimeField()
    claim_due_at = models.DateTimeField(null=True)
    claimed_at = models.DateTimeField(null=True)
    first_reply_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)
    claim_breached_at = models.DateTimeField(null=True)
    instruction = models.TextField(blank=True, default="")
    outcome = models.CharField(max_length=40, blank=True, default="")
    note = models.TextField(blank=True, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "kind", "subject_id"],
                condition=models.Q(status__in=OPEN_ITEMS),
                name="queue_item_one_open_per_subject",
            ),
            models.CheckConstraint(
                condition=models.Q(status__in=HELD, assignee__isnull=False) | ~models.Q(status__in=HELD),
                name="queue_item_held_by_somebody",
            ),
            models.CheckConstraint(condition=models.Q(status__in=ItemStatus.values), name="queue_item_status_is_known"),
        ]
        indexes = [
            # Read by the queue page and by automatic assignment.
            models.Index(
                fields=["project", "-priority", "requested_at"],
                name="queue_item_open",
                condition=models.Q(status__in=OPEN_ITEMS),
            ),
            models.Index(fields=["project", "-requested_at"], name="queue_item_newest"),
            # Read by retention.
            models.Index(fields=["closed_at"], name="queue_item_by_age", condition=models.Q(closed_at__isnull=False)),
        ]


class EventCounter(models.Model):
    """The last event number of a project; its row lock puts commits in order of number."""

    project = models.OneToOneField(Project, primary_key=True, on_delete=models.CASCADE)
    last_seq = models.BigIntegerField(default=0)


class QueueEvent(models.Model):
    """Append-only news for the agent side and the live pages, numbered per project without gaps.

    `seq` is allocated under the counter's row lock, so no event can appear behind a cursor that passed it.
    """

    pk = models.CompositePrimaryKey("project_id", "seq")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    seq = models.BigIntegerField()
    kind = models.CharField(max_length=40)  # human_message, handed_back, claimed, command, …
    conversation_id = models.CharField(max_length=200, blank=True, default="")  # the client's string
    execution_id = models.UUIDField(null=True)
    data = models.JSONField(default=dict)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [
            models.Index(fields=["project", "conversation_id", "seq"], name="queue_event_of_conversation"),
            models.Index(fields=["project", "execution_id", "seq"], name="queue_event_of_execution"),
            models.Index(fields=["at"], name="queue_event_by_age"),  # read by retention
        ]
