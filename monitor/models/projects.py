"""Projects: the tenants."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

DEFAULT_PHRASES = [
    "speak to human",
    "talk to human",
    "speak to person",
    "talk to person",
    "talk to agent",
    "human agent",
    "real person",
    "escalate",
]


# Waiting is all that these do, so that doing it again tells nothing.
WAITING_TOOLS = ["sleep", "wait"]


def default_phrases() -> list[str]:
    return list(DEFAULT_PHRASES)


def waiting_tools() -> list[str]:
    return list(WAITING_TOOLS)


class Project(models.Model):
    """A tenant with its defaults; agents may override the first four (product.md, A)."""

    id = models.AutoField(primary_key=True)
    name = models.CharField(max_length=100, unique=True)
    time_zone = models.CharField(max_length=64, default="UTC")
    timeout_s = models.PositiveIntegerField(default=60)
    heartbeat_s = models.PositiveIntegerField(default=30)
    max_retries = models.PositiveSmallIntegerField(default=3)
    # The longest time without progress; null for no such clock.
    stall_s = models.PositiveIntegerField(null=True)
    # Triggers for a handover; null or an empty list means that the trigger is off.
    handover_confidence_below = models.FloatField(null=True, default=0.7)
    handover_phrases = ArrayField(models.CharField(max_length=200), default=default_phrases, blank=True)
    handover_errors_in_a_row = models.PositiveSmallIntegerField(null=True, default=3)
    # How soon a person should claim what waits; null switches the clock off.
    claim_within_s = models.PositiveIntegerField(null=True, default=120)
    # Tools whose repeated calls are no loop.
    loop_exempt_tools = ArrayField(models.CharField(max_length=200), default=waiting_tools, blank=True)
    # How long an open span's trace may bring nothing before somebody is told, and before it counts as lost;
    # null switches the clock off.
    trace_silent_s = models.PositiveIntegerField(null=True, default=600, db_default=600)
    trace_lost_s = models.PositiveIntegerField(null=True, default=86_400, db_default=86_400)
    # Whether personal data is masked in telemetry before it is stored, and whether addresses of machines are too.
    mask_pii = models.BooleanField(default=False, db_default=False)
    mask_ips = models.BooleanField(default=False, db_default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name
