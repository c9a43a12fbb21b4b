"""Which spans carry money, in whatever order and requests they come."""

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.metering import Meter, billed, unmetered
from tests.contract.recordings import clients, counted, mapped


def row(span_id: int, parent: int | None = None, tokens: int = 0, **given) -> Meter:
    return Meter(span_id=span_id, parent_span_id=parent, bears=tokens > 0, tokens=tokens, **given)


def test_a_parent_that_repeats_its_children_is_not_billed():
    assert billed([row(1, tokens=30), row(2, 1, tokens=10), row(3, 1, tokens=20)]) == {2, 3}


def test_usage_counts_through_spans_that_bear_none():
    assert billed([row(1, tokens=30), row(2, 1), row(3, 2), row(4, 3, tokens=30)]) == {4}


def test_a_late_child_takes_the_money_from_its_parent():
    parent, child = row(1, tokens=30), row(2, 1, tokens=30)

    assert billed([parent]) == {1}
    assert billed([parent, child]) == {2}


def test_two_spans_of_one_response_are_billed_once_and_the_fullest_wins():
    twins = [row(5, tokens=20, response_id="r"), row(4, tokens=30, response_id="r"), row(3, tokens=1)]

    assert billed(twins) == {4, 3}


def test_equal_twins_are_settled_by_their_id():
    assert billed([row(5, tokens=20, response_id="r"), row(4, tokens=20, response_id="r")]) == {4}


def test_a_cost_without_tokens_is_billed():
    assert billed([Meter(span_id=1, bears=True)]) == {1}


def test_a_ring_of_parents_ends_and_is_billed():
    ring = [row(1, 3, tokens=5), row(2, 1, tokens=5), row(3, 2, tokens=5)]

    assert billed(ring) == {1, 2, 3}
    assert billed([*ring, row(4, 3, tokens=5)]) == {1, 2, 4}
    assert billed([row(7, 7, tokens=5)]) == {7}


def test_of_a_chain_of_many_spans_the_deepest_is_billed():
    chain = [row(number, number - 1 or None, tokens=1) for number in range(1, 50_001)]

    assert billed(chain) == {50_000}
    assert billed(reversed(chain)) == {50_000}


def test_a_call_that_nobody_counted_is_seen():
    lone = row(1, is_call=True)

    assert unmetered([lone]) == {1}
    assert unmetered([lone, row(2, 1, tokens=3)]) == set()
    assert unmetered([row(1, response_id="r", is_call=True), row(2, tokens=3, response_id="r")]) == set()
    assert unmetered([row(1, is_call=True), row(2, 1, is_call=True)]) == {2}


@st.composite
def traces(draw):
    count = draw(st.integers(1, 14))
    return [
        row(
            number,
            draw(st.none() | st.integers(0, count + 1)),
            draw(st.integers(0, 3)),
            response_id=draw(st.none() | st.sampled_from("ab")),
            is_call=draw(st.booleans()),
        )
        for number in range(count)
    ]


@settings(max_examples=300, deadline=None)
@given(traces(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(trace, random):
    shuffled = trace[:]
    random.shuffle(shuffled)

    assert billed(shuffled) == billed(trace)
    assert unmetered(shuffled) == unmetered(trace)


@settings(max_examples=300, deadline=None)
@given(traces(), st.data())
def test_booking_after_minus_before_ends_the_same_however_the_trace_was_split(trace, data):
    """Each request books the change of the billed set; the sum must be the set of the whole trace."""
    order = data.draw(st.permutations(trace))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(order)), max_size=4)) | {0, len(order)})
    booked: dict[int, int] = defaultdict(int)
    stored: list[Meter] = []
    for begin, end in pairwise(cuts):
        before = billed(stored)
        stored += order[begin:end]
        after = billed(stored)
        for span_id in after - before:
            booked[span_id] += 1
        for span_id in before - after:
            booked[span_id] -= 1

    assert {span_id for span_id, count in booked.items() if count} == billed(trace)
    assert set(booked.values()) <= {0, 1}


@settings(max_examples=300, deadline=None)
@given(traces())
def test_nobody_is_billed_above_another_and_no_response_twice(trace):
    rows = {one.span_id: one for one in trace}
    paid = billed(trace)
    responses = [rows[span_id].response_id for span_id in paid if rows[span_id].response_id]

    assert len(responses) == len(set(responses))
    assert all(rows[span_id].bears for span_id in paid)
    assert bool(paid) == any(one.bears for one in trace)


@pytest.mark.parametrize("client", clients())
@settings(max_examples=15, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_recorded_traces_bill_the_same_in_any_order(client, random):
    spans = list(mapped(client)[0])
    expected = roles_of(spans)
    random.shuffle(spans)

    assert roles_of(spans) == expected


def roles_of(spans):
    return {(row.trace_id, row.span_id): role for row, role in counted(spans)}
