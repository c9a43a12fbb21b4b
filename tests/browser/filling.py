"""Something for every page to show, told through the public API alone."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

from tests.launcher.instance import until

AGENTS = (
    ("clerk", "Support", "gpt-4o-mini"),
    ("planner", "Operations", "gpt-4o"),
    ("scout", "Sales", "claude-sonnet-4-5"),
)
ENDS = ("completed", "completed", "completed", "failed", "timeout", "cancelled")
ENDED = 42
NIGHT_OWL = "crew/night owl"
# Long enough that nothing falls silent or is picked up while the pages are looked at.
CALM = {"heartbeat_s": 3600, "timeout_s": 86_400}
# What breaks pages: markup, no place to break a line, nothing but width.
NASTY = "<script>alert(1)</script>" + "invoice" * 30


def post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/api/v1{path}", json=body)
    assert answer.is_success, f"{path} answered {answer.status_code}: {answer.text}"
    return answer.json() if answer.content else {}


def fill(client: httpx.Client, person: str) -> dict[str, str]:
    """Fill the key's empty project, in which the person of this email works; addresses by the name of what is there."""
    post(client, "/budgets", scope="project", period="week", limit_usd="200")
    post(client, "/budgets", scope="department", target="Freight", period="week", limit_usd="900", action="alert")
    post(client, "/budgets", scope="agent", target="spender", period="day", limit_usd="1")
    _tell_ended(client)
    _enter_agents(client)
    executions = _begin_others(client)
    _raise_alerts(client, executions)
    chats = _talk(client, person)
    _spend(client)
    until(lambda: len(_all(client, "/queue")) == 4, "the queue has its items")
    until(lambda: any(one["type"].startswith("budget") for one in _all(client, "/alerts")), "the budget's alert")
    until(lambda: bool(_all(client, "/loops", status="open")), "the loop is found")
    queue = _all(client, "/queue") + _all(client, "/queue", status="resolved")
    items = {item["conversation_id"] or item["kind"]: item["id"] for item in queue}
    types = {alert["status"]: alert["id"] for alert in _all(client, "/alerts")}
    return {
        **{f"{name} execution": f"/executions/{one}" for name, one in executions.items()},
        **{f"{name} chat": f"/queue/{items[chat]}" for name, chat in chats.items()},
        **{f"{status} alert": f"/alerts/{one}" for status, one in types.items()},
        "paused item": f"/queue/{items['paused_execution']}",
        "trip item": f"/queue/{items['trip']}",
        "run": "/costs/runs/month-end",
        "busy agent": "/agents/planner",
        "entered agent": f"/agents/{quote(NIGHT_OWL)}",
        "form of an agent": "/agents/planner?part=edit",
    }


def _all(client: httpx.Client, path: str, **query: str) -> list[dict[str, Any]]:
    answer = client.get(f"/api/v1{path}", params={"limit": 100, **query}).raise_for_status()
    return list(answer.json()["results"])


def _tell_ended(client: httpx.Client) -> None:
    """What is over, spread over the last 21 hours, each with a call and a tool call."""
    now, events = datetime.now(UTC), []
    for n in range(ENDED):
        agent, department, model = AGENTS[n % len(AGENTS)]
        status, started_at = ENDS[n % len(ENDS)], now - timedelta(minutes=30 * n + 4)
        one = str(uuid4())
        whose = {"execution_id": one, "run_id": f"run-{n % 7}", "agent": agent, "department": department}
        said = {"error": "The model answered no valid JSON"} if status == "failed" else {"output": {"answer": n}}
        events.append(
            {
                "type": "execution.tracked",
                "id": one,
                "agent": agent,
                "department": department,
                "run_id": f"run-{n % 7}",
                "task": f"Match invoice {n}",
                "status": status,
                "started_at": started_at.isoformat(),
                "duration_ms": 1500 + 700 * n,
                **said,
            }
        )
        called = {"model": model, "input_tokens": 2400, "output_tokens": 260, "latency_ms": 900, "cost_usd": "0.21"}
        used = {"tool": "find_order", "duration_ms": 40, "success": status != "failed"}
        for name, report, after_s in (("call", called, 1), ("tool_call", used, 1.2)):
            at = {"occurred_at": (started_at + timedelta(seconds=after_s)).isoformat()}
            events.append({"type": name} | whose | report | at)
    answer = post(client, "/batch", events=events)
    assert (answer["accepted"], answer["rejected"]) == (len(events), [])


def _begin_others(client: httpx.Client) -> dict[str, str]:
    """One execution in each state in which work goes on or waits; the running one has calls, long words and a loop."""

    def begin(agent: str, task: str, **more: Any) -> str:
        body = {"agent": agent, "department": "Operations", "run_id": "month-end", "task": task, **CALM, **more}
        return str(post(client, "/executions", **body)["id"])

    begun = {
        "running": begin("planner", f"Plan {NASTY}", inputs={"text": NASTY}),
        "pending": begin("planner", "Plan next week", status="pending"),
        "retrying": begin("scout", "Look into Harlow Instruments", max_retries=2),
        "paused": begin("scout", "Look into Brightwater Labs"),
        "waiting": begin("clerk", "Answer a customer", max_retries=0),
        "broken": begin("clerk", NASTY),
    }
    post(client, f"/executions/{begun['running']}/heartbeat", progress=40, message=NASTY)
    for model in ("gpt-4o", "a-model-without-a-price"):
        tokens = {"input_tokens": 5200, "output_tokens": 900, "latency_ms": 1800}
        post(
            client, "/calls", execution_id=begun["running"], run_id="month-end", agent="planner", model=model, **tokens
        )
    _loop(client, begun["running"])
    begun["stalled"] = begin("scout", "Compare the offers", parent_id=begun["running"], stall_s=600)
    begin("clerk", NASTY, parent_id=begun["running"])
    post(client, f"/executions/{begun['stalled']}/heartbeat", progress=70, message=NASTY, progressing=False)
    post(client, f"/executions/{begun['retrying']}/fail", error="503 from the model: overloaded")
    post(client, f"/executions/{begun['paused']}/pause", note="until the site is back")
    told = post(client, f"/executions/{begun['paused']}/heartbeat", attempt=1)
    post(client, f"/executions/{begun['paused']}/acknowledge", seq=told["command_seq"], effect=f"waits {NASTY}")
    post(client, f"/executions/{begun['waiting']}/fail", error=NASTY)
    post(client, f"/executions/{begun['broken']}/fail", error="The document is encrypted", retryable=False)
    return begun


def _loop(client: httpx.Client, execution_id: str) -> None:
    """Two calls in turns, four times, and operations."""
    now, whose = datetime.now(UTC), {"execution_id": execution_id, "run_id": "month-end", "agent": "planner"}
    calls = (("find_order", {"text": NASTY}), ("ask_supplier", {"order": "4711", "page": 1}))
    events: list[dict[str, Any]] = [
        {
            "type": "tool_call",
            "tool": calls[n % 2][0],
            "arguments": calls[n % 2][1],
            "output": "none",
            "duration_ms": 80,
        }
        for n in range(8)
    ]
    events += [
        {"type": "operation", "operation": name, "duration_ms": 300 * (n + 1), "success": n != 2}
        for n, name in enumerate(["embed", "embed", "embed", NASTY[:200]])
    ]
    for n, event in enumerate(events):
        event |= whose | {"occurred_at": (now - timedelta(seconds=60 - n)).isoformat()}
    answer = post(client, "/batch", events=events)
    assert (answer["accepted"], answer["rejected"]) == (len(events), [])


def _enter_agents(client: httpx.Client) -> None:
    """An agent of which much is said, and one that is expected and never comes."""
    said = {"description": NASTY, "type": "planner", "capabilities": ["plan", NASTY[:100]], "cost_tier": "high"}
    for name, edit in (
        ("planner", {**said, "timeout_s": 900, "mode": "escalate", "supported_models": ["gpt-4o", "o3"]}),
        (NIGHT_OWL, {"description": "Nobody has seen it.", "expected_every_s": 86_400}),
    ):
        client.put(f"/api/v1/agents/{quote(name)}", json=edit).raise_for_status()


def _raise_alerts(client: httpx.Client, executions: dict[str, str]) -> None:
    """Alerts of every level, of which one is acknowledged and one resolved."""
    post(client, "/alerts", level="critical", title=f"Disk {NASTY}", message=NASTY, execution_id=executions["running"])
    post(client, "/alerts", level="info", title="A new model is used")
    taken = post(client, "/alerts", level="warning", title="The supplier answers slowly", agent="scout")["id"]
    over = post(client, "/alerts", level="warning", title="The supplier was away")["id"]
    post(client, f"/alerts/{taken}/acknowledge", note="I call them.")
    post(client, f"/alerts/{over}/resolve", note="They are back.")


def _talk(client: httpx.Client, person: str) -> dict[str, str]:
    """Conversations: one goes on, one waits, one is with the person, one is over."""
    named = {"going": "chat-going", "waiting": "chat-waiting", "held": "chat-held", "closed": "chat-closed"}
    for name, chat in named.items():
        customer = {"id": f"customer of {chat}", "name": f"Amelia {chat}", "plan": NASTY}
        post(client, "/conversations", conversation_id=chat, agent="clerk", channel="web", customer=customer)
        said = post(client, f"/conversations/{chat}/messages", role="user", content=f"My lamp is broken. {NASTY}")
        answer = {"role": "assistant", "content": "I am sorry about the lamp.", "confidence": 0.8}
        post(client, f"/conversations/{chat}/messages", **answer, epoch=said["epoch"])
        if name == "going":
            continue
        post(
            client,
            f"/conversations/{chat}/handover",
            reason="A refund above my limit",
            summary=NASTY,
            epoch=said["epoch"],
        )
        if name == "waiting":
            continue
        post(client, f"/conversations/{chat}/claim", **{"as": person})
        for visibility in ("public", "internal"):
            words = {"role": "human", "content": f"One moment. {NASTY}", "visibility": visibility, "as": person}
            post(client, f"/conversations/{chat}/messages", **words)
        if name == "closed":
            post(client, f"/conversations/{chat}/resolve", outcome="refunded", **{"as": person})
    return {name: chat for name, chat in named.items() if name != "going"}


def _spend(client: httpx.Client) -> None:
    """Pass the spender's budget: its alert, its trip and the trip's item in the queue."""
    for _ in range(3):
        post(client, "/calls", agent="spender", run_id="month-end", tool="call_a_carrier", cost_usd="0.60")
