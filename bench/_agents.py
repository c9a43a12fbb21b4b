"""What agents send, made before the clock starts: turns of an agent with four model calls and three tools."""

import json
import random
import time
from collections.abc import Mapping

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

MODELS = (("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("anthropic", "claude-sonnet-4-5"), ("openai", "o3"))
TOOLS = ("find_order", "read_policy", "refund", "send_mail", "open_ticket")
AGENTS = [f"agent-{n:03d}" for n in range(50)]
WORDS = (
    "customer order refund invoice policy parcel address please look whether found already paid twice answer within "
    "days account email team approve limit check again before write short note result status open closed next"
)
MILLISECOND, SECOND = 10**6, 10**9


def exports(spans: int, *, per_request: int, seed: int) -> list[bytes]:
    """Bodies of OTLP requests, protobuf, that hold so many spans in all; their work began in the last ten minutes."""
    rng = random.Random(seed)
    now_ns = time.time_ns()
    waiting: list[Span] = []
    bodies = []
    left = spans
    while left:
        while len(waiting) < min(per_request, left):
            waiting += _turn(rng, now_ns)
        size = min(per_request, left)
        bodies.append(_export(waiting[:size]))
        del waiting[:size]
        left -= size
    return bodies


def events(count: int, *, seed: int, per_run: int = 1) -> list[dict[str, object]]:
    """As many events of the kind `call` for the batch; so many behind each other are of one agent's run."""
    rng = random.Random(seed)
    made: list[dict[str, object]] = []
    while len(made) < count:
        agent, run_id = rng.choice(AGENTS), f"run-{rng.getrandbits(40):x}"
        made += [_call(rng, agent, run_id) for _ in range(per_run)]
    return made[:count]


def _call(rng: random.Random, agent: str, run_id: str) -> dict[str, object]:
    provider, model = rng.choice(MODELS)
    return {
        "type": "call",
        "provider": provider,
        "model": model,
        "input_tokens": rng.randrange(200, 6000),
        "output_tokens": rng.randrange(20, 900),
        "cache_read_tokens": rng.randrange(0, 200),
        "agent": agent,
        "run_id": run_id,
        "latency_ms": rng.randrange(300, 4000),
        "success": rng.random() > 0.05,
        "response_id": f"resp-{rng.getrandbits(64):x}",
    }


def _export(spans: list[Span]) -> bytes:
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    _say(of_resource.resource, {"service.name": "bench", "service.version": "1.0", "telemetry.sdk.language": "python"})
    of_scope = of_resource.scope_spans.add()
    of_scope.scope.name = "bench"
    of_scope.spans.extend(spans)
    return request.SerializeToString()


def _turn(rng: random.Random, now_ns: int) -> list[Span]:
    """One trace, its root last, as exporters send it."""
    trace_id, root_id = rng.randbytes(16), rng.randbytes(8)
    agent, session = rng.choice(AGENTS), f"session-{rng.getrandbits(40):x}"
    began_ns = at_ns = now_ns - rng.randrange(60, 600) * SECOND
    fails = rng.random() < 0.1
    common = {"gen_ai.agent.name": agent, "gen_ai.conversation.id": session, "session.id": session}
    spans = []
    for n in range(4):
        took_ns = rng.randrange(300, 4000) * MILLISECOND
        provider, model = rng.choice(MODELS)
        taken, made = rng.randrange(200, 6000), rng.randrange(20, 900)
        asked, answered = _text(rng, 400), _text(rng, 300)
        chat = _span(trace_id, root_id, rng, f"chat {model}", at_ns, at_ns + took_ns)
        _say(
            chat,
            common
            | {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": provider,
                "gen_ai.request.model": model,
                "gen_ai.response.model": model,
                "gen_ai.response.id": f"resp-{rng.getrandbits(64):x}",
                "gen_ai.request.temperature": 0.2,
                "gen_ai.request.max_tokens": 1024,
                "gen_ai.usage.input_tokens": taken,
                "gen_ai.usage.output_tokens": made,
                "openinference.span.kind": "LLM",
                "llm.model_name": model,
                "llm.token_count.prompt": taken,
                "llm.token_count.completion": made,
                "user.id": f"user-{rng.randrange(5000)}",
                "input.value": asked,
                "input.mime_type": "text/plain",
                "output.value": answered,
                "llm.input_messages.0.message.role": "user",
                "llm.input_messages.0.message.content": asked[:200],
                "llm.output_messages.0.message.role": "assistant",
                "llm.output_messages.0.message.content": answered[:200],
            },
        )
        if fails and n == 3:
            chat.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message="overloaded"))
        spans.append(chat)
        at_ns += took_ns
        if n < 3:
            took_ns = rng.randrange(5, 900) * MILLISECOND
            tool = rng.choice(TOOLS)
            call = _span(trace_id, root_id, rng, f"execute_tool {tool}", at_ns, at_ns + took_ns)
            _say(
                call,
                common
                | {
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.tool.name": tool,
                    "gen_ai.tool.call.id": f"call-{rng.getrandbits(64):x}",
                    "openinference.span.kind": "TOOL",
                    "gen_ai.tool.call.arguments": json.dumps({"query": _text(rng, 150), "limit": 20}),
                    "gen_ai.tool.call.result": json.dumps({"rows": [_text(rng, 120) for _ in range(4)]}),
                },
            )
            spans.append(call)
            at_ns += took_ns
    root = _span(trace_id, b"", rng, f"invoke_agent {agent}", began_ns, at_ns)
    root.span_id = root_id
    _say(
        root,
        common
        | {
            "gen_ai.operation.name": "invoke_agent",
            "openinference.span.kind": "AGENT",
            "input.value": _text(rng, 400),
            "output.value": _text(rng, 400),
        },
    )
    return [*spans, root]


def _span(trace_id: bytes, parent_id: bytes, rng: random.Random, name: str, began_ns: int, ended_ns: int) -> Span:
    return Span(
        trace_id=trace_id,
        span_id=rng.randbytes(8),
        parent_span_id=parent_id,
        name=name,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=began_ns,
        end_time_unix_nano=ended_ns,
    )


def _say(holder: object, attributes: Mapping[str, object]) -> None:
    holder.attributes.extend(KeyValue(key=name, value=_value(value)) for name, value in attributes.items())  # type: ignore[attr-defined]


def _value(value: object) -> AnyValue:
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=str(value))


def _text(rng: random.Random, length: int) -> str:
    return " ".join(rng.choices(WORDS.split(), k=length // 6))
