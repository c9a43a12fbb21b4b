"""The executions that come of what real clients sent, in any order: who worked, below whom, and how it ended."""

import random
from collections import Counter
from datetime import timedelta

import pytest

from monitor.models import Execution, Project, Span
from monitor.tenancy import tenant
from tests.contract.recordings import clients, mapped
from tests.monitor.spending import a_project, accept, assert_books_balance, books_of

# (agent, the agent above it, state): how many. The other clients send no agents' spans.
EXPECTED = {
    "autogen_native": {
        ("refund", "", "completed"): 1,
        ("triage", "", "completed"): 1,
        ("weather_agent", "", "failed"): 1,
        ("weather_agent", "", "completed"): 1,
    },
    "langfuse_sdk": {("weather-agent", "", "completed"): 1},
    "oi_agents_approval": {
        ("Refund Agent", "Refund approval", "completed"): 4,
        ("Refund approval", "", "completed"): 1,
    },
    "oi_langchain": {
        ("broken_agent", "", "failed"): 1,
        ("weather_agent", "", "failed"): 1,
        ("weather_agent", "", "completed"): 1,
    },
    "oi_langgraph_hitl": {("support_agent", "", "completed"): 2},
    "oi_openai_agents": {
        ("Agent workflow", "", "completed"): 6,
        ("Broken Agent", "Agent workflow", "failed"): 2,
        ("Customer service", "", "completed"): 2,
        ("Refund Agent", "Customer service", "completed"): 2,
        ("Triage Agent", "Agent workflow", "failed"): 2,
        ("Triage Agent", "Agent workflow", "completed"): 2,
        ("Triage Agent", "Customer service", "completed"): 4,
    },
    "otel_openai_agents_v2": {
        ("Agent workflow", "", "completed"): 2,
        ("Customer service", "", "completed"): 2,
        ("Refund Agent", "Customer service", "completed"): 2,
        ("Triage Agent", "Agent workflow", "failed"): 2,
        ("Triage Agent", "Customer service", "completed"): 4,
    },
    "pydantic_ai_1_0": {
        ("refund_agent", "triage_agent", "completed"): 3,
        ("test_agent", "", "failed"): 3,
        ("triage_agent", "", "completed"): 3,
        ("weather_agent", "", "completed"): 6,
        ("weather_agent", "", "failed"): 3,
    },
    "pydantic_ai_native": {
        ("refund_agent", "triage_agent", "completed"): 5,
        ("test_agent", "", "failed"): 5,
        ("triage_agent", "", "completed"): 5,
        ("weather_agent", "", "completed"): 10,
        ("weather_agent", "", "failed"): 5,
    },
    "smolagents_oi": {
        ("manager", "", "completed"): 1,
        ("weather_agent", "manager", "completed"): 2,
        ("weather_agent", "", "completed"): 1,
    },
    "strands_native": {
        ("broken_agent", "", "completed"): 1,
        ("err_agent", "", "failed"): 1,
        ("invoke_swarm", "", "completed"): 1,
        ("triage", "invoke_swarm", "completed"): 1,
        ("weather_agent", "", "completed"): 1,
    },
    "traceloop_sdk": {
        ("claude_agent", "customer_service", "completed"): 1,
        ("customer_service", "", "completed"): 1,
        ("weather_agent", "customer_service", "completed"): 1,
    },
    "traceloop_sdk_2024": {
        ("claude_agent", "customer_service", "completed"): 1,
        ("customer_service", "", "completed"): 1,
        ("weather_agent", "customer_service", "completed"): 1,
    },
    "vercel_ai": {("support-agent", "", "failed"): 2, ("support-agent", "", "completed"): 6},
}


def tell(project: Project, client: str, *, seed: int | None = None) -> None:
    """Send what the client sent, a minute after its last span; with a seed shuffled, in five requests."""
    spans = list(mapped(client)[0])
    now = max(span.ended_at or span.started_at for span in spans) + timedelta(minutes=1)
    if seed is None:
        accept(project, spans, now=now)
        return
    random.Random(seed).shuffle(spans)
    for n in range(5):
        accept(project, spans[n::5], now=now)


def worked(project: Project) -> dict[tuple[str, str, str], int]:
    with tenant(project.pk):
        found = {one.id: one for one in Execution.objects.all()}
        above = {one.id: found[one.parent_id].agent if one.parent_id else "" for one in found.values()}
        return dict(Counter((one.agent, above[one.id], one.status) for one in found.values()))


@pytest.mark.parametrize("client", clients())
def test_agents_work_shows_up_as_executions(db: None, client: str) -> None:
    project, shuffled = a_project("straight"), a_project("shuffled")
    tell(project, client)
    assert worked(project) == EXPECTED.get(client, {})
    tell(shuffled, client, seed=3)
    assert_books_balance(shuffled)
    assert books_of(shuffled) == books_of(project)


def test_a_call_belongs_to_the_agent_that_made_it_although_its_span_does_not_say_so(db: None) -> None:
    project = a_project()
    tell(project, "oi_openai_agents")
    assert "Refund Agent" not in {span.agent for span in mapped("oi_openai_agents")[0] if span.kind == "llm"}
    with tenant(project.pk):
        agents = Counter(Span.objects.filter(kind="llm").values_list("agent", flat=True))
        assert agents == {"Triage Agent": 12, "Broken Agent": 2, "Refund Agent": 2}
