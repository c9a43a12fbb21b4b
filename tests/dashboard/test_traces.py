"""The waterfall's figure, and the words of its rows."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from dashboard.journal import Try
from dashboard.traces import Drawn, read_key, span_key, waterfall

NOW = datetime(2026, 11, 20, 14, 0, tzinfo=UTC)
TRACE = UUID(int=7)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def a_span(number: int, start_s: float, took_s: float | None, *, parent: int | None = None, **fields: Any) -> Drawn:
    usual: dict[str, Any] = {
        "trace_id": TRACE,
        "span_id": number,
        "parent_span_id": parent,
        "started_at": at(start_s),
        "ended_at": None if took_s is None else at(start_s + took_s),
        "kind": "llm",
        "name": "chat",
        "tool": "",
        "failed": False,
        "error": "",
        "cost_usd": Decimal("0.01"),
        "pricing": "priced",
        "tokens": 5,
    }
    return Drawn(**(usual | fields))


ONE_TRY = [Try(1, at(0), at(10), "ok", "completed", "")]


def test_spans_nest_and_say_cost_failure_and_what_is_unknown() -> None:
    spans = [
        a_span(1, 0, 10, kind="agent", cost_usd=Decimal(0), pricing="none", tokens=0, name="invoke_agent"),
        a_span(2, 1, 2, parent=1),
        a_span(3, 4, 0.5, parent=1, kind="tool", tool="book", failed=True, error="no seats\nat all", tokens=0),
        a_span(4, 5, 1, parent=1, pricing="unpriced", cost_usd=Decimal(0)),
    ]
    figure = waterfall(spans, ONE_TRY, [], now=at(60), is_open=False)
    keys = [span_key(TRACE, number) for number in (1, 2, 3, 4)]
    assert figure == {
        "spans": [
            [keys[0], -1, "agent", "invoke_agent", 0, 10_000, None, None, "ok", None],
            [keys[1], 0, "model", "chat", 1000, 2000, "0.0100", 5, "ok", None],
            [keys[2], 0, "tool", "book", 4000, 500, "0.0100", None, "error", "no seats"],
            [keys[3], 0, "model", "chat", 5000, 1000, "unknown", 5, "ok", None],
        ],
        "gaps": [],
        "ends_ms": 10_000,
    }


def test_tries_hold_the_spans_that_began_in_them() -> None:
    tries = [Try(1, at(0), at(40), "error", "failed", "no seats"), Try(2, at(42), None, "running", "running", "")]
    spans = [a_span(1, -1, 5), a_span(2, 43, None, cost_usd=Decimal("0.2"), tokens=70)]
    figure = waterfall(spans, tries, [(at(10), at(20))], now=at(60), is_open=True)
    assert figure["spans"] == [
        ["try-1", -1, "agent", "Try 1, failed", 1000, 40_000, "0.0100", 5, "error", "no seats"],
        ["try-2", -1, "agent", "Try 2, running", 43_000, None, "0.2000", 70, "running", None],
        [span_key(TRACE, 1), 0, "model", "chat", 0, 5000, "0.0100", 5, "ok", None],
        [span_key(TRACE, 2), 1, "model", "chat", 44_000, None, "0.2000", 70, "running", None],
    ]
    assert (figure["gaps"], figure["ends_ms"], figure["axis_from_ms"]) == (
        [[11_000, 21_000, "for a person"]],
        61_000,
        43_000,
    )


def test_a_span_without_an_end_in_an_ended_execution_says_so() -> None:
    figure = waterfall([a_span(1, 2, None)], ONE_TRY, [], now=at(900), is_open=False)
    assert figure["spans"][0][4:] == [2000, 8000, "0.0100", 5, "ok", "its end was never sent"]


def test_an_execution_without_spans_shows_its_tries() -> None:
    paused = [Try(1, at(0), None, "paused", "paused", "")]
    figure = waterfall([], paused, [], now=at(30), is_open=True)
    assert figure["spans"] == [["try-1", -1, "agent", "Try 1, paused", 0, 30_000, None, None, "ok", None]]


def test_a_circle_of_parents_still_hangs_from_a_root() -> None:
    spans = [a_span(1, 0, 1, parent=2), a_span(2, 1, 1, parent=1), a_span(3, 2, 1, parent=3), a_span(4, 3, 1, parent=2)]
    parents = [row[1] for row in waterfall(spans, ONE_TRY, [], now=at(9), is_open=False)["spans"]]
    roots = [place for place, parent in enumerate(parents) if parent == -1]
    assert len(roots) == 2
    for place in range(4):
        steps = 0
        while parents[place] != -1:
            place, steps = parents[place], steps + 1
            assert steps < 5


def test_a_span_is_named_by_its_two_ids_in_hex() -> None:
    for number in (0, 1, -1, 2**63 - 1, -(2**63)):
        assert read_key(span_key(TRACE, number)) == (TRACE, number)
    assert span_key(TRACE, -2) == "00000000000000000000000000000007-fffffffffffffffe"
    for wrong in ("", "x", "7-1", f"{TRACE.hex}-", f"{TRACE.hex}-zz", f"{TRACE.hex}-ffffffffffffffff1"):
        assert read_key(wrong) is None
