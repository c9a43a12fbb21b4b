"""What a model call costs: exact decimals from shipped list prices and the project's own."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.metadata import version as installed_version
from typing import Literal, NamedTuple

import msgspec
from genai_prices.data_snapshot import DataSnapshot, get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

from monitor.providers import FRAMEWORKS, LOCAL_RUNNERS, provider_name
from monitor.records import Tokens

SHIPPED_VERSION = f"genai-prices {installed_version('genai-prices')}"
UNPRICED_VERSION = ""
MOST_MODELS = 10_000
# Of those that a project has a price of its own for, or could have.
MOST_OWN_MODELS = 1_000
ZERO = Decimal(0)
# Models that are free by name are listed without any price.
FREE_SUFFIX = ":free"
PER_MILLION = Decimal("0.000001")

# Our buckets, each with the rates that may price it: its own, else the plain one of its direction.
BUCKETS: Mapping[str, tuple[str, ...]] = {
    "input": ("input",),
    "cache_read": ("cache_read", "input"),
    "cache_write": ("cache_write", "input"),
    "audio_input": ("audio_input", "input"),
    "image_input": ("image_input", "input"),
    "output": ("output",),
    "reasoning": ("reasoning", "output"),
    "audio_output": ("audio_output", "output"),
    "image_output": ("image_output", "output"),
}
_SHIPPED_KEYS = {
    "input": ("input_mtok", "input_text_mtok"),
    "cache_read": ("cache_read_mtok",),
    "cache_write": ("cache_write_mtok", "cache_write_5m_mtok"),
    "audio_input": ("input_audio_mtok",),
    "image_input": ("input_image_mtok",),
    "output": ("output_mtok", "output_text_mtok"),
    "reasoning": ("output_reasoning_mtok",),
    "audio_output": ("output_audio_mtok",),
    "image_output": ("output_image_mtok",),
}
_DATE_SUFFIX = re.compile(r"([-@:](20\d{2}-?\d{2}-?\d{2}|latest)|-v\d+:\d+)$")


class Priced(NamedTuple):
    """A computed price, None when nobody knows one; `version` names the prices that were used."""

    computed_usd: Decimal | None
    version: str
    state: Literal["priced", "unpriced"]


UNPRICED = Priced(None, UNPRICED_VERSION, "unpriced")


class Tier(msgspec.Struct, frozen=True):
    """Rates for the whole call once its input exceeds `above_tokens`; a rate not given stays as below."""

    above_tokens: int
    rates: "Rates"


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars per million tokens by bucket, per image and per request; None is not given."""

    input: Decimal | None = None
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    audio_input: Decimal | None = None
    image_input: Decimal | None = None
    output: Decimal | None = None
    reasoning: Decimal | None = None
    audio_output: Decimal | None = None
    image_output: Decimal | None = None
    image: Decimal | None = None
    request: Decimal | None = None


class PriceOverride(msgspec.Struct, frozen=True, kw_only=True):
    """A project's own price from `starts_at` on.

    `model` may hold `*` and `?` and is compared without regard to case; without `provider` it is for all.
    """

    model: str
    rates: Rates
    starts_at: datetime
    provider: str | None = None
    tiers: tuple[Tier, ...] = ()
    version: str = "own"

    def matches(self, provider: str | None, model: str) -> bool:
        """Tell whether this price is for the model; the provider is given in our spelling."""
        if self.provider is not None and provider_name(self.provider) != provider:
            return False
        return fnmatchcase(model, self.model.lower())

    @property
    def rank(self) -> tuple[bool, int, datetime]:
        """Provider-specific beats general, then the most specific pattern wins, then the newest start."""
        specific = sum(1 for letter in self.model if letter not in "*?")
        return self.provider is not None, specific, self.starts_at


class _Level(NamedTuple):
    """US dollars per single token by bucket from an input of more than `above_tokens` on."""

    above_tokens: int
    input: Decimal | None
    cache_read: Decimal | None
    cache_write: Decimal | None
    audio_input: Decimal | None
    image_input: Decimal | None
    output: Decimal | None
    reasoning: Decimal | None
    audio_output: Decimal | None
    image_output: Decimal | None


class RateTable(NamedTuple):
    """A model's rates ready to multiply, the highest level first."""

    levels: tuple[_Level, ...]
    image_usd: Decimal | None
    request_usd: Decimal
    version: str

    def price(self, tokens: Tokens) -> Priced:
        """Price a usage; unpriced when a bucket that holds tokens has no rate."""
        level = self.levels[-1]
        if len(self.levels) > 1:
            taken = tokens.input_total
            level = next((one for one in self.levels if taken > one.above_tokens), level)
        usd = self.request_usd
        for count, rate in (
            (tokens.input, level.input),
            (tokens.output, level.output),
            (tokens.cache_read, level.cache_read),
            (tokens.cache_write, level.cache_write),
            (tokens.audio_input, level.audio_input),
            (tokens.image_input, level.image_input),
            (tokens.reasoning, level.reasoning),
            (tokens.audio_output, level.audio_output),
            (tokens.image_output, level.image_output),
            (tokens.images, self.image_usd),
        ):
            if count:
                if rate is None:
                    return UNPRICED
                usd += rate * count
        return Priced(usd, self.version, "priced")


class PriceBook:
    """The prices of one project: its own first, then the shipped ones.

    It keeps look-ups, so keep the book, and ask by names that are cut to a column's length.
    """

    def __init__(self, overrides: Iterable[PriceOverride] = ()) -> None:
        self._overrides = tuple(sorted(overrides, key=lambda one: one.rank, reverse=True))
        self._own = lru_cache(maxsize=MOST_OWN_MODELS)(self._find_own)

    def price(
        self,
        provider: str | None,
        model: str | None,
        tokens: Tokens,
        *,
        at: datetime,
        service_tier: str | None = None,
    ) -> Priced:
        """Price a usage of a model at a time; unpriced without usage, without model or without a price."""
        if not model or not tokens.has_usage:
            return UNPRICED
        if self._overrides:
            for starts_at, table in self._own(provider, model):
                if starts_at <= at:
                    return table.price(tokens)
        info = shipped_model(provider, model)
        return _shipped_table(info, at, service_tier).price(tokens) if info else UNPRICED

    def _find_own(self, provider: str | None, model: str) -> tuple[tuple[datetime, RateTable], ...]:
        house = provider_name(provider) if provider else None
        names = _spellings(house, model)
        return tuple(
            (one.starts_at, _own_table(one))
            for one in self._overrides
            if any(one.matches(named_house, name) for named_house, name in names)
        )


@lru_cache(maxsize=64)
def _book(overrides: tuple[PriceOverride, ...]) -> PriceBook:
    return PriceBook(overrides)


def price(
    provider: str | None,
    model: str | None,
    tokens: Tokens,
    at: datetime,
    overrides: Sequence[PriceOverride] = (),
    service_tier: str | None = None,
) -> Priced:
    """Price a usage of a model at a time by the overrides, else by the shipped prices."""
    return _book(tuple(overrides)).price(provider, model, tokens, at=at, service_tier=service_tier)


def booked_usd(computed_usd: Decimal | None, reported_usd: Decimal | None) -> Decimal | None:
    """Return the larger of computed and reported cost, None when neither is known.

    A reported zero says nothing: many senders write it when they have no price.
    """
    if not reported_usd:
        return computed_usd
    return reported_usd if computed_usd is None else max(computed_usd, reported_usd)


@lru_cache(maxsize=MOST_MODELS)
def shipped_model(provider: str | None, model: str) -> ModelInfo | None:
    """Find a model among the shipped prices by provider and name, else by its name alone.

    A proxy or an SDK that speaks another's protocol sends the wrong provider; the name of the model then
    tells more.
    """
    # A snapshot keeps every name that it was ever asked for, so each search has one of its own.
    snapshot = DataSnapshot(providers=get_snapshot().providers, from_auto_update=False)
    house = provider_name(provider) if provider else None
    if house in LOCAL_RUNNERS:
        return None
    for named_house, name in _spellings(house, model):
        houses = [named_house] if named_house and named_house not in FRAMEWORKS else []
        for candidate in (*houses, None):
            found = _lookup(snapshot, candidate, name)
            if found:
                return found
    return None


def _lookup(snapshot: DataSnapshot, house: str | None, name: str) -> ModelInfo | None:
    try:
        return snapshot.find_provider_model(name, None, house, None)[1]
    except LookupError:
        return None


def _spellings(house: str | None, model: str) -> list[tuple[str | None, str]]:
    """Return the names a model may be listed under: as sent, without a provider's prefix, without a date."""
    name = model.strip().lower()
    spellings = [(house, name)]
    prefix, slash, bare = name.rpartition("/")
    if slash and bare:
        owner = provider_name(prefix.rpartition("/")[2] or prefix)
        spellings += [(provider_name(prefix.partition("/")[0]), bare), (owner, bare), (house, bare)]
    undated = [(one, cut) for one, full in spellings if (cut := _DATE_SUFFIX.sub("", full)) != full]
    return list(dict.fromkeys(spellings + undated))


def _shipped_table(info: ModelInfo, at: datetime, service_tier: str | None) -> RateTable:
    variants = info.price_variants if service_tier else None
    if isinstance(info.prices, ModelPrice) and not variants:
        return _table_of(info.id, info.prices)
    context = {"service_tier": service_tier} if variants and service_tier else None
    found = info.get_prices(at.astimezone(UTC), context)
    # With a context the prices are made anew each time, so nothing of them can be kept.
    return _compiled(info.id, found) if context else _table_of(info.id, found)


_tables: dict[tuple[str, int], RateTable] = {}


def _table_of(model_id: str, prices: ModelPrice) -> RateTable:
    """Compile a price once; the shipped ones live as long as the process, so their identity is a key."""
    table = _tables.get((model_id, id(prices)))
    if table is None:
        table = _tables[model_id, id(prices)] = _compiled(model_id, prices)
    return table


def _compiled(model_id: str, prices: ModelPrice) -> RateTable:
    given = {
        bucket: next((rate for key in keys if (rate := getattr(prices, key)) is not None), None)
        for bucket, keys in _SHIPPED_KEYS.items()
    }
    if model_id.endswith(FREE_SUFFIX) and not any(given.values()):
        given |= {"input": ZERO, "output": ZERO}
    starts = {tier.start for rate in given.values() if isinstance(rate, TieredPrices) for tier in rate.tiers}
    levels = [
        _level(start, {bucket: _rate_at(rate, start) for bucket, rate in given.items()})
        for start in sorted(starts | {-1}, reverse=True)
    ]
    request = _rate_at(prices.requests_kcount, -1)
    return RateTable(tuple(levels), None, request / 1000 if request else ZERO, SHIPPED_VERSION)


def _rate_at(rate: Decimal | TieredPrices | None, start: int) -> Decimal | None:
    """Return the rate for an input of more than `start` tokens."""
    if not isinstance(rate, TieredPrices):
        return rate
    return next((tier.price for tier in reversed(rate.tiers) if tier.start <= start), rate.base)


def _level(above_tokens: int, per_million: Mapping[str, Decimal | None]) -> _Level:
    rates = {}
    for bucket, candidates in BUCKETS.items():
        rate = next((per_million[one] for one in candidates if per_million[one] is not None), None)
        rates[bucket] = None if rate is None else rate * PER_MILLION
    return _Level(above_tokens, **rates)


@lru_cache(maxsize=MOST_MODELS)
def _own_table(override: PriceOverride) -> RateTable:
    base = {bucket: getattr(override.rates, bucket) for bucket in BUCKETS}
    levels = [_level(-1, base)]
    for tier in sorted(override.tiers, key=lambda one: one.above_tokens):
        base = base | {bucket: rate for bucket in BUCKETS if (rate := getattr(tier.rates, bucket)) is not None}
        levels.insert(0, _level(tier.above_tokens, base))
    rates = override.rates
    return RateTable(tuple(levels), rates.image, rates.request or ZERO, override.version)
