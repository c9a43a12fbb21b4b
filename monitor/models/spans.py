"""Spans: the finest fact, one row for each thing an agent did; and the traces and runs they add up to."""

from django.db import models

from monitor.models.money import SUM_DIGITS
from monitor.models.projects import Project


class Kind(models.TextChoices):
    AGENT = "agent"
    LLM = "llm"
    EMBEDDING = "embedding"
    TOOL = "tool"
    RETRIEVAL = "retrieval"
    MEMORY = "memory"
    PLAN = "plan"
    GUARDRAIL = "guardrail"
    EVALUATOR = "evaluator"
    STEP = "step"
    OPERATION = "operation"


class Pricing(models.TextChoices):
    """What is known of the cost: an unknown price is a state, never zero."""

    NONE = "none"  # bears no usage, or its children bear it
    PRICED = "priced"
    UNPRICED = "unpriced"


class Span(models.Model):
    """Partitioned by day on `started_at`; no foreign keys. A later version completes or replaces an earlier one.

    One (trace, span) is one row although the time is in the key: `Trace` tells where to look.
    Token buckets never overlap.
    """

    pk = models.CompositePrimaryKey("project_id", "trace_id", "span_id", "started_at")
    project = models.ForeignKey(Project, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False)
    trace_id = models.UUIDField()
    span_id = models.BigIntegerField()
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    received_at = models.DateTimeField()
    parent_span_id = models.BigIntegerField(null=True)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    name = models.TextField()
    agent = models.TextField(db_default="")
    department = models.TextField(db_default="")
    run_id = models.TextField(db_default="")
    conversation_id = models.TextField(db_default="")
    execution_id = models.UUIDField(null=True)
    failed = models.BooleanField(db_default=False)
    error = models.TextField(db_default="")
    provider = models.TextField(db_default="")
    request_model = models.TextField(db_default="")
    model = models.TextField(db_default="")
    tool = models.TextField(db_default="")
    tool_call_id = models.TextField(db_default="")
    response_id = models.TextField(db_default="")
    finish = models.TextField(db_default="")
    first_token_ms = models.IntegerField(null=True)
    bears_usage = models.BooleanField(db_default=False)
    input_tokens = models.IntegerField(db_default=0)
    cache_read_tokens = models.IntegerField(db_default=0)
    cache_write_tokens = models.IntegerField(db_default=0)
    audio_input_tokens = models.IntegerField(db_default=0)
    image_input_tokens = models.IntegerField(db_default=0)
    output_tokens = models.IntegerField(db_default=0)
    reasoning_tokens = models.IntegerField(db_default=0)
    audio_output_tokens = models.IntegerField(db_default=0)
    images = models.IntegerField(db_default=0)
    reported_usd = models.DecimalField(max_digits=18, decimal_places=10, null=True)
    computed_usd = models.DecimalField(max_digits=18, decimal_places=10, null=True)
    # What budgets and reports count: the larger of the two, on billed spans only.
    cost_usd = models.DecimalField(max_digits=18, decimal_places=10, db_default=0)
    pricing = models.CharField(max_length=8, choices=Pricing.choices, db_default=Pricing.NONE)
    price_version = models.TextField(db_default="")
    # How often the ledger booked this span; the next entry's number.
    bookings = models.SmallIntegerField(db_default=0)
    digest = models.BinaryField(max_length=16)
    # The agent's name where neither the span nor one above it says one.
    service = models.TextField(db_default="")
    # Which of agent, conversation, run, execution, input and output the span did not say itself (the bits in spanrows).
    inherits = models.SmallIntegerField(db_default=0)
    attributes = models.JSONField(default=dict)
    # What went in and out: messages, arguments, results; read only when a person opens them.
    input = models.TextField(null=True)
    output = models.TextField(null=True)

    class Meta:
        indexes = [
            # Read by the list of spans of an agent.
            models.Index(fields=["project", "agent", "started_at"], name="span_by_agent"),
            # Read by an execution's waterfall, for spans that the client sent without a trace of its own.
            models.Index(
                fields=["project", "execution_id", "started_at"],
                name="span_by_execution",
                condition=models.Q(execution_id__isnull=False),
            ),
            # Read by the takeover screen: what the agent did in a conversation.
            models.Index(
                fields=["project", "conversation_id", "started_at"],
                name="span_by_conversation",
                condition=~models.Q(conversation_id=""),
            ),
            # Read by toolcalls.fresh: what may have begun or ended a loop since the last look.
            models.Index(fields=["received_at"], name="span_loops", condition=models.Q(kind__in=["tool", "agent"])),
            # Both read by nearby.read: what of a long trace a batch touches. With their conditions nobody who looks for
            # one span by its key can go through all of its trace by them.
            models.Index(
                fields=["project", "trace_id", "parent_span_id"],
                name="span_by_parent",
                condition=models.Q(parent_span_id__isnull=False),
            ),
            models.Index(
                fields=["project", "trace_id", "response_id"],
                name="span_by_response",
                condition=~models.Q(response_id=""),
            ),
            # Read by operations.statistics.
            models.Index(
                fields=["project", "started_at"], name="span_operations", condition=models.Q(kind="operation")
            ),
        ]


class SpanLog(models.Model):
    """A message of a span, or a tool's arguments or result, that came as a log record.

    The span may not have come yet. Kept for as long as other records of the span may follow.
    """

    pk = models.CompositePrimaryKey("project_id", "trace_id", "span_id", "digest")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    trace_id = models.UUIDField()
    span_id = models.BigIntegerField()
    # Of the whole record: one that comes again is the same row.
    digest = models.BinaryField(max_length=16)
    # When it was said, in nanoseconds since 1970, and its place among the records it came with.
    at_ns = models.BigIntegerField()
    place = models.IntegerField()
    name = models.TextField()
    said = models.TextField()  # JSON
    # What was masked of it before it was stored; a project may mask more by the time it completes its span.
    pii_masked = models.BooleanField(db_default=False)
    ips_masked = models.BooleanField(db_default=False)
    # A keyed hash of what went in, where masking changed that.
    arguments = models.TextField(db_default="")
    received_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["received_at"], name="span_log_by_age")]  # read by retention


class Trace(models.Model):
    """Where the spans of a trace lie: in the partitions from `first_at` to `last_at`."""

    pk = models.CompositePrimaryKey("project_id", "trace_id")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    trace_id = models.UUIDField()
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    spans = models.IntegerField(db_default=0)

    class Meta:
        # Read by retention. `last_at` moves with each batch of spans, and no index may have to follow it.
        indexes = [models.Index(fields=["first_at"], name="trace_by_age")]


class Run(models.Model):
    """What a run (the client's own string, else the trace id in hex) adds up to, and whether it tripped."""

    pk = models.CompositePrimaryKey("project_id", "run_id")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    run_id = models.TextField()
    agent = models.TextField(db_default="")
    department = models.TextField(db_default="")
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    # Both before the last change: what PostgreSQL returns of an update it only tells from version 18 on.
    was_first_at = models.DateTimeField(null=True)
    was_last_at = models.DateTimeField(null=True)
    calls = models.IntegerField(db_default=0)
    failed_calls = models.IntegerField(db_default=0)
    unpriced_calls = models.IntegerField(db_default=0)
    tool_calls = models.IntegerField(db_default=0)
    latency_ms = models.BigIntegerField(db_default=0)  # summed over calls
    # Totals as billed, cache included.
    input_tokens = models.BigIntegerField(db_default=0)
    output_tokens = models.BigIntegerField(db_default=0)
    cost_usd = models.DecimalField(max_digits=SUM_DIGITS, decimal_places=10, db_default=0)
    reported_usd = models.DecimalField(max_digits=SUM_DIGITS, decimal_places=10, db_default=0)
    computed_usd = models.DecimalField(max_digits=SUM_DIGITS, decimal_places=10, db_default=0)
    # How many spans came for it and did not go over to another; unknown of runs from before they were counted.
    spans = models.IntegerField(null=True)
    tripped_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["project", "-last_at"], name="run_newest"),
            # Read by the list of the dearest: each change of a run moves its place in `run_newest` anyway.
            models.Index(fields=["project", "-cost_usd", "-run_id"], name="run_dearest"),
        ]


class RunQuarter(models.Model):
    """How many runs began, and how many were last heard of, in a quarter of an hour; see monitor/rundays.py."""

    pk = models.CompositePrimaryKey("project_id", "at")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    at = models.DateTimeField()
    # Below zero for a moment where a run's start moves away from what is folded already.
    begun = models.BigIntegerField(db_default=0)
    ended = models.BigIntegerField(db_default=0)


class IngestKey(models.Model):
    """An id that a client brought for a call, message or event: where its row is and what it said.

    It makes one id one row although the rows are partitioned by time.
    """

    pk = models.CompositePrimaryKey("project_id", "key")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False)
    key = models.UUIDField()
    at = models.DateTimeField()
    trace_id = models.UUIDField(null=True)
    span_id = models.BigIntegerField(null=True)
    digest = models.BinaryField(max_length=16)

    class Meta:
        indexes = [models.Index(fields=["at"], name="ingest_key_by_age")]  # read by retention
