"""From the attributes of one span to our record: by the tables of semconv and by rule, never by client."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, cast
from uuid import UUID

from monitor import semconv
from monitor.fields import NAMES, fields
from monitor.providers import provider_name
from monitor.records import NO_TOKENS, Kind, Rejection, Span, Status, Tokens, disjoint, sealed
from monitor.story import SILENCE, Event, Story, told
from monitor.values import as_arguments, as_reason, as_text, instant, metadata, usage_details, usd_details

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_NS = int((datetime(2000, 1, 1, tzinfo=UTC) - EPOCH).total_seconds()) * 10**9
LAST_NS = int((datetime(2100, 1, 1, tzinfo=UTC) - EPOCH).total_seconds()) * 10**9
NO_TRACE = bytes(16)
NO_SPAN = bytes(8)
STATUS_OK, STATUS_ERROR = 1, 2

_EVIDENCE: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("vendor_kind", semconv.VENDOR_KINDS),
    ("openinference_kind", semconv.OPENINFERENCE_KINDS),
    ("operation", semconv.OPERATIONS),
    ("traceloop_kind", semconv.TRACELOOP_KINDS),
    ("ai_operation", semconv.AI_OPERATIONS),
    ("request_type", semconv.REQUEST_TYPES),
)
_DETAIL_BLOBS = (semconv.USAGE_BLOB, *semconv.USAGE_DETAIL_BLOBS)
_BLOBS = frozenset(_DETAIL_BLOBS)
_METADATA = frozenset(semconv.METADATA_BLOBS)
_TOOL_FIELDS = ("tool", "arguments", "result")

Get = Callable[[str], Any]


class Resource(NamedTuple):
    """What a resource says of all its spans."""

    service: str = ""
    department: str | None = None


def resource(pairs: Iterable[tuple[str, Any]]) -> Resource:
    """Read a resource's attributes; host names and command lines are not kept."""
    attributes = dict(pairs)
    service = as_text(attributes.get("service.name") or "")
    department = attributes.get("handrail.department")
    return Resource(
        service="" if service.startswith("unknown_service") else service,
        department=as_text(department) if department else None,
    )


def span(
    trace_id: bytes,
    span_id: bytes,
    parent_id: bytes,
    name: str,
    start_ns: int,
    end_ns: int,
    status_code: int,
    status_message: str,
    pairs: Iterable[tuple[str, Any]],
    events: Sequence[Event],
    source: Resource,
    scope: str,
) -> Span | Rejection:
    """Return the span as our record, or why it can't be taken."""
    reason = _refusal(trace_id, span_id, parent_id, start_ns, end_ns)
    if reason:
        return Rejection(reason, trace_id[:16].hex(), span_id[:8].hex(), name)
    known, rest = fields(pairs)
    get = known.get
    if end_ns and end_ns < start_ns:
        # Its clock was set back meanwhile. What it did is kept; how long it took nobody knows.
        rest[semconv.ENDED_EARLY] = (start_ns - end_ns) / 1e6
        end_ns = start_ns
    if not _METADATA.isdisjoint(rest):
        for key in semconv.METADATA_BLOBS:
            for field, value in metadata(rest.get(key)).items():
                known.setdefault(field, value)
    story = told(events) if events else SILENCE
    if story.others:
        rest["events"] = story.others
    tokens = _tokens(known, rest)
    kind = _kind(get, name, tokens)
    status, error = _outcome(get, status_code, status_message, story)
    agent, stated = _agent(get, kind, name, source)

    own = int.from_bytes(span_id, "big", signed=True)
    parent = int.from_bytes(parent_id, "big", signed=True) or None
    ended: datetime | None = None
    if end_ns and get("response_status") not in semconv.PENDING_STATUSES:
        ended = _time(end_ns)
    if parent is not None and get("pending_type") == semconv.PENDING_SPAN:
        # A pending span announces its parent id: the real span, still open, will come under that id.
        own, parent, ended = parent, _pending_parent(get("pending_parent")), None
    if parent == own:
        parent = None

    given_input, given_output = get("input"), get("output")
    given_input = story.input if given_input is None else as_text(given_input)
    given_output = story.output if given_output is None else as_text(given_output)
    tool = arguments = result = None
    if kind == "tool":
        tool = get("tool") or get("entity") or name.removeprefix(semconv.TOOL_PREFIX)
        arguments, result = get("arguments"), get("result")
        arguments = as_arguments(arguments) or given_input if arguments else given_input
        result = as_text(result) if result else given_output
        given_input = given_output = None
    else:
        for field in _TOOL_FIELDS:
            if field in known:
                rest[NAMES[field][0]] = known[field]
    provider, request_model = get("provider"), get("request_model")
    usd = _reported(get, rest)
    return sealed(
        Span(
            trace_id=trace_id,
            span_id=own,
            parent_span_id=parent,
            kind=kind,
            name=get("display_name") or name,
            started_at=_time(start_ns),
            ended_at=ended,
            status=status,
            error=error,
            agent=agent,
            agent_stated=stated,
            department=get("department") or source.department,
            run_id=get("run") or trace_id.hex(),
            workflow=get("workflow"),
            conversation_id=get("conversation"),
            execution_id=_execution(get("execution"), rest),
            user=get("user"),
            provider=provider_name(provider) if provider else None,
            request_model=request_model,
            model=get("response_model") or request_model,
            service_tier=get("service_tier"),
            response_id=get("response_id"),
            finish=as_reason(get("finish")) or story.finish,
            first_token_ms=_first_token_ms(get, story, start_ns, end_ns),
            tokens=tokens,
            reported_usd=None if usd == 0 and not tokens.is_empty else usd,
            tool=tool,
            tool_call_id=get("tool_call_id"),
            arguments=arguments,
            result=result,
            input=given_input,
            output=given_output,
            handover_from=get("handover_from"),
            handover_to=get("handover_to"),
            waits_for_human=story.waits_for_human,
            scope=scope,
            attributes=rest,
        )
    )


def _time(at_ns: int) -> datetime:
    seconds, rest_ns = divmod(at_ns, 1_000_000_000)
    return EPOCH + timedelta(0, seconds, rest_ns // 1000)


def _refusal(trace_id: bytes, span_id: bytes, parent_id: bytes, start_ns: int, end_ns: int) -> str | None:
    if len(trace_id) != 16 or trace_id == NO_TRACE:
        return "the trace id is missing or is not 16 bytes"
    if len(span_id) != 8 or span_id == NO_SPAN:
        return "the span id is missing or is not 8 bytes"
    if parent_id and len(parent_id) != 8:
        return "the parent span id is not 8 bytes"
    if not FIRST_NS <= start_ns < LAST_NS:
        return "the start time is missing or lies outside the years 2000 to 2099"
    if end_ns >= LAST_NS:
        return "the end time lies after the year 2099"
    return None


def _tokens(known: dict[str, Any], rest: dict[str, Any]) -> Tokens:
    get = known.get
    has_totals = "input_total" in known or "output_total" in known
    if not (has_totals or "cache_read" in known or "images" in known or semconv.USAGE_BLOB in rest):
        return NO_TOKENS
    if get("operation") in semconv.REREADS:
        return NO_TOKENS
    excludes = False
    for key in () if _BLOBS.isdisjoint(rest) else _DETAIL_BLOBS:
        if has_totals or key == semconv.USAGE_BLOB:
            counts, leaves_out_cache = usage_details(rest.get(key))
            excludes = excludes or (leaves_out_cache and "input_total" not in known)
            for bucket, count in counts.items():
                if not get(bucket):
                    known[bucket] = count
    taken, made = get("input_total", 0), get("output_total", 0)
    read, write = get("cache_read", 0), get("cache_write", 0)
    cached = read + write
    if "input_total" not in known and "output_total" not in known and not (cached or get("images")):
        return NO_TOKENS
    return disjoint(
        taken,
        made,
        cache_read=read,
        cache_write=write,
        audio_input=get("audio_input", 0),
        image_input=get("image_input", 0),
        reasoning=get("reasoning", 0),
        audio_output=get("audio_output", 0),
        image_output=get("image_output", 0),
        images=get("images", 0),
        # A total that adds up only with the cache on top tells that the input left it out.
        excludes_cache=excludes or (cached > 0 and get("total") == taken + made + cached),
    )


def _reported(get: Get, rest: dict[str, Any]) -> Decimal | None:
    usd = get("cost")
    if usd is None and semconv.COST_BLOB in rest:
        return usd_details(rest[semconv.COST_BLOB])
    return cast("Decimal | None", usd)


def _kind(get: Get, name: str, tokens: Tokens) -> Kind:
    """Weigh the evidence in its order; what no evidence names is a step."""
    for field, kinds in _EVIDENCE:
        said = get(field)
        if said is None:
            continue
        kind = kinds.get(said)
        if kind is None:
            if field == "operation" and said.endswith(semconv.MEMORY_SUFFIXES):
                return "memory"
            continue
        if kind == "agent" and get("tool") == name:
            # A tool whose name reads like an agent's is still a tool: the span is called after the tool.
            return "tool"
        return cast(Kind, kind)
    if get("operation") is not None:
        return "step"
    if get("tool") is not None or get("mcp_method") == semconv.MCP_TOOL_CALL:
        return "tool"
    agent = get("agent")
    if tokens.has_usage and (get("request_model") or get("response_model")):
        return "llm"
    if agent is not None and (tokens.has_usage or name in (semconv.AGENT_RUN, f"{agent} run")):
        return "agent"
    return "step"


def _agent(get: Get, kind: Kind, name: str, source: Resource) -> tuple[str, bool]:
    agent = get("agent")
    if agent is None and kind == "agent":
        agent = get("entity")
        if agent is None and get("ai_operation") is None:
            match = semconv.AGENT_SPAN_NAME.match(name)
            agent = match.group(1) if match else None
    return (agent, True) if agent else (source.service, False)


def _outcome(get: Get, code: int, message: str, story: Story) -> tuple[Status, str | None]:
    flag, error_type = get("error_flag"), get("error_type")
    if type(flag) is str:
        flagged = flag.lower() in semconv.ERROR_FLAGS
    else:
        flagged = type(flag) is int and flag >= semconv.ERROR_LEVEL
    failed = code == STATUS_ERROR or flagged or (code != STATUS_OK and bool(error_type or story.exception))
    if failed and not story.waits_for_human:
        reason = message or get("error_message") or story.exception or error_type
        return "error", reason or "no reason given"
    return ("ok" if code == STATUS_OK else "unset"), None


def _first_token_ms(get: Get, story: Story, start_ns: int, end_ns: int) -> int | None:
    """Senders give seconds or milliseconds under one name: what would outlast the span can't be seconds."""
    value = get("first_token")
    if value is not None and type(value) in (int, float) and 0 <= value < 10**9:
        lasted_ms = (end_ns - start_ns) / 1e6
        return round(value if value * 1000 > lasted_ms + 1 else value * 1000)
    at_ns = story.first_token_ns
    if at_ns is None:
        at = instant(get("first_token_at"))
        at_ns = (at - EPOCH) // timedelta(microseconds=1) * 1000 if at else 0
    return round((at_ns - start_ns) / 1e6) if start_ns <= at_ns <= (end_ns or LAST_NS) else None


def _pending_parent(value: Any) -> int | None:
    try:
        parent = bytes.fromhex(value)
    except (TypeError, ValueError):
        return None
    return int.from_bytes(parent, "big", signed=True) or None if len(parent) == 8 else None


def _execution(value: Any, rest: dict[str, Any]) -> UUID | None:
    if value is None:
        return None
    try:
        return UUID(value)
    except (AttributeError, TypeError, ValueError):
        rest["handrail.execution.id"] = value
        return None
