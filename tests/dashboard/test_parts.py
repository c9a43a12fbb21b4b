"""Tags, drawings and the frame's range, without a database."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.template import Context, Template

from dashboard import drawings, states
from dashboard.frame import PLACES, range_of

NOW = datetime(2026, 11, 20, 14, 5, 38, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]


def render(source: str, **context: object) -> str:
    return Template("{% load handrail %}" + source).render(Context({"now": NOW, **context}))


def test_only_red_and_amber_colour_their_word() -> None:
    assert 'class="state is-amber speaks"' in render('{% state "retrying" %}')
    assert 'class="state is-blue"' in render('{% state "running" %}')
    assert "Retrying, try 2 of 3</span>" in render('{% state "retrying" "Retrying, try 2 of 3" %}')


def test_a_state_that_the_table_does_not_know_is_shown_by_its_name() -> None:
    assert "Half open</span>" in render('{% state "half_open" %}')


def test_a_countdown_turns_amber_in_its_last_fifth_and_counts_up_when_late() -> None:
    def said(left_s: int) -> str:
        due = NOW + timedelta(seconds=left_s)
        return render('{% countdown due start "denies in" %}', due=due, start=due - timedelta(seconds=100))

    assert "count is-grey" in said(21)
    assert "count is-amber" in said(20)
    assert "denies in 0:20<" in said(20)
    assert "count is-red" in said(-42)
    assert "0:42 late<" in said(-42)


def test_a_time_carries_its_exact_moment() -> None:
    told = render("{% ago at %}", at=NOW - timedelta(seconds=27))
    assert 'datetime="2026-11-20T14:05:11+00:00"' in told
    assert 'title="20 Nov 2026 14:05:11.000 UTC"' in told


def test_a_spark_breaks_at_gaps_and_ends_with_a_dot() -> None:
    drawn = drawings.spark([1, 2, None, 3, 2], "amber")
    assert drawn.count("M") == 2
    assert 'class="spark is-amber"' in drawn
    assert 'cx="100.0%"' in drawn
    assert "<path" not in drawings.spark([None, None])


def test_a_bar_never_leaves_its_track() -> None:
    assert 'width="100.00%"' in drawings.bar(1.7, reserved=0.2)
    assert "bar-held" not in drawings.bar(1.7, reserved=0.2)
    assert 'x="90.00%" width="10.00%"' in drawings.bar(0.9, reserved=0.3)


@pytest.mark.parametrize(
    ("query", "key", "hours"),
    [
        ({}, "24h", 24),
        ({"range": "7d"}, "7d", 168),
        ({"range": "nonsense"}, "24h", 24),
        ({"range": "custom", "from": "2026-11-18T00:00", "to": "2026-11-19T12:00"}, "custom", 36),
        ({"range": "custom", "from": "2026-11-19", "to": "2026-11-18"}, "24h", 24),
        ({"range": "custom", "from": "yesterday"}, "24h", 24),
        ({"range": "custom", "from": "2020-01-01", "to": "2026-01-01"}, "24h", 24),
    ],
)
def test_the_range_is_what_the_address_says_or_a_day(query: dict[str, str], key: str, hours: int) -> None:
    span = range_of(query, now=NOW)
    assert (span.key, span.until - span.since) == (key, timedelta(hours=hours))


def test_every_icon_in_use_is_in_the_sprite() -> None:
    listed = set((ROOT / "frontend" / "icons.mjs").read_text().split("`")[1].split())
    used = {look.glyph for look in states.LOOKS.values()} | {place.icon for place in PLACES}
    for path in (ROOT / "templates").rglob("*.html"):
        used |= set(re.findall(r'{% icon "([a-z0-9-]+)"', path.read_text()))
    for path in (ROOT / "static" / "js").glob("*.js"):
        used |= set(re.findall(r'(?:icon\(|glyph: )"([a-z0-9-]+)"', path.read_text()))
    assert used - listed == set()


def test_nothing_asks_for_what_the_content_policy_refuses() -> None:
    refused = re.compile(r'\sstyle="|\son[a-z]+="|<script(?![^>]*(?:src=|application/json))|<style')
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in (ROOT / "templates").rglob("*.html")
        if "api" not in path.parts
        for match in refused.finditer(path.read_text())
    ]
    assert found == []
