"""What clients report one by one over the REST API, each as the span that it is."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Annotated, Any
from uuid import UUID

import msgspec

from monitor.ids import uuid7
from monitor.moments import misplaced
from monitor.records import NO_TOKENS, Kind, Span, Tokens, disjoint, sealed
from monitor.values import MOST_TOKENS, MOST_USD, is_usd

Name = Annotated[str, msgspec.Meta(max_length=200)]
ShortName = Annotated[str, msgspec.Meta(max_length=100)]
Given = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Text = Annotated[str, msgspec.Meta(max_length=1_000_000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Aware = Annotated[datetime, msgspec.Meta(tz=True)]
TraceId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\Z")]
SpanId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-fA-F]{16}\Z")]


class BadReport(ValueError):
    """A report that can't be taken; `field` names the culprit."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class Report(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What all reports may say. `span_id` is the span within which the work was done."""

    id: UUID | None = None
    run_id: Name = ""
    execution_id: UUID | None = None
    agent: Name = ""
    department: ShortName = ""
    conversation_id: Name = ""
    trace_id: TraceId | None = None
    span_id: SpanId | None = None
    occurred_at: Aware | None = None

    def digest(self) -> bytes:
        """What stands for the content, the id left out: a client that repeats itself says the same."""
        content = msgspec.to_builtins(msgspec.structs.replace(self, id=None))
        # An event of a batch names its type; the single call does not.
        content.pop("type", None)
        return blake2b(msgspec.json.encode(content, order="deterministic"), digest_size=16).digest()

    def span(self, *, now: datetime) -> Span:
        """The report as a span; raises BadReport."""
        raise NotImplementedError


class Call(Report, kw_only=True, omit_defaults=True):
    """A call of a model, or of a tool that costs. Input tokens include what came from or went to a cache."""

    model: Name = ""
    tool: Name = ""
    provider: ShortName = ""
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    reasoning_tokens: Count = 0
    audio_input_tokens: Count = 0
    audio_output_tokens: Count = 0
    images: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    cost_usd: Decimal | None = None
    latency_ms: Milliseconds | None = None
    success: bool = True
    error: Annotated[str, msgspec.Meta(max_length=20_000)] = ""
    response_id: Name = ""
    reservation_id: UUID | None = None

    def __post_init__(self) -> None:
        _within(self.cost_usd, "cost_usd")

    def tokens(self) -> Tokens:
        """Disjoint buckets; raises BadReport when the parts exceed their total."""
        taken, made = self.input_tokens or 0, self.output_tokens or 0
        if self.cache_read_tokens + self.cache_write_tokens > taken:
            raise BadReport("input_tokens", "is all input, cache included; it is less than the cached tokens")
        if self.reasoning_tokens > made:
            raise BadReport("output_tokens", "is all output, reasoning included; it is less than the reasoning tokens")
        if self.input_tokens is None and self.output_tokens is None and not self.images:
            return NO_TOKENS
        return disjoint(
            taken,
            made,
            cache_read=self.cache_read_tokens,
            cache_write=self.cache_write_tokens,
            audio_input=self.audio_input_tokens,
            reasoning=self.reasoning_tokens,
            audio_output=self.audio_output_tokens,
            images=self.images,
        )

    def span(self, *, now: datetime) -> Span:
        if not self.model and not (self.tool and self.cost_usd is not None):
            raise BadReport("model", "is required, or tool with cost_usd")
        tokens = self.tokens()
        # Many clients write 0 when they have no price.
        unknown = self.cost_usd == 0 and not tokens.is_empty
        return _span(
            self,
            now=now,
            kind="llm" if self.model else "tool",
            name=self.model or self.tool,
            lasted_ms=self.latency_ms,
            success=self.success,
            error=self.error,
            provider=self.provider or None,
            request_model=self.model or None,
            model=self.model or None,
            tool=None if self.model else self.tool,
            tokens=tokens,
            reported_usd=None if unknown else self.cost_usd,
            response_id=self.response_id or None,
        )


class ToolCall(Report, kw_only=True, omit_defaults=True):
    """A call of a tool."""

    tool: Given
    tool_call_id: Name = ""
    arguments: Any = None
    output: Any = None
    success: bool = True
    error: Annotated[str, msgspec.Meta(max_length=20_000)] = ""
    cached: bool = False
    duration_ms: Milliseconds | None = None
    cost_usd: Decimal | None = None

    def __post_init__(self) -> None:
        _within(self.cost_usd, "cost_usd")

    def span(self, *, now: datetime) -> Span:
        return _span(
            self,
            now=now,
            kind="tool",
            name=self.tool,
            lasted_ms=self.duration_ms,
            success=self.success,
            error=self.error,
            tool=self.tool,
            tool_call_id=self.tool_call_id or None,
            arguments=_text(self.arguments),
            result=_text(self.output),
            reported_usd=self.cost_usd,
            attributes={"cached": True} if self.cached else {},
        )


class Operation(Report, kw_only=True, omit_defaults=True):
    """A named operation of an agent."""

    agent: Given
    operation: Given
    duration_ms: Milliseconds
    success: bool = True
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)

    def span(self, *, now: datetime) -> Span:
        return _span(
            self,
            now=now,
            kind="operation",
            name=self.operation,
            lasted_ms=self.duration_ms,
            success=self.success,
            attributes={"metadata": self.metadata} if self.metadata else {},
        )


class Step(Report, kw_only=True, omit_defaults=True):
    """A step of an agent's work, with what reliability asks of it."""

    agent: Given
    success: bool
    required_compensation: bool = False
    required_human: bool = False
    mode: Name = ""
    declared_mode: Name = ""
    tool_duration_ms: Milliseconds | None = None
    index: Count | None = None
    name: Name = ""
    input: Any = None
    output: Any = None

    def span(self, *, now: datetime) -> Span:
        said = {
            "required_compensation": self.required_compensation,
            "required_human": self.required_human,
            "mode": self.mode,
            "declared_mode": self.declared_mode,
            "tool_duration_ms": self.tool_duration_ms,
            "index": self.index,
        }
        return _span(
            self,
            now=now,
            kind="step",
            name=self.name or "step",
            lasted_ms=self.tool_duration_ms,
            success=self.success,
            input=_text(self.input),
            output=_text(self.output),
            attributes={f"step.{name}": value for name, value in said.items() if value not in (None, "")},
        )


REPORTS: dict[str, type[Report]] = {"call": Call, "tool_call": ToolCall, "operation": Operation, "step": Step}


def _within(usd: Decimal | None, field: str) -> None:
    if usd is not None and not is_usd(usd):
        raise ValueError(f"{field} must lie between 0 and {MOST_USD:,}")


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def _span(
    report: Report,
    *,
    now: datetime,
    kind: Kind,
    name: str,
    lasted_ms: int | None,
    success: bool,
    error: str = "",
    **fields: Any,
) -> Span:
    identity = report.id or uuid7()
    started_at, ended_at = _times(report, lasted_ms, now=now)
    trace = UUID(report.trace_id) if report.trace_id else identity
    if not trace.int:
        raise BadReport("trace_id", "must not be zero")
    parent = int.from_bytes(bytes.fromhex(report.span_id), "big", signed=True) if report.span_id else None
    return sealed(
        Span(
            trace_id=trace.bytes,
            span_id=int.from_bytes(blake2b(identity.bytes, digest_size=8).digest(), "big", signed=True),
            parent_span_id=parent or None,
            kind=kind,
            name=name,
            started_at=started_at,
            ended_at=ended_at,
            status="ok" if success else "error",
            error=None if success else error or "no reason given",
            agent=report.agent,
            agent_stated=bool(report.agent),
            department=report.department or None,
            run_id=report.run_id or trace.hex,
            conversation_id=report.conversation_id or None,
            execution_id=report.execution_id,
            **fields,
        )
    )


def _times(report: Report, lasted_ms: int | None, *, now: datetime) -> tuple[datetime, datetime]:
    """Start and end in UTC: it was over at `occurred_at`, or now; however late the report comes, it says the same."""
    at = report.occurred_at or now
    if wrong := misplaced(at, now=now):
        raise BadReport("occurred_at", wrong)
    at = at.astimezone(UTC)
    return at - timedelta(milliseconds=lasted_ms or 0), at
