"""Traces alone: who a span belongs to, which spans are executions, and that neither depends on how they came."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from msgspec.structs import replace

from monitor import executions, ground, heartbeats, ingest, nearby, rundays, transitions, trips, watch
from monitor.api.executions import register
from monitor.conversations import open_conversation
from monitor.models import (
    Agent,
    BudgetWindow,
    Conversation,
    Execution,
    LedgerEntry,
    MinuteRollup,
    Project,
    Run,
    Span,
    StateChange,
    Trace,
)
from monitor.records import Span as Record
from monitor.records import Tokens, sealed
from monitor.registration import NewExecution
from monitor.tenancy import crossing, tenant
from tests.monitor.spending import (
    CALL_USD,
    NOW,
    REPORTED,
    RUN_SUMS,
    a_bare_span,
    a_family,
    a_project,
    a_span,
    accept,
    assert_books_balance,
    books_of,
    close_connection,
    minutes_of,
    pending,
    tell_from_many_sides,
    usage,
)


def an_agent(trace: int, span: int, parent: int | None = None, **fields: Any) -> Record:
    return a_bare_span(trace, span, parent, **{"kind": "agent", "name": f"run {span}"} | fields)


def triage(trace: int = 1) -> list[Record]:
    """An agent that calls a model, and a tool behind which another agent calls one."""
    return [
        an_agent(trace, 1, agent="triage", agent_stated=True, conversation_id="talk"),
        a_bare_span(trace, 2, 1),
        a_bare_span(trace, 3, 1, kind="tool", tool="ask"),
        an_agent(trace, 4, 3, agent="refund", agent_stated=True),
        a_bare_span(trace, 5, 4, response_id="r"),
        a_bare_span(trace, 6, 5, response_id="r"),
    ]


def works(project: Project) -> dict[str, Execution]:
    with tenant(project.pk):
        return {one.agent: one for one in Execution.objects.filter(from_spans=True)}


def reported(project: Project, **fields: Any) -> Execution:
    given: dict[str, Any] = {"id": REPORTED, "agent": "owner", "digest": b"", "run_id": "night", "started_at": NOW}
    with tenant(project.pk):
        return Execution.objects.create(project=project, **given | fields)


def test_agents_in_a_trace_are_executions_each_with_its_own_calls(db: None) -> None:
    project = a_project()
    accept(project, triage())
    found = works(project)
    outer, inner = found["triage"], found["refund"]
    assert len(found) == 2
    assert (outer.parent_id, inner.parent_id) == (None, outer.id)
    for one in (outer, inner):
        assert (one.status, one.duration_ms, one.deadline_at, one.attempt_started_at) == ("completed", 1000, None, None)
        assert (one.cost_usd, one.api_calls, one.input_tokens, one.output_tokens) == (CALL_USD, 1, 1000, 100)
        assert (one.model, one.run_id, one.conversation_id) == ("gpt-4o", UUID(int=1).hex, "talk")
    assert (outer.task, outer.span_id, outer.trace_id, outer.error) == ("run 1", 1, UUID(int=1), "")
    with tenant(project.pk):
        journal = StateChange.objects.filter(subject="execution", subject_id=str(outer.id))
        assert list(journal.values_list("from_state", "to_state", "cause", "judged_at")) == [
            ("", "completed", "traced", NOW)
        ]
        assert set(Agent.objects.values_list("name", flat=True)) == {"triage", "refund"}
    assert_books_balance(project)


def test_a_failed_agent_is_a_failed_execution_that_alerts_nobody(db: None) -> None:
    project = a_project()
    accept(project, [an_agent(1, 1, agent="triage", agent_stated=True, status="error", error="no seats")])
    one = works(project)["triage"]
    assert (one.status, one.error) == ("failed", "no seats")
    with tenant(project.pk):
        assert not StateChange.objects.filter(judged_at=None).exists()
        [(key, sums)] = minutes_of().items()
        assert (key[1], key[5], sums[0], sums[1]) == ("triage", "execution", 1, 1)


@pytest.mark.parametrize("seed", range(20))
def test_parents_that_come_last_correct_the_books(db: None, seed: int) -> None:
    project, straight = a_project("late"), a_project("straight")
    spans = triage()
    accept(straight, spans)
    random.Random(seed).shuffle(spans)
    for span in spans:
        accept(project, [span])
        assert_books_balance(project)
    assert books_of(project) == books_of(straight)


def test_what_was_booked_on_the_service_moves_to_the_agent_and_its_conversation(db: None) -> None:
    project = a_project()
    with tenant(project.pk):
        Conversation.objects.create(project=project, conversation_id="talk")
    accept(project, [a_bare_span(1, 2, 1)])
    with tenant(project.pk):
        assert Span.objects.get().agent == "shop"
        # Whether anybody above names an agent is not known yet.
        assert not Agent.objects.exists()
    root = a_span(1, 1, kind="step", conversation_id="talk", run_id="night", agent="triage")
    accept(project, [root], now=NOW + timedelta(minutes=5))
    with tenant(project.pk):
        call = Span.objects.get(span_id=2)
        assert (call.agent, call.conversation_id, call.run_id) == ("triage", "talk", "night")
        booked = LedgerEntry.objects.order_by("sequence").values_list("agent", "run_id", "conversation_id", "cost_usd")
        assert list(booked) == [
            ("shop", UUID(int=1).hex, "", CALL_USD),
            ("shop", UUID(int=1).hex, "", -CALL_USD),
            ("triage", "night", "talk", CALL_USD),
        ]
        assert Conversation.objects.get().cost_usd == CALL_USD
        assert [(run.run_id, run.cost_usd, run.agent) for run in Run.objects.all()] == [("night", CALL_USD, "triage")]
        assert [agent.name for agent in Agent.objects.all()] == ["triage"]
    assert_books_balance(project)


def test_a_run_by_its_trace_is_called_after_the_agent_that_came_late(db: None) -> None:
    project = a_project()
    accept(project, [a_bare_span(1, 2, 1)])
    accept(project, triage()[:1])
    with tenant(project.pk):
        assert Run.objects.get().agent == "triage"


@pytest.mark.parametrize("most_whole", [nearby.MOST_WHOLE, 0])
def test_a_run_that_its_spans_have_left_was_none(db: None, monkeypatch: pytest.MonkeyPatch, most_whole: int) -> None:
    monkeypatch.setattr(nearby, "MOST_WHOLE", most_whole)
    project, straight = a_project("late"), a_project("straight")
    whole = an_agent(1, 1, agent="triage", agent_stated=True, run_id="B")
    below = [a_bare_span(1, 2, 1), a_bare_span(1, 3, 1, kind="step")]
    accept(straight, [whole, *below])
    accept(project, [sealed(replace(pending(whole), run_id="A")), *below])
    with tenant(project.pk):
        assert [(run.run_id, run.calls, run.spans) for run in Run.objects.all()] == [("A", 1, 3)]
    accept(project, [whole])
    assert books_of(project) == books_of(straight)
    assert_books_balance(project)
    with tenant(project.pk):
        assert [(run.run_id, run.calls, run.spans) for run in Run.objects.all()] == [("B", 1, 3)]
        today = NOW.date()
        assert rundays.active(project.pk, today, today, time_zone="UTC") == {today: 1}


def test_a_run_that_another_trace_makes_too_stays(db: None) -> None:
    project = a_project()
    whole = an_agent(1, 1, agent="triage", agent_stated=True, run_id="B")
    accept(project, [sealed(replace(pending(whole), run_id="A")), a_span(2, 1, kind="step", run_id="A")])
    accept(project, [whole])
    with tenant(project.pk):
        assert sorted(Run.objects.values_list("run_id", "spans")) == [("A", 1), ("B", 1)]
    assert_books_balance(project)


@pytest.mark.parametrize("most_whole", [nearby.MOST_WHOLE, 0])
def test_a_run_by_a_trace_that_another_trace_makes_too_still_reaches_to_that(
    db: None, monkeypatch: pytest.MonkeyPatch, most_whole: int
) -> None:
    monkeypatch.setattr(nearby, "MOST_WHOLE", most_whole)
    project, run_id = a_project(), UUID(int=1).hex
    early, late = NOW - timedelta(hours=3), NOW - timedelta(hours=1)
    accept(project, [a_span(2, 1, run_id=run_id, started_at=early), a_span(2, 2, run_id=run_id, started_at=late)])
    leaving, staying = a_bare_span(1, 2, 1), a_bare_span(1, 3)
    accept(project, [leaving, staying])
    accept(project, [an_agent(1, 1, run_id="R")])
    with tenant(project.pk):
        runs = {run.run_id: run for run in Run.objects.all()}
        assert (runs[run_id].first_at, runs[run_id].last_at) == (early, NOW - timedelta(minutes=9, seconds=56))
        assert (runs[run_id].spans, runs[run_id].calls, runs["R"].spans) == (3, 3, 2)
        # Nothing of trace 1 is left in it: the other trace's spans are.
    accept(project, [sealed(replace(staying, run_id="R", ended_at=NOW))])
    with tenant(project.pk):
        run = Run.objects.get(run_id=run_id)
        assert (run.first_at, run.spans, run.calls) == (early, 2, 2)
    assert_books_balance(project)


@pytest.mark.parametrize("most_whole", [nearby.MOST_WHOLE, 0])
@pytest.mark.parametrize("first", [0, 1], ids=["older first", "newer first"])
def test_a_run_by_a_trace_reaches_no_further_than_the_versions_that_stay(
    db: None, monkeypatch: pytest.MonkeyPatch, first: int, most_whole: int
) -> None:
    monkeypatch.setattr(nearby, "MOST_WHOLE", most_whole)
    project, yesterday = a_project(), NOW - timedelta(days=1)
    accept(project, [a_bare_span(1, 2)])
    versions = [pending(a_bare_span(1, 1, started_at=yesterday)), a_bare_span(1, 1)]
    for one in (versions[first], versions[1 - first]):
        accept(project, [one])
    with tenant(project.pk):
        run = Run.objects.get()
        assert (run.first_at, run.spans) == (versions[1].started_at, 2)
    assert_books_balance(project)


def test_an_agents_span_that_names_the_execution_it_is_counts_once(db: None) -> None:
    project = a_project()
    accept(project, [an_agent(1, 1, agent="triage", agent_stated=True)])
    [work] = works(project).values()
    for seconds in (5, 9):
        ended_at = NOW - timedelta(minutes=10) + timedelta(seconds=seconds)
        accept(project, [an_agent(1, 1, agent="triage", agent_stated=True, execution_id=work.id, ended_at=ended_at)])
    with tenant(project.pk):
        found = list(MinuteRollup.objects.filter(kind="execution").values_list("count", flat=True))
    assert all(count >= 0 for count in found), found


def test_a_span_that_names_an_agents_execution_makes_it_no_owner_of_the_trace(db: None) -> None:
    project = a_project()
    spans = [
        a_bare_span(1, 10, kind="step"),
        an_agent(1, 1, 10, agent="triage", agent_stated=True),
        a_bare_span(1, 3, 1),
        an_agent(1, 2, 10, agent="refund", agent_stated=True),
        a_bare_span(1, 4, 2),
        a_bare_span(1, 5, 10),
    ]
    accept(project, spans)
    triage_id = works(project)["triage"].id

    def calls() -> dict[str, int]:
        return {agent: one.api_calls for agent, one in works(project).items()}

    assert calls() == {"triage": 1, "refund": 1}
    accept(project, [a_bare_span(1, 20, kind="step", execution_id=triage_id), a_bare_span(1, 21, 20)])
    assert calls() == {"triage": 2, "refund": 1}
    assert_books_balance(project)
    # Nor does the next batch, which names nobody, book anything anew: each of the four calls stands there once.
    accept(project, [a_bare_span(1, 22, 20, kind="step")])
    assert calls() == {"triage": 2, "refund": 1}
    with tenant(project.pk):
        assert LedgerEntry.objects.count() == 4
    assert_books_balance(project)


@pytest.mark.parametrize("seed", range(40))
def test_any_order_and_split_of_any_family_ends_in_the_same_books(db: None, seed: int) -> None:
    rng = random.Random(seed)
    cuts = 1 + rng.randrange(12)
    spans = a_family(1, rng) + a_family(2, rng)
    told = [*spans, *(older(span, rng) for span in spans if rng.random() < 0.4)]
    straight, shuffled = a_project("straight"), a_project("shuffled")
    for project in (straight, shuffled):
        reported(project)
    accept(straight, spans)
    rng.shuffle(told)
    for n in range(cuts):
        accept(shuffled, told[n::cuts])
    assert_books_balance(straight)
    assert_books_balance(shuffled)
    assert books_of(shuffled) == books_of(straight)


def older(span: Record, rng: random.Random) -> Record:
    """The span as it was told before: while it went on, with another parent, of another run, or ended otherwise."""
    before = rng.choice(("pending", "moved", "turned", "renamed"))
    if before == "pending":
        return sealed(replace(pending(span), conversation_id=None))
    assert span.ended_at is not None
    ended_at = span.ended_at - timedelta(milliseconds=300)
    if before == "moved":
        return sealed(replace(span, ended_at=ended_at, parent_span_id=999, kind="step", tokens=Tokens()))
    if before == "renamed":
        return sealed(replace(span, ended_at=ended_at, run_id=f"once-{span.span_id}"))
    return sealed(replace(span, ended_at=ended_at, status="ok" if span.status == "error" else "error", error=None))


def test_many_connections_telling_the_same_traces_make_each_execution_once(committed_db: None) -> None:
    rng = random.Random(5)
    spans = [span for trace in range(1, 6) for span in a_family(trace, rng)] + triage(9)
    straight, crowded = a_project("straight"), a_project("crowded")
    for project in (straight, crowded):
        reported(project)
    accept(straight, spans)
    tell_from_many_sides(crowded, spans, size=9)
    assert_books_balance(crowded)
    assert books_of(crowded) == books_of(straight)


def test_an_open_agent_runs_until_its_end_is_told_and_is_never_accused(db: None) -> None:
    project = a_project()
    whole = triage()[0]
    accept(project, [pending(whole)])
    assert works(project)["triage"].status == "running"
    assert watch.overdue(now=NOW + timedelta(days=30)) == 0
    identity = works(project)["triage"].id
    accept(project, [whole, pending(whole)])
    ended = works(project)["triage"]
    assert (ended.id, ended.status, ended.ended_at) == (identity, "completed", whole.ended_at)
    with tenant(project.pk):
        moves = StateChange.objects.filter(subject_id=str(identity)).order_by("id")
        assert list(moves.values_list("from_state", "to_state")) == [("", "running"), ("running", "completed")]


def test_nobody_commands_or_reports_on_what_only_spans_tell_of(db: None) -> None:
    project = a_project()
    accept(project, [pending(triage()[0])])
    identity = works(project)["triage"].id
    with tenant(project.pk):
        for verb, said in (
            (executions.pause, {}),
            (executions.cancel, {}),
            (executions.retry, {}),
            (executions.resume, {}),
            (executions.complete, {}),
            (executions.fail, {"error": "no"}),
        ):
            with pytest.raises(transitions.KnownFromSpans):
                verb(project.pk, identity, now=NOW, actor="ann@example.org", **said)
        beat = heartbeats.beat(project.pk, identity, now=NOW, actor="key:agents", progress=50)
        assert (beat.command, beat.status, beat.deadline_at) == ("continue", "running", None)
        assert trips.stop_run(project.pk, UUID(int=1).hex, reason="spent", now=NOW) == []
    seen = works(project)["triage"]
    assert (seen.status, seen.progress, seen.last_heartbeat_at) == ("running", None, None)


def test_a_parent_that_is_cancelled_leaves_alone_what_its_trace_tells_of(db: None) -> None:
    project = a_project()
    owner = reported(project, trace_id=UUID(int=1), status="pending")
    spans = [an_agent(1, 1), pending(an_agent(1, 2, 1, agent="triage", agent_stated=True))]
    accept(project, spans)
    assert works(project)["triage"].parent_id == owner.id
    with tenant(project.pk):
        executions.cancel(project.pk, owner.id, now=NOW, actor="ann@example.org")
    assert works(project)["triage"].status == "running"


def test_work_that_the_api_reported_is_counted_once(db: None) -> None:
    """The client puts the execution on the span around the agent's; the agents below are its children."""
    project = a_project()
    owner = reported(project)
    around = a_bare_span(1, 100, kind="step", execution_id=REPORTED)
    spans = [around, *(replace(span, parent_span_id=span.parent_span_id or 100) for span in triage())]
    accept(project, spans)
    assert [(one.agent, one.parent_id, one.cost_usd) for one in works(project).values()] == [
        ("refund", owner.id, CALL_USD)
    ]
    with tenant(project.pk):
        counted = transitions.get(project.pk, REPORTED)
        assert (counted.cost_usd, counted.api_calls) == (CALL_USD, 1)
        assert Span.objects.get(span_id=1).execution_id == REPORTED
        # What the execution says goes further down than what the trace says above it.
        assert set(Run.objects.values_list("run_id", flat=True)) == {"night"}
    assert_books_balance(project)


def test_work_turns_out_to_be_reported_and_its_own_execution_is_withdrawn(db: None) -> None:
    project, straight = a_project("late"), a_project("straight")
    around = a_bare_span(1, 100, kind="step", execution_id=REPORTED)
    spans = [around, *(sealed(replace(span, parent_span_id=span.parent_span_id or 100)) for span in triage())]
    for one in (project, straight):
        reported(one)
    accept(straight, spans)
    accept(project, spans[1:])
    assert set(works(project)) == {"triage", "refund"}
    accept(project, spans[:1])
    assert set(works(project)) == {"refund"}
    assert books_of(project) == books_of(straight)
    assert_books_balance(project)


def test_an_ended_agent_that_is_told_to_have_failed_after_all_has_failed(db: None) -> None:
    project = a_project()
    whole = an_agent(1, 1, agent="triage", agent_stated=True)
    accept(project, [whole, a_bare_span(1, 2, 1)])
    assert whole.ended_at is not None
    later = sealed(replace(whole, ended_at=whole.ended_at + timedelta(seconds=1), status="error", error="no seats"))
    accept(project, [later])
    one = works(project)["triage"]
    assert (one.status, one.error, one.duration_ms, one.cost_usd) == ("failed", "no seats", 2000, CALL_USD)
    assert_books_balance(project)


def test_a_span_that_was_no_agent_after_all_leaves_no_execution(db: None) -> None:
    project = a_project()
    whole = an_agent(1, 1, agent="triage", agent_stated=True)
    assert whole.ended_at is not None
    accept(project, [whole, a_bare_span(1, 2, 1)])
    accept(project, [sealed(replace(whole, kind="step", ended_at=whole.ended_at + timedelta(seconds=1)))])
    assert works(project) == {}
    assert_books_balance(project)


def test_other_projects_see_none_of_it(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    accept(north, triage())
    accept(south, triage())
    assert set(works(north)) == set(works(south)) == {"triage", "refund"}
    with crossing():
        assert Execution.objects.values("id").distinct().count() == 4
        assert sum(Execution.objects.values_list("cost_usd", flat=True)) == Decimal(4) * CALL_USD


def test_an_execution_registered_after_its_trace_takes_the_trace_over(db: None) -> None:
    project, straight = a_project("late"), a_project("straight")
    body = NewExecution(agent="owner", id=REPORTED, trace_id=UUID(int=1).hex, run_id="night", timeout_s=3600)
    with tenant(straight.pk):
        register(straight.pk, body, now=NOW, actor="key:agents")
    accept(straight, triage())
    accept(project, triage())
    assert set(works(project)) == {"triage", "refund"}
    with tenant(project.pk):
        owner, created = register(project.pk, body, now=NOW, actor="key:agents")
        assert (created, owner.cost_usd, owner.api_calls) == (True, CALL_USD, 1)
        assert register(project.pk, body, now=NOW, actor="key:agents") == (owner, False)
    assert [(one.agent, one.parent_id) for one in works(project).values()] == [("refund", REPORTED)]
    assert books_of(project) == books_of(straight)
    assert_books_balance(project)


@pytest.mark.parametrize("seed", range(6))
def test_an_execution_registered_amid_its_trace_counts_the_same_work_once(committed_db: None, seed: int) -> None:
    rng = random.Random(seed)
    spans = triage() + [span for span in a_family(2, rng) if span.execution_id is None]
    body = NewExecution(agent="owner", id=REPORTED, trace_id=UUID(int=1).hex, run_id="night", timeout_s=3600)
    straight, crowded = a_project("straight"), a_project("crowded")
    with tenant(straight.pk):
        register(straight.pk, body, now=NOW, actor="key:agents")
    accept(straight, spans)
    rng.shuffle(spans)

    def tell(part: list[Record] | None) -> None:
        try:
            if part is not None:
                accept(crowded, part)
                return
            with tenant(crowded.pk):
                register(crowded.pk, body, now=NOW, actor="key:agents")
        finally:
            close_connection()

    parts: list[list[Record] | None] = [spans[n::4] for n in range(4)]
    parts.insert(rng.randrange(5), None)
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(tell, parts))
    assert_books_balance(crowded)
    assert books_of(crowded) == books_of(straight)


def test_a_registration_and_a_batch_of_its_trace_wait_for_each_other_in_one_order(committed_db: None) -> None:
    project = a_project()
    body = NewExecution(agent="triage", id=REPORTED, trace_id=UUID(int=1).hex, timeout_s=3600)

    def tell() -> None:
        try:
            with tenant(project.pk):
                register(project.pk, body, now=NOW, actor="key:agents")
        finally:
            close_connection()

    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            ground.lock(project.pk, UUID(int=1).hex)
            late = pool.submit(tell)
            await_a_waiter()
            # Both see the agent `triage` for the first time: who held its row now would never get the trace.
            ingest.accept(project.pk, triage(), now=NOW)
        late.result(timeout=30)
    assert [(one.agent, one.parent_id) for one in works(project).values()] == [("refund", REPORTED)]
    assert_books_balance(project)


# A call, a tool that costs, a model that nobody knows, one that failed, and one whose child repeats its usage.
def naming(trace: int) -> list[Record]:
    """Spans of a trace of its own that count for the execution `REPORTED`, as they say or because one above says so."""
    return [
        a_bare_span(trace, 1, kind="step", execution_id=REPORTED),
        a_bare_span(trace, 2, 1),
        a_bare_span(trace, 3, 1, kind="tool", tool="buy", reported_usd=Decimal("0.25")),
        a_bare_span(trace, 4, 1, model="nobody-knows-me", tokens=Tokens()),
        a_bare_span(trace, 5, 1, tokens=Tokens(), status="error", error="overloaded"),
        a_bare_span(trace, 6, 1, tokens=usage(9000, 900)),
        a_bare_span(trace, 7, 6),
        a_bare_span(trace, 8, 1, kind="tool", tool="look", ended_at=None),
    ]


# By hand: the calls 2, 4, 5 and 7, of which two have tokens, and a quarter of a dollar for the tool.
NAMING = (2 * CALL_USD + Decimal("0.25"), 4, 2000, 200)


def sums_of(project: Project) -> tuple[Decimal, int, int, int]:
    with tenant(project.pk):
        work = Execution.objects.get(id=REPORTED)
    return work.cost_usd, work.api_calls, work.input_tokens, work.output_tokens


def registered(project: Project, **fields: Any) -> Execution:
    body = NewExecution(agent="owner", id=REPORTED, timeout_s=3600, **fields)
    with tenant(project.pk):
        return register(project.pk, body, now=NOW, actor="key:agents")[0]


def test_an_execution_has_the_sums_of_spans_that_named_it_before_it_was_registered(db: None) -> None:
    project, straight = a_project("late"), a_project("straight")
    registered(straight)
    accept(straight, naming(1))
    assert sums_of(straight) == NAMING
    accept(project, naming(1))
    answer = registered(project)
    assert (answer.cost_usd, answer.api_calls, answer.model) == (NAMING[0], NAMING[1], "gpt-4o")
    assert sums_of(project) == NAMING
    assert_books_balance(project)
    # What comes of them later is added as ever, and who registers again adds nothing.
    registered(project)
    accept(project, [a_bare_span(1, 9, 1)])
    assert sums_of(project) == (NAMING[0] + CALL_USD, 5, 3000, 300)
    assert_books_balance(project)


def test_a_trace_and_what_names_the_execution_elsewhere_are_both_summed(db: None) -> None:
    project = a_project()
    accept(project, [*naming(1), *triage(2)])
    with tenant(project.pk):
        body = NewExecution(agent="owner", id=REPORTED, trace_id=UUID(int=2).hex)
        owner, _ = register(project.pk, body, now=NOW, actor="key:agents")
    assert sums_of(project) == (NAMING[0] + CALL_USD, 5, 3000, 300)
    assert owner.cost_usd == NAMING[0] + CALL_USD
    assert_books_balance(project)


def test_what_an_execution_tells_of_itself_is_added_to_what_named_it(db: None) -> None:
    project = a_project()
    accept(project, naming(1))
    registered(
        project, status="completed", cost_usd=Decimal(1), api_calls=2, input_tokens=3, output_tokens=4, model="m"
    )
    assert sums_of(project) == (NAMING[0] + 1, 6, 2003, 204)


@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
def test_a_registration_and_a_batch_that_names_it_end_in_exact_sums(
    committed_db: None, is_told: bool, is_first: bool
) -> None:
    """Whoever commits first; the batch names it itself, or its spans hang below one that did before."""
    project = a_project()
    said, below = naming(1)[:1], naming(1)[1:]
    if not is_told:
        accept(project, said)

    def tell() -> None:
        try:
            if is_first:
                accept(project, said + below)
            else:
                registered(project)
        finally:
            close_connection()

    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            if is_first:
                registered(project)
            else:
                ingest.accept(project.pk, said + below if is_told else below, now=NOW)
            late = pool.submit(tell)
            await_a_waiter()
        late.result(timeout=30)
    assert sums_of(project) == NAMING
    assert_books_balance(project)


def talking(trace: int) -> list[Record]:
    """Spans of a conversation, one of which has it from above: a call and a quarter of a dollar."""
    return [
        a_bare_span(trace, 1, kind="step", conversation_id="talk"),
        a_bare_span(trace, 2, 1),
        a_bare_span(trace, 3, kind="tool", tool="buy", reported_usd=Decimal("0.25"), conversation_id="talk"),
    ]


TALKING = CALL_USD + Decimal("0.25")


def cost_of_talk(project: Project) -> Decimal:
    with tenant(project.pk):
        return Conversation.objects.get(conversation_id="talk").cost_usd


def opened(project: Project) -> None:
    with tenant(project.pk):
        open_conversation(project.pk, "talk", now=NOW)


def test_a_conversation_costs_what_spans_told_of_it_before_it_was_opened(db: None) -> None:
    project, other = a_project("late"), a_project("other")
    accept(other, talking(1))
    accept(project, talking(1))
    opened(project)
    assert cost_of_talk(project) == TALKING
    opened(project)
    accept(project, talking(2))
    assert cost_of_talk(project) == 2 * TALKING
    assert_books_balance(project)


@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
def test_a_conversation_that_is_opened_beside_a_batch_costs_what_that_told(
    committed_db: None, is_told: bool, is_first: bool
) -> None:
    """Whoever commits first; the batch names it, or its spans hang below one that did before."""
    project = a_project()
    said, below = talking(1)[:1], talking(1)[1:]
    if is_told:
        accept(project, said)

    def tell() -> None:
        try:
            if is_first:
                accept(project, said + below)
            else:
                opened(project)
        finally:
            close_connection()

    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            if is_first:
                open_conversation(project.pk, "talk", now=NOW)
            else:
                ingest.accept(project.pk, said + below, now=NOW)
            late = pool.submit(tell)
            await_a_waiter()
        late.result(timeout=30)
    assert cost_of_talk(project) == TALKING
    assert_books_balance(project)


def test_many_that_name_an_execution_while_it_is_registered_are_all_summed(committed_db: None) -> None:
    project = a_project()

    def tell(trace: int) -> None:
        try:
            if trace == 5:
                registered(project)
                return
            for span in naming(trace):
                accept(project, [span])
        finally:
            close_connection()

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(tell, range(1, 10)))
    assert sums_of(project) == tuple(8 * one for one in NAMING)
    assert_books_balance(project)


def await_a_waiter(kind: str = "advisory") -> None:
    """Return once a connection waits for a lock of a trace, or of another kind; `transactionid` are rows."""
    deadline_s = time.monotonic() + 30
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = %s AND NOT granted", [kind])
            if cursor.fetchone()[0]:
                return
            assert time.monotonic() < deadline_s, "nobody waits"
            time.sleep(0.01)


def test_the_sums_of_a_small_trace_written_out_by_hand(db: None) -> None:
    project = a_project()
    with tenant(project.pk):
        Conversation.objects.create(project=project, conversation_id="talk")
    spans = [sealed(replace(span, run_id="night", conversation_id="talk")) for span in naming(1)]
    accept(project, spans)
    # Two calls of 0.0035 dollars and a tool of 0.25; a call that nobody can price, and one that failed.
    usd = Decimal("0.257")
    with tenant(project.pk):
        run = Run.objects.get()
        assert {name: getattr(run, name) for name in RUN_SUMS} == {
            "calls": 4,
            "failed_calls": 1,
            "unpriced_calls": 1,
            "tool_calls": 1,
            "latency_ms": 4000,
            "input_tokens": 2000,
            "output_tokens": 200,
            "cost_usd": usd,
            "reported_usd": Decimal("0.25"),
            "computed_usd": Decimal("0.007"),
        }
        began = NOW - timedelta(minutes=10)
        assert (run.run_id, run.spans) == ("night", 8)
        assert (run.first_at, run.last_at) == (began + timedelta(seconds=1), began + timedelta(seconds=8))
        assert list(Trace.objects.values_list("spans", "first_at", "last_at")) == [(8, run.first_at, run.last_at)]
        assert Conversation.objects.get().cost_usd == usd
        # The tool that costs stands in the ledger as a fifth call.
        windows = BudgetWindow.objects.order_by("scope", "period").values_list("scope", "period", "spent_usd", "calls")
        assert list(windows) == [
            ("project", "day", usd, 5),
            ("project", "hour", usd, 5),
            ("project", "month", usd, 5),
            ("run", "run", usd, 5),
        ]
        assert {(one.kind, one.count, one.cost_usd) for one in MinuteRollup.objects.exclude(kind="execution")} == {
            ("llm", 3, Decimal("0.007")),
            ("llm", 1, 0),
            ("tool", 1, Decimal("0.25")),
        }
    assert_books_balance(project)
