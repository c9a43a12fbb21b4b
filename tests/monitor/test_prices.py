"""Prices: the project's own first, exact decimals, and unknown is never zero."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from monitor.price_import import BadPriceList, read_price_list
from monitor.prices import (
    SHIPPED_VERSION,
    UNPRICED,
    PriceBook,
    PriceOverride,
    Rates,
    Tier,
    booked_usd,
    price,
)
from monitor.records import NO_TOKENS, Tokens, disjoint

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
THEN = datetime(2026, 1, 1, tzinfo=UTC)
MILLION = disjoint(1_000_000, 1_000_000)


def own(model: str, usd: str, **given) -> PriceOverride:
    rates = given.pop("rates", Rates(input=Decimal(usd), output=Decimal(usd)))
    return PriceOverride(model=model, rates=rates, starts_at=given.pop("starts_at", THEN), **given)


def test_a_listed_model_is_priced_to_the_last_digit():
    found = price("openai", "gpt-4o-mini", disjoint(1000, 100, cache_read=400), NOW)

    assert found.computed_usd == Decimal("0.00018")
    assert (found.version, found.state) == (SHIPPED_VERSION, "priced")


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini-2024-07-18"),
        ("OpenAI", "GPT-4o-mini"),
        ("openai.chat", "gpt-4o-mini"),
        (None, "gpt-4o-mini"),
        (None, "openai/gpt-4o-mini"),
        ("strands-agents", "gpt-4o-mini"),
        ("langchain", "gpt-4o-mini"),
        ("litellm", "openai/gpt-4o-mini"),
        ("a-proxy-of-ours", "gpt-4o-mini"),
        (None, "gpt-4o-mini-2031-01-01"),
        (None, "gpt-4o-mini-latest"),
    ],
)
def test_a_model_is_found_under_the_names_that_senders_use(provider, model):
    assert price(provider, model, MILLION, NOW).computed_usd == Decimal("0.75")


def test_the_model_tells_more_than_the_sdk_that_called_it():
    assert price("openai", "claude-sonnet-4-5-20250929", MILLION, NOW) == price(
        "anthropic", "claude-sonnet-4-5", MILLION, NOW
    )


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "my-finetune"),
        ("openai", "ft:gpt-4o-mini:acme::1"),
        ("test", "test"),
        (None, None),
        (None, ""),
        # The list price of the same model elsewhere is not what one's own machine costs.
        ("ollama", "llama-3.3-70b-versatile"),
    ],
)
def test_an_unknown_model_is_unpriced_and_not_free(provider, model):
    assert price(provider, model, MILLION, NOW) == UNPRICED
    assert UNPRICED.computed_usd is None


def test_without_usage_there_is_no_price():
    assert price("openai", "gpt-4o", NO_TOKENS, NOW) == UNPRICED


def test_a_model_that_is_listed_as_free_costs_nothing():
    found = price("openrouter", "google/gemini-2.0-flash-exp:free", MILLION, NOW)

    assert (found.computed_usd, found.state) == (Decimal(0), "priced")


def test_a_long_context_moves_the_whole_call_to_the_higher_rate():
    below = price("google", "gemini-2.5-pro", disjoint(200_000, 0), NOW).computed_usd
    above = price("google", "gemini-2.5-pro", disjoint(200_001, 0), NOW).computed_usd

    assert below == Decimal("0.25")
    assert above == Decimal("0.5000025")


def test_the_tier_goes_by_all_input_cache_included():
    tokens = disjoint(200_001, 0, cache_read=200_000)

    assert price("google", "gemini-2.5-pro", tokens, NOW).computed_usd == Decimal("0.0500025")


def test_a_price_change_counts_from_its_day():
    tokens = disjoint(1_000_000, 0)
    before = price("mistral", "mistral-small-latest", tokens, datetime(2026, 3, 15, 23, tzinfo=UTC))
    after = price("mistral", "mistral-small-latest", tokens, datetime(2026, 3, 16, 0, tzinfo=UTC))

    assert (before.computed_usd, after.computed_usd) == (Decimal("0.1"), Decimal("0.15"))


def test_a_service_tier_has_its_own_price():
    usual = price("openai", "gpt-5", MILLION, NOW).computed_usd
    flex = price("openai", "gpt-5", MILLION, NOW, service_tier="flex").computed_usd
    unheard_of = price("openai", "gpt-5", MILLION, NOW, service_tier="auto").computed_usd

    assert flex < usual == unheard_of


def test_reasoning_is_paid_as_output_where_it_has_no_price_of_its_own():
    plain = price("openai", "gpt-5", disjoint(0, 1000), NOW)

    assert price("openai", "gpt-5", disjoint(0, 1000, reasoning=900), NOW) == plain


def test_the_projects_own_price_beats_the_list():
    found = price("openai", "gpt-4o", MILLION, NOW, [own("gpt-4o", "1", version="contract-7")])

    assert (found.computed_usd, found.version) == (Decimal(2), "contract-7")


def test_provider_beats_general_then_the_most_specific_then_the_newest():
    general = own("gpt-4o", "1")
    wide = own("gpt-*", "2", provider="azure")
    narrow = own("gpt-4o*", "3", provider="azure")
    newer = own("gpt-4o*", "4", provider="azure", starts_at=datetime(2026, 6, 1, tzinfo=UTC))

    def asked(*overrides, provider="azure", at=NOW):
        return price(provider, "gpt-4o", disjoint(1_000_000, 0), at, overrides).computed_usd

    assert asked(general, wide) == 2
    assert asked(general, narrow, wide) == 3
    assert asked(narrow, newer, general) == 4
    assert asked(narrow, newer, at=datetime(2026, 5, 31, tzinfo=UTC)) == 3
    assert asked(general, wide, provider="openai") == 1


def test_an_own_price_of_the_future_is_not_used_yet():
    future = own("gpt-4o", "1", starts_at=datetime(2027, 1, 1, tzinfo=UTC))

    assert price("openai", "gpt-4o", MILLION, NOW, [future]) == price("openai", "gpt-4o", MILLION, NOW)


def test_an_own_price_of_zero_is_free_and_priced():
    found = price("ollama", "llama3", MILLION, NOW, [own("llama*", "0", provider="ollama")])

    assert (found.computed_usd, found.state) == (Decimal(0), "priced")


def test_a_kind_of_token_without_a_rate_leaves_the_call_unpriced():
    only_input = own("m", "0", rates=Rates(input=Decimal(1)))

    assert price(None, "m", disjoint(10, 0), NOW, [only_input]).state == "priced"
    assert price(None, "m", disjoint(10, 1), NOW, [only_input]) == UNPRICED


def test_own_tiers_images_and_requests():
    override = own(
        "m",
        "0",
        rates=Rates(input=Decimal(1), image=Decimal("0.04"), request=Decimal("0.005")),
        tiers=(Tier(1000, Rates(input=Decimal(2))),),
    )

    def asked(tokens: Tokens) -> Decimal | None:
        return price(None, "m", tokens, NOW, [override]).computed_usd

    assert asked(disjoint(1000, 0)) == Decimal("0.006")
    assert asked(disjoint(1001, 0)) == Decimal("0.007002")
    assert asked(disjoint(images=2)) == Decimal("0.085")


@pytest.mark.parametrize(
    ("computed", "reported", "booked"),
    [
        ("0.2", "0.1", "0.2"),
        ("0.1", "0.2", "0.2"),
        ("0.1", "0", "0.1"),
        ("0.1", None, "0.1"),
        (None, "0.3", "0.3"),
        (None, "0", None),
        (None, None, None),
        ("0", None, "0"),
    ],
)
def test_the_larger_of_computed_and_reported_is_booked_and_a_reported_zero_says_nothing(computed, reported, booked):
    def usd(text):
        return None if text is None else Decimal(text)

    assert booked_usd(usd(computed), usd(reported)) == usd(booked)


LIST = """{
 "sample_spec": {"input_cost_per_token": 1},
 "gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05,
            "cache_read_input_token_cost": 1.25e-06},
 "vertex_ai/gemini-x": {"litellm_provider": "vertex_ai", "input_cost_per_token": 1e-06,
            "output_cost_per_token": 2e-06, "input_cost_per_token_above_200k_tokens": 3e-06},
 "no-price": {"litellm_provider": "openai", "mode": "chat"},
 "painter": {"litellm_provider": "openai", "output_cost_per_image": 0.04},
 "odd": {"input_cost_per_token": "dear"}
}"""


def test_a_price_list_becomes_own_prices_without_touching_a_float():
    listed = read_price_list(LIST, starts_at=THEN, version="list-1")
    book = PriceBook(listed)

    assert [one.model for one in listed] == ["gpt-4o", "gemini-x", "painter"]
    found = book.price("openai", "gpt-4o", disjoint(1_000_003, 7, cache_read=3), at=NOW)
    assert found.computed_usd == Decimal("2.50007375")
    assert found.version == "list-1"
    assert book.price("google", "gemini-x", disjoint(200_001, 1), at=NOW).computed_usd == Decimal("0.600005")
    assert book.price("openai", "painter", disjoint(images=1), at=NOW).computed_usd == Decimal("0.04")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": {"input_cost_per_token": NaN}}', "[" * 100_000])
def test_what_is_no_price_list_is_refused(text):
    with pytest.raises(BadPriceList):
        read_price_list(text, starts_at=THEN, version="x")
