"""What is a loop among calls, found by the definition itself."""

import json
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor import loops
from monitor.loops import Stretch


def found(text: str) -> list[Stretch]:
    """The stretches of a text whose letters are calls; a dot is a call whose arguments were not sent."""
    return loops.find([None if letter == "." else letter for letter in text])


@pytest.mark.parametrize(
    ("calls", "stretches"),
    [
        ("", []),
        ("aa", []),
        ("aaa", [Stretch(0, 2, 1)]),
        ("xaaaay", [Stretch(1, 4, 1)]),
        ("ababa", []),
        ("ababab", [Stretch(0, 5, 2)]),
        ("xabababa", [Stretch(1, 7, 2)]),
        ("abcabcabc", [Stretch(0, 8, 3)]),
        ("abcdefabcdefabcdef", [Stretch(0, 17, 6)]),
        ("abcdefgabcdefgabcdefg", []),
        ("aaaabbb", [Stretch(0, 3, 1), Stretch(4, 6, 1)]),
        ("aabaabaab", [Stretch(0, 8, 3)]),
        ("aa.a", []),
        ("...", []),
    ],
)
def test_a_loop_is_three_rounds_in_a_row(calls: str, stretches: list[Stretch]) -> None:
    assert found(calls) == stretches


def by_definition(calls: list[str | None]) -> set[tuple[int, int, int]]:
    """Every longest stretch, tried one by one."""
    stretches = set()
    for length in range(1, loops.LONGEST_CYCLE + 1):
        for first in range(len(calls) - length + 1):
            last = first + length - 1
            while last + 1 < len(calls) and calls[last + 1] is not None and calls[last + 1] == calls[last + 1 - length]:
                last += 1
            part = calls[first : last + 1]
            shorter = any(
                length % n == 0 and all(part[at] == part[at - n] for at in range(n, length)) for n in range(1, length)
            )
            goes_back = first > 0 and calls[first - 1] is not None and calls[first - 1] == calls[first - 1 + length]
            if None not in part and len(part) >= 3 * length and not shorter and not goes_back:
                stretches.add((first, last, length))
    return stretches


LETTERS = st.one_of(
    st.lists(st.sampled_from(["a", "b", None]), max_size=40),
    st.lists(st.sampled_from(["a", "b", "c", "ab", "abcabcabc", "aabaab"]), max_size=12).map(
        lambda x: list("".join(x))
    ),
)


@given(LETTERS)
def test_what_is_found_is_what_the_definition_says(calls: list[str | None]) -> None:
    stretches = loops.find(calls)
    assert {tuple(one) for one in stretches} == by_definition(calls)
    assert all(one.rounds >= 3 and one.calls == one.last - one.first + 1 for one in stretches)
    assert all(before.first <= after.first for before, after in pairwise(stretches))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5), st.randoms())
def test_neither_the_order_of_keys_nor_spaces_make_other_arguments(arguments: dict, rng: Random) -> None:
    keys = list(arguments)
    rng.shuffle(keys)
    turned = {name: arguments[name] for name in keys}
    assert loops.key("t", json.dumps(arguments)) == loops.key("t", "  " + json.dumps(turned, indent=3) + "\n")
    assert loops.key("t", json.dumps(arguments)) == loops.key("t", json.dumps(json.dumps(turned)))


def test_other_tools_and_other_arguments_are_other_calls_and_unsent_ones_are_equal_to_nothing() -> None:
    assert loops.key("t", '{"a": 1}') != loops.key("t", '{"a": 2}')
    assert loops.key("t", '{"a": 1}') != loops.key("u", '{"a": 1}')
    assert loops.key("t", None) is None
    assert loops.key("t", "ls -l") == loops.key("t", " ls -l\n")
    assert loops.key("t", "[" * 100_000) is not None


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), st.integers(0, 5))
def test_a_cycle_has_one_name_wherever_it_is_entered(cycle: list[str], turn: int) -> None:
    turn %= len(cycle)
    assert loops.fingerprint(cycle) == loops.fingerprint(cycle[turn:] + cycle[:turn])
