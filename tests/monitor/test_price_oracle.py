"""1,083 real usages with the prices that a third party gave them, against ours."""

import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from monitor.prices import price
from monitor.records import Span, Tokens, disjoint
from monitor.spanrows import Row, row

ROOT = Path(__file__).resolve().parents[2]
ORACLE = ROOT.parent / "shared/data/prices/genai-prices_usages_with_prices.jsonl.gz"
# The oracle's prices are those of early 2026, by day (one provider was cheaper at night).
AT = datetime(2026, 2, 1, 12, tzinfo=UTC)
NEAR = Decimal("1e-6")

# Every difference, by provider, model and the input of the call: what the oracle gave, and why we differ.
EXPLAINED = {
    ("google", "claude-sonnet-4-5-20250929", 401_468): (
        "1.216284",
        "the shipped list now has this model's long-context tier for this provider too",
    ),
    ("google", "claude-sonnet-4-5-20250929", 494_549): (
        "1.502322",
        "the shipped list now has this model's long-context tier for this provider too",
    ),
    ("google", "gemini-2.5-flash", 3_297): (
        "0.00062202",
        "284 cached audio tokens are paid as cached text: spans carry no cache by modality",
    ),
    ("google", "gemini-2.5-flash", 3_284): (
        "0.00054776",
        "285 cached audio tokens are paid as cached text: spans carry no cache by modality",
    ),
}


def tokens_of(usage: dict) -> Tokens:
    def count(key: str) -> int:
        return usage.get(key, 0)

    return disjoint(
        count("input_tokens"),
        count("output_tokens"),
        cache_read=count("cache_read_tokens"),
        cache_write=count("cache_write_tokens"),
        audio_input=count("input_audio_tokens") - count("cache_audio_read_tokens"),
        image_input=count("input_image_tokens") - count("cache_image_read_tokens"),
        reasoning=count("output_reasoning_tokens"),
        image_output=count("output_image_tokens"),
    )


def stored(tokens: Tokens) -> Row:
    """A usage as its span is kept."""
    return row(1, Span(trace_id=bytes(16), span_id=1, kind="llm", started_at=AT, model="x", tokens=tokens), now=AT)


def read_again(one: Row) -> Tokens:
    """The buckets of a stored usage, as pricing it anew needs them."""
    drawn = json.loads(one.attributes).get("image_output_tokens", 0)
    return Tokens(
        input=one.input_tokens,
        cache_read=one.cache_read_tokens,
        cache_write=one.cache_write_tokens,
        audio_input=one.audio_input_tokens,
        image_input=one.image_input_tokens,
        output=one.output_tokens - drawn,
        reasoning=one.reasoning_tokens,
        audio_output=one.audio_output_tokens,
        image_output=drawn,
        images=one.images,
        has_usage=True,
        excludes_cache=json.loads(one.attributes).get("usage_excludes_cache", False),
    )


def test_every_bucket_is_found_again_in_what_is_stored():
    tokens = Tokens(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, has_usage=True, excludes_cache=True)
    assert read_again(stored(tokens)) == tokens
    assert stored(tokens).tokens == tokens.input_total + tokens.output_total


def test_every_usage_costs_what_the_oracle_says_or_the_difference_is_explained():
    if not ORACLE.exists():
        pytest.skip(f"the price oracle is not here: {ORACLE}")
    usages = compared = 0
    differing = {}
    with gzip.open(ORACLE) as lines:
        for line in lines:
            usages += 1
            row = json.loads(line)
            for extracted in row["extracted"]:
                usage = extracted["usage"]
                tokens = tokens_of(usage)
                assert read_again(stored(tokens)) == tokens
                for given in extracted["extractors"]:
                    if "input_price" not in given and "output_price" not in given:
                        continue
                    compared += 1
                    expected = Decimal(given.get("input_price", "0")) + Decimal(given.get("output_price", "0"))
                    found = price(given["provider_id"], row["model"], tokens, AT).computed_usd
                    if found is None or abs(found - expected) > NEAR:
                        key = given["provider_id"], row["model"], usage.get("input_tokens", 0)
                        differing[key] = expected

    assert (usages, compared) == (1083, 2448)
    assert differing == {key: Decimal(oracle) for key, (oracle, _) in EXPLAINED.items()}
