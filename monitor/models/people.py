"""People: who signs in, their role in each project, and the humans who take conversations."""

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.postgres.fields import ArrayField
from django.db import models

from monitor.models.projects import Project


class People(BaseUserManager["Person"]):
    def create_user(self, email: str, password: str, **fields: object) -> "Person":
        """A person who can sign in with this email (kept in lower case) and password."""
        person = self.model(email=email.strip().lower(), **fields)
        person.set_password(password)
        person.save(using=self._db)
        return person

    def get_by_natural_key(self, username: str | None) -> "Person":
        return self.get(email=(username or "").strip().lower())


class Person(AbstractBaseUser):
    """Somebody who signs in; what they may do stands in their memberships."""

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=120, blank=True)
    is_active = models.BooleanField(default=True)
    is_instance_admin = models.BooleanField(default=False)
    last_project = models.ForeignKey(Project, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = People()
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS = []

    def __str__(self) -> str:
        return self.name or self.email


class Role(models.TextChoices):
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Membership(models.Model):
    """A person's role in a project."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=8, choices=Role.choices, default=Role.OPERATOR)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "person"], name="membership_one_per_person_and_project"),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="membership_role_is_known"),
        ]


class Presence(models.TextChoices):
    ONLINE = "online"
    AWAY = "away"
    OFFLINE = "offline"


class HumanAgent(models.Model):
    """A person as one who takes conversations: skills, capacity (conversations at once), presence."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="+")
    status = models.CharField(max_length=8, choices=Presence.choices, default=Presence.OFFLINE)
    skills = ArrayField(models.CharField(max_length=100), default=list, blank=True)
    capacity = models.PositiveSmallIntegerField(default=5)
    last_seen_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "person"], name="human_agent_one_per_person_and_project"),
            models.CheckConstraint(condition=models.Q(status__in=Presence.values), name="human_agent_status_is_known"),
        ]
