"""Each hot read goes by its index, in a filled database, as pages, calls, jobs and ingest really ask.

A table says what is asked and which indexes it must use; nothing that is asked may read a larger table, or a day of
one, from one end to the other.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.test import Client
from django.urls import resolve

from alerts import escalation
from alerts.models import Alert
from bench import scale
from monitor import (
    budgets,
    figures,
    heartbeats,
    ingest,
    keys,
    ledger,
    otlp,
    otlp_logs,
    pipeline,
    registry,
    retention,
    rollups,
    spanlogs,
    tallies,
    vitals,
)
from monitor.models import Agent, Command, Conversation, Message, Project, QueueItem
from monitor.pipeline import Statement
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import signed_in
from tests.monitor.otlp_builders import as_json, log, logs_export
from tests.monitor.plans import EXECUTIONS, NOW, SPANS_A_TRACE, Told, analyze, clear, explained, fill
from tests.monitor.spending import a_span

ROWS = 4_000
# What in an address says of which it is asked.
NAMES = {"agent", "run_id", "q", "started_after"}
# As in the id.
NUMBER = "('x' || right(id::text, 8))::bit(32)::int"
OWN = f"""
UPDATE monitor_execution SET run_id = 'run-' || {NUMBER}, crew_id = 'crew-' || {NUMBER} / 4,
       conversation_id = 'talk-' || {NUMBER},
       parent_id = CASE WHEN {NUMBER} %% 4 = 0 THEN lpad(to_hex({NUMBER} + 1), 32, '0')::uuid END
 WHERE project_id = %(project_id)s
"""
RUNS = """
INSERT INTO monitor_run (project_id, run_id, agent, first_at, last_at, calls)
SELECT %(project_id)s, 'run-' || n, 'agent-' || n %% 500, %(now)s - make_interval(mins => n),
       %(now)s - make_interval(mins => n - 1), 1
  FROM generate_series(1, %(rows)s) AS n
"""
LEDGER = """
INSERT INTO monitor_ledgerentry (project_id, trace_id, span_id, sequence, occurred_at, received_at, kind, run_id, agent,
    department, provider, model, tool, conversation_id, failed, calls, cost_usd, unpriced, price_version)
SELECT %(project_id)s, lpad(to_hex(n), 32, '0')::uuid, n, 1, %(now)s - make_interval(secs => n), %(now)s, 'llm',
       'run-' || n, '', '', '', 'gpt-4o', '', '', false, 1, 1, 0, ''
  FROM generate_series(1, %(rows)s) AS n
"""
ROLLUPS = """
INSERT INTO monitor_{unit}rollup (project_id, {unit}, agent, department, provider, model, kind, count, cost_usd,
    duration_ms, latency)
SELECT %(project_id)s, date_trunc('{unit}', %(now)s - (1 + n) * interval '{every}'), 'agent-' || n %% 20, '', '',
       'gpt-4o', kind, 1, 1, 1, '{{}}'
  FROM generate_series(1, %(rows)s) AS n, unnest(ARRAY['llm', 'execution', 'tool']) AS kind
"""
QUARTERS = """
INSERT INTO monitor_runquarter (project_id, at, begun, ended)
SELECT %(project_id)s, date_bin('15 minutes', %(now)s, '2000-01-01 00:00Z') - n * interval '15 minutes', 1, 1
  FROM generate_series(1, %(rows)s) AS n
"""
JOURNAL = """
INSERT INTO monitor_statechange (project_id, at, subject, subject_id, from_state, to_state, cause, actor, note, data,
    judged_at)
SELECT %(project_id)s, %(now)s - make_interval(secs => n), 'execution', lpad(to_hex(n), 32, '0')::uuid::text, '',
       'running', 'registered', '', '', '{}', CASE WHEN n > 50 THEN %(now)s END
  FROM generate_series(1, %(rows)s) AS n
"""
WINDOWS = """
INSERT INTO monitor_budgetwindow (project_id, scope, target, period, starts_at)
SELECT %(project_id)s, 'run', 'run-' || n, 'run', '1970-01-01 00:00Z' FROM generate_series(1, %(rows)s) AS n
"""
# Beside those whose spans are here: of fewer it is as cheap to look through all.
TRACES = """
INSERT INTO monitor_trace (project_id, trace_id, first_at, last_at, spans)
SELECT %(project_id)s, lpad(to_hex(16777216 + n), 32, '0')::uuid, %(now)s - make_interval(mins => n),
       %(now)s - make_interval(mins => n), 1
  FROM generate_series(1, %(rows)s) AS n
"""
KEYS = """
INSERT INTO monitor_ingestkey (project_id, key, at, digest)
SELECT %(project_id)s, lpad(to_hex(n), 32, '0')::uuid, %(now)s - make_interval(mins => n), ''
  FROM generate_series(1, %(rows)s) AS n
"""
FILLS = (
    OWN,
    RUNS,
    LEDGER,
    ROLLUPS.format(unit="hour", every="1 hour"),
    # So far apart that a day is little of them all.
    ROLLUPS.format(unit="minute", every="20 minutes"),
    QUARTERS,
    JOURNAL,
    WINDOWS,
    TRACES,
    KEYS,
)


def before(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def fill_more(project: Project) -> None:
    """What people look at beside executions; of items and alerts one in 200 is open."""
    with tenant(project.pk), connection.cursor() as cursor:
        for statement in FILLS:
            cursor.execute(statement, {"project_id": project.pk, "rows": ROWS, "now": NOW})
        Conversation.objects.bulk_create(
            Conversation(project=project, conversation_id=f"talk-{n}", updated_at=before(n)) for n in range(ROWS)
        )
        Message.objects.bulk_create(
            Message(project=project, conversation=talk, seq=1, role="user", content="Hello", created_at=talk.updated_at)
            for talk in Conversation.objects.all()
        )
        QueueItem.objects.bulk_create(
            QueueItem(
                project=project,
                kind="approval",
                subject_id=str(n),
                status="resolved" if n % 200 else "pending",
                requested_at=before(60 * n),
                closed_at=before(60 * n) if n % 200 else None,
            )
            for n in range(ROWS)
        )
        Alert.objects.bulk_create(
            Alert(
                project=project,
                fingerprint=f"cause-{n}",
                level="warning",
                type="loop",
                status="resolved" if n % 200 else "firing",
                first_seen_at=before(60 * n),
                last_seen_at=before(60 * n),
                resolved_at=before(60 * n) if n % 200 else None,
                escalate_at=None if n % 200 else NOW + timedelta(hours=n),
            )
            for n in range(ROWS)
        )
        Command.objects.bulk_create(
            Command(
                project=project,
                execution_id=UUID(int=n),
                seq=n,
                command="pause",
                actor="ann@example.org",
                attempt=1,
                issued_at=before(n),
                outcome="done",
            )
            for n in range(1, ROWS)
        )


class Place(NamedTuple):
    """Where it is asked: the project, somebody's browser there, and a key."""

    project_id: int
    browser: Client
    key: str

    def opens(self, path: str) -> None:
        answer = self.browser.get(path)
        assert answer.status_code == 200, (path, answer)

    def calls(self, path: str, body: dict[str, object] | None = None) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = (
            Client().get(path, headers=headers)
            if body is None
            else Client().post(path, body, content_type="application/json", headers=headers)
        )
        assert answer.status_code in (200, 201), (path, answer.content)


class Whole(NamedTuple):
    """All of a table that is asked for by intent: by a statement with this in it, in so many places of it."""

    sql: str
    table: str
    places: int = 1


class Read(NamedTuple):
    """What is asked, the indexes that must be used for it (`a|b`: one of them), and of what it asks for all.

    Of pages and calls, their path.
    """

    ask: Callable[[Place], object]
    by: set[str]
    all_of: Sequence[Whole] = ()
    path: str = ""


ONE = UUID(int=EXECUTIONS - 240)


# Whether there is any: the first that is found.
ANY = Whole('FROM "monitor_execution" WHERE "monitor_execution"."project_id" = %s LIMIT 1', "monitor_execution")
# Lists count to 10,000, which are more than there are here: for two of their tabs all of the time, and their states.
TABS = Whole("LIMIT 10001) AS view_0)", "monitor_execution", 2)
STATES = Whole("LIMIT 10001) AS counted GROUP BY status", "monitor_execution")
CHOICE = Whole('"monitor_agent"."last_seen_at" DESC NULLS LAST LIMIT 50', "monitor_agent")
# All that is open, by agent: half of what is here.
WORK = Whole('AS "running", COUNT("monitor_execution"."id")', "monitor_execution")
# Planned for all values: ten agents of 10,000.
SEEN = Whole("INSERT INTO monitor_agent", "monitor_agent")
# Whether a day holds any.
HELD = [
    Whole(f"CASE WHEN EXISTS (SELECT FROM {table} WHERE", table)
    for table in ("monitor_span", "monitor_ledgerentry", "monitor_statechange")
]


def opens(path: str, *by: str, all_of: Sequence[Whole] = ()) -> Read:
    return Read(lambda place: place.opens(path), set(by), all_of, path)


def lists(path: str, *by: str) -> Read:
    return opens(path, *by, all_of=(ANY, TABS, STATES, CHOICE))


def calls(path: str, *by: str, root: str = "/api/v1", all_of: Sequence[Whole] = ()) -> Read:
    return Read(lambda place: place.calls(root + path), set(by), all_of, root + path)


def within(ask: Callable[[int], object], *by: str, all_of: Sequence[Whole] = ()) -> Read:
    """What is asked inside of the project."""

    def asked(place: Place) -> None:
        with tenant(place.project_id):
            ask(place.project_id)

    return Read(asked, set(by), all_of)


def the_agents(project_id: int, most: int) -> None:
    some = list(Agent.objects.filter(project_id=project_id).order_by("name")[:most])
    assert len(registry.standings(project_id, some, since=before(60 * 24 * 5), until=NOW, now=NOW)) == most


def a_batch(project_id: int) -> None:
    """New spans of a known trace, of one that an execution owns, and of an unknown one; of a known run and talk."""
    spans = [
        a_span(trace, 900_000 + trace, started_at=before(1), run_id=f"run-{trace}", conversation_id=f"talk-{trace}")
        for trace in (150, 46, 1 << 60)
    ]
    spans.append(a_span(151, 5, started_at=before(1), execution_id=ONE, model="nobody-knows-me"))
    assert ingest.accept(project_id, spans, now=NOW).accepted == len(spans)


def a_batch_of_a_long_trace(project_id: int) -> None:
    """Below one of its spans, above another, and of a response that it knows."""
    calls_of_it = [a_span(1 << 61, n, 7, started_at=before(1), response_id=f"r-{n}") for n in range(100, 700)]
    assert ingest.accept(project_id, calls_of_it, now=NOW).accepted == 600
    new = [
        a_span(1 << 61, 900, 100, started_at=before(1)),
        a_span(1 << 61, 901, started_at=before(1), response_id="r-200"),
    ]
    assert ingest.accept(project_id, new, now=NOW).accepted == 2


def messages(project_id: int) -> None:
    """Of a stored span, and of one that has not come."""
    records = [log("gen_ai.user.message", "Hello", trace=UUID(int=n).hex, span=n * SPANS_A_TRACE) for n in (100, 12345)]
    told = otlp_logs.read(otlp_logs.decode(as_json(logs_export(*records)), otlp.JSON)).messages
    assert spanlogs.accept(project_id, told, now=NOW) == (2, 0)


READS = {
    "ingest": within(
        a_batch,
        "monitor_trace_pkey",
        "monitor_execution_pkey",
        "execution_by_trace",
        "monitor_span_pkey",
        "monitor_ingestkey_pkey",
        "monitor_run_pkey",
        "monitor_runquarter_pkey",
        "conversation_one_per_client_id",
        all_of=[SEEN],
    ),
    "ingest into a long trace": within(
        a_batch_of_a_long_trace, "monitor_span_pkey", "span_by_parent", "span_by_response", all_of=[SEEN]
    ),
    "a heartbeat": within(
        lambda project_id: heartbeats.beat(project_id, UUID(int=8), now=NOW, actor="key:agents"),
        "monitor_execution_pkey",
    ),
    "budgets of a run": within(
        lambda project_id: budgets.standing(project_id, now=NOW, run_id="run-7"), "monitor_budgetwindow_pkey"
    ),
    "a call": Read(
        lambda place: place.calls("/api/v1/calls", {"model": "gpt-4o", "input_tokens": 1, "run_id": "run-7"}),
        {
            "monitor_trace_pkey",
            "monitor_span_pkey",
            "monitor_ingestkey_pkey",
            "monitor_run_pkey",
            "monitor_runquarter_pkey",
            "monitor_budgetwindow_pkey",
        },
        [SEEN],
    ),
    "logs": within(messages, "monitor_span_pkey", "monitor_spanlog_pkey"),
    "the overview": opens(
        "/",
        "monitor_hourrollup_pkey",
        "monitor_minuterollup_pkey",
        "monitor_statechange_pkey",
        "execution_due",
        "alert_one_open_per_cause",
        "queue_item_open|queue_item_one_open_per_subject",
        all_of=[ANY],
    ),
    "the list": lists("/executions?range=7d", "execution_by_status"),
    "the list of today": lists("/executions", "execution_by_status"),
    "the list, newest first": lists("/executions?order=started", "execution_newest"),
    "the list by state": lists("/executions?status=failed", "execution_by_status"),
    "the list by agent": lists("/executions?agent=agent-3&order=started", "execution_by_agent"),
    "the list of an agent": lists("/executions?agent=agent-3", "execution_by_agent"),
    "the list by run": lists("/executions?run_id=run-77", "execution_by_run"),
    "the list of what stands still": lists("/executions?view=still", "execution_stands_still|execution_due"),
    "the list of one id": lists(f"/executions?q={ONE}", "monitor_execution_pkey"),
    "search": opens("/search?q=run-77", "execution_by_run", "conversation_one_per_client_id"),
    "search for a run": opens("/search?q=run-77&range=30d", "execution_by_run", "conversation_one_per_client_id"),
    "search for a talk": opens("/search?q=talk-77", "execution_by_conversation", "conversation_one_per_client_id"),
    "executions": calls("/executions", "execution_newest"),
    "executions by agent": calls("/executions?agent=agent-3", "execution_by_agent"),
    "executions by state": calls("/executions?status=failed", "execution_by_status"),
    "executions that stand still": calls("/executions?still=stalled", "execution_stands_still"),
    "executions that failed since": calls(
        f"/executions?status=failed&started_after={before(120):%Y-%m-%dT%H:%M:%SZ}", "execution_by_status"
    ),
    "executions by run": calls("/executions?run_id=run-77", "execution_by_run"),
    "executions by crew": calls("/executions?crew_id=crew-77", "execution_by_crew"),
    "executions by conversation": calls("/executions?conversation_id=talk-77", "execution_by_conversation"),
    "executions by parent": calls(f"/executions?parent_id={UUID(int=9)}", "execution_by_parent"),
    "executions of a time": calls(f"/executions?started_before={before(120):%Y-%m-%dT%H:%M:%SZ}", "execution_newest"),
    "executions by search": calls("/executions?search=run-77", "execution_by_run"),
    "an execution": calls(
        f"/executions/{ONE}", "monitor_execution_pkey", "state_change_of_subject", "command_of_execution"
    ),
    "an execution's page": opens(
        f"/executions/{ONE}", "monitor_execution_pkey", "span_by_execution", "state_change_of_subject"
    ),
    "an execution's page with its trace": opens(
        f"/executions/{UUID(int=46)}", "monitor_execution_pkey", "span_by_execution", "state_change_of_subject"
    ),
    "the queue": opens("/queue", "queue_item_open|queue_item_one_open_per_subject"),
    "the alerts": opens("/alerts", "alert_by_age", "alert_one_open_per_cause", "alert_by_type"),
    "the page of the agents": opens(
        "/agents",
        "monitor_hourrollup_pkey",
        all_of=[
            WORK,
            Whole("LIMIT 1001", "monitor_agent"),
            Whole('COUNT(*) AS "__count" FROM "monitor_agent"', "monitor_agent"),
        ],
    ),
    "the page of an agent": opens(
        "/agents/agent-3",
        "agent_one_per_name",
        "execution_by_agent",
        "monitor_hourrollup_pkey",
        "state_change_of_subject",
    ),
    "the costs": opens("/costs", "monitor_hourrollup_pkey", "run_newest"),
    "the costs of a month": opens("/costs?range=30d", "monitor_hourrollup_pkey", "run_newest"),
    "the page of a run's costs": opens("/costs/runs/run-7", "monitor_run_pkey", "ledger_by_run", "execution_by_run"),
    "the system": opens("/system", "state_change_unjudged", "monitor_minuterollup_pkey"),
    "the growth": opens(
        "/system/growth",
        "alert_by_age",
        "conversation_newest",
        "execution_by_age",
        "ingest_key_by_age",
        "loop_by_age",
        "message_by_age",
        "monitor_hourrollup_pkey",
        "monitor_minuterollup_pkey",
        "run_newest",
        all_of=HELD,
    ),
    "costs by agent": calls("/costs/summary?group_by=agent&period=daily", "monitor_hourrollup_pkey"),
    "costs by day": calls(
        "/costs/daily", "monitor_hourrollup_pkey", all_of=[Whole("WITH counted AS", "monitor_runquarter")]
    ),
    "what a run costs": calls("/runs/run-7/costs", "monitor_run_pkey", "ledger_by_run"),
    "tasks": calls(
        "/monitoring/tasks", "execution_newest", all_of=[Whole("LIMIT 100000) subquery", "monitor_execution")]
    ),
    "agents": calls("/agents", "agent_one_per_name", "monitor_hourrollup_pkey", all_of=[WORK]),
    "metrics": calls(
        "/metrics", "execution_measured", "monitor_hourrollup_pkey", "monitor_budgetwindow_pkey", root="/api"
    ),
    "operations": calls("/operations", "span_operations"),
    "the agents": within(
        lambda project_id: the_agents(project_id, 20),
        "monitor_hourrollup_pkey",
        all_of=[WORK],
    ),
    "an agent": within(lambda project_id: the_agents(project_id, 1), "monitor_hourrollup_pkey", "execution_by_agent"),
    "rollups by hour": within(
        lambda project_id: rollups.totals(project_id, since=before(3000), until=NOW), "monitor_hourrollup_pkey"
    ),
    "rollups by minute": within(
        lambda project_id: rollups.totals(project_id, since=before(30), until=NOW), "monitor_minuterollup_pkey"
    ),
    "rollups of divided hours": within(
        lambda project_id: rollups.totals(project_id, since=before(3017), until=before(-1), with_latency=True),
        "monitor_hourrollup_pkey",
        "monitor_minuterollup_pkey",
    ),
    "days that begin at half past": within(
        lambda project_id: rollups.series(
            project_id, since=before(60_000), until=NOW, calendar="day", time_zone="Asia/Kolkata", group_by="model"
        ),
        "monitor_hourrollup_pkey",
        "monitor_minuterollup_pkey",
    ),
    "what was ever counted": Read(
        lambda place: tallies.tallies(), {"monitor_minuterollup_pkey", "monitor_hourrollup_pkey"}
    ),
    "a run's costs": within(
        lambda project_id: ledger.run_costs(project_id, "run-7"), "monitor_run_pkey", "ledger_by_run"
    ),
    "the dearest runs": opens("/costs?range=30d&order=cost&part=runs", "run_dearest"),
    "costs by run": calls("/costs/summary?group_by=run&period=monthly", "run_dearest"),
    "figures of the agents": within(
        lambda project_id: figures.of_agents(project_id, now=NOW), "execution_measured", "monitor_hourrollup_pkey"
    ),
    "alerts that are to be escalated": Read(
        lambda place: escalation.escalate_due(now=NOW - timedelta(days=1)), {"alert_escalation_due"}
    ),
    "news that nobody has judged": Read(
        lambda place: pipeline.flush([Statement(vitals.UNJUDGED, {})]), {"state_change_unjudged"}
    ),
    "what is old": Read(
        lambda place: retention.prune(now=NOW + timedelta(days=3)),
        {
            "monitor_minuterollup_pkey",
            "monitor_hourrollup_pkey",
            "ingest_key_by_age",
            "trace_by_age",
            "run_newest",
            "loop_by_age",
            "command_by_age",
            "execution_by_age",
            "queue_item_by_age",
            "conversation_newest",
            "monitor_runquarter_pkey",
            "budget_window_by_age",
            # Windows of runs leave with their run.
            "monitor_budgetwindow_pkey",
        },
    ),
}


@pytest.fixture
def place(db: None) -> Place:
    """A project with much in it of every kind, as the planner knows."""
    mara = signed_in("north")
    with crossing():
        project = Project.objects.get(pk=mara.project_id)
        _, key = keys.make(project, "reads", ["ingest", "read"], general_per_minute=0, now=NOW)
    clear()
    fill(project)
    fill_more(project)
    analyze()
    return Place(project.pk, mara.client, key)


def wrong(told: Sequence[Told], read: Read) -> list[str]:
    """What is not as it must be, with the plans."""
    found = []
    for one in told:
        meant = Counter({whole.table: whole.places for whole in read.all_of if whole.sql in one.sql})
        if tables := one.read_whole - meant:
            found.append(f"reads {dict(tables)} whole:\n{one.sql}\n{one.plan}")
    used = set().union(*(one.indexes for one in told if not one.is_generic))
    missing = [names for names in sorted(read.by) if used.isdisjoint(names.split("|"))]
    return found + [f"does not use {names}, but {sorted(used)}" for names in missing]


def test_each_hot_read_goes_by_its_index(place: Place) -> None:
    found = {}
    for name, read in READS.items():
        with explained() as told, transaction.atomic():
            read.ask(place)
            transaction.set_rollback(True)
        if problems := wrong(told, read):
            found[name] = problems
    assert not found, "\n\n".join(f"{name}: {one}" for name, problems in found.items() for one in problems)


def kind_of(address: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """The route and what is asked of it; of which agent, run or moment does not matter."""
    parts = urlsplit(address)
    asked = {(name, "" if name in NAMES else value) for name, value in parse_qsl(parts.query)}
    return resolve(parts.path).route, frozenset(asked)


def test_whatever_is_measured_in_a_large_database_is_read_here() -> None:
    pages, measured = scale.asked(ONE, "run-7", "2026-11-15T12:00:00Z")
    read = {kind_of(one.path) for one in READS.values() if one.path}
    assert [path for path in (*pages.values(), *measured.values()) if kind_of(path) not in read] == []
