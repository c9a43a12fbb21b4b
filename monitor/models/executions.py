"""Executions: one supervised piece of work by one agent."""

from typing import Literal

from django.db import models
from django.db.models.functions import Now

from monitor.ids import uuid7
from monitor.models.money import SUM_DIGITS
from monitor.models.projects import Project


class Status(models.TextChoices):
    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    PAUSED = "paused"
    HITL_PAUSED = "hitl_paused"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


# The same, for bodies and queries that are decoded.
StatusName = Literal[
    "pending", "running", "retrying", "paused", "hitl_paused", "completed", "failed", "timeout", "cancelled"
]

P, R, T, U, H = Status.PENDING, Status.RUNNING, Status.RETRYING, Status.PAUSED, Status.HITL_PAUSED
WATCHED = (R, T)
WAITING = (U, H)
OPEN = (P, R, T, U, H)
ENDED = (Status.COMPLETED, Status.FAILED, Status.TIMEOUT, Status.CANCELLED)

# {to: {from, …}}; the same table stands as a trigger in the database.
MOVES: dict[str, set[str]] = {
    R: {P, T, U, H},
    T: {R, U, H},
    U: {P, R, T},
    H: {R, T, U},
    Status.COMPLETED: {R, T, U},
    Status.FAILED: {P, R, T, U, H},
    Status.TIMEOUT: {H},
    Status.CANCELLED: {P, R, T, U, H},
}


class Verdict(models.TextChoices):
    """Why an attempt was given up."""

    ZOMBIE = "zombie"
    TIMED_OUT = "timed_out"
    NOT_PICKED_UP = "not_picked_up"
    STALLED = "stalled"
    ERROR = "error"


class OnStall(models.TextChoices):
    """What follows when an attempt beats and makes no progress for `stall_s`."""

    WARN = "warn"
    RETRY = "retry"


class ExecutionQuerySet(models.QuerySet["Execution"]):
    def of(self, project_id: int) -> "ExecutionQuerySet":
        return self.filter(project_id=project_id)

    def open(self) -> "ExecutionQuerySet":
        return self.filter(status__in=OPEN)

    def named(self, text: str) -> "ExecutionQuerySet | None":
        """Those of exactly this run or conversation, by an index; None when there are none."""
        if not text:
            return None
        by = {name: self.filter(**{name: text}) for name in ("run_id", "conversation_id")}
        first, second = (
            found.order_by().annotate(by=models.Value(name)).values_list("by")[:1] for name, found in by.items()
        )
        # A run before a conversation of the same name.
        return next((by[name] for (name,) in sorted(first.union(second, all=True), reverse=True)), None)


class Execution(models.Model):
    """A live row: it moves by guarded updates and never again once it has ended.

    One `from_spans` is what its agent's span says: no clock runs, nobody commands it, nobody is accused.
    """

    pk = models.CompositePrimaryKey("project_id", "id")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    id = models.UUIDField(default=uuid7)
    agent = models.CharField(max_length=200)
    run_id = models.CharField(max_length=200, blank=True, default="")
    task = models.CharField(max_length=500, blank=True, default="")
    crew_id = models.CharField(max_length=200, blank=True, default="")
    conversation_id = models.CharField(max_length=200, blank=True, default="")
    parent_id = models.UUIDField(null=True)
    department = models.CharField(max_length=100, blank=True, default="")
    mode = models.CharField(max_length=20, blank=True, default="")
    trace_id = models.UUIDField(null=True)
    span_id = models.BigIntegerField(null=True)
    # SHA-256 of what the client registered: the same id with the same content is the same execution.
    digest = models.BinaryField(max_length=32)
    from_spans = models.BooleanField(default=False, db_default=False)

    status = models.CharField(max_length=12, choices=Status.choices, default=Status.PENDING)
    attempt = models.PositiveSmallIntegerField(default=1)
    max_retries = models.PositiveSmallIntegerField(default=3)
    timeout_s = models.PositiveIntegerField(default=60)
    heartbeat_s = models.PositiveIntegerField(default=30)
    progress = models.FloatField(null=True)
    message = models.TextField(blank=True, default="")
    verdict = models.CharField(max_length=16, choices=Verdict.choices, blank=True, default="")
    # What the agent is told at its next heartbeat beside what `status` says; "" when nothing.
    command = models.CharField(max_length=8, blank=True, default="")
    command_reason = models.TextField(blank=True, default="")
    # The number of the command in force, null when there is none, and whether a heartbeat's answer has carried it.
    command_seq = models.BigIntegerField(null=True)
    command_told = models.BooleanField(default=False, db_default=False)

    started_at = models.DateTimeField(db_default=Now())
    attempt_started_at = models.DateTimeField(null=True)
    last_heartbeat_at = models.DateTimeField(null=True)
    last_progress_at = models.DateTimeField(null=True)
    # The earlier of heartbeat and timeout; null while no clock runs.
    deadline_at = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True)
    # What was left of the timeout when the clocks stopped.
    timeout_left_ms = models.BigIntegerField(null=True)
    # Of one `from_spans`, which gives no sign of life but its trace's newest span (monitor/silence.py): when to look
    # at it next, since when it is known to be silent, and when it was given up because its end never came.
    look_at = models.DateTimeField(null=True)
    silent_at = models.DateTimeField(null=True)
    lost_at = models.DateTimeField(null=True)
    # The clock of progress: how long an attempt may beat without any, null for no such clock; since when it has
    # stalled; until when it has to move; and what was left of that when the clocks stopped.
    stall_s = models.PositiveIntegerField(null=True)
    on_stall = models.CharField(
        max_length=5, choices=OnStall.choices, default=OnStall.WARN, db_default=OnStall.WARN.value
    )
    stalled_at = models.DateTimeField(null=True)
    stall_due_at = models.DateTimeField(null=True)
    stall_left_ms = models.BigIntegerField(null=True)
    ended_at = models.DateTimeField(null=True)
    duration_ms = models.BigIntegerField(null=True)

    model = models.CharField(max_length=200, blank=True, default="")
    cost_usd = models.DecimalField(max_digits=SUM_DIGITS, decimal_places=10, default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    api_calls = models.IntegerField(default=0)
    cpu_ms = models.BigIntegerField(null=True)
    memory_delta_bytes = models.BigIntegerField(null=True)

    inputs = models.JSONField(null=True)
    output = models.JSONField(null=True)
    error = models.TextField(blank=True, default="")
    metadata = models.JSONField(default=dict)

    objects = ExecutionQuerySet.as_manager()

    @property
    def tries(self) -> int:
        """How many attempts it has: those that it may make by itself, and what people ordered beyond them."""
        return max(self.max_retries + 1, self.attempt)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(status__in=Status.values), name="execution_status_is_known"),
            models.CheckConstraint(
                condition=models.Q(status__in=ENDED, ended_at__isnull=False)
                | models.Q(status__in=OPEN, ended_at__isnull=True),
                name="execution_has_an_end_once_it_ended",
            ),
            models.CheckConstraint(
                condition=models.Q(status__in=WATCHED, from_spans=False, deadline_at__isnull=False)
                | (~models.Q(status__in=WATCHED, from_spans=False) & models.Q(deadline_at__isnull=True)),
                name="execution_has_a_deadline_while_it_is_watched",
            ),
            models.CheckConstraint(
                condition=models.Q(look_at__isnull=True) | models.Q(from_spans=True),
                name="execution_is_looked_at_only_if_traced",
            ),
            models.CheckConstraint(
                condition=models.Q(stall_due_at__isnull=True)
                | models.Q(status=Status.RUNNING, stalled_at__isnull=True, stall_s__isnull=False),
                name="execution_can_stall_while_it_runs",
            ),
            models.CheckConstraint(condition=models.Q(on_stall__in=OnStall.values), name="execution_on_stall_is_known"),
            models.CheckConstraint(
                condition=models.Q(progress__isnull=True) | models.Q(progress__range=(0, 100)),
                name="execution_progress_is_a_percentage",
            ),
        ]
        indexes = [
            # Read by watch.overdue, at every tick.
            models.Index(fields=["deadline_at"], name="execution_due", condition=models.Q(status__in=WATCHED)),
            # Read by stalls.judge, at every tick.
            models.Index(
                fields=["stall_due_at"],
                name="execution_stall_due",
                condition=models.Q(stall_due_at__isnull=False),
            ),
            # Read by standstill.chosen. Of what goes on, nearly all, none enters it.
            models.Index(
                fields=["project", "-started_at", "-id"],
                name="execution_stands_still",
                condition=models.Q(status=Status.RUNNING)
                & (models.Q(stalled_at__isnull=False) | models.Q(silent_at__isnull=False)),
            ),
            # Read by the list, newest first, and by state.
            models.Index(fields=["project", "-started_at", "-id"], name="execution_newest"),
            models.Index(fields=["project", "status", "-started_at", "-id"], name="execution_by_status"),
            models.Index(fields=["project", "agent", "-started_at"], name="execution_by_agent"),
            # Read by figures.of_agents.
            models.Index(
                fields=["project", "started_at"],
                name="execution_measured",
                condition=models.Q(cpu_ms__isnull=False),
            ),
            models.Index(fields=["project", "run_id"], name="execution_by_run", condition=~models.Q(run_id="")),
            models.Index(
                fields=["project", "conversation_id"],
                name="execution_by_conversation",
                condition=~models.Q(conversation_id=""),
            ),
            # Read by the API's list.
            models.Index(fields=["project", "crew_id"], name="execution_by_crew", condition=~models.Q(crew_id="")),
            models.Index(
                fields=["project", "parent_id"],
                name="execution_by_parent",
                condition=models.Q(parent_id__isnull=False),
            ),
            # Read by ground.read: whose a trace is. Of the many that traces tell of none enters it.
            models.Index(
                fields=["project", "trace_id"],
                name="execution_by_trace",
                condition=models.Q(trace_id__isnull=False, from_spans=False),
            ),
            # Read by silence.look, at every turn.
            models.Index(fields=["look_at"], name="execution_looked_at", condition=models.Q(look_at__isnull=False)),
            # Read by retention.
            models.Index(fields=["ended_at"], name="execution_by_age", condition=models.Q(ended_at__isnull=False)),
        ]
