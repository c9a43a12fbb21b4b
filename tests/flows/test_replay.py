"""Every recorded conversation, played through the public API into a running Handrail, twice."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from psycopg import sql

from monitor.prices import price
from monitor.records import disjoint
from tests.conftest import TABLES
from tests.flows import recorded
from tests.flows.recorded import FINEST_USD, Talk, Usage
from tests.flows.running import address, api, ask, make_key, manage, rows_of, seen, sign_in
from tests.launcher.instance import Instance

PROJECT = "replay"
# What changes without anybody telling anything: signs of life, the replay's own key, who is signed in, the disk.
RESTLESS = {"monitor_jobheartbeat", "monitor_apikey", "django_session", "monitor_roomstate", "monitor_growthsample"}
OF_PROJECT = "project_id = (SELECT id FROM monitor_project WHERE name = 'replay')"


class Played(NamedTuple):
    """An instance after two replays: what they printed, and every table after each of them."""

    instance: Instance
    words: list[str]
    tables: list[dict[str, tuple[int, str]]]


@pytest.fixture(scope="module")
def talks() -> list[Talk]:
    return recorded.talks(recorded.files("tau2bench", "taubench"))


@pytest.fixture(scope="module")
def played(talks: list[Talk], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    paths = [str(path) for path in recorded.files("tau2bench", "taubench")]
    instance = Instance(tmp_path_factory.mktemp("replay") / "home", HANDRAIL_WEB_PROCESSES=2)
    try:
        instance.begin().ready()
        words, tables = [], []
        for _ in range(2):
            words.append(manage(instance, "replay", *paths, "--project", PROJECT, "--url", address(instance)))
            # The jobs are brought to rest, so that only the replay could change a row.
            manage(instance, "tick", "--all")
            tables.append(contents(instance))
        yield Played(instance, words, tables)
    finally:
        instance.end()


def contents(instance: Instance) -> dict[str, tuple[int, str]]:
    """Of each table, how many rows it has and a digest of all that they say."""
    with rows_of(instance) as connection:
        names = [name for (name,) in connection.execute(TABLES).fetchall() if name not in RESTLESS]
        found = {}
        for name in names:
            digest = sql.SQL("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {} t")
            row = connection.execute(digest.format(sql.Identifier(name))).fetchone()
            assert row is not None
            found[name] = row
        return found


def computed(usage: Usage, at: datetime) -> Decimal:
    """What the price list says; some models are cheaper at night."""
    tokens = disjoint(usage.prompt, usage.completion, cache_read=usage.cached)
    priced = price(None, usage.model, tokens, at).computed_usd
    assert priced is not None
    return priced.quantize(FINEST_USD)


def calls_of(instance: Instance, run: str) -> list[tuple[Usage, datetime]]:
    """Every model call that is kept of a run, and when it was."""
    rows = ask(
        instance,
        f"""SELECT model, input_tokens + cache_read_tokens, cache_read_tokens, output_tokens,
                   coalesce(reported_usd, 0), started_at
              FROM monitor_span WHERE {OF_PROJECT} AND kind = 'llm' AND run_id = %(run)s""",
        run=run,
    )
    return [(Usage(*said), at) for *said, at in rows]


def test_everything_arrives_once(played: Played, talks: list[Talk]) -> None:
    events = len(talks) + sum(len(talk.said) + talk.tool_calls + len(talk.usages) for talk in talks)
    assert played.words == [
        f"710 conversations of 10 runs in project replay: {events} events added, 0 known before, "
        "124 handed over to a person.",
        f"710 conversations of 10 runs in project replay: 0 events added, {events} known before, "
        "124 handed over to a person.",
    ]
    assert played.tables[0] == played.tables[1]

    names = {talk.name for talk in talks}
    assert len(names) == len(talks) == 710
    executions = ask(
        played.instance, f"SELECT metadata->>'recording', status, attempt FROM monitor_execution WHERE {OF_PROJECT}"
    )
    assert sorted(executions) == sorted((talk.name, "failed" if talk.failed else "completed", 1) for talk in talks)
    spans = ask(played.instance, f"SELECT kind, count(*) FROM monitor_span WHERE {OF_PROJECT} GROUP BY kind")
    assert dict(spans) == {
        "llm": sum(len(talk.usages) for talk in talks),
        "tool": sum(talk.tool_calls for talk in talks),
    }


def test_every_word_is_kept_in_order_and_none_of_the_agents_is_public_after_its_transfer(
    played: Played, talks: list[Talk]
) -> None:
    rows = ask(
        played.instance,
        f"""SELECT c.metadata->>'recording', array_agg(ARRAY[m.role, m.content, m.visibility] ORDER BY m.seq)
              FROM monitor_conversation c LEFT JOIN monitor_message m ON m.conversation_id = c.id
             WHERE c.{OF_PROJECT} GROUP BY c.id""",
    )
    kept = {name: [tuple(one) for one in said if one[0] is not None] for name, said in rows}
    assert kept == {talk.name: talk.said for talk in talks}
    assert sum(visibility == "suppressed" for talk in talks for *_, visibility in talk.said) > 100

    talk = next(talk for talk in talks if any(visibility == "suppressed" for *_, visibility in talk.said))
    [[conversation]] = ask(
        played.instance,
        "SELECT conversation_id FROM monitor_conversation WHERE metadata->>'recording' = %(name)s",
        name=talk.name,
    )
    with api(played.instance, make_key(played.instance, PROJECT, scopes="read")) as client:
        public = client.get(f"/api/v1/conversations/{conversation}/messages?visibility=public&limit=500").json()
    assert [(one["role"], one["content"]) for one in public["results"]] == [
        (role, text) for role, text, visibility in talk.said if visibility == "public"
    ]


def test_who_was_transferred_waits_in_the_queue_and_nobody_else(played: Played, talks: list[Talk]) -> None:
    transferred = {talk.name for talk in talks if talk.handed_over}
    assert len(transferred) == 124
    items = ask(
        played.instance,
        f"""SELECT c.metadata->>'recording', i.kind, i.status, i.trigger FROM monitor_queueitem i
              JOIN monitor_conversation c ON c.id = i.conversation_id WHERE i.{OF_PROJECT}""",
    )
    assert len(items) == 124
    assert set(items) == {(name, "chat", "pending", "agent_decision") for name in transferred}


def test_each_run_costs_what_was_recorded_and_what_the_prices_say(played: Played, talks: list[Talk]) -> None:
    usages: dict[str, list[Usage]] = {talk.run: [] for talk in talks}
    tools: Counter[str] = Counter()
    for talk in talks:
        usages[talk.run] += talk.usages
        tools[talk.run] += talk.tool_calls
    with api(played.instance, make_key(played.instance, PROJECT, scopes="read")) as client:
        told = {run: client.get(f"/api/v1/runs/{run}/costs").raise_for_status().json() for run in usages}
    for run, calls in usages.items():
        kept = calls_of(played.instance, run)
        assert Counter(usage for usage, _ in kept) == Counter(calls)
        both = [(computed(usage, at), usage.usd) for usage, at in kept]
        assert {name: told[run][name] for name in ("total_calls", "tool_calls", "unpriced_calls", "tripped")} == {
            "total_calls": len(calls),
            "tool_calls": tools[run],
            "unpriced_calls": 0,
            "tripped": False,
        }
        assert (told[run]["input_tokens"], told[run]["output_tokens"]) == (
            sum(one.prompt for one in calls),
            sum(one.completion for one in calls),
        )
        assert money(told[run]) == {
            "reported_cost_usd": sum(one.usd for one in calls),
            "computed_cost_usd": sum(ours for ours, _ in both),
            "total_cost_usd": sum(max(ours, theirs) for ours, theirs in both),
        }
    assert sum(money(one)["reported_cost_usd"] > 0 for one in told.values()) == 5


def money(told: dict[str, Any]) -> dict[str, Decimal]:
    return {name: Decimal(told[name]) for name in ("reported_cost_usd", "computed_cost_usd", "total_cost_usd")}


def test_work_that_was_over_alarms_nobody(played: Played) -> None:
    assert ask(played.instance, f"SELECT title FROM alerts_alert WHERE {OF_PROJECT}") == []
    assert ask(played.instance, "SELECT reason FROM monitor_trip") == []
    moves = ask(
        played.instance,
        f"SELECT DISTINCT subject, actor, cause FROM monitor_statechange WHERE {OF_PROJECT} AND subject = 'execution'",
    )
    assert moves == [("execution", "key:replay", "tracked")]
    verdicts = ask(played.instance, f"SELECT id FROM monitor_execution WHERE {OF_PROJECT} AND verdict <> ''")
    assert verdicts == []


def test_the_pages_show_it(played: Played, talks: list[Talk]) -> None:
    password = manage(played.instance, "create_operator", "reader@example.org", "--project", PROJECT)
    with sign_in(played.instance, "reader@example.org", password) as browser:
        overview = seen(browser, "/")
        assert "124 things need you" in overview
        assert "Waiting for a person 124" in overview
        executions = seen(browser, "/executions?range=7d")
        assert "Executions 710 in 7 d" in executions
        assert "gpt-4o-airline" in executions
        assert "Open 124" in seen(browser, "/queue")
        costs = seen(browser, "/costs?range=7d")
    for run in {talk.run for talk in talks}:
        calls = [usage for talk in talks if talk.run == run for usage in talk.usages]
        recorded_usd = sum(usage.usd for usage in calls)
        words = f"{run} [\\w.-]+ {len(calls)} .*?" + (re.escape(f"${recorded_usd:.4f}") if recorded_usd else "–")
        assert re.search(words, costs), words
