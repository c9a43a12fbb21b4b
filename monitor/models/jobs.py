"""Heartbeats of our own: every periodic job and every process leaves one."""

from django.db import models


class JobHeartbeat(models.Model):
    """The last run of one periodic job, or the last sign of one process; silent after 3 periods."""

    name = models.CharField(primary_key=True, max_length=100)
    every_s = models.FloatField()
    last_started_at = models.DateTimeField(null=True)
    last_ok_at = models.DateTimeField(null=True)
    last_error_at = models.DateTimeField(null=True)
    error = models.TextField(blank=True, default="")
    took_ms = models.IntegerField(null=True)
    runs = models.BigIntegerField(default=0)
    # What was told of it last: `silent` or `alive`.
    reported_state = models.CharField(max_length=6, default="alive", db_default="alive")
    node = models.CharField(max_length=200, blank=True, default="")
