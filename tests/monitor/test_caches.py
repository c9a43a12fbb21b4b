"""What is kept from one request to the next: nothing long, however long the names are that senders write."""

import gc
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest

from config.waits import waits
from dashboard import markdown
from monitor import fields, prices, spanrows
from monitor.prices import PriceOverride, Rates
from monitor.records import disjoint
from tests.monitor.spending import NOW, a_span

LONG = 100_000
OWN = PriceOverride(model="*x", rates=Rates(input=Decimal(1)), starts_at=NOW - timedelta(days=9))


def left_by(work: Callable[[str], object], *, times: int, length: int) -> int:
    """Bytes still held after work on so many different texts of a length."""
    work("x")
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for n in range(times):
            work(f"{n}{'x' * length}")
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def spread(text: str) -> None:
    fields.fields([(f"gen_ai.prompt.0.{text}", 1), (f"{text}.gen_ai.prompt.0", 1)])


def priced(text: str) -> None:
    for names in ({"model": text}, {"provider": text}, {"model": text, "provider": text}):
        row = spanrows.row(1, a_span(1, 1, **names), now=NOW)
        assert len(row.model) <= spanrows.LONGEST_NAME
        spanrows.row(1, a_span(1, 1, **names), now=NOW, overrides=[OWN])


def asked(text: str) -> None:
    scope = {"method": "GET", "path": f"/api/v1/{text}", "query_string": b"wait=1", "headers": []}
    assert not waits(scope)


@pytest.mark.parametrize("work", [spread, priced, asked, markdown.render])
def test_nothing_long_is_kept(work: Callable[[str], object]) -> None:
    assert left_by(work, times=20, length=LONG) < LONG


def test_a_name_of_any_model_is_kept_in_one_place_that_has_an_end() -> None:
    def ask(text: str) -> None:
        prices.shipped_model("openai", f"{text}/{text}")
        prices.shipped_model.cache_clear()

    assert left_by(ask, times=300, length=80) < 20_000


def test_a_key_too_long_for_a_list_is_an_attribute_like_others() -> None:
    short, long = (f"gen_ai.prompt.0.{'x' * (length - 16)}" for length in (fields.LONGEST_KEY, fields.LONGEST_KEY + 1))
    known, rest = fields.fields([(short, "a"), (long, "b")])
    assert known == {"input": [{short[16:]: "a"}]}
    assert rest == {long: "b"}


def test_a_long_name_is_priced_as_it_is_stored() -> None:
    tokens = disjoint(1_000_000, 0)
    own = PriceOverride(model="gpt-x*", rates=Rates(input=Decimal(3), output=Decimal(3)), starts_at=OWN.starts_at)
    row = spanrows.row(1, a_span(1, 1, model="gpt-x" + "y" * LONG, tokens=tokens), now=NOW, overrides=[own])
    assert (row.computed_usd, len(row.model)) == (3, spanrows.LONGEST_NAME)
