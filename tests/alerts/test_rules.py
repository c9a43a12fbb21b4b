"""What each change of state means, in the words that a person reads."""

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from django.core.management import get_commands
from django.urls import resolve

from alerts.judge import judge
from alerts.judgements import Raise
from alerts.models import Alert
from alerts.rules import judgement
from dashboard.alertstory import related
from monitor import clocks
from monitor.models import Execution, StateChange, Trip
from monitor.tenancy import crossing
from tests.alerts.builders import NOW, a_change, a_project, an_execution, the_alert, timeline
from tests.dashboard.queue_builders import a_chat

EXECUTION = Execution(
    id=uuid4(),
    agent="support-bot",
    run_id="run-17",
    task="Answer the ticket",
    attempt=2,
    max_retries=3,
    cost_usd=Decimal("0.12"),
    error="HTTP 500 from the CRM",
    last_heartbeat_at=NOW - timedelta(seconds=45),
)
TRIP = Trip(
    id=uuid4(),
    scope="run",
    target="run-17",
    period="run",
    total_cost_usd=Decimal("5.31"),
    threshold_usd=Decimal("5"),
    cost_by_model={"gpt-4o": "5.31"},
    call_count=41,
)
NEARLY_USED_UP = {
    "scope": "department",
    "target": "Sales",
    "period": "month",
    "spent_usd": "401.50",
    "limit_usd": "500",
}

LOOPING = {
    "agent": "planner",
    "run_id": "run-17",
    "cycle": [{"tool": "search", "arguments": '{"city":"Oslo"}'}],
    "rounds": 5,
    "calls": 5,
    "answers_differ": False,
    "end": "",
    "execution_id": str(EXECUTION.id),
    "first_at": "2026-03-03T14:02:11+00:00",
    "last_at": "2026-03-03T14:06:40+00:00",
    "span": f"{1:032x}-{2:016x}",
}
SILENT_AT = NOW - timedelta(minutes=11)
SILENT = {
    "agent": "support-bot",
    "run_id": "run-17",
    "started_at": (NOW - timedelta(minutes=14)).isoformat(),
    "sign_at": SILENT_AT.isoformat(),
}


def news(subject: str, to: str, cause: str, subject_id: object = "x", *, was: str = "", **fields: Any) -> StateChange:
    return StateChange(
        id=1, at=NOW, subject=subject, subject_id=str(subject_id), from_state=was, to_state=to, cause=cause, **fields
    )


def moved(to: str, cause: str, was: str = "running") -> StateChange:
    return news("execution", to, cause, EXECUTION.id, was=was, attempt=2)


BEFORE = NOW - timedelta(hours=2, minutes=5)
AWAITED = {"expected_every_s": 3600, "expected_since": BEFORE.isoformat()}
NEARLY_FULL = {"used_bytes": 81 * 10**9, "total_bytes": 100 * 10**9, "share": 0.81, "is_disk": True, "stops_at": 0.95}
RAISED = [
    (moved("retrying", "zombie"), EXECUTION, "warning", "support-bot stopped sending heartbeats"),
    (moved("retrying", "timed_out"), EXECUTION, "warning", "support-bot ran out of time"),
    (
        moved("retrying", "not_picked_up", "retrying"),
        EXECUTION,
        "warning",
        "support-bot did not pick up its next attempt",
    ),
    (moved("retrying", "error"), EXECUTION, "warning", "support-bot failed with an error"),
    (moved("retrying", "stalled"), EXECUTION, "warning", "support-bot is alive but makes no progress"),
    (moved("running", "stalled"), EXECUTION, "warning", "support-bot is alive but makes no progress"),
    (
        moved("hitl_paused", "zombie"),
        EXECUTION,
        "critical",
        "support-bot stopped sending heartbeats and waits for a person",
    ),
    (
        news("loop", "found", "loop", uuid4(), data=LOOPING),
        None,
        "warning",
        "planner calls search with the same arguments again and again: 5 times since 14:02",
    ),
    (
        news("execution", "running", "trace_silent", EXECUTION.id, was="running", data=SILENT),
        EXECUTION,
        "warning",
        f"support-bot: its span has been open for 14 min and nothing has come since {SILENT_AT:%H:%M}",
    ),
    (
        news("trip", "open", "budget", TRIP.id),
        TRIP,
        "critical",
        "Budget passed for run run-17: $5.31 of $5.00",
    ),
    (
        news("budget", "warned", "budget", "department:Sales:month", data=NEARLY_USED_UP),
        None,
        "warning",
        "Budget nearly used up for department Sales, per month: $401.50 of $500.00",
    ),
    (
        news("budget", "exceeded", "budget", "department:Sales:month", data=NEARLY_USED_UP | {"spent_usd": "501"}),
        None,
        "critical",
        "Budget passed, and nothing stops it, for department Sales, per month: $501.00 of $500.00",
    ),
    (
        news("model", "unpriced", "unpriced", "acme-9"),
        None,
        "warning",
        "No price is known for calls of model acme-9",
    ),
    (
        news(
            "queue_item", "pending", "claim_breached", uuid4(), was="pending", data={"kind": "chat", "title": "Refund"}
        ),
        None,
        "warning",
        "Unclaimed conversation: Refund",
    ),
    (
        news("agent", "silent", "cadence", "crew/night owl?", data=AWAITED | {"last_seen_at": BEFORE.isoformat()}),
        None,
        "warning",
        "We have not heard from crew/night owl? for 2 h 5 min; it is expected every hour",
    ),
    (
        news("agent", "silent", "cadence", "planner", data=AWAITED | {"last_seen_at": None}),
        None,
        "warning",
        "We have never heard from planner; it is expected every hour",
    ),
    (
        news("job", "silent", "fleet_silent", "fleet", data={"silent": 7, "running": 9}),
        None,
        "critical",
        "The fleet is silent: 7 of 9 running executions at once. Is it us?",
    ),
    (
        news("job", "silent", "heartbeat", "watch.overdue", data={"every_s": 5}),
        None,
        "critical",
        "The periodic job watch.overdue of Handrail itself is silent",
    ),
    (
        news("room", "warned", "measured", "database", was="roomy", data=NEARLY_FULL),
        None,
        "warning",
        "The disk is 81 % full",
    ),
    (
        news("room", "stopped", "measured", "database", was="warned", data=NEARLY_FULL | {"share": 0.96}),
        None,
        "critical",
        "The disk is 96 % full",
    ),
]


@pytest.mark.parametrize(("change", "about", "level", "title"), RAISED, ids=[row[3] for row in RAISED])
def test_a_cause_has_its_level_and_its_words(change: StateChange, about: object, level: str, title: str) -> None:
    raised = judgement(change, about)
    assert isinstance(raised, Raise)
    assert (raised.level, raised.title) == (level, title)
    parts = [line.partition(":")[0] for line in raised.message.splitlines()]
    assert parts == ["Where", "Since", "How bad", "Done already", "If nobody acts", "http"]


@pytest.mark.parametrize(("change", "about"), [row[:2] for row in RAISED], ids=[row[3] for row in RAISED])
def test_a_link_and_a_command_lead_somewhere(change: StateChange, about: object) -> None:
    raised = judgement(change, about)
    assert isinstance(raised, Raise)
    link = urlsplit(raised.message.splitlines()[-1])
    assert resolve(link.path)
    for command in re.findall(r"manage\.py (\w+)", raised.message):
        assert command in get_commands()


def test_a_verdict_says_where_since_when_and_how_bad() -> None:
    raised = judgement(moved("retrying", "error"), EXECUTION)
    assert isinstance(raised, Raise)
    assert f"agent support-bot, task “Answer the ticket”, run run-17, execution {EXECUTION.id}" in raised.message
    assert "attempt 2 of 4; $0.12 spent so far; HTTP 500 from the CRM" in raised.message
    assert raised.message.endswith(f"http://localhost:8000/executions/{EXECUTION.id}")
    assert raised.fingerprint == f"execution:{EXECUTION.id}"


@pytest.mark.parametrize(
    "change",
    [
        moved("running", "started", was="pending"),
        moved("paused", "paused", was="running"),
        moved("running", "goes_on", was="running"),
        news("conversation", "human_active", "claimed", was="pending_human"),
        news("queue_item", "pending", "confidence"),
        news("queue_item", "pending", "claim_breached", data={"kind": "paused_execution"}),
    ],
    ids=lambda change: f"{change.subject} {change.to_state} {change.cause}",
)
def test_what_is_no_trouble_concerns_nobody(change: StateChange) -> None:
    assert judgement(change, EXECUTION) is None


def test_one_episode_per_execution_from_the_first_verdict_to_the_end(db: None) -> None:
    project_id = a_project()
    execution = an_execution(project_id)

    def happens(to: str, cause: str, was: str, minute: int, actor: str = "") -> None:
        a_change(project_id, "execution", execution.id, to, cause, was=was, actor=actor)
        assert judge(now=NOW + timedelta(minutes=minute)) == 1

    happens("retrying", "zombie", "running", 0)
    with crossing():
        alert = Alert.objects.get()
    assert (alert.level, alert.status, alert.execution_id) == ("warning", "firing", execution.id)

    happens("running", "picked_up", "retrying", 1)
    assert the_alert(alert.pk).status == "resolved"

    happens("retrying", "timed_out", "running", 2)
    happens("retrying", "came_back", "retrying", 3)
    happens("hitl_paused", "error", "retrying", 4)
    present = the_alert(alert.pk)
    assert (present.level, present.status, present.count, present.reopened) == ("critical", "firing", 3, 1)

    happens("cancelled", "cancelled", "hitl_paused", 5, actor="ann@example.org")
    assert (the_alert(alert.pk).status, the_alert(alert.pk).resolved_by) == ("resolved", "ann@example.org")
    assert timeline(alert.pk) == ["fired", "resolved", "reopened", "noted", "raised", "resolved"]
    with crossing():
        assert Alert.objects.count() == 1


def test_a_conversation_has_one_name_in_all_its_alerts(db: None) -> None:
    project_id = a_project()
    item = a_chat(project_id, at=NOW)
    name = item.conversation.conversation_id
    execution = an_execution(project_id, conversation_id=name)
    clocks.breaches(now=NOW + timedelta(hours=1))
    a_change(project_id, "execution", execution.id, "retrying", "zombie", was="running")
    judge(now=NOW)
    with crossing():
        waits, silent = Alert.objects.order_by("-type")
        waits_too = list(related(silent, now=NOW))
        assert (waits.type, waits.conversation_id, waits_too) == ("handover_unclaimed", name, [waits])


def test_a_change_that_no_rule_can_read_is_told_and_holds_up_nobody(db: None) -> None:
    project_id = a_project()
    a_change(project_id, "job", "watch", "silent", "heartbeat", data={"every_s": "not a number"})
    a_change(project_id, "model", "acme-9", "unpriced", "first_use")
    assert judge(now=NOW) == 2
    with crossing():
        assert sorted(Alert.objects.values_list("type", flat=True)) == ["judgement_failed", "model_unpriced"]
        assert not StateChange.objects.filter(judged_at=None).exists()
