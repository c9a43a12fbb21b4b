"""Rollups: sums and latency histograms by minute, hour and day, so that a chart never reads raw rows."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from monitor.models.money import SUM_DIGITS
from monitor.models.projects import Project


class Rollup(models.Model):
    """One period of one (agent, department, provider, model, kind) in a project.

    `kind` is execution, llm or tool. Token sums are totals as billed, cache included.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    kind = models.CharField(max_length=10)
    agent = models.TextField()
    department = models.TextField()
    provider = models.TextField()
    model = models.TextField()
    count = models.IntegerField(db_default=0)
    failed = models.IntegerField(db_default=0)
    duration_ms = models.BigIntegerField(db_default=0)
    input_tokens = models.BigIntegerField(db_default=0)
    cache_read_tokens = models.BigIntegerField(db_default=0)
    output_tokens = models.BigIntegerField(db_default=0)
    cost_usd = models.DecimalField(max_digits=SUM_DIGITS, decimal_places=10, db_default=0)
    reported_usd = models.DecimalField(max_digits=SUM_DIGITS, decimal_places=10, db_default=0)
    computed_usd = models.DecimalField(max_digits=SUM_DIGITS, decimal_places=10, db_default=0)
    unpriced = models.IntegerField(db_default=0)
    cancelled = models.IntegerField(db_default=0)  # of executions; neither failed nor completed
    latency = ArrayField(models.BigIntegerField(), default=list)  # see monitor/latency.py

    class Meta:
        abstract = True


class MinuteRollup(Rollup):
    """Upserted in the transaction of the facts it sums: exact at commit."""

    pk = models.CompositePrimaryKey("project_id", "minute", "agent", "department", "provider", "model", "kind")
    minute = models.DateTimeField()


class HourRollup(Rollup):
    """Recomputed (SET, never incremented) from the minutes of each hour that was marked dirty."""

    pk = models.CompositePrimaryKey("project_id", "hour", "agent", "department", "provider", "model", "kind")
    hour = models.DateTimeField()


class DirtyHour(models.Model):
    """An hour whose minutes changed since its rollup was computed; locked by whoever marks it."""

    pk = models.CompositePrimaryKey("project_id", "hour")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    hour = models.DateTimeField()
    marked_at = models.DateTimeField()


class LifetimeTally(models.Model):
    """All that was ever counted of one (kind, agent, model) in the hours that are closed, over all projects."""

    pk = models.CompositePrimaryKey("kind", "agent", "model")
    kind = models.CharField(max_length=10)
    agent = models.TextField()
    model = models.TextField()
    count = models.BigIntegerField()
    failed = models.BigIntegerField()
    cancelled = models.BigIntegerField()
    duration_ms = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    cache_read_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cost_usd = models.DecimalField(max_digits=SUM_DIGITS, decimal_places=10)
    latency = ArrayField(models.BigIntegerField(), default=list)  # of executions and tools


class DayRollup(Rollup):
    """Recomputed (SET, never incremented) from the whole hours of a day of the project's calendar from `day` on."""

    pk = models.CompositePrimaryKey("project_id", "day", "agent", "department", "provider", "model", "kind")
    day = models.DateTimeField()


class RolledDay(models.Model):
    """The whole hours of a day of the project's calendar; its rollup stands for them where `closed_at` is set."""

    pk = models.CompositePrimaryKey("project_id", "starts_at")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    time_zone = models.CharField(max_length=64)
    closed_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["project", "starts_at"], condition=models.Q(closed_at__isnull=True), name="rolled_day_open"
            )
        ]
