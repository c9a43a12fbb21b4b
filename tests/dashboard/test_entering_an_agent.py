"""Two enter the same agent at once: what the other said of it stays."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from monitor import agents
from monitor.agents import Edit
from monitor.models import Agent, StateChange
from monitor.tenancy import tenant
from tests.dashboard.builders import signed_in
from tests.monitor.test_deadlocks import meanwhile, wait_for_somebody_waiting


def test_the_page_takes_nothing_back_that_another_says_of_the_agent_meanwhile(committed_db: None) -> None:
    mara = signed_in()
    said = Edit(description="Plans trips.", timeout_s=900, expected_every_s=3600)
    with ThreadPoolExecutor(1) as pool:
        with tenant(mara.project_id):
            agents.enter(mara.project_id, "planner", said, actor="key:ops", now=datetime.now(UTC))
            answer = meanwhile(pool, lambda: mara.client.post("/agents", {"name": "planner"}, follow=True))
            wait_for_somebody_waiting()
        page = answer.result(timeout=20).content.decode()
    assert "planner is in the registry already" in page
    with tenant(mara.project_id):
        agent = Agent.objects.get()
        moves = list(StateChange.objects.filter(subject="agent").values_list("to_state", "actor"))
    assert (agent.description, agent.timeout_s, agent.expected_every_s) == ("Plans trips.", 900, 3600)
    assert (agent.version, moves) == (1, [("entered", "key:ops")])
