"""The mapper's rules, one small span each."""

from decimal import Decimal
from uuid import UUID

import pytest

from monitor import otlp
from monitor.records import NO_TOKENS, Span, Tokens, disjoint
from tests.monitor.otlp_builders import START_NS, TRACE, as_json, as_protobuf, export, json_span


def read(resource: dict | None = None, **given) -> Span:
    (span,), rejections = otlp.spans(otlp.decode(as_json(export(json_span(**given), resource=resource)), otlp.JSON))
    assert rejections == []
    return span


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (disjoint(130_213, cache_read=128_955, cache_write=1_253), (5, 128_955, 1_253)),
        (disjoint(17_903, cache_read=17_817), (86, 17_817, 0)),
        (disjoint(10, cache_read=90), (10, 90, 0)),
        (disjoint(100, cache_read=60, audio_input=60), (0, 60, 0)),
    ],
)
def test_cached_input_is_never_counted_twice(tokens, expected):
    assert (tokens.input, tokens.cache_read, tokens.cache_write) == expected


def test_image_and_cached_text_leave_the_plain_text():
    tokens = disjoint(300, image_input=200, cache_read=40)

    assert (tokens.input, tokens.image_input, tokens.cache_read) == (60, 200, 40)
    assert tokens.input_total == 300


def test_more_cache_than_input_marks_a_sender_that_left_it_out():
    assert disjoint(10, cache_read=90).excludes_cache
    assert not disjoint(100, cache_read=90).excludes_cache


def test_reasoning_and_audio_leave_the_plain_output():
    tokens = disjoint(0, 100, reasoning=60, audio_output=10)

    assert (tokens.output, tokens.reasoning, tokens.audio_output) == (30, 60, 10)


def test_more_reasoning_than_output_means_that_it_comes_on_top():
    tokens = disjoint(0, 20, reasoning=60)

    assert (tokens.output, tokens.reasoning) == (20, 60)


def test_a_total_that_adds_up_only_with_the_cache_tells_that_the_input_leaves_it_out():
    span = read(
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20,
            "gen_ai.usage.cache_read_input_tokens": 50,
            "gen_ai.usage.total_tokens": 170,
        }
    )

    assert span.tokens == Tokens(input=100, cache_read=50, output=20, has_usage=True, excludes_cache=True)


def test_the_newest_name_wins_and_a_differing_loser_is_kept():
    span = read(
        attributes={
            "llm.model_name": "old",
            "gen_ai.request.model": "new",
            "gen_ai.system": "openai",
            "llm.provider": "azure",
            "session.id": "s",
        }
    )

    assert (span.request_model, span.provider, span.conversation_id) == ("new", "openai", "s")
    assert span.attributes == {"llm.model_name": "old", "llm.provider": "azure"}


def test_an_empty_value_is_no_value():
    span = read(attributes={"gen_ai.conversation.id": "", "session.id": "null", "langfuse.session.id": "s-1"})

    assert span.conversation_id == "s-1"


def test_a_zero_does_not_hide_a_count_under_an_older_name():
    span = read(attributes={"gen_ai.usage.input_tokens": 0, "llm.token_count.prompt": 9, "llm.model_name": "m"})

    assert span.tokens.input == 9


@pytest.mark.parametrize("junk", [-1, "many", 3_000_000_000, 1.5, True, [3]])
def test_an_absurd_count_is_no_usage_and_stays_to_be_seen(junk):
    span = read(attributes={"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": junk})

    assert span.tokens == NO_TOKENS
    assert span.attributes == {"gen_ai.usage.input_tokens": junk}


@pytest.mark.parametrize("junk", [-0.5, "free", 1e30, True])
def test_an_absurd_cost_is_no_report(junk):
    span = read(attributes={"gen_ai.usage.cost": junk})

    assert span.reported_usd is None
    assert span.attributes == {"gen_ai.usage.cost": junk}


@pytest.mark.parametrize(("parts", "reported"), [(1, 1_000_000), (2, None), (900, None)])
def test_the_parts_of_a_cost_together_are_no_more_than_a_call_may_cost(parts, reported):
    costs = {f"part {number}": 1_000_000 for number in range(parts)}

    assert read(attributes={"langfuse.observation.cost_details": costs}).reported_usd == reported


def test_a_reported_zero_beside_tokens_is_unknown():
    tokens = {"gen_ai.usage.input_tokens": 5, "gen_ai.request.model": "m"}

    assert read(attributes={"gen_ai.usage.cost": 0, **tokens}).reported_usd is None
    assert read(attributes={"gen_ai.usage.cost": "0.25", **tokens}).reported_usd == Decimal("0.25")
    assert read(attributes={"gen_ai.usage.cost": 0}).reported_usd == 0


def test_unknown_usage_keys_are_kept():
    span = read(attributes={"gen_ai.usage.input_tokens": 5, "gen_ai.usage.video.input_tokens": 3})

    assert span.attributes == {"gen_ai.usage.video.input_tokens": 3}


KINDS = [
    ({"langfuse.observation.type": "tool", "openinference.span.kind": "LLM"}, "tool"),
    ({"openinference.span.kind": "RERANKER", "gen_ai.operation.name": "chat"}, "retrieval"),
    ({"gen_ai.operation.name": "chat", "gen_ai.tool.name": "asked_for"}, "llm"),
    ({"gen_ai.operation.name": "embeddings"}, "embedding"),
    ({"gen_ai.operation.name": "search_memory"}, "memory"),
    ({"gen_ai.operation.name": "delete_memory_store"}, "memory"),
    ({"gen_ai.operation.name": "plan"}, "plan"),
    ({"gen_ai.operation.name": "create_agent", "gen_ai.agent.name": "a"}, "step"),
    ({"gen_ai.operation.name": "something_new"}, "step"),
    ({"traceloop.span.kind": "task"}, "step"),
    ({"traceloop.span.kind": "workflow"}, "agent"),
    ({"llm.request.type": "chat"}, "llm"),
    ({"gen_ai.tool.name": "search"}, "tool"),
    ({"mcp.method.name": "tools/call"}, "tool"),
    ({"mcp.method.name": "tools/list"}, "step"),
    ({"gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 1}, "llm"),
    ({"gen_ai.request.model": "m"}, "step"),
    ({"openinference.span.kind": "GUARDRAIL"}, "guardrail"),
    ({"openinference.span.kind": "EVALUATOR"}, "evaluator"),
    ({"openinference.span.kind": "UNHEARD_OF"}, "step"),
    ({}, "step"),
]


@pytest.mark.parametrize(("attributes", "kind"), KINDS)
def test_the_evidence_for_a_kind_is_weighed_in_order(attributes, kind):
    assert read(attributes=attributes).kind == kind


def test_ours_go_by_our_own_names():
    span = read(
        resource={"service.name": "bot", "handrail.department": "Sales"},
        attributes={
            "handrail.run.id": "run-7",
            "handrail.execution.id": "0195f7a2-0000-7000-8000-000000000001",
        },
    )

    assert span.run_id == "run-7"
    assert span.execution_id == UUID("0195f7a2-0000-7000-8000-000000000001")
    assert span.department == "Sales"
    assert (span.agent, span.agent_stated) == ("bot", False)


def test_without_a_run_the_trace_is_the_run_and_never_the_conversation():
    span = read()

    assert span.run_id == TRACE
    assert span.conversation_id is None


def test_an_execution_that_is_no_uuid_is_kept_aside():
    span = read(attributes={"handrail.execution.id": "seven"})

    assert span.execution_id is None
    assert span.attributes == {"handrail.execution.id": "seven"}


def test_the_spans_department_goes_before_the_resources():
    span = read(resource={"handrail.department": "Sales"}, attributes={"handrail.department": "Support"})

    assert span.department == "Support"


@pytest.mark.parametrize(
    ("sent", "ours"),
    [("OpenAI", "openai"), ("openai.chat", "openai"), ("gcp.vertex_ai", "google"), ("Acme", "acme")],
)
def test_providers_have_one_spelling(sent, ours):
    assert read(attributes={"gen_ai.system": sent}).provider == ours


def test_a_framework_is_the_provider_only_when_nobody_else_is_named():
    assert read(attributes={"gen_ai.system": "langchain", "llm.provider": "openai"}).provider == "openai"
    assert read(attributes={"gen_ai.system": "langchain"}).provider == "langchain"


@pytest.mark.parametrize(
    ("end_ns", "by_ms"),
    [(START_NS - 1, 1e-6), (START_NS - 2_500_000, 2.5), (1, (START_NS - 1) / 1e6)],
    ids=["a nanosecond", "milliseconds", "since 1970"],
)
def test_a_span_that_ends_before_it_starts_took_no_time(end_ns, by_ms):
    said = {"gen_ai.server.time_to_first_token": 0.2, "gen_ai.request.model": "gpt-4o"}
    told = export(json_span(attributes=said) | {"endTimeUnixNano": str(end_ns)})
    for body, media_type in ((as_json(told), otlp.JSON), (as_protobuf(told), otlp.PROTOBUF)):
        (span,), rejections = otlp.spans(otlp.decode(body, media_type))
        assert rejections == []
        assert (span.ended_at, span.duration_ms) == (span.started_at, 0)
        assert span.attributes == {"handrail.ended_before_start_ms": by_ms}
        assert span.model == "gpt-4o"


def test_work_in_progress_has_no_end():
    assert read(lasted_ms=None).ended_at is None
    assert read(attributes={"gen_ai.response.status": "in_progress"}).ended_at is None
    assert read(attributes={"gen_ai.response.status": "completed"}).duration_ms == 1000


def test_a_pending_span_stands_for_the_real_one_under_its_id():
    span = read(
        span=99,
        parent=7,
        attributes={"logfire.span_type": "pending_span", "logfire.pending_parent_id": "0000000000000003"},
    )
    root = read(
        span=98,
        parent=7,
        attributes={"logfire.span_type": "pending_span", "logfire.pending_parent_id": "0" * 16},
    )

    assert (span.span_id, span.parent_span_id, span.ended_at) == (7, 3, None)
    assert (root.span_id, root.parent_span_id) == (7, None)


def test_a_span_is_not_its_own_parent():
    assert read(span=5, parent=5).parent_span_id is None


def test_an_id_with_its_first_bit_set_is_a_negative_number():
    assert read(span=2**64 - 1).span_id == -1


def test_reading_back_a_response_is_not_paid_again():
    span = read(
        attributes={
            "gen_ai.operation.name": "fetch_response",
            "gen_ai.usage.input_tokens": 50,
            "gen_ai.request.model": "m",
        }
    )

    assert span.tokens == NO_TOKENS
    assert span.kind == "step"


def test_outcomes():
    failed = read(status={"code": 2, "message": "boom"})
    typed = read(attributes={"error.type": "Timeout"})
    thrown = read(events=[("exception", 1, {"exception.type": "E", "exception.message": "m"})])
    handled = read(
        status={"code": "STATUS_CODE_OK"},
        events=[("exception", 1, {"exception.type": "E", "exception.message": "m"})],
    )
    asked = read(status={"code": 2}, events=[("exception", 1, {"exception.type": "langgraph.errors.GraphInterrupt"})])

    assert (failed.status, failed.error) == ("error", "boom")
    assert (typed.status, typed.error) == ("error", "Timeout")
    assert (thrown.status, thrown.error) == ("error", "E: m")
    assert (handled.status, handled.error) == ("ok", None)
    assert (asked.status, asked.error, asked.waits_for_human) == ("unset", None, True)


@pytest.mark.parametrize("finish", [["stop", "length"], '["stop"]', "stop", '"stop"'])
def test_a_finish_reason_is_a_word(finish):
    assert read(attributes={"gen_ai.response.finish_reasons": finish}).finish == "stop"


def test_spread_messages_come_together_in_their_order():
    span = read(
        attributes={
            "llm.input_messages.10.message.content": "last",
            "llm.input_messages.2.message.role": "user",
            "llm.input_messages.2.message.tool_calls.0.tool_call.function.name": "f",
            "input.value": "the raw body",
        }
    )

    assert span.input == '[{"role":"user","tool_calls":[{"function":{"name":"f"}}]},{"content":"last"}]'
    assert span.attributes == {}


def test_messages_in_one_piece_go_before_spread_ones():
    span = read(attributes={"gen_ai.input.messages": '[{"role":"user"}]', "gen_ai.prompt.0.content": "same"})

    assert span.input == '[{"role":"user"}]'


def test_hostile_spread_keys_do_no_harm():
    span = read(
        attributes={
            "gen_ai.prompt.": 1,
            "gen_ai.prompt.999999999999": 2,
            "gen_ai.prompt.0": 3,
            "gen_ai.prompt.0.a": 4,
            "gen_ai.prompt.0.a.b": 5,
            "gen_ai.prompt." + "0." * 5000: 6,
        }
    )

    assert span.input


def test_messages_in_events():
    span = read(
        attributes={"gen_ai.operation.name": "chat"},
        events=[
            ("gen_ai.user.message", 0, {"content": "hi"}),
            ("gen_ai.choice", 900, {"finish_reason": "stop", "message": "hello"}),
            ("a note", 5, {"x": 1}),
        ],
    )

    assert (span.input, span.output, span.finish) == ("hi", "hello", "stop")
    assert [event["name"] for event in span.attributes["events"]] == ["a note"]


def test_metadata_names_what_no_attribute_does():
    span = read(attributes={"metadata": '{"thread_id": "t-1", "lc_agent_name": "planner"}'})

    assert (span.conversation_id, span.agent) == ("t-1", "planner")


def test_anthropics_own_usage_leaves_the_cache_out():
    span = read(
        attributes={
            "langfuse.observation.type": "generation",
            "langfuse.observation.usage_details": (
                '{"input_tokens": 30, "output_tokens": 7, "cache_read_input_tokens": 20}'
            ),
        }
    )

    assert span.tokens == Tokens(input=30, cache_read=20, output=7, has_usage=True, excludes_cache=True)


@pytest.mark.parametrize("blob", ["", "{", "[1]", "{'a': None}", "{" * 50, '{"input": "x"}', '{"input": -4}'])
def test_a_broken_usage_blob_is_no_usage(blob):
    span = read(attributes={"langfuse.observation.type": "generation", "langfuse.observation.usage_details": blob})

    assert span.tokens == NO_TOKENS


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "yesterday"])
def test_a_first_token_at_no_time_costs_no_span(moment):
    attributes = {"langfuse.observation.type": "generation", "langfuse.observation.completion_start_time": moment}
    assert read(attributes=attributes).kind == "llm"


def test_the_operation_alone_names_no_agent():
    span = read(name="invoke_agent", attributes={"gen_ai.operation.name": "invoke_agent"})
    assert (span.kind, span.agent_stated) == ("agent", False)
