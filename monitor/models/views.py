"""Views of the list of executions that people have saved."""

from django.db import models
from django.db.models import Q

from monitor.ids import uuid7
from monitor.models.people import Person
from monitor.models.projects import Project

MOST_A_PERSON = 20


class SavedView(models.Model):
    """A list under a name: its owner's alone, or everybody's in the project. The owner's default opens by itself.

    `position` is the place among the owner's views; there are MOST_A_PERSON, so that the database counts them.
    """

    id = models.UUIDField(primary_key=True, default=uuid7)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    owner = models.ForeignKey(Person, on_delete=models.CASCADE)
    name = models.CharField(max_length=60)
    query = models.JSONField()
    is_shared = models.BooleanField(default=False)
    is_default = models.BooleanField(default=False, db_default=False)
    position = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "owner", "name"], name="view_one_per_name_of_a_person"),
            models.UniqueConstraint(fields=["project", "owner", "position"], name="view_one_per_place_of_a_person"),
            models.UniqueConstraint(
                fields=["project", "owner"], name="view_one_default_of_a_person", condition=Q(is_default=True)
            ),
            models.CheckConstraint(condition=Q(position__lt=MOST_A_PERSON), name="view_places_of_a_person_are_20"),
        ]
        # Read by savedviews.seen_by, for what others share.
        indexes = [models.Index(fields=["project"], name="view_shared", condition=Q(is_shared=True))]
