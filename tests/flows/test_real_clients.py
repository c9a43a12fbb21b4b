"""Two programs with real OpenTelemetry instrumentation report to a running Handrail, and nothing gets lost."""

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from monitor.prices import price
from monitor.records import disjoint
from tests.flows import clientprograms
from tests.flows.running import api, ask, make_key, manage, seen, sign_in
from tests.launcher.instance import Instance

SPANS = """
SELECT {} FROM monitor_span
 WHERE project_id = (SELECT id FROM monitor_project WHERE name = %(project)s) AND {} ORDER BY started_at, span_id
"""
# pydantic-ai's own test model is asked once by each of the five rounds and never reaches the server.
TEST_MODEL = {"rounds": 5, "input_tokens": 51, "output_tokens": 4}


def spans(instance: Instance, project: str, columns: str, condition: str) -> list[tuple[Any, ...]]:
    return ask(instance, SPANS.format(columns, condition), project=project)


def summary(instance: Instance, key: str, group_by: str) -> dict[str, Any]:
    with api(instance, key) as client:
        return client.get(f"/api/v1/costs/summary?group_by={group_by}").raise_for_status().json()


def total(truth: list[dict[str, Any]], name: str) -> int:
    return sum(one[name] for one in truth)


def priced(truth: list[dict[str, Any]]) -> Decimal:
    return sum((_price(one) for one in truth), Decimal(0))


def _price(one: dict[str, Any]) -> Decimal:
    tokens = disjoint(one["input_tokens"], one["output_tokens"], cache_read=one["cached_tokens"])
    provider = "anthropic" if one["kind"] == "anthropic" else "openai"
    usd = price(provider, one["model"], tokens, datetime.now(UTC)).computed_usd
    assert usd is not None
    return usd


def test_the_openai_library_under_openinference(handrail: Instance, tmp_path: Path) -> None:
    key = make_key(handrail, "openinference", scopes="ingest,read")
    truth = clientprograms.run("oi_openai", handrail, key, tmp_path)
    served = [one for one in truth if one["status"] == 200]
    # One stream was not asked to say its usage, so nobody can know it.
    told = [one for one in served if one.get("usage_sent", True)]
    assert (len(truth), len(served), len(told)) == (7, 6, 5)

    by_agent = summary(handrail, key, "agent")
    sums = by_agent["summary"]
    assert {name: sums[name] for name in ("total_calls", "unpriced_calls", "success_rate")} == {
        "total_calls": 7,
        "unpriced_calls": 1,
        "success_rate": 1 - 1 / 7,
    }
    assert (sums["input_tokens"], sums["output_tokens"], sums["cache_read_tokens"]) == (
        total(told, "input_tokens"),
        total(told, "output_tokens"),
        total(told, "cached_tokens"),
    )
    assert Decimal(sums["computed_cost_usd"]) == Decimal(sums["total_cost_usd"]) == priced(told)
    assert [one["group"] for one in by_agent["groups"]] == ["support-bot"]

    kinds = spans(handrail, "openinference", "kind, name, conversation_id", "true")
    assert [kind for kind, _, _ in kinds].count("llm") == 6
    assert [kind for kind, _, _ in kinds].count("embedding") == 1
    assert {conversation for *_, conversation in kinds} == {"sess-7781"}
    [[error]] = spans(handrail, "openinference", "error", "failed")
    assert "InternalServerError" in error
    # The tool that the model asked for stands in the answer of its call.
    [asked] = [one for one in truth if one.get("tool")]
    [[answer]] = spans(handrail, "openinference", "output", f"position('{asked['tool']}' IN output) > 0")
    assert asked["tool_args"]["city"] in answer


def test_an_agent_of_pydantic_ai_that_delegates(handrail: Instance, tmp_path: Path) -> None:
    key = make_key(handrail, "pydantic", scopes="ingest,read")
    truth = clientprograms.run("pydantic_ai_native", handrail, key, tmp_path)
    served = [one for one in truth if one["status"] == 200]
    # The library tries each failing call three times and tells of it once.
    failed = (len(truth) - len(served)) // 3
    assert (len(served), failed) == (30, 5)

    sums = summary(handrail, key, "agent")["summary"]
    rounds = TEST_MODEL["rounds"]
    assert (sums["total_calls"], sums["unpriced_calls"]) == (len(served) + failed + rounds, rounds)
    assert (sums["input_tokens"], sums["output_tokens"], sums["cache_read_tokens"]) == (
        total(served, "input_tokens") + rounds * TEST_MODEL["input_tokens"],
        total(served, "output_tokens") + rounds * TEST_MODEL["output_tokens"],
        total(served, "cached_tokens"),
    )
    assert Decimal(sums["computed_cost_usd"]) == priced(served)
    assert Decimal(sums["total_cost_usd"]) >= Decimal(sums["reported_cost_usd"]) > 0

    agents = {agent for (agent,) in spans(handrail, "pydantic", "agent", "kind = 'agent'")}
    assert agents == {"weather_agent", "triage_agent", "refund_agent", "test_agent"}
    asked = [one["tool"] for one in served if one["tool"]]
    tools = [tool for (tool,) in spans(handrail, "pydantic", "tool", "kind = 'tool'")]
    assert sorted(tools) == sorted(asked + ["flaky"] * rounds)
    errors = spans(handrail, "pydantic", "tool, error", "kind = 'tool' AND failed")
    assert errors == [("flaky", "RuntimeError: CRM is down")] * rounds

    # Nobody registered anything: each agent's work is an execution that its trace tells of.
    with api(handrail, key) as client:
        found = client.get("/api/v1/executions?limit=500").raise_for_status().json()["results"]
    assert Counter((one["agent"], one["status"]) for one in found) == {
        ("weather_agent", "completed"): 2 * rounds,
        ("weather_agent", "failed"): rounds,
        ("triage_agent", "completed"): rounds,
        ("refund_agent", "completed"): rounds,
        ("test_agent", "failed"): rounds,
    }
    assert all(one["from_spans"] and one["trace_id"] and one["duration_ms"] is not None for one in found)
    assert sum(one["api_calls"] for one in found) == sums["total_calls"]
    assert sum(Decimal(one["cost_usd"]) for one in found) == Decimal(sums["total_cost_usd"])
    agent_of = {one["id"]: one["agent"] for one in found}
    assert {(one["agent"], agent_of.get(one["parent_id"])) for one in found if one["parent_id"]} == {
        ("refund_agent", "triage_agent")
    }

    # One run is one trace: the agent that delegates, the one that it asks, and the tool between them.
    (delegating, *_) = spans(handrail, "pydantic", "run_id", "tool = 'ask_refund_agent'")
    with api(handrail, key) as client:
        run = client.get(f"/api/v1/runs/{delegating[0]}/costs").raise_for_status().json()
        runs = summary(handrail, key, "run")["groups"]
        body = {"agent": "triage_agent", "task": "I want help", "trace_id": delegating[0], "timeout_s": 3600}
        execution = client.post("/api/v1/executions", json=body).raise_for_status().json()
        working = client.get("/api/v1/executions?agent=triage_agent").raise_for_status().json()["results"]
    # Registered after its trace, it takes the agent's place; what the trace cost is counted once.
    assert [one["from_spans"] for one in working].count(True) == rounds - 1
    assert Decimal(execution["cost_usd"]) > 0
    assert (run["total_calls"], run["tool_calls"], run["failed_calls"]) == (3, 1, 0)
    assert set(run["cost_by_model"]) == {"gpt-4o-mini-2024-07-18", "claude-sonnet-4-5-20250929"}
    assert len(runs) == 5 * rounds
    assert sum(Decimal(one["cost_usd"]) for one in runs) == Decimal(sums["total_cost_usd"])

    password = manage(handrail, "create_operator", "pydantic@example.org", "--project", "pydantic")
    with sign_in(handrail, "pydantic@example.org", password) as browser:
        overview = seen(browser, "/")
        page = browser.get(f"/executions/{execution['id']}").raise_for_status().text
        listed = browser.get("/executions?range=7d").raise_for_status().text
    assert all(agent in overview for agent in ("weather_agent", "triage_agent"))
    assert all(agent in listed for agent in agents)
    assert all(word in page for word in ("triage_agent run", "ask_refund_agent", "refund_agent run"))
