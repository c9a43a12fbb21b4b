"""API keys: opaque, hashed, scoped, expiring."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from monitor.ids import uuid7
from monitor.models.projects import Project


class Scope(models.TextChoices):
    INGEST = "ingest"
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"
    ACT_AS = "act-as"


class ApiKey(models.Model):
    """A key of one project. Only the SHA-256 of its 256-bit secret is kept; `prefix` finds the row."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, unique=True)
    secret_hash = models.BinaryField(max_length=32)
    scopes = ArrayField(models.CharField(max_length=8, choices=Scope.choices))
    department = models.CharField(max_length=100, blank=True, default="")
    general_per_minute = models.PositiveIntegerField(null=True)
    ingest_per_minute = models.PositiveIntegerField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)

    # What the key's project masks: read together with a key that is looked up by its prefix, and only then.
    mask_pii: bool
    mask_ips: bool
