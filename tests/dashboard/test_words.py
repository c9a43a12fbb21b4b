"""The wording rules of pages, with exact endings."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from dashboard import words
from dashboard.amounts import usd_of

NOW = datetime(2026, 11, 20, 14, 5, 38, tzinfo=UTC)


def plain(text: str) -> str:
    """With ordinary spaces, to be read."""
    return text.replace(words.GAP, " ")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.44, "0.4 s"),
        (48, "48 s"),
        (191, "3 min 11 s"),
        (600, "10 min 00 s"),
        (3600, "1 h"),
        (6000, "1 h 40 min"),
        (18000, "5 h"),
        (187200, "2 d 4 h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, said: str) -> None:
    assert plain(words.took(seconds)) == said
    assert plain(words.took(timedelta(seconds=seconds))) == said


@pytest.mark.parametrize(("seconds", "said"), [(30, "30 s"), (90, "1 min 30 s"), (900, "15 min"), (3600, "1 h")])
def test_a_set_length_leaves_out_what_is_nothing(seconds: float, said: str) -> None:
    assert plain(words.period(seconds)) == said


@pytest.mark.parametrize(("value_s", "said"), [(2.94, "2.9 s"), (119.9, "119.9 s"), (294, "4.9 min"), (9000, "2.5 h")])
def test_a_figure_has_one_unit(value_s: float, said: str) -> None:
    assert plain(words.lasted(value_s)) == said


def test_an_absent_duration_is_a_dash() -> None:
    assert words.lasted(None) == "–"
    assert words.took(None) == "–"
    assert words.seconds(None) == "–"


@pytest.mark.parametrize(
    ("back", "said"),
    [
        (timedelta(0), "now"),
        (timedelta(seconds=27), "27 s ago"),
        (timedelta(seconds=70), "1 min 10 s ago"),
        (timedelta(minutes=7, seconds=40), "7 min ago"),
        (timedelta(minutes=59, seconds=59), "59 min ago"),
        (timedelta(hours=1), "13:05"),
        (timedelta(days=2), "18 Nov"),
        (timedelta(days=400), "16 Oct 2025"),
        (-timedelta(seconds=26), "in 26 s"),
        (-timedelta(hours=2), "16:05"),
    ],
)
def test_a_moment_is_relative_under_an_hour_then_the_clock_then_the_date(back: timedelta, said: str) -> None:
    assert plain(words.ago(NOW - back, now=NOW)) == said


def test_the_clock_names_the_day_when_it_is_another() -> None:
    assert words.clock(NOW - timedelta(minutes=9), now=NOW) == "13:56:38"
    assert plain(words.clock(NOW - timedelta(days=2), now=NOW)) == "18 Nov 14:05"
    assert words.exact(NOW) == "20 Nov 2026 14:05:38.000 UTC"


def test_money_is_exact_and_the_unknown_is_never_nothing() -> None:
    assert words.usd(Decimal("148.2")) == "$148.20"
    assert words.usd(Decimal("3962")) == "$3,962.00"
    assert words.usd_one(Decimal("0.38123")) == "$0.3812"
    assert words.usd_limit(Decimal("260.00")) == "$260"
    assert words.usd_limit(Decimal("7.50")) == "$7.50"
    assert words.usd(Decimal("-2.5")) == "−$2.50"
    assert words.usd(Decimal(0)) == "$0.00"
    assert plain(words.usd(Decimal("0.0021"))) == "< $0.01"
    assert words.usd(None) == words.usd_one(None) == words.usd_limit(None) == "unknown"


def test_large_counts_are_shortened_and_never_say_1000_k() -> None:
    said = [plain(words.amount(n)) for n in (0, 812, 999, 1000, 118_200, 999_949, 999_960, 1_900_000, 3_400_000_000)]
    assert said == ["0", "812", "999", "1.0 k", "118.2 k", "999.9 k", "1.0 M", "1.9 M", "3.4 G"]
    assert words.amount(None) == "unknown"


def test_shares_countdowns_ids_and_initials() -> None:
    assert plain(words.percent(0.31)) == "31 %"
    assert plain(words.percent(Decimal("0.042"), 1)) == "4.2 %"
    assert words.percent(None) == "unknown"
    assert [words.remaining(s) for s in (26, 2472, 3900, -42)] == ["0:26", "41:12", "1:05:00", "0:42"]
    assert words.short_id("01939A3C-0000-7000-8000-0000DEADB41F") == "b41f"
    assert [words.initials(name) for name in ("Mara Lind", "mara", "jonas.weber@example.com", "")] == [
        "ML",
        "MA",
        "JC",
        "?",
    ]


@pytest.mark.parametrize(
    ("text", "usd"),
    [
        ("$1,250.50", "1250.5"),
        (" 1250.5 ", "1250.5"),
        (".5", "0.5"),
        ("0", "0"),
        ("1,000,000", "1000000"),
        ("12,50", None),
        ("1,000,000.01", None),
        ("-1", None),
        ("nan", None),
        ("1e5", None),
        ("", None),
        ("9" * 40, None),
    ],
)
def test_an_amount_is_read_as_people_write_it(text: str, usd: str | None) -> None:
    assert usd_of(text) == (None if usd is None else Decimal(usd))
