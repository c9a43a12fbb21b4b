"""Histograms of durations in buckets 4 % wide, so that a percentile is off by less than 2 %.

A histogram is a list of numbers, each of which holds a bucket and how often it was counted. Two are joined by putting
one behind the other, and a count is taken back by its negative; what stands twice is added up when it is read. The
buckets grow by a constant factor, as in DDSketch (Masson, Rim and Lee, 2019).
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

GROWTH = 1.04
LONGEST_MS = 2**31 - 1
# Upper bounds in ms. What takes longer than the longest is counted with it.
BOUNDS_MS: tuple[float, ...] = tuple(GROWTH**n for n in range(549))
# The bucket stands in the lower ten bits of a number, how often it was counted above them.
SHIFT, MASK = 10, 1023
# Joined lists longer than this are added up again; typical work fills some sixty buckets.
LONGEST_LIST = 192

Histogram = Sequence[int]

NOTHING: Histogram = ()


def packed(counts: Mapping[int, int]) -> list[int]:
    """The histogram of counts by bucket."""
    return [(count << SHIFT) + bucket for bucket, count in counts.items() if count]


def bucket(duration_ms: int) -> int:
    """The number of the bucket that counts this duration."""
    return min(bisect_left(BOUNDS_MS, duration_ms), len(BOUNDS_MS) - 1)


def joined(histograms: Iterable[Histogram]) -> Histogram:
    """Several histograms as one, added up."""
    return sorted(packed(_counts(number for one in histograms for number in one)), key=lambda number: number & MASK)


def percentile(histogram: Histogram, q: float) -> float | None:
    """The duration in ms that a share `q` (0 to 1) does not exceed, within 2 %; None when nothing was counted.

    It is the smallest counted duration with that property (nearest rank), not one between two.
    """
    counts = _counts(histogram)
    missing = q * sum(counts.values())
    for place, count in sorted(counts.items()):
        missing -= count
        if count and missing <= 0:
            return _middle(place)
    return None


def at_most(histogram: Histogram, bound_ms: float) -> float:
    """About how many took at most `bound_ms`: those of the bucket that it divides as if evenly spread."""
    counted = 0.0
    for place, count in _counts(histogram).items():
        lower, upper = BOUNDS_MS[place - 1] if place else 0.0, BOUNDS_MS[place]
        counted += count * min(max((bound_ms - lower) / (upper - lower), 0.0), 1.0)
    return counted


def added_up(numbers: str) -> str:
    """SQL that adds up the histogram that the expression `numbers` (a bigint[]) gives."""
    return f"""(SELECT coalesce(array_agg((n << {SHIFT}) + bucket ORDER BY bucket), '{{}}')
        FROM (SELECT number & {MASK} AS bucket, sum(number >> {SHIFT})::bigint AS n
                FROM unnest({numbers}) AS number GROUP BY 1 HAVING sum(number >> {SHIFT}) <> 0) AS counted)"""  # noqa: S608


def taken_back(numbers: str) -> str:
    """SQL that takes back the histogram that the expression `numbers` (a bigint[]) gives."""
    return f"ARRAY(SELECT number - ((number >> {SHIFT}) << {SHIFT + 1}) FROM unnest({numbers}) AS number)"  # noqa: S608


def _counts(numbers: Iterable[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for number in numbers:
        place = number & MASK
        counts[place] = counts.get(place, 0) + (number >> SHIFT)
    return counts


def _middle(place: int) -> float:
    """What stands for the bucket's durations: the one whole number in it, or its geometric middle."""
    upper = BOUNDS_MS[place]
    lower = upper / GROWTH if place else 0.0
    if int(upper) - int(lower) == 1:
        return float(int(upper))
    return sqrt(lower * upper)
