"""Price lists in the JSON shape that LiteLLM made common, as overrides."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from monitor.prices import PriceOverride, Rates, Tier
from monitor.providers import provider_name

MILLION = Decimal(1_000_000)
# The list's keys in US dollars per token.
_PER_TOKEN = {
    "input": "input_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "audio_input": "input_cost_per_audio_token",
    "image_input": "input_cost_per_image_token",
    "output": "output_cost_per_token",
    "reasoning": "output_cost_per_reasoning_token",
    "audio_output": "output_cost_per_audio_token",
    "image_output": "output_cost_per_image_token",
}
_TIER = re.compile(r"_above_(\d+)k_tokens$")


class BadPriceList(ValueError):
    """The text is no price list."""


def read_price_list(text: str | bytes, *, starts_at: datetime, version: str) -> list[PriceOverride]:
    """Return a price for each model of the list that names one; raises BadPriceList.

    Numbers are read as decimals, so that no price passes through a float.
    """
    try:
        listed = json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadPriceList(f"not a price list: {error}") from error
    if not isinstance(listed, dict):
        raise BadPriceList("a price list is an object of models")
    prices = (_override(model, entry, starts_at, version) for model, entry in listed.items())
    return [price for price in prices if price is not None]


def _refuse(word: str) -> Decimal:
    raise BadPriceList(f"{word} is no price")


def _override(model: str, entry: Any, starts_at: datetime, version: str) -> PriceOverride | None:
    if not isinstance(entry, dict) or model == "sample_spec":
        return None
    rates = _rates(entry, "")
    image = _usd(entry.get("output_cost_per_image") or entry.get("input_cost_per_image"))
    request = _usd(entry.get("input_cost_per_request"))
    if rates == Rates() and image is None and request is None:
        return None
    provider = entry.get("litellm_provider")
    bare = model.rpartition("/")[2]
    sizes = sorted({int(found[1]) for key in entry if (found := _TIER.search(key))})
    return PriceOverride(
        model=_literal(bare),
        provider=provider_name(provider) if isinstance(provider, str) and provider else None,
        starts_at=starts_at,
        rates=Rates(**{bucket: getattr(rates, bucket) for bucket in _PER_TOKEN}, image=image, request=request),
        tiers=tuple(Tier(size * 1000, _rates(entry, f"_above_{size}k_tokens")) for size in sizes),
        version=version,
    )


def _rates(entry: Mapping[str, Any], suffix: str) -> Rates:
    found = {bucket: _usd(entry.get(key + suffix)) for bucket, key in _PER_TOKEN.items()}
    return Rates(**{bucket: usd * MILLION for bucket, usd in found.items() if usd is not None})


def _usd(value: Any) -> Decimal | None:
    return value if isinstance(value, Decimal) and value.is_finite() and value >= 0 else None


def _literal(name: str) -> str:
    """Return a pattern that matches just this name."""
    return re.sub(r"([*?\[])", r"[\1]", name)
