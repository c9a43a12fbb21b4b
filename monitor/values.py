"""Values as senders wrap them: counts and money as text, reasons in lists, JSON in strings."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from monitor import semconv

MOST_TOKENS = 2_000_000_000
MOST_USD = Decimal(1_000_000)
# A usage blob of a real reply has some 500 characters.
LONGEST_BLOB = 20_000

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_repr_words = re.compile(r"\b(None|True|False)\b")
_json_words = {"None": "null", "True": "true", "False": "false"}


def as_count(value: Any) -> int | None:
    """Return a count of tokens given as a number or in digits, None when it is none or absurd."""
    if type(value) is int:
        return value if 0 <= value <= MOST_TOKENS else None
    if type(value) is float:
        return int(value) if value.is_integer() and 0 <= value <= MOST_TOKENS else None
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 12:
        return as_count(int(value))
    return None


def as_usd(value: Any) -> Decimal | None:
    """Return an amount from 0 to 1,000,000 dollars, None when it is none or absurd."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        usd = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return usd if is_usd(usd) else None


def is_usd(usd: Decimal) -> bool:
    """Whether an amount is one that a call may cost or a budget allow: 0 to 1,000,000 dollars."""
    return usd.is_finite() and 0 <= usd <= MOST_USD


def as_text(value: Any) -> str:
    """Return text as it is and anything else as JSON."""
    return value if type(value) is str else _encode(value).decode()


def as_reason(value: Any) -> str | None:
    """Return the first reason of a list, of a list written as JSON, or of a bare word."""
    if type(value) is str and value[:1] in ("[", '"'):
        try:
            value = _decode(value)
        except (msgspec.DecodeError, RecursionError):
            return value
    if isinstance(value, list):
        value = value[0] if value else None
    return as_text(value) if value else None


def as_arguments(value: Any) -> str | None:
    """Return a tool's arguments, None for the tool's schema, which some senders put under the same name."""
    text = as_text(value)
    if '"type"' not in text:
        return text
    try:
        given = _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    if not isinstance(given, dict) or not given:
        return text
    is_schema = isinstance(given.get("properties"), dict) or all(
        isinstance(value, dict) and "type" in value for value in given.values()
    )
    return None if is_schema else text


def usage_details(value: Any) -> tuple[dict[str, int], bool]:
    """Return the token counts in a usage object, by bucket, and whether its input leaves the cache out.

    The shape tells: a provider's own reply with cache counts beside `input_tokens` and without a total is
    Anthropic's, whose input excludes them.
    """
    usage = _object(value)
    if not usage:
        return {}, False
    counts: dict[str, int] = {}
    for bucket, names in semconv.BLOB_TOKENS.items():
        for name in names:
            count = as_count(_at(usage, name))
            if count is not None and not counts.get(bucket):
                counts[bucket] = count
    excludes = (
        "input_tokens" in usage
        and "total_tokens" not in usage
        and ("cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage)
    )
    return counts, excludes


def usd_details(value: Any) -> Decimal | None:
    """Return the total of a cost object, or the sum of its parts; None without any, or when it is absurd."""
    costs = _object(value)
    amounts = {key: usd for key, raw in costs.items() if (usd := as_usd(raw)) is not None}
    if "total" in amounts:
        return amounts["total"]
    total = sum(amounts.values(), Decimal(0))
    return total if amounts and is_usd(total) else None


def metadata(value: Any) -> dict[str, str]:
    """Return conversation, agent and user as far as a metadata object names them."""
    if isinstance(value, str) and not any(
        f'"{key}"' in value for keys in semconv.METADATA_KEYS.values() for key in keys
    ):
        return {}
    given = _object(value)
    found: dict[str, str] = {}
    for field, keys in semconv.METADATA_KEYS.items():
        for key in keys:
            said = given.get(key)
            if isinstance(said, str) and said:
                found.setdefault(field, said)
    return found


def instant(value: Any) -> datetime | None:
    """Return a time given as ISO 8601 with offset, bare or quoted as JSON."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value.strip('"'))
        return at.astimezone(UTC) if at.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _at(usage: Mapping[str, Any], path: str) -> Any:
    if path in usage:
        return usage[path]
    outer, _, inner = path.partition(".")
    details = usage.get(outer) if inner else None
    return details.get(inner) if isinstance(details, dict) else None


def _object(value: Any) -> dict[str, Any]:
    """Return an object given as such, as JSON, or as Python prints it; empty when it is none of these."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, str) or len(value) > LONGEST_BLOB or not value.startswith("{"):
        return {}
    for text in (value, _repr_words.sub(lambda m: _json_words[m[0]], value.replace("'", '"'))):
        try:
            found = _decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            continue
        return found if isinstance(found, dict) else {}
    return {}
