"""State changes: the journal of every move, and the news that `alerts` judges."""

from django.db import models
from django.db.models import Func, Value

from monitor.models.projects import Project

NEXT_ID = Func(Value("monitor_statechange_id_seq"), function="nextval", output_field=models.BigIntegerField())


class Subject(models.TextChoices):
    EXECUTION = "execution"
    CONVERSATION = "conversation"
    QUEUE_ITEM = "queue_item"
    TRIP = "trip"
    BUDGET = "budget"
    MODEL = "model"
    JOB = "job"
    LOOP = "loop"
    AGENT = "agent"
    KEY = "key"
    KEEPING = "keeping"
    ROOM = "room"


class StateChange(models.Model):
    """One move of one thing, written in the transaction that made it; append-only but for `judged_at`.

    Partitioned by day on `at`.
    """

    pk = models.CompositePrimaryKey("at", "id")
    id = models.BigIntegerField(db_default=NEXT_ID)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    at = models.DateTimeField()
    subject = models.CharField(max_length=16, choices=Subject.choices)
    subject_id = models.CharField(max_length=200)
    from_state = models.CharField(max_length=20, blank=True, default="")
    to_state = models.CharField(max_length=20)
    cause = models.CharField(max_length=40)
    actor = models.CharField(max_length=200, blank=True, default="")
    note = models.TextField(blank=True, default="")
    attempt = models.PositiveSmallIntegerField(null=True)
    data = models.JSONField(default=dict)
    # Set by alerts.judge when it has drawn its conclusions; news that concerns nobody is born judged.
    judged_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["project", "subject", "subject_id", "id"], name="state_change_of_subject"),
            # Read by alerts.judge.claim.
            models.Index(fields=["id"], name="state_change_unjudged", condition=models.Q(judged_at__isnull=True)),
            # Read by the overview's feed.
            models.Index(fields=["project", "-at"], name="state_change_newest"),
        ]
