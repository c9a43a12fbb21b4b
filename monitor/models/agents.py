"""The registry of agents: filled by what they report, refined by people."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from monitor.models.projects import Project


class Agent(models.Model):
    """An agent known by its name; null defaults fall back to the project's."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    name = models.CharField(max_length=200)
    type = models.CharField(max_length=100, blank=True, default="")
    description = models.TextField(blank=True, default="")
    capabilities = ArrayField(models.CharField(max_length=100), default=list, blank=True)
    supported_models = ArrayField(models.CharField(max_length=200), default=list, blank=True)
    default_model = models.CharField(max_length=200, blank=True, default="")
    cost_tier = models.CharField(max_length=20, blank=True, default="")
    timeout_s = models.PositiveIntegerField(null=True)
    heartbeat_s = models.PositiveIntegerField(null=True)
    max_retries = models.PositiveSmallIntegerField(null=True)
    stall_s = models.PositiveIntegerField(null=True)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="agent_one_per_name")]
