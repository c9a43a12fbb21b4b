"""How long things are kept, how much room is left for them, and how they grow."""

from django.db import models
from django.db.models import Q

from monitor.models.projects import Project


class Keeping(models.Model):
    """For how many days a project keeps a kind of rows; without a project, what all keep that say nothing themselves.

    A kind without a row is kept for the days that monitor/keeping.py names.
    """

    project = models.ForeignKey(Project, null=True, on_delete=models.CASCADE, db_index=False)
    kind = models.CharField(max_length=20)
    days = models.PositiveSmallIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "kind"], nulls_distinct=False, name="keeping_one_per_project_and_kind"
            ),
            models.CheckConstraint(condition=Q(days__gte=1), name="keeping_lasts_a_day_at_least"),
        ]


class WholeSince(models.Model):
    """From when on there is all of a kind in a project: what is older may have left before its days were lengthened."""

    pk = models.CompositePrimaryKey("project_id", "kind")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    kind = models.CharField(max_length=20)
    at = models.DateTimeField()


class RoomLevel(models.TextChoices):
    """How full the room of the database is: there is room, people are warned, or agents' doors are shut."""

    ROOMY = "roomy"
    WARNED = "warned"
    STOPPED = "stopped"


class RoomState(models.Model):
    """What was measured last of the database's room, and what was told of it; one row."""

    name = models.CharField(primary_key=True, max_length=20)
    level = models.CharField(
        max_length=10, choices=RoomLevel.choices, default=RoomLevel.ROOMY, db_default=RoomLevel.ROOMY
    )
    used_bytes = models.BigIntegerField()
    total_bytes = models.BigIntegerField()
    measured_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(level__in=RoomLevel.values), name="room_state_level_is_known"),
        ]


class GrowthSample(models.Model):
    """How large a kind was when a day (of UTC) was looked at last; of the room, `rows` is its size in bytes."""

    pk = models.CompositePrimaryKey("on", "name")
    on = models.DateField()
    name = models.CharField(max_length=20)
    at = models.DateTimeField()
    rows = models.BigIntegerField()
    bytes = models.BigIntegerField()
