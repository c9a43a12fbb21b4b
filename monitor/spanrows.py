"""A span as the row that is stored: fitted to its columns and priced."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from monitor.keeping import Late
from monitor.moments import MOST_AHEAD
from monitor.otlp_text import clean
from monitor.prices import PriceOverride, price
from monitor.records import Span

LONGEST_NAME = 200
# Five names make a rollup's key, and PostgreSQL refuses index rows above 2,704 bytes.
LONGEST_SHORT_NAME = 100
LONGEST_TITLE = 1_000
LONGEST_ERROR = 20_000
MOST_MS = 2**31 - 1
CENTS = Decimal("1e-10")


# The bits of `inherits`: what a span does not say itself, and takes from above or, the last two, from log records.
AGENT, CONVERSATION, RUN, EXECUTION, INPUT, OUTPUT = 1, 2, 4, 8, 16, 32

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Row(msgspec.Struct, gc=False):
    """The columns of a span in the order in which they are copied; ids as text, `attributes` as JSON.

    `inherits` tells what stands here because of the spans above, or of log records; `service` is the agent's name where
    nobody says one.
    """

    project_id: int
    trace_id: str
    span_id: int
    started_at: datetime
    ended_at: datetime | None
    received_at: datetime
    parent_span_id: int | None
    kind: str
    name: str
    agent: str
    department: str
    run_id: str
    conversation_id: str
    execution_id: str | None
    failed: bool
    error: str
    provider: str
    request_model: str
    model: str
    tool: str
    tool_call_id: str
    response_id: str
    finish: str
    first_token_ms: int | None
    bears_usage: bool
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    audio_input_tokens: int
    image_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    audio_output_tokens: int
    images: int
    reported_usd: Decimal | None
    computed_usd: Decimal | None
    price_version: str
    digest: bytes
    service: str
    inherits: int
    bookings: int = 0
    cost_usd: Decimal = Decimal(0)
    pricing: str = "none"
    attributes: str = "{}"
    input: str | None = None
    output: str | None = None

    @property
    def tokens(self) -> int:
        """All tokens of the span, whatever their kind."""
        return (
            self.input_tokens
            + self.cache_read_tokens
            + self.cache_write_tokens
            + self.audio_input_tokens
            + self.image_input_tokens
            + self.output_tokens
            + self.reasoning_tokens
            + self.audio_output_tokens
        )


COLUMNS = Row.__struct_fields__
# What is read of a stored span when its booking changes.
BOOKED_COLUMNS = tuple(name for name in COLUMNS if name not in ("attributes", "input", "output"))


class Known(msgspec.Struct, frozen=True, gc=False):
    """What of a stored span decides its role, its place in the trace and which of two versions stays."""

    span_id: int
    parent_span_id: int | None
    started_at: datetime
    ended_at: datetime | None
    digest: bytes
    kind: str
    bears_usage: bool
    response_id: str
    tokens: int
    bookings: int
    agent: str
    service: str
    department: str
    conversation_id: str
    run_id: str
    execution_id: str | None
    inherits: int


class Work(NamedTuple):
    """An execution that a span names, or that was registered for its trace; it says what the span leaves unsaid.

    `trace_id` is the trace that it was registered for.
    """

    id: str
    trace_id: str | None
    run_id: str
    agent: str
    department: str
    conversation_id: str


def refusal(span: Span, late: Late, *, now: datetime) -> str | None:
    """Why a span can't be kept, None when it can; `late` is how late it may come."""
    if span.started_at < late.oldest(now=now):
        return f"it started {late.reason(now=now)}"
    if max(span.started_at, span.ended_at or span.started_at) > now + MOST_AHEAD:
        return f"it lies more than {MOST_AHEAD.seconds // 60} minutes in the future"
    return None


def response_id(span: Span) -> str:
    """The response that a span reports, as it is stored; "" where it reports none."""
    return _key(span.response_id or "")


def row(
    project_id: int,
    span: Span,
    *,
    now: datetime,
    department: str = "",
    work: Work | None = None,
    overrides: Sequence[PriceOverride] = (),
) -> Row:
    """Return the span as a row, with what it says itself or by the execution `work` that it names.

    `department` is the key's own, used when nobody says another.
    """
    trace_id = span.trace_id.hex()
    run_id = "" if span.run_id == trace_id else span.run_id
    conversation_id = span.conversation_id or ""
    agent = span.agent if span.agent_stated else ""
    if work is not None:
        run_id = run_id or work.run_id
        conversation_id = conversation_id or work.conversation_id
        agent = agent or work.agent
        department = work.department or department
    inherits = (
        (0 if agent else AGENT)
        | (0 if conversation_id else CONVERSATION)
        | (0 if run_id else RUN)
        | (0 if span.execution_id else EXECUTION)
    )
    service = "" if agent else _title(span.agent, LONGEST_NAME)
    tokens = span.tokens
    reported = None if span.reported_usd is None else span.reported_usd.quantize(CENTS)
    bears = bool(not tokens.is_empty or reported)
    # Prices are kept by these names, so they are cut before.
    provider, model = _title(span.provider or "", LONGEST_SHORT_NAME), _title(span.model or "", LONGEST_NAME)
    computed, version = None, ""
    if bears:
        priced = price(provider, model, tokens, span.started_at, overrides, service_tier=span.service_tier)
        version = priced.version
        computed = None if priced.computed_usd is None else priced.computed_usd.quantize(CENTS)
    is_tool = span.kind == "tool"
    return Row(
        project_id=project_id,
        trace_id=trace_id,
        span_id=span.span_id,
        started_at=span.started_at,
        ended_at=span.ended_at,
        received_at=now,
        parent_span_id=span.parent_span_id,
        kind=span.kind,
        name=_title(span.name, LONGEST_TITLE),
        agent=_title(agent, LONGEST_NAME) or service,
        department=_title(span.department or department, LONGEST_SHORT_NAME),
        run_id=_key(run_id or trace_id),
        conversation_id=_key(conversation_id),
        execution_id=str(span.execution_id) if span.execution_id else None,
        failed=span.status == "error",
        error=_title(span.error or "", LONGEST_ERROR),
        provider=provider,
        request_model=_title(span.request_model or "", LONGEST_NAME),
        model=model,
        tool=_title(span.tool or "", LONGEST_NAME),
        tool_call_id=_key(span.tool_call_id or ""),
        response_id=response_id(span),
        finish=_title(span.finish or "", LONGEST_NAME),
        first_token_ms=None if span.first_token_ms is None else min(span.first_token_ms, MOST_MS),
        bears_usage=bears,
        input_tokens=tokens.input,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=tokens.cache_write,
        audio_input_tokens=tokens.audio_input,
        image_input_tokens=tokens.image_input,
        # Drawn tokens have no column of their own; how many they are stands in the attributes.
        output_tokens=tokens.output + tokens.image_output,
        reasoning_tokens=tokens.reasoning,
        audio_output_tokens=tokens.audio_output,
        images=tokens.images,
        reported_usd=reported,
        computed_usd=computed,
        price_version=version,
        digest=span.digest,
        service=service,
        inherits=inherits,
        attributes=_attributes(span),
        input=_text(span.arguments if is_tool else span.input),
        output=_text(span.result if is_tool else span.output),
    )


def _text(text: str | None) -> str | None:
    return None if text is None else clean(text)


def _title(text: str, most: int) -> str:
    """The text without NUL bytes, cut to what its column takes."""
    if len(text) > most:
        text = text[: most - 1] + "…"
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def _key(text: str) -> str:
    """An id without NUL bytes; a long one is cut and told apart from its like by a digest."""
    if len(text) > LONGEST_NAME:
        mark = blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()
        text = f"{text[: LONGEST_NAME - 17]}…{mark}"
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def _attributes(span: Span) -> str:
    """The attributes without a column of their own, and the few fields that have none."""
    kept = dict(span.attributes)
    for name, value in (
        ("user.id", span.user),
        ("gen_ai.workflow.name", span.workflow),
        ("service_tier", span.service_tier),
        ("otel.scope.name", span.scope),
        ("handover.from", span.handover_from),
        ("handover.to", span.handover_to),
        ("waits_for_human", span.waits_for_human),
    ):
        if value:
            kept[name] = value
    if span.tokens.excludes_cache:
        kept["usage_excludes_cache"] = True
    if span.tokens.image_output:
        kept["image_output_tokens"] = span.tokens.image_output
    encoded = _encode(kept)
    if b"\\u0000" in encoded:
        encoded = _encode(_cleaned(_decode(encoded)))
    return encoded.decode()


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {clean(name): _cleaned(item) for name, item in value.items()}
    return value
