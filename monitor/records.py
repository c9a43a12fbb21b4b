"""What the ingest door works with: frozen records that know neither Django nor the wire they came on."""

import hashlib
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Protocol
from uuid import UUID

import msgspec

Kind = Literal[
    "agent",
    "llm",
    "embedding",
    "tool",
    "retrieval",
    "memory",
    "plan",
    "guardrail",
    "evaluator",
    "step",
    "operation",
]
Status = Literal["unset", "ok", "error"]

DIGEST_BYTES = 16


class Tokens(msgspec.Struct, frozen=True, gc=False):
    """Token counts in buckets that never overlap, and images by piece.

    `has_usage` is false when nobody counted: then the zeros mean "unknown". `excludes_cache` is true when
    the sender's input total left the cached tokens out.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    audio_input: int = 0
    image_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    image_output: int = 0
    images: int = 0
    has_usage: bool = False
    excludes_cache: bool = False

    @property
    def input_total(self) -> int:
        """All input tokens as billed, cache included."""
        return self.input + self.cache_read + self.cache_write + self.audio_input + self.image_input

    @property
    def output_total(self) -> int:
        """All output tokens as billed, reasoning included."""
        return self.output + self.reasoning + self.audio_output + self.image_output

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to price."""
        return not (self.input_total or self.output_total or self.images)


NO_TOKENS = Tokens()


def disjoint(
    input_total: int = 0,
    output_total: int = 0,
    *,
    cache_read: int = 0,
    cache_write: int = 0,
    audio_input: int = 0,
    image_input: int = 0,
    reasoning: int = 0,
    audio_output: int = 0,
    image_output: int = 0,
    images: int = 0,
    excludes_cache: bool = False,
) -> Tokens:
    """Return the buckets of a usage whose totals include their parts, as nearly all senders report it.

    More cache than input means that the sender left the cache out of the total, more reasoning than output
    likewise; a part that overlaps another (cached audio) is counted once, with the cache.
    """
    cached = cache_read + cache_write
    excludes_cache = excludes_cache or cached > input_total
    fresh = input_total if excludes_cache else input_total - cached
    audio_input = min(audio_input, fresh)
    image_input = min(image_input, fresh - audio_input)
    spoken = min(audio_output, output_total)
    drawn = min(image_output, output_total - spoken)
    written = output_total - spoken - drawn
    return Tokens(
        input=fresh - audio_input - image_input,
        cache_read=cache_read,
        cache_write=cache_write,
        audio_input=audio_input,
        image_input=image_input,
        output=written if reasoning > written else written - reasoning,
        reasoning=reasoning,
        audio_output=spoken,
        image_output=drawn,
        images=images,
        has_usage=True,
        excludes_cache=excludes_cache,
    )


class Span(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing that an agent did; REST calls, tool calls and steps take this form as well.

    Times are aware and in UTC; `ended_at` is None while the work goes on. `agent_stated` is false when the
    agent's name is only that of the service. `waits_for_human` is true when the program stopped to ask a
    person. `digest` stands for the content; which of two versions of a span stays is told by `rank`.
    """

    trace_id: bytes
    span_id: int
    parent_span_id: int | None = None
    kind: Kind = "step"
    name: str = ""
    started_at: datetime
    ended_at: datetime | None = None
    status: Status = "unset"
    error: str | None = None
    agent: str = ""
    agent_stated: bool = False
    department: str | None = None
    run_id: str = ""
    workflow: str | None = None
    conversation_id: str | None = None
    execution_id: UUID | None = None
    user: str | None = None
    provider: str | None = None
    request_model: str | None = None
    model: str | None = None
    service_tier: str | None = None
    response_id: str | None = None
    finish: str | None = None
    first_token_ms: int | None = None
    tokens: Tokens = NO_TOKENS
    reported_usd: Decimal | None = None
    tool: str | None = None
    tool_call_id: str | None = None
    arguments: str | None = None
    result: str | None = None
    input: str | None = None
    output: str | None = None
    handover_from: str | None = None
    handover_to: str | None = None
    waits_for_human: bool = False
    scope: str = ""
    attributes: dict[str, Any] = {}
    digest: bytes = b""

    @property
    def duration_ms(self) -> int | None:
        """Milliseconds from start to end, None while pending."""
        if self.ended_at is None:
            return None
        return round((self.ended_at - self.started_at).total_seconds() * 1000)


class Version(Protocol):
    """What decides which version of a span stays."""

    @property
    def started_at(self) -> datetime: ...

    @property
    def ended_at(self) -> datetime | None: ...

    @property
    def digest(self) -> bytes: ...


def rank(version: Version) -> tuple[bool, datetime, bytes]:
    """Of two versions of a span the greater stays: an end beats none, then the later end, then the digest."""
    return version.ended_at is not None, version.ended_at or version.started_at, version.digest


class Rejection(msgspec.Struct, frozen=True):
    """A span that could not be taken, by what is known of it, and why."""

    reason: str
    trace_id: str = ""
    span_id: str = ""
    name: str = ""


_pack = msgspec.msgpack.Encoder().encode


def sealed(span: Span) -> Span:
    """Return the span with its digest, the same for the same content on whatever wire it came."""
    if span.digest:
        span = msgspec.structs.replace(span, digest=b"")
    msgspec.structs.force_setattr(span, "digest", hashlib.blake2b(_pack(span), digest_size=DIGEST_BYTES).digest())
    return span
