"""A span's attributes sorted into the fields that semconv names, and the rest."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from monitor import semconv
from monitor.otlp_text import clean
from monitor.providers import FRAMEWORKS
from monitor.values import as_count, as_text, as_usd

# Fields whose value stays as it came, because its reader looks at the shape.
_SHAPED = frozenset({"finish", "first_token", "error_flag", "cost", "execution"})
_PAYLOADS = frozenset({"arguments", "result", "input", "output"})
_TEXT, _SHAPE, _PAYLOAD, _COUNT, _USD, _PROVIDER = range(6)
_READING = {"cost": _USD, "provider": _PROVIDER}
# A value that counts only when nothing better is said: a zero, a framework where the provider belongs.
_WEAK = 1000
_NOTHING = frozenset({"", "null", "None", "[]", "{}", "undefined"})
_SPREAD_PREFIXES = tuple(semconv.SPREAD)
DEEPEST_KEY = 12
# How a key is split is kept for the next one; a longer key is no field's.
LONGEST_KEY = 200


def _reading(field: str) -> int:
    if field in semconv.TOKENS:
        return _COUNT
    if field in _PAYLOADS:
        return _PAYLOAD
    return _READING.get(field, _SHAPE if field in _SHAPED else _TEXT)


_PLACES = {
    name: (field, rank, _reading(field))
    for table in (semconv.FIELDS, semconv.TOKENS)
    for field, names in table.items()
    for rank, name in enumerate(names)
}
_place = _PLACES.get
NAMES = {field: names for table in (semconv.FIELDS, semconv.TOKENS) for field, names in table.items()}


class Fields(NamedTuple):
    """The values of known fields, and what no field takes, under the sender's own names."""

    known: dict[str, Any]
    rest: dict[str, Any]


def fields(pairs: Iterable[tuple[str, Any]]) -> Fields:
    """Sort attributes: the first non-empty name of a field wins, a loser that differs goes to the rest.

    Token counts are checked, payloads kept as they are, all else is text.
    """
    known: dict[str, Any] = {}
    ranks: dict[str, int] = {}
    rest: dict[str, Any] = {}
    spread: list[tuple[str, Any]] = []
    for key, value in pairs:
        place = _place(key)
        if place is None:
            key = clean(key)
            if len(key) <= LONGEST_KEY and key.startswith(_SPREAD_PREFIXES):
                spread.append((key, value))
            elif value is not None and value != "":
                rest[key] = value
            continue
        field, rank, reading = place
        if reading == _COUNT:
            count = as_count(value)
            if count is None:
                rest[key] = value
                continue
            if not count:
                rank += _WEAK
            value = count
        elif type(value) is str:
            if len(value) < 10 and value in _NOTHING:
                continue
            if reading == _PROVIDER and value.lower() in FRAMEWORKS:
                rank += _WEAK
        elif value is None:
            continue
        elif reading in (_TEXT, _PROVIDER):
            value = as_text(value)
        if reading == _USD:
            usd = as_usd(value)
            if usd is None:
                rest[key] = value
                continue
            if not usd:
                rank += _WEAK
            value = usd
        held = known.get(field)
        if held is None:
            known[field] = value
            ranks[field] = rank
            continue
        if rank < ranks[field]:
            known[field], value = value, held
            key = NAMES[field][ranks[field] % _WEAK]
            ranks[field] = rank
        if reading != _PAYLOAD and value and value != known[field]:
            rest[key] = value
    if spread:
        _gather(spread, known, ranks)
    return Fields(known, rest)


def _gather(spread: list[tuple[str, Any]], known: dict[str, Any], ranks: dict[str, int]) -> None:
    """Take a list spread over keys as the field's value, unless its newest name has one in one piece.

    The raw body beside it says the same in more words.
    """
    trees: dict[str, dict[Any, Any]] = {}
    for key, value in spread:
        field, path = _path(key)
        node = trees.setdefault(field, {})
        for part in path[:-1]:
            inner = node.get(part)
            if type(inner) is not dict:
                inner = node[part] = {}
            node = inner
        node[path[-1]] = value
    for field, tree in trees.items():
        if ranks.get(field) != 0:
            known[field] = [_list(row) for _, row in sorted(tree.items(), key=_index)]


@lru_cache(maxsize=8192)
def _path(key: str) -> tuple[str, tuple[str | int, ...]]:
    """Split `<prefix><index>.<rest>` into its field and the steps to the value, wrappers left out."""
    prefix = next(prefix for prefix in _SPREAD_PREFIXES if key.startswith(prefix))
    parts = key[len(prefix) :].split(".", DEEPEST_KEY)
    steps = [part for part in parts if part not in semconv.SPREAD_WRAPPERS] or parts
    return semconv.SPREAD[prefix], tuple(
        int(step) if step.isascii() and step.isdigit() and len(step) < 10 else step for step in steps
    )


def _index(item: tuple[Any, Any]) -> tuple[bool, int, str]:
    key = item[0]
    return (False, key, "") if type(key) is int else (True, 0, key)


def _list(node: Any) -> Any:
    """Turn objects whose keys are all indexes into lists, all the way down."""
    if type(node) is not dict:
        return node
    if all(type(key) is int for key in node):
        return [_list(value) for _, value in sorted(node.items(), key=_index)]
    return {str(key): _list(value) for key, value in node.items()}
