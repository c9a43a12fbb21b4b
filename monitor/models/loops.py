"""Loops: an agent that makes the same calls of tools again and again."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from monitor.ids import uuid7
from monitor.models.projects import Project


class Loop(models.Model):
    """A finding: one for each cycle of calls in each place, which is an execution, or a trace and an agent.

    It grows with every further round and is open until `ended_at`; a cycle that begins anew opens it again.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    # The execution's id; where there is none, the trace in hex and the agent.
    place = models.CharField(max_length=240)
    fingerprint = models.CharField(max_length=32)
    execution_id = models.UUIDField(null=True)
    trace_id = models.UUIDField()
    agent = models.CharField(max_length=200, blank=True, default="")
    run_id = models.CharField(max_length=200, blank=True, default="")
    # [{"tool", "arguments"}] of one round, the arguments shortened.
    cycle = models.JSONField()
    rounds = models.PositiveIntegerField()
    calls = models.PositiveIntegerField()
    # Whether equal calls got different answers: then it may be a tool that is polled, or pages that are turned.
    answers_differ = models.BooleanField(default=False)
    # When the first and the last of its calls started, by the agent's clock.
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    # The first spans of it and the last, each as trace and span in hex.
    spans = ArrayField(models.CharField(max_length=49))
    found_at = models.DateTimeField()
    moved_at = models.DateTimeField()
    # The rounds of which the journal was told last.
    told_rounds = models.PositiveIntegerField()
    ended_at = models.DateTimeField(null=True)
    end = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "place", "fingerprint"], name="loop_one_per_place_and_cycle"),
            models.CheckConstraint(condition=models.Q(first_at__lte=models.F("last_at")), name="loop_begins_first"),
        ]
        indexes = [
            # Read by the list, newest first.
            models.Index(fields=["project", "-found_at", "-id"], name="loop_newest"),
            # Read by the page of an execution and the list of executions.
            models.Index(
                fields=["project", "execution_id"],
                name="loop_by_execution",
                condition=models.Q(execution_id__isnull=False),
            ),
            # Read by loopwatch.settle, at every turn.
            models.Index(fields=["moved_at"], name="loop_open", condition=models.Q(ended_at__isnull=True)),
            # Read by retention.
            models.Index(fields=["ended_at"], name="loop_by_age", condition=models.Q(ended_at__isnull=False)),
        ]
