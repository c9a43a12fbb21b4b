"""Latency histograms: near the truth whatever the durations are, however they are joined and taken back."""

from math import ceil

from hypothesis import example, given
from hypothesis import strategies as st

from monitor import latency

DURATIONS = st.lists(
    st.one_of(st.integers(1, 200), st.integers(1, latency.LONGEST_MS), st.integers(900, 1100)), min_size=1, max_size=200
)


def of(durations_ms: list[int], sign: int = 1) -> latency.Histogram:
    return [bucket + (sign << latency.SHIFT) for bucket in map(latency.bucket, durations_ms)]


@given(durations_ms=DURATIONS, q=st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
@example(durations_ms=[1], q=0.95)
@example(durations_ms=[latency.LONGEST_MS], q=0.95)
@example(durations_ms=[10**6] * 19 + [3 * 10**6], q=0.95)
def test_percentiles_are_within_two_percent_of_the_truth(durations_ms: list[int], q: float) -> None:
    truth = sorted(durations_ms)[max(ceil(q * len(durations_ms)), 1) - 1]
    told = latency.percentile(of(durations_ms), q)
    assert told is not None
    assert abs(told - truth) <= 0.02 * truth


@given(mine=DURATIONS, theirs=DURATIONS)
def test_joined_and_taken_back_is_as_if_it_had_never_been(mine: list[int], theirs: list[int]) -> None:
    both = latency.joined([of(mine), of(theirs)])
    assert latency.joined([both, of(theirs, -1)]) == latency.joined([of(mine)])
    assert latency.joined([both, of(theirs, -1), of(mine, -1)]) == []


def test_nothing_has_no_percentile() -> None:
    assert latency.percentile(latency.NOTHING, 0.95) is None
    assert latency.percentile([*of([7]), *of([7], -1)], 0.95) is None


def test_what_took_longer_than_any_bound_is_counted_with_the_longest() -> None:
    assert latency.bucket(latency.LONGEST_MS * 10) == len(latency.BOUNDS_MS) - 1
    assert latency.BOUNDS_MS[-1] >= latency.LONGEST_MS


def test_counts_up_to_a_bound_share_the_bucket_that_it_divides() -> None:
    histogram = of([100, 200, 200, 4_000])
    assert latency.at_most(histogram, 50) == 0
    assert latency.at_most(histogram, 1_000) == 3
    assert 1 <= latency.at_most(histogram, 200) <= 3
    assert latency.at_most(histogram, 10_000) == 4
