"""Conversations and their messages; who owns the turn is a fence, counted by `owner_epoch`."""

from django.db import models
from django.db.models.fields.json import KT
from django.db.models.functions import Now

from monitor.ids import uuid7
from monitor.models.money import SUM_DIGITS
from monitor.models.people import HumanAgent
from monitor.models.projects import Project


class State(models.TextChoices):
    NEW = "new"
    AI_PROCESSING = "ai_processing"
    FINISHED = "finished"
    HANDOVER = "handover"
    PENDING_HUMAN = "pending_human"
    HUMAN_ACTIVE = "human_active"
    RESOLVED = "resolved"
    BACK_TO_AI = "back_to_ai"


# {to: {from, …}}; `handover` and `back_to_ai` are passed through within one transaction.
MOVES: dict[str, set[str]] = {
    State.AI_PROCESSING: {State.NEW, State.BACK_TO_AI, State.PENDING_HUMAN, State.RESOLVED, State.FINISHED},
    State.FINISHED: {State.AI_PROCESSING},
    State.HANDOVER: {State.NEW, State.AI_PROCESSING},
    State.PENDING_HUMAN: {State.HANDOVER, State.HUMAN_ACTIVE, State.RESOLVED},
    State.HUMAN_ACTIVE: {State.PENDING_HUMAN},
    State.RESOLVED: {State.HUMAN_ACTIVE, State.PENDING_HUMAN},
    State.BACK_TO_AI: {State.HUMAN_ACTIVE, State.PENDING_HUMAN},
}


class Owner(models.TextChoices):
    AI = "ai"
    HUMAN = "human"
    NONE = "none"


class Conversation(models.Model):
    """One conversation of a customer with an agent; `conversation_id` is the client's own string."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    conversation_id = models.CharField(max_length=200)
    agent = models.CharField(max_length=200, blank=True, default="")
    channel = models.CharField(max_length=50, blank=True, default="")
    customer = models.JSONField(default=dict)  # {"id", "name", "email", …}, whatever the client knows
    state = models.CharField(max_length=14, choices=State.choices, default=State.NEW)
    owner_kind = models.CharField(max_length=5, choices=Owner.choices, default=Owner.AI)
    owner = models.ForeignKey(HumanAgent, null=True, on_delete=models.SET_NULL, related_name="conversations")
    # Rises with every change of owner: an agent's message with an older epoch is stale.
    epoch = models.PositiveIntegerField(default=0)
    last_seq = models.PositiveIntegerField(default=0)
    trigger_baseline_seq = models.PositiveIntegerField(default=0)
    errors_in_a_row = models.PositiveIntegerField(default=0)
    bounce_count = models.PositiveIntegerField(default=0)
    confidence = models.FloatField(null=True)
    handover_reason = models.TextField(blank=True, default="")
    handover_summary = models.TextField(blank=True, default="")
    handover_context = models.JSONField(default=dict)
    metadata = models.JSONField(default=dict)
    cost_usd = models.DecimalField(max_digits=SUM_DIGITS, decimal_places=10, default=0)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "conversation_id"], name="conversation_one_per_client_id"),
            models.CheckConstraint(condition=models.Q(state__in=State.values), name="conversation_state_is_known"),
            models.CheckConstraint(
                condition=models.Q(owner_kind="human", owner__isnull=False)
                | (~models.Q(owner_kind="human") & models.Q(owner__isnull=True)),
                name="conversation_owner_is_a_human_or_none",
            ),
        ]
        indexes = [
            models.Index(fields=["project", "-updated_at"], name="conversation_newest"),
            # Read by the takeover screen: what the same customer came with before.
            models.Index("project", KT("customer__id"), name="conversation_by_customer"),
        ]


class MessageRole(models.TextChoices):
    USER = "user"
    ASSISTANT = "assistant"
    HUMAN = "human"
    SYSTEM = "system"
    TOOL = "tool"


class Visibility(models.TextChoices):
    PUBLIC = "public"
    INTERNAL = "internal"
    SUPPRESSED = "suppressed"  # said by the AI after a person had taken over: shown to people, never sent


class Message(models.Model):
    """One message; ordered by `seq` alone, which counts from 1 in each conversation."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages", db_index=False)
    seq = models.PositiveIntegerField()
    role = models.CharField(max_length=9, choices=MessageRole.choices)
    author = models.CharField(max_length=200, blank=True, default="")
    content = models.TextField()
    visibility = models.CharField(max_length=10, choices=Visibility.choices, default=Visibility.PUBLIC)
    # The client's own id, unique per author: a retried post is one message.
    client_id = models.CharField(max_length=200, null=True)
    data = models.JSONField(default=dict)  # tool name, arguments, error of a tool message
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["conversation", "seq"], name="message_one_per_seq"),
            models.UniqueConstraint(
                fields=["conversation", "role", "author", "client_id"], name="message_one_per_client_id"
            ),
        ]
        indexes = [models.Index(fields=["created_at"], name="message_by_age")]  # read by retention
