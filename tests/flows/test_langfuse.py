"""Users of the Langfuse SDK change an address and two keys, and nothing of their program."""

import json
from decimal import Decimal
from pathlib import Path

from tests.flows import clientprograms
from tests.flows.running import address, api, ask, make_key
from tests.launcher.instance import Instance

PROGRAM = Path(__file__).with_name("langfuse_program.py")
SPANS = """
SELECT kind, name, agent, conversation_id, input, output, failed, error, attributes->>'user.id' FROM monitor_span
 WHERE project_id = (SELECT id FROM monitor_project WHERE name = 'langfuse') ORDER BY started_at, kind
"""


def test_the_langfuse_sdk_reports_to_handrail(handrail: Instance) -> None:
    key = make_key(handrail, "langfuse", scopes="ingest,read")
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-handrail", "LANGFUSE_SECRET_KEY": key}
    printed = clientprograms.run_here(PROGRAM, keys | {"LANGFUSE_BASE_URL": address(handrail)})
    told = json.loads(printed.splitlines()[-1])
    assert told["is_known"] is True
    assert told["is_stranger_known"] is not True

    spans = {name: rest for _, name, *rest in ask(handrail, SPANS)}
    assert sorted((kind, name) for kind, name, *_ in ask(handrail, SPANS)) == [
        ("agent", "weather-agent"),
        ("llm", "answer"),
        ("tool", "crm"),
        ("tool", "get_weather"),
    ]
    assert {agent for agent, *_ in spans.values()} == {"weather-agent"}
    assert spans["answer"][1:4] == ["talk-1", "What is the weather in Lisbon?", "21 degrees"]
    assert json.loads(spans["get_weather"][3]) == {"temp_c": 21}
    assert spans["crm"][4] is True
    assert "CRM is down" in spans["crm"][5]
    assert spans["answer"][6] == "customer-1"

    with api(handrail, key) as client:
        costs = client.get("/api/v1/costs/summary?group_by=agent").raise_for_status().json()["summary"]
        [execution] = client.get("/api/v1/executions").raise_for_status().json()["results"]
    assert (costs["total_calls"], Decimal(costs["total_cost_usd"])) == (1, Decimal("0.0035"))
    assert (execution["agent"], execution["status"]) == ("weather-agent", "completed")
