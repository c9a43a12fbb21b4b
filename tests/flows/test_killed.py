"""Every part is killed while agents report: what was acknowledged is there afterwards, once, to the last cent."""

import json
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx

from monitor.management.replaying.formats import recordings
from monitor.management.replaying.player import Player
from tests.flows import recorded
from tests.flows.running import address, ask, make_key
from tests.launcher.instance import Instance, send, until

PROJECT = "killed"
RECORDED = ("tau2bench/telecom_gpt-4o.jsonl.gz", "tau2bench/airline_azure-gpt-4o.jsonl.gz")
VICTIMS = ("web", "worker", "valkey", "beat", "postgres")
OF_PROJECT = "project_id = (SELECT id FROM monitor_project WHERE name = 'killed')"
AGENTS = 4
KNOWN = f"""
SELECT id::text FROM monitor_execution WHERE {OF_PROJECT}
UNION ALL SELECT key::text FROM monitor_ingestkey WHERE {OF_PROJECT}
UNION ALL SELECT client_id FROM monitor_message WHERE {OF_PROJECT}
"""


class Acknowledged:
    """What the agents' side saw: the ids of every batch that was answered with 200, and every status."""

    def __init__(self) -> None:
        self.ids: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self._lock = threading.Lock()

    def note(self, answer: httpx.Response) -> None:
        answer.read()
        with self._lock:
            self.statuses[answer.status_code] += 1
            if answer.status_code != 200 or answer.request.url.path != "/api/v1/batch":
                return
            refused = {one["index"] for one in answer.json()["rejected"]}
            events = json.loads(answer.request.content)["events"]
            self.ids.update(event.get("client_id") or event["id"] for n, event in enumerate(events) if n not in refused)


def test_what_was_acknowledged_outlives_a_kill_of_every_part(handrail: Instance) -> None:
    paths = recorded.files(*RECORDED)
    talks, stories = recorded.talks(paths), list(recordings(paths))
    events = len(talks) + sum(len(talk.said) + talk.tool_calls + len(talk.usages) for talk in talks)
    acknowledged = Acknowledged()
    starts_at = datetime.now(UTC) - timedelta(hours=6)
    headers = {"authorization": f"Bearer {make_key(handrail, PROJECT)}"}
    hooks = {"response": [acknowledged.note]}
    with (
        httpx.Client(base_url=address(handrail), headers=headers, timeout=60, event_hooks=hooks) as client,
        ThreadPoolExecutor(AGENTS) as agents,
    ):
        player = Player(client)
        playing = [agents.submit(player.play, story, starts_at=starts_at) for story in stories]
        try:
            for n, part in enumerate(VICTIMS, start=1):
                due = events * n // (len(VICTIMS) + 1)
                until(lambda due=due: acknowledged.ids.total() >= due, f"{due} events are in", within_s=120)
                before = handrail.pid_of(part)
                send(before, signal.SIGKILL)
                until(lambda part=part, before=before: handrail.pid_of(part) not in (None, before), f"{part} is back")
            assert not all(one.done() for one in playing), "everything was told before the last kill"
        finally:
            for one in playing:
                one.exception(timeout=240)
    outcomes = [one.result() for one in playing]

    # Nothing but waiting was asked of the agents.
    assert set(acknowledged.statuses) <= {200, 201, 404, 503}, acknowledged.statuses
    assert sum(one.added for one in outcomes) + sum(one.repeated for one in outcomes) == events
    assert acknowledged.ids.total() == len(acknowledged.ids) == events
    kept = Counter(name for (name,) in ask(handrail, KNOWN))
    assert kept == acknowledged.ids

    calls = [usage for talk in talks for usage in talk.usages]
    reported = sum(usage.usd for usage in calls)
    assert ask(
        handrail,
        f"""SELECT sum(calls)::int, sum(tool_calls)::int, sum(input_tokens)::int, sum(output_tokens)::int,
                   sum(reported_usd) FROM monitor_run WHERE {OF_PROJECT}""",
    ) == [
        (
            len(calls),
            sum(talk.tool_calls for talk in talks),
            sum(usage.prompt for usage in calls),
            sum(usage.completion for usage in calls),
            reported,
        )
    ]
    # Spans, ledger, rollups and budgets are sums of the same facts, made in the same transactions.
    spent = Decimal(ask(handrail, f"SELECT sum(cost_usd) FROM monitor_run WHERE {OF_PROJECT}")[0][0])
    for sums in (
        f"SELECT sum(cost_usd) FROM monitor_span WHERE {OF_PROJECT}",
        f"SELECT sum(cost_usd) FROM monitor_ledgerentry WHERE {OF_PROJECT}",
        f"SELECT sum(cost_usd) FROM monitor_minuterollup WHERE {OF_PROJECT}",
        f"SELECT sum(cost_usd) FROM monitor_execution WHERE {OF_PROJECT}",
        f"SELECT sum(spent_usd) FROM monitor_budgetwindow WHERE {OF_PROJECT} AND scope = 'run'",
        f"SELECT sum(spent_usd) FROM monitor_budgetwindow WHERE {OF_PROJECT} AND scope = 'department'",
    ):
        assert ask(handrail, sums) == [(spent,)], sums
    words = ask(
        handrail,
        f"""SELECT c.metadata->>'recording', array_agg(ARRAY[m.role, m.content] ORDER BY m.seq), max(m.seq)
              FROM monitor_conversation c JOIN monitor_message m ON m.conversation_id = c.id
             WHERE c.{OF_PROJECT} GROUP BY c.id""",
    )
    assert {name: ([tuple(one) for one in said], last) for name, said, last in words} == {
        talk.name: ([(role, text) for role, text, _ in talk.said], len(talk.said)) for talk in talks
    }
    until(lambda: quiet(handrail), "every job and process turns again", within_s=90)


def quiet(instance: Instance) -> bool:
    try:
        return httpx.get(f"{address(instance)}/health/watch").status_code == 200
    except httpx.TransportError:
        return False
