"""Money: the ledger, prices, budgets with their windows, trips."""

from django.db import models
from django.db.models.functions import Now

from monitor.ids import uuid7
from monitor.models.projects import Project

# One call may cost a million dollars at most; sums need room for ten billion of those.
SUM_DIGITS = 28


def usd(*, digits: int = 18, **options: object) -> models.DecimalField:
    """An exact amount of US dollars, to the ten-billionth: one token can cost less than 1e-7."""
    return models.DecimalField(max_digits=digits, decimal_places=10, **options)  # type: ignore[arg-type]


class LedgerEntry(models.Model):
    """One booking of one billed span, append-only; corrections are further entries.

    Partitioned by day on `occurred_at`. `sequence` counts the bookings of a span from 0. Deltas may be
    negative: an entry says what changed against the entries before it. `received_at` lies in the windows of budgets
    that it counts in: a reversal carries that of what it takes back.
    """

    pk = models.CompositePrimaryKey("project_id", "trace_id", "span_id", "sequence", "occurred_at")
    project = models.ForeignKey(Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    trace_id = models.UUIDField()
    span_id = models.BigIntegerField()
    sequence = models.SmallIntegerField()
    occurred_at = models.DateTimeField()
    received_at = models.DateTimeField()
    kind = models.CharField(max_length=10)
    run_id = models.TextField(db_default="")
    execution_id = models.UUIDField(null=True)
    conversation_id = models.TextField(db_default="")
    agent = models.TextField(db_default="")
    department = models.TextField(db_default="")
    provider = models.TextField(db_default="")
    model = models.TextField(db_default="")
    tool = models.TextField(db_default="")
    failed = models.BooleanField(db_default=False)
    calls = models.SmallIntegerField()  # 1 for a booking, -1 for a reversal
    latency_ms = models.IntegerField(db_default=0)
    input_tokens = models.IntegerField(db_default=0)
    cache_read_tokens = models.IntegerField(db_default=0)
    cache_write_tokens = models.IntegerField(db_default=0)
    audio_input_tokens = models.IntegerField(db_default=0)
    image_input_tokens = models.IntegerField(db_default=0)
    output_tokens = models.IntegerField(db_default=0)
    reasoning_tokens = models.IntegerField(db_default=0)
    audio_output_tokens = models.IntegerField(db_default=0)
    images = models.IntegerField(db_default=0)
    cost_usd = usd()
    reported_usd = usd(null=True)
    computed_usd = usd(null=True)
    unpriced = models.SmallIntegerField(db_default=0)  # calls without a known price in this entry
    price_version = models.TextField(db_default="")

    class Meta:
        indexes = [
            models.Index(fields=["project", "run_id", "occurred_at"], name="ledger_by_run"),
            models.Index(fields=["project", "occurred_at"], name="ledger_by_time"),
        ]


class Price(models.Model):
    """A price that overrides the shipped ones from `starts_at` on; US dollars per million tokens.

    `project` null is for every project. `model` may hold `*` and `?`.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, null=True, on_delete=models.CASCADE)
    provider = models.CharField(max_length=100, blank=True, default="")
    model = models.CharField(max_length=200)
    starts_at = models.DateTimeField()
    # {"input": "2.5", "output": "10", "cache_read": …}: decimal strings by token bucket, "image" per image.
    rates = models.JSONField()
    created_at = models.DateTimeField(db_default=Now())


class BudgetScope(models.TextChoices):
    RUN = "run"
    AGENT = "agent"
    DEPARTMENT = "department"
    PROJECT = "project"
    GLOBAL = "global"


class Period(models.TextChoices):
    RUN = "run"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class BudgetAction(models.TextChoices):
    STOP = "stop"
    ALERT = "alert"


class Budget(models.Model):
    """A limit for every window of a scope. `target` "" means each run, agent or department by itself.

    A budget without a project is global: the instance's.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, null=True, on_delete=models.CASCADE)
    scope = models.CharField(max_length=10, choices=BudgetScope.choices)
    target = models.CharField(max_length=200, blank=True, default="")
    period = models.CharField(max_length=5, choices=Period.choices)
    limit_usd = usd()
    warn_at = models.FloatField(default=0.8)
    action = models.CharField(max_length=5, choices=BudgetAction.choices, default=BudgetAction.STOP)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "scope", "target", "period"],
                name="budget_one_per_scope_and_period",
                nulls_distinct=False,
            ),
            models.CheckConstraint(condition=models.Q(limit_usd__gte=0), name="budget_limit_is_not_negative"),
            models.CheckConstraint(condition=models.Q(warn_at__gt=0, warn_at__lte=1), name="budget_warns_below_limit"),
            models.CheckConstraint(
                condition=models.Q(scope="global", project__isnull=True)
                | (~models.Q(scope="global") & models.Q(project__isnull=False)),
                name="budget_is_global_without_a_project",
            ),
        ]


class BudgetWindow(models.Model):
    """What was spent in one window of one scope; keyed by its start, so nothing is ever reset.

    `project_id` 0 holds the global windows. A run's window starts at the epoch.
    """

    pk = models.CompositePrimaryKey("project_id", "scope", "target", "period", "starts_at")
    project_id = models.IntegerField()
    scope = models.CharField(max_length=10)
    target = models.TextField()
    period = models.CharField(max_length=5)
    starts_at = models.DateTimeField()
    spent_usd = usd(digits=SUM_DIGITS, db_default=0)
    reserved_usd = usd(digits=SUM_DIGITS, db_default=0)
    calls = models.IntegerField(db_default=0)
    # Extra that a person granted when resetting a trip in this window.
    top_up_usd = usd(digits=SUM_DIGITS, db_default=0)
    warned_at = models.DateTimeField(null=True)
    tripped_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            # Read by retention. Windows of runs, nearly all, leave with their run.
            models.Index(fields=["starts_at"], name="budget_window_by_age", condition=~models.Q(scope="run")),
        ]


class Trip(models.Model):
    """A financial stop: a window passed its limit. Open until a person resets it or the window is over.

    `reset_at` says when; `reset_by` is "" when it was the end of the window.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, null=True, on_delete=models.CASCADE)
    scope = models.CharField(max_length=10, choices=BudgetScope.choices)
    target = models.TextField(default="")
    period = models.CharField(max_length=5, choices=Period.choices)
    window_starts_at = models.DateTimeField()
    total_cost_usd = usd(digits=SUM_DIGITS)
    threshold_usd = usd(digits=SUM_DIGITS)
    cost_by_model = models.JSONField(default=dict)
    call_count = models.IntegerField(default=0)
    duration_ms = models.BigIntegerField(default=0)
    reason = models.TextField()
    tripped_at = models.DateTimeField()
    reset_at = models.DateTimeField(null=True)
    reset_by = models.CharField(max_length=200, blank=True, default="")
    note = models.TextField(blank=True, default="")
    top_up_usd = usd(digits=SUM_DIGITS, null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "scope", "target", "period", "window_starts_at"],
                condition=models.Q(reset_at__isnull=True),
                name="trip_one_open_per_window",
                nulls_distinct=False,
            )
        ]
        indexes = [models.Index(fields=["project", "-tripped_at"], name="trip_newest")]
