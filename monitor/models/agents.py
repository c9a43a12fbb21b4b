"""The registry of agents: filled by what they report, refined by people."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from monitor.models.projects import Project

EXPECTED = Q(expected_every_s__isnull=False)


class Mode(models.TextChoices):
    """What the agent is trusted with."""

    EXPLORE = "explore"
    EXECUTE = "execute"
    ESCALATE = "escalate"


class Agent(models.Model):
    """An agent known by its name; null defaults fall back to the project's.

    One that a person has entered may never have been seen: then both of its times are null.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    name = models.CharField(max_length=200)
    type = models.CharField(max_length=100, blank=True, default="")
    description = models.TextField(blank=True, default="")
    capabilities = ArrayField(models.CharField(max_length=100), default=list, blank=True)
    supported_models = ArrayField(models.CharField(max_length=200), default=list, blank=True)
    default_model = models.CharField(max_length=200, blank=True, default="")
    cost_tier = models.CharField(max_length=20, blank=True, default="")
    mode = models.CharField(max_length=20, choices=Mode.choices, blank=True, default="", db_default="")
    timeout_s = models.PositiveIntegerField(null=True)
    heartbeat_s = models.PositiveIntegerField(null=True)
    max_retries = models.PositiveSmallIntegerField(null=True)
    # 0: no such clock, whatever the project has.
    stall_s = models.PositiveIntegerField(null=True)
    first_seen_at = models.DateTimeField(null=True)
    last_seen_at = models.DateTimeField(null=True)
    # How often we should hear from it at least; null: whenever it likes.
    expected_every_s = models.PositiveIntegerField(null=True)
    # Since when somebody expects that.
    expected_since = models.DateTimeField(null=True)
    # When it was found overdue; null again once it is heard.
    missed_at = models.DateTimeField(null=True)
    # Counts the edits by people, so that none is lost under another.
    version = models.PositiveIntegerField(default=1, db_default=1)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="agent_one_per_name"),
            models.CheckConstraint(condition=Q(mode__in=["", *Mode.values]), name="agent_mode_is_known"),
            models.CheckConstraint(
                condition=Q(expected_every_s__isnull=False, expected_since__isnull=False)
                | Q(expected_every_s__isnull=True, expected_since__isnull=True, missed_at__isnull=True),
                name="agent_is_missed_only_while_it_is_expected",
            ),
        ]
        indexes = [
            # Read by cadence.judge, at every tick.
            models.Index(fields=["missed_at", "last_seen_at"], name="agent_expected", condition=EXPECTED),
        ]
