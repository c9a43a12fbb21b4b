"""Commands: what agents were told to do, when they heard it, and what came of it."""

from django.db import models

from monitor.models.projects import Project


class Way(models.TextChoices):
    """How a command reached its agent."""

    HEARTBEAT = "heartbeat"
    AGENT_EVENTS = "agent-events"


class Command(models.Model):
    """One command for the agent of one execution; `seq` is the number of its event."""

    pk = models.CompositePrimaryKey("project_id", "seq")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    seq = models.BigIntegerField()
    execution_id = models.UUIDField()
    command = models.CharField(max_length=8)  # pause, continue, retry, cancel
    reason = models.TextField(blank=True, default="")
    actor = models.CharField(max_length=200, blank=True, default="")
    # The attempt that the command is about; of a retry the new one.
    attempt = models.PositiveSmallIntegerField()
    issued_at = models.DateTimeField()
    # The first time it stood in an answer.
    delivered_at = models.DateTimeField(null=True)
    delivered_by = models.CharField(max_length=12, choices=Way.choices, blank=True, default="")
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_attempt = models.PositiveSmallIntegerField(null=True)
    # What the agent says it did with it.
    effect = models.TextField(blank=True, default="")
    # What we saw come of it.
    outcome = models.CharField(max_length=100, blank=True, default="")
    outcome_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["project", "execution_id", "seq"], name="command_of_execution"),
            # Read by retention.
            models.Index(fields=["issued_at"], name="command_by_age"),
        ]
