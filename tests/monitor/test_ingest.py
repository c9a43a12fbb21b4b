"""The ingest door: any order, split or repetition of a batch ends in the same books."""

import random
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from django.db.models import Sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from monitor.bookings import MOST_BOOKINGS
from monitor.ingest import Refused
from monitor.models import Agent, Execution, LedgerEntry, Price, Run, Span, StateChange
from monitor.records import Tokens, sealed
from monitor.tenancy import crossing, tenant
from tests.contract.recordings import clients, mapped
from tests.monitor.spending import (
    CALL_USD,
    MODEL,
    NOW,
    a_bare_span,
    a_project,
    a_span,
    a_trace,
    accept,
    assert_books_balance,
    books_of,
    close_connection,
    pending,
    tell_from_many_sides,
    usage,
)


def test_a_call_is_stored_priced_and_booked(db: None) -> None:
    project = a_project()
    done = accept(project, [a_span(1, 7, conversation_id="talk", department="Sales")])
    assert (done.accepted, done.duplicates, done.rejected) == (1, 0, [])
    assert done.verdict.allowed
    assert done.verdict.current_cost == {"run": CALL_USD, "hour": CALL_USD, "day": CALL_USD, "month": CALL_USD}
    with tenant(project.pk):
        span = Span.objects.get()
        assert (span.cost_usd, span.pricing, span.bookings) == (CALL_USD, "priced", 1)
        entry = LedgerEntry.objects.get()
        assert (entry.calls, entry.cost_usd, entry.latency_ms, entry.department) == (1, CALL_USD, 1000, "Sales")
        assert entry.price_version == span.price_version != ""
        assert Agent.objects.get().name == "planner"
    assert_books_balance(project)


def test_the_same_batch_twice_adds_nothing(db: None) -> None:
    project = a_project()
    batch = a_trace(1, random.Random(1))
    first = accept(project, batch + batch[:3])
    once = books_of(project)
    second = accept(project, batch, now=NOW + timedelta(hours=2))
    assert (first.accepted, first.duplicates) == (len(batch), 3)
    assert (second.accepted, second.duplicates) == (0, len(batch))
    assert books_of(project) == once
    assert_books_balance(project)


def test_a_late_child_reverses_its_parent(db: None) -> None:
    project = a_project()
    accept(project, [a_span(1, 1, kind="agent", tokens=usage(), model="gpt-4o", provider="openai")])
    with tenant(project.pk):
        assert Span.objects.get().cost_usd == CALL_USD
    accept(project, [a_span(1, 2, 1)])
    with tenant(project.pk):
        assert dict(Span.objects.values_list("span_id", "cost_usd")) == {1: 0, 2: CALL_USD}
        booked = LedgerEntry.objects.order_by("span_id", "sequence").values_list(
            "span_id", "sequence", "calls", "cost_usd"
        )
        assert list(booked) == [(1, 0, 1, CALL_USD), (1, 1, -1, -CALL_USD), (2, 0, 1, CALL_USD)]
        assert Run.objects.get().cost_usd == CALL_USD
    assert_books_balance(project)


def test_a_pending_span_is_completed_and_never_taken_back(db: None) -> None:
    project = a_project()
    whole = a_span(1, 1)
    accept(project, [pending(whole)])
    with tenant(project.pk):
        assert Span.objects.get().ended_at is None
        assert not LedgerEntry.objects.exists()
    assert accept(project, [whole]).accepted == 1
    assert accept(project, [pending(whole)]).duplicates == 1
    with tenant(project.pk):
        assert Span.objects.get().ended_at == whole.ended_at
        assert LedgerEntry.objects.get().cost_usd == CALL_USD
    assert_books_balance(project)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0, 1), (1, 0, 1)])
def test_an_ended_span_with_the_same_end_and_another_body_is_one_of_the_two_and_booked_once(
    db: None, order: tuple[int, ...]
) -> None:
    project = a_project()
    versions = [a_span(1, 1, tokens=usage(1000, 100)), a_span(1, 1, tokens=usage(4000, 700))]
    stays = max(versions, key=lambda one: one.digest)
    for number in order:
        accept(project, [versions[number]])
        assert_books_balance(project)
    with tenant(project.pk):
        assert Span.objects.get().digest == stays.digest
        booked = LedgerEntry.objects.aggregate(calls=Sum("calls"), taken=Sum("input_tokens"), made=Sum("output_tokens"))
        assert booked == {"calls": 1, "taken": stays.tokens.input, "made": stays.tokens.output}


def test_a_span_that_is_told_with_another_start_stays_one_row(db: None) -> None:
    project = a_project()
    early = a_span(1, 1, started_at=NOW - timedelta(days=3))
    late = a_span(1, 1, started_at=NOW - timedelta(minutes=3))
    for batch in ([early], [late], [early]):
        accept(project, batch)
    with tenant(project.pk):
        assert Span.objects.get().started_at == late.started_at
        assert LedgerEntry.objects.count() == 3
    assert_books_balance(project)


@given(seed=st.integers(0, 2**32), cuts=st.integers(1, 8))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_and_split_ends_in_the_same_books(db: None, seed: int, cuts: int) -> None:
    rng = random.Random(seed)
    spans = a_trace(1, rng) + a_trace(2, rng)
    told = [*spans, *(pending(span) for span in spans if rng.random() < 0.3)]
    straight, shuffled = a_project(f"straight-{seed}-{cuts}"), a_project(f"shuffled-{seed}-{cuts}")
    accept(straight, spans)
    rng.shuffle(told)
    for n in range(cuts):
        accept(shuffled, told[n::cuts])
    assert_books_balance(shuffled)
    expected, got = books_of(straight), books_of(shuffled)
    assert got == expected


def test_many_threads_telling_the_same_trace_end_in_the_same_books(committed_db: None) -> None:
    rng = random.Random(7)
    spans = [span for trace in range(1, 5) for span in a_trace(trace, rng)]
    straight, crowded = a_project("straight"), a_project("crowded")
    accept(straight, spans)
    tell_from_many_sides(crowded, spans, size=7)
    assert_books_balance(crowded)
    assert books_of(crowded) == books_of(straight)


def test_a_tool_that_repeats_what_the_call_below_it_cost_counts_and_costs_nothing(db: None) -> None:
    project = a_project()
    accept(project, [a_span(1, 1, kind="tool", tool="ask", tokens=usage(), model=MODEL)])
    with tenant(project.pk):
        assert Span.objects.get().cost_usd == CALL_USD
    accept(project, [a_span(1, 2, 1)])
    with tenant(project.pk):
        assert dict(Span.objects.values_list("span_id", "cost_usd")) == {1: 0, 2: CALL_USD}
        run = Run.objects.get()
        assert (run.calls, run.tool_calls, run.input_tokens, run.cost_usd) == (1, 1, 1000, CALL_USD)
    assert_books_balance(project)


def test_recorded_clients_end_in_the_same_books_however_they_are_split(db: None) -> None:
    spans = [span for client in clients() for span in mapped(client)[0]]
    now = max(span.ended_at or span.started_at for span in spans) + timedelta(minutes=1)
    straight, split = a_project("straight"), a_project("split")
    accept(straight, spans, now=now)
    random.Random(3).shuffle(spans)
    for n in range(0, len(spans), 5):
        accept(split, spans[n : n + 5], now=now)
    assert_books_balance(split)
    assert books_of(split) == books_of(straight)


def test_spans_out_of_reach_are_refused_by_name_and_the_others_kept(db: None) -> None:
    project = a_project()
    done = accept(
        project,
        [
            a_span(1, 1, started_at=NOW - timedelta(days=200)),
            a_span(1, 2),
            a_span(1, 3, started_at=NOW + timedelta(hours=1)),
        ],
    )
    assert done.accepted == 1
    assert [(one.index, one.reason.split()[1]) for one in done.rejected] == [(0, "started"), (2, "lies")]
    assert_books_balance(project)


def test_days_without_a_partition_are_made_on_demand(db: None) -> None:
    project = a_project()
    assert accept(project, [a_span(1, n, started_at=NOW - timedelta(days=30 + n)) for n in range(1, 4)]).accepted == 3
    assert_books_balance(project)


def test_hostile_values_are_fitted_and_never_an_error(db: None) -> None:
    project = a_project()
    long = "\U0001f600" * 5000 + "\x00"
    odd = '"quoted", {brace} \\ NULL\n\t\x00'
    spans = [
        a_span(
            1,
            -(2**63),
            run_id=text,
            agent=text,
            department=text,
            conversation_id=text,
            provider=text,
            model=text,
            request_model=text,
            response_id=text,
            error=text,
            name=text,
            input=text,
            output=text,
            tokens=Tokens(input=2_000_000_000, cache_read=2_000_000_000, output=2_000_000_000, has_usage=True),
            reported_usd=Decimal(1_000_000),
            attributes={text: [text, {text: text}]},
            started_at=NOW - timedelta(days=80),
            ended_at=NOW,
        )
        if n
        else a_span(2, 2**63 - 1, kind="tool", tool=text, tool_call_id=text, arguments=text, result=text)
        for text in (long, odd, "NULL", "{}", "")
        for n in (0, 1)
    ]
    for trace, span in enumerate(spans, start=1):
        assert accept(project, [replace(span, trace_id=trace.to_bytes(16, "big"))]).accepted == 1
    assert_books_balance(project)


def test_dear_calls_never_overflow_the_sums(db: None) -> None:
    project = a_project()
    spans = [a_span(n, n, run_id="dear", reported_usd=Decimal(1_000_000)) for n in range(1, 301)]
    assert accept(project, spans).verdict.current_cost["month"] == Decimal(300_000_000)
    assert_books_balance(project)


def test_an_unknown_model_is_counted_and_told_once_a_day(db: None) -> None:
    project = a_project()
    for n in range(1, 4):
        accept(project, [a_span(n, n, model="nobody-knows-me")])
    accept(project, [a_span(9, 9, model="nobody-knows-me")], now=NOW + timedelta(days=1))
    with tenant(project.pk):
        assert [change.subject_id for change in StateChange.objects.filter(subject="model")] == ["nobody-knows-me"] * 2
        assert sum(Run.objects.values_list("unpriced_calls", flat=True)) == 4
        assert set(Span.objects.values_list("pricing", "cost_usd")) == {("unpriced", 0)}
    assert_books_balance(project)


def test_a_project_that_has_a_price_of_its_own_pays_that(db: None) -> None:
    project = a_project()
    with crossing():
        rates = {"input": "2000", "output": "10000"}
        Price.objects.create(project=project, model="nobody-*", starts_at=NOW - timedelta(days=1), rates=rates)
    accept(project, [a_span(1, 1, model="nobody-knows-me")])
    with tenant(project.pk):
        assert [(one.pricing, one.cost_usd) for one in Span.objects.all()] == [("priced", 3)]
        assert not StateChange.objects.filter(subject="model").exists()


def test_a_reported_cost_is_kept_beside_the_computed_and_the_larger_is_booked(db: None) -> None:
    project = a_project()
    accept(project, [a_span(1, 1, reported_usd=Decimal("0.001")), a_span(2, 2, reported_usd=Decimal("0.5"))])
    with tenant(project.pk):
        found = Span.objects.order_by("span_id").values_list("reported_usd", "computed_usd", "cost_usd")
        assert list(found) == [
            (Decimal("0.001"), CALL_USD, CALL_USD),
            (Decimal("0.5"), CALL_USD, Decimal("0.5")),
        ]


def test_spans_add_to_the_execution_that_they_name_or_share_a_trace_with(db: None) -> None:
    project = a_project()
    named, traced = UUID(int=5), UUID(int=6)
    with tenant(project.pk):
        for identity, trace in ((named, None), (traced, UUID(int=2))):
            Execution.objects.create(
                project=project,
                id=identity,
                agent="owner",
                run_id="night",
                department="Support",
                digest=b"",
                trace_id=trace,
            )
    accept(
        project,
        [
            a_span(1, 1, execution_id=named, run_id="", agent="", agent_stated=False),
            a_span(2, 2, run_id=UUID(int=2).hex),
            a_span(3, 3),
        ],
    )
    with tenant(project.pk):
        assert set(
            Execution.objects.values_list("cost_usd", "input_tokens", "output_tokens", "api_calls", "model")
        ) == {(CALL_USD, 1000, 100, 1, "gpt-4o")}
        assert Execution.objects.count() == 2
        assert Run.objects.get(run_id="night").cost_usd == 2 * CALL_USD
        spans = {span.span_id: span for span in Span.objects.all()}
        assert (spans[1].agent, spans[1].department) == ("owner", "Support")
        assert (spans[2].agent, spans[2].execution_id) == ("planner", traced)
    assert_books_balance(project)


def test_projects_never_share_a_trace(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    accept(north, [a_span(1, 1)])
    assert accept(south, [a_span(1, 1)]).accepted == 1
    with tenant(south.pk):
        assert Span.objects.count() == LedgerEntry.objects.count() == Run.objects.count() == 1
    assert_books_balance(north)
    assert_books_balance(south)


def test_what_was_accepted_outlives_its_connection(committed_db: None, owner_dsn: str) -> None:
    project = a_project()
    accept(project, a_trace(1, random.Random(1)))
    close_connection()
    with psycopg.connect(owner_dsn) as other:
        assert other.execute("SELECT count(*) > 10 FROM monitor_span").fetchone() == (True,)
    assert_books_balance(project)


def test_a_span_that_was_booked_too_often_stays_as_it_is_and_says_so(db: None) -> None:
    project = a_project()
    above = a_bare_span(1, 1, kind="agent", agent="boss", agent_stated=True)
    call = a_bare_span(1, 2, 1)
    accept(project, [above, call])
    with tenant(project.pk):
        Span.objects.filter(span_id=2).update(bookings=MOST_BOOKINGS - 1)
    again = sealed(replace(call, ended_at=call.ended_at + timedelta(seconds=1)))
    assert accept(project, [again]).accepted == 1
    assert_books_balance(project)
    held = books_of(project)
    later = sealed(replace(call, ended_at=call.ended_at + timedelta(seconds=2), tokens=usage(9, 9)))
    answer = accept(project, [above, later])
    assert (answer.accepted, answer.duplicates) == (0, 1)
    assert answer.rejected == [Refused(1, "it was booked 32,000 times already")]
    assert books_of(project) == held
    # Nor does it move with what stands above it: at most it would have been booked as often as its column can count.
    with tenant(project.pk):
        Span.objects.filter(span_id=2).update(bookings=2**15 - 1)
    assert accept(project, [sealed(replace(above, agent="chef", ended_at=NOW))]).accepted == 1
    with tenant(project.pk):
        assert dict(Span.objects.values_list("span_id", "agent")) == {1: "chef", 2: "boss"}
        assert Run.objects.get().cost_usd == LedgerEntry.objects.aggregate(Sum("cost_usd"))["cost_usd__sum"] == CALL_USD
