"""The mapper against what 21 real clients sent: tokens to the unit, and who did what."""

from collections import Counter
from typing import NamedTuple

import pytest

from monitor.bookings import Role
from tests.contract.recordings import clients, counted, mapped, truth


class Totals(NamedTuple):
    input: int
    output: int
    calls: int


# What the rule must give. Where it is not what the model served, `WHY` explains.
EXPECTED = {
    "autogen_native": Totals(0, 0, 0),
    "langfuse_sdk": Totals(181, 55, 3),
    "litellm_otel": Totals(87, 79, 5),
    "logfire_sdk": Totals(205, 84, 6),
    "oi_agents_approval": Totals(262, 54, 4),
    "oi_anthropic": Totals(480, 59, 4),
    "oi_langchain": Totals(183, 50, 4),
    "oi_langgraph_hitl": Totals(113, 29, 2),
    "oi_openai": Totals(178, 59, 5),
    "oi_openai_agents": Totals(1015, 149, 12),
    "openlit_sdk": Totals(67, 42, 3),
    "otel_openai_agents_v2": Totals(700, 104, 8),
    "otel_openai_v2": Totals(164, 42, 4),
    "otel_openai_v2_latest": Totals(164, 42, 4),
    "pydantic_ai_1_0": Totals(1101, 270, 21),
    "pydantic_ai_native": Totals(1835, 450, 35),
    "smolagents_oi": Totals(10167, 134, 12),
    "strands_native": Totals(332, 66, 5),
    "traceloop_sdk": Totals(171, 59, 4),
    "traceloop_sdk_2024": Totals(160, 42, 3),
    "vercel_ai": Totals(478, 130, 10),
}

# (input, output) by which the spans differ from what the model served, and why no mapper can know better.
WHY = {
    "autogen_native": (-389, -37, "the client sends no span for a model call"),
    "langfuse_sdk": (120, 30, "one generation was written by hand and never reached the model"),
    "litellm_otel": (-1, 3, "a mocked reply of 10 / 20 is counted, a stream without usage (11 / 17) is not"),
    "oi_openai": (-14, -17, "a stream without usage"),
    "oi_openai_agents": (-197, -27, "streams without usage"),
    "openlit_sdk": (-5, 0, "the input leaves out 5 cached tokens, but not by more than it holds"),
    "otel_openai_v2": (-28, -34, "a stream without usage, and an API that the client does not see"),
    "otel_openai_v2_latest": (-28, -34, "a stream without usage, and an API that the client does not see"),
    "pydantic_ai_1_0": (153, 12, "a test model answers inside the client"),
    "pydantic_ai_native": (255, 20, "a test model answers inside the client"),
    "traceloop_sdk_2024": (-11, -17, "a stream without usage"),
}


def test_every_recording_has_its_expectation():
    assert clients() == sorted(EXPECTED)


@pytest.mark.parametrize("client", sorted(EXPECTED))
def test_tokens_are_those_that_the_model_served_or_the_difference_is_explained(client):
    spans, rejections = mapped(client)
    paid = [row for row, _ in counted(spans) if row.bears_usage]
    made = sum(row.output_tokens + row.reasoning_tokens + row.audio_output_tokens for row in paid)
    total = Totals(sum(row.tokens for row in paid) - made, made, len(paid))
    served = [call for call in truth(client) if call["status"] == 200]
    more_input, more_output, _ = WHY.get(client, (0, 0, ""))

    assert rejections == []
    assert total == EXPECTED[client]
    assert total.input - sum(call["input_tokens"] for call in served) == more_input
    assert total.output - sum(call["output_tokens"] for call in served) == more_output


@pytest.mark.parametrize("client", sorted(EXPECTED))
def test_buckets_are_disjoint_and_none_is_negative(client):
    for span in mapped(client)[0]:
        tokens = span.tokens
        buckets = (
            tokens.input,
            tokens.cache_read,
            tokens.cache_write,
            tokens.audio_input,
            tokens.image_input,
            tokens.output,
            tokens.reasoning,
            tokens.audio_output,
            tokens.image_output,
        )
        assert min(buckets) >= 0
        assert sum(buckets) == tokens.input_total + tokens.output_total


def test_cached_tokens_are_what_the_model_served_where_the_client_tells_them():
    def cached(client: str) -> int:
        return sum(row.cache_read_tokens for row, _ in counted(mapped(client)[0]) if row.bears_usage)

    def served(client: str) -> int:
        return sum(call["cached_tokens"] for call in truth(client) if call["status"] == 200)

    telling = [
        "logfire_sdk",
        "oi_anthropic",
        "oi_langchain",
        "openlit_sdk",
        "strands_native",
        "traceloop_sdk",
        "vercel_ai",
    ]
    assert {client: cached(client) for client in telling} == {client: served(client) for client in telling}


KINDS = {
    "autogen_native": {"step": 64, "agent": 4, "tool": 3},
    "langfuse_sdk": {"llm": 4, "tool": 2, "agent": 1},
    "litellm_otel": {"llm": 7, "step": 6},
    "logfire_sdk": {"llm": 8, "step": 9},
    "oi_agents_approval": {"llm": 4, "tool": 3, "step": 8, "agent": 5},
    "oi_anthropic": {"llm": 5},
    "oi_langchain": {"llm": 6, "step": 10, "tool": 2, "agent": 3},
    "oi_langgraph_hitl": {"llm": 2, "step": 4, "tool": 2, "agent": 2},
    "oi_openai": {"llm": 6, "embedding": 1},
    "oi_openai_agents": {"llm": 16, "tool": 8, "step": 26, "agent": 20},
    "openlit_sdk": {"step": 4, "llm": 4},
    "otel_openai_agents_v2": {"llm": 10, "step": 18, "agent": 12, "tool": 2},
    "otel_openai_v2": {"llm": 6, "step": 1, "embedding": 1},
    "otel_openai_v2_latest": {"llm": 6, "step": 1, "embedding": 1},
    "pydantic_ai_1_0": {"llm": 24, "tool": 9, "step": 9, "agent": 18},
    "pydantic_ai_native": {"llm": 45, "tool": 15, "agent": 30},
    "smolagents_oi": {"llm": 13, "tool": 6, "step": 9, "agent": 4},
    "strands_native": {"llm": 6, "tool": 2, "step": 6, "agent": 5},
    "traceloop_sdk": {"llm": 6, "tool": 2, "agent": 3},
    "traceloop_sdk_2024": {"llm": 4, "tool": 1, "agent": 3},
    "vercel_ai": {"llm": 12, "tool": 4, "agent": 8},
}


@pytest.mark.parametrize("client", sorted(KINDS))
def test_kinds(client):
    assert Counter(span.kind for span in mapped(client)[0]) == KINDS[client]


TOOLS = {
    "autogen_native": {("get_weather", None), ("transfer_to_refund", None), ("transfer_to_user", None)},
    "langfuse_sdk": {
        ("get_weather", '{"args": ["Lisbon"], "kwargs": {}}'),
        ("crm", '{"args": [1], "kwargs": {}}'),
    },
    "oi_agents_approval": {("issue_refund", '{"order_id": "#W2611340"}')},
    "oi_langchain": {("get_weather", "Lisbon"), ("broken_tool", "Lisbon")},
    "oi_langgraph_hitl": {("transfer_to_human_agents", "Lisbon")},
    "oi_openai_agents": {
        ("lookup_order", '{"order_id": "#W2611340"}'),
        ("broken", '{"order_id": "#W2611340"}'),
        ("handoff to Refund Agent", "Triage Agent"),
    },
    "otel_openai_agents_v2": {("lookup_order", '{"order_id": "#W2611340"}')},
    "pydantic_ai_native": {
        ("get_weather", '{"city":"Lisbon"}'),
        ("ask_refund_agent", '{"city":"Lisbon"}'),
        ("flaky", '{"x":0}'),
    },
    "smolagents_oi": {("get_weather", '{"args": [], "sanitize_inputs_outputs": true, "kwargs": {"city": "Lisbon"}}')},
    "strands_native": {("get_weather", '{"city": "Lisbon"}'), ("broken", '{"city": "Lisbon"}')},
    "traceloop_sdk": {
        ("get_weather", '{"args": [], "kwargs": {"city": "Lisbon"}}'),
        ("crm", '{"args": [1], "kwargs": {}}'),
    },
    "vercel_ai": {("get_weather", '{"city":"Lisbon"}'), ("crm", '{"city":"Lisbon"}')},
}


@pytest.mark.parametrize("client", sorted(TOOLS))
def test_tools_and_their_arguments(client):
    called = {(span.tool, span.arguments) for span in mapped(client)[0] if span.kind == "tool"}

    assert called == TOOLS[client]


AGENTS = {
    "autogen_native": {"weather_agent", "triage", "refund"},
    "langfuse_sdk": {"weather-agent"},
    "logfire_sdk": {"Triage Agent", "Refund Agent"},
    "oi_langchain": {"weather_agent", "broken_agent"},
    "oi_langgraph_hitl": {"support_agent"},
    "pydantic_ai_1_0": {"weather_agent", "refund_agent", "triage_agent", "test_agent"},
    "pydantic_ai_native": {"weather_agent", "refund_agent", "triage_agent", "test_agent"},
    "smolagents_oi": {"weather_agent", "manager"},
    "traceloop_sdk": {"weather_agent", "claude_agent", "customer_service"},
    "vercel_ai": {"support-agent"},
}


@pytest.mark.parametrize("client", sorted(AGENTS))
def test_agents_that_the_spans_name(client):
    assert {span.agent for span in mapped(client)[0] if span.agent_stated} == AGENTS[client]


def test_a_span_that_names_no_agent_goes_by_its_service():
    assert {span.agent for span in mapped("oi_anthropic")[0]} == {"claude-bot"}
    assert {span.agent for span in mapped("litellm_otel")[0]} == {"litellm-cb"}
    # An SDK that was given no service name writes "unknown_service", which names nobody.
    assert {span.agent for span in mapped("langfuse_sdk")[0]} == {"", "weather-agent"}


CONVERSATIONS = {
    "langfuse_sdk": {"sess-lf-1"},
    "oi_anthropic": {"sess-anth-1"},
    "oi_langgraph_hitl": {"conv-hitl-1"},
    "oi_openai": {"sess-7781"},
    "traceloop_sdk": {"sess-tl-1"},
    "traceloop_sdk_2024": {"sess-tl-1"},
    "vercel_ai": {"sess-vc-1"},
    "strands_native": {"sess-st-1", None},
    "logfire_sdk": {None},
    "litellm_otel": {None},
}


@pytest.mark.parametrize("client", sorted(CONVERSATIONS))
def test_conversations(client):
    assert {span.conversation_id for span in mapped(client)[0]} == CONVERSATIONS[client]


def test_users():
    def users(client: str) -> set[str | None]:
        return {span.user for span in mapped(client)[0]}

    assert users("oi_openai") == {"cust-42"}
    assert users("vercel_ai") == {"u1"}
    assert users("litellm_otel") == {"u9", None}
    assert users("traceloop_sdk") == {"u1"}


ERRORS = {
    "autogen_native": 2,
    "langfuse_sdk": 2,
    "litellm_otel": 1,
    "logfire_sdk": 1,
    "oi_anthropic": 1,
    "oi_langchain": 6,
    "oi_langgraph_hitl": 0,
    "oi_openai": 1,
    "oi_openai_agents": 8,
    "openlit_sdk": 2,
    "otel_openai_v2": 2,
    "pydantic_ai_native": 20,
    "strands_native": 4,
    "traceloop_sdk_2024": 0,
    "vercel_ai": 6,
}


@pytest.mark.parametrize("client", sorted(ERRORS))
def test_failures_carry_a_reason(client):
    failed = [span for span in mapped(client)[0] if span.status == "error"]

    assert len(failed) == ERRORS[client]
    assert all(span.error for span in failed)
    assert all(span.error is None for span in mapped(client)[0] if span.status != "error")


def test_a_program_that_waits_for_a_person_has_not_failed():
    waiting = [span for span in mapped("oi_langgraph_hitl")[0] if span.waits_for_human]

    assert sorted(span.name for span in waiting) == ["tools", "transfer_to_human_agents"]
    assert {span.status for span in waiting} == {"ok"}


def test_reported_costs_are_kept_and_a_zero_beside_tokens_is_no_report():
    def reported(client: str) -> list[str]:
        spans = mapped(client)[0]
        return sorted(str(span.reported_usd) for span in spans if span.reported_usd is not None)

    assert reported("langfuse_sdk") == ["0", "0.0021"]
    assert reported("openlit_sdk") == []
    assert len(reported("pydantic_ai_1_0")) == 18


def test_first_tokens_are_read_in_seconds_and_in_milliseconds():
    strands = [s.first_token_ms for s in mapped("strands_native")[0] if s.first_token_ms is not None]
    openlit = [s.first_token_ms for s in mapped("openlit_sdk")[0] if s.first_token_ms is not None]

    assert strands[0] == 726
    assert all(0 <= value <= 100 for value in openlit)
    assert any(span.first_token_ms is not None for span in mapped("vercel_ai")[0])
    assert any(span.first_token_ms is not None for span in mapped("oi_openai")[0])


UNMETERED = {
    "oi_openai": 1,
    "oi_openai_agents": 2,
    "otel_openai_v2": 1,
    "traceloop_sdk_2024": 1,
    "vercel_ai": 0,
}
# Calls that the model refused; one client tells of such a stream as if it had gone well.
FAILED = {
    "oi_openai": 1,
    "oi_openai_agents": 2,
    "otel_openai_v2": 2,
    "traceloop_sdk_2024": 0,
    "vercel_ai": 2,
}


@pytest.mark.parametrize("client", sorted(UNMETERED))
def test_calls_that_nobody_counted_are_seen(client):
    silent = [row for row, role in counted(mapped(client)[0]) if role is Role.CALL and not row.bears_usage]

    assert sum(not row.failed for row in silent) == UNMETERED[client]
    assert sum(row.failed for row in silent) == FAILED[client]
