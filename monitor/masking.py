"""Personal data is masked before anything is stored, where a project asks for it.

All that a door takes goes through one of `span`, `text` and `body`; what each kind looks like stands in
monitor/piipatterns.py. Names and ids, by which things are found again, stay as they are.
"""

from collections.abc import Callable, Mapping
from functools import cache
from json import JSONDecoder
from typing import Any, NamedTuple, TypeVar

import msgspec
from django.utils.crypto import salted_hmac

from monitor import loops, piipatterns
from monitor.records import Span

S = TypeVar("S", bound=msgspec.Struct)

# What names and finds things, in whatever body it stands.
NAMES = frozenset(
    {
        *("id", "type", "agent", "department", "run_id", "crew_id", "conversation_id", "execution_id", "parent_id"),
        *("trace_id", "span_id", "reservation_id", "response_id", "tool_call_id", "client_id", "fingerprint"),
        *("model", "provider", "tool", "operation", "mode", "declared_mode", "status", "level", "command", "role"),
    }
)
# Tells calls apart whose arguments look alike once masked; see toolcalls.
ARGUMENTS = "handrail.arguments"
HASH_LENGTH = 64
# A placeholder may be longer than what it masks, and most columns end somewhere.
SHORTEST_COLUMN = 100


class _Twice(ValueError):
    """A key comes twice in one object."""


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _Twice


# Numbers stay text: of them nothing is asked here.
_decode_once = JSONDecoder(object_pairs_hook=_once, parse_int=str, parse_float=str, strict=False).decode
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Rule(NamedTuple):
    """What a project masks: personal data and secrets, the addresses of machines."""

    pii: bool
    ips: bool


def rule_of(mask_pii: bool, mask_ips: bool) -> Rule | None:
    """The rule of these settings, None where nothing is masked."""
    return Rule(mask_pii, mask_ips) if mask_pii or mask_ips else None


def text(given: str, rule: Rule) -> str:
    """The text with typed placeholders, such as `[email]`, for what the rule masks; JSON stays JSON."""
    if given.lstrip()[:1] in ("{", "[", '"'):
        try:
            held = _decode(given)
            masked = value(held, rule)
            return given if masked == held and _is_all_of(held, given) else _encode(masked).decode()
        except (msgspec.DecodeError, RecursionError, OverflowError, UnicodeEncodeError):
            pass
    for mask in _masks(rule):
        given = mask(given)
    return given


def _is_all_of(held: Any, given: str) -> bool:
    """Whether JSON tells no more than what was made of it: of a key that comes twice the decoder keeps the last."""
    if "{" not in given or _encode(held).decode() == given:
        return True
    try:
        _decode_once(given)
    except (ValueError, RecursionError):
        return False
    return True


def value(given: Any, rule: Rule) -> Any:
    """The same of all that a JSON value holds, keys too."""
    if isinstance(given, str):
        return text(given, rule)
    if isinstance(given, dict):
        masked: dict[Any, Any] = {}
        alike: dict[str, int] = {}
        for key, item in given.items():
            name = text(key, rule) if isinstance(key, str) else key
            masked[_free(name, masked, alike) if name in masked else name] = _field(key, item, rule)
        return masked
    if isinstance(given, list | tuple):
        return [value(item, rule) for item in given]
    if type(given) is int and rule.pii and piipatterns.is_card(str(given)):
        return "[card]"
    return given


def span(given: Span, rule: Rule) -> Span:
    """The span with its words masked; its digest stays that of what was sent, so that a repeat is still one.

    Where the arguments of a tool are not what they were, the attributes have a keyed hash of them.
    """

    def masked(words: str | None) -> str | None:
        return text(words, rule) if words else words

    arguments, attributes = masked(given.arguments), value(given.attributes, rule)
    if given.kind == "tool" and given.arguments and arguments != given.arguments:
        attributes[ARGUMENTS] = hashed(given.arguments)
    return msgspec.structs.replace(
        given,
        name=text(given.name, rule),
        error=masked(given.error),
        user=masked(given.user),
        workflow=masked(given.workflow),
        arguments=arguments,
        result=masked(given.result),
        input=masked(given.input),
        output=masked(given.output),
        attributes=attributes,
    )


def hashed(arguments: str) -> str:
    """A keyed hash of a tool's arguments, the same for every spelling of them."""
    said = loops.canonical(arguments).encode(errors="replace")
    return salted_hmac(ARGUMENTS, said, algorithm="sha256").hexdigest()


def body(given: S, rule: Rule) -> S:
    """A body as a client sent it, with everything masked but names and ids."""
    changes: dict[str, Any] = {}
    for name in given.__struct_fields__:
        held = getattr(given, name)
        if name in NAMES:
            continue
        masked = _part(held, rule)
        if masked != held:
            changes[name] = masked
    return msgspec.structs.replace(given, **changes) if changes else given


def _part(held: Any, rule: Rule) -> Any:
    if isinstance(held, str):
        masked, most = text(held, rule), max(len(held), SHORTEST_COLUMN)
        return masked if len(masked) <= most else f"{masked[: most - 1]}…"
    if isinstance(held, msgspec.Struct):
        return body(held, rule)
    if isinstance(held, list):
        return [_part(item, rule) for item in held]
    return value(held, rule)


def _free(name: str, taken: Mapping[str, Any], alike: dict[str, int]) -> str:
    """The name with the next number that is free; `alike` holds the last of each, for there may be many."""
    while (numbered := f"{name}'{alike.setdefault(name, 1) + 1}") in taken:
        alike[name] += 1
    alike[name] += 1
    return numbered


def _field(key: Any, item: Any, rule: Rule) -> Any:
    if not rule.pii or not isinstance(key, str):
        return value(item, rule)
    if isinstance(item, str) and piipatterns.is_token(key, item):
        return "[secret]"
    return _hidden(item, rule) if piipatterns.is_secret(key) else value(item, rule)


def _hidden(item: Any, rule: Rule) -> Any:
    """What a secret field holds, without its texts and numbers; objects in it name what they hold themselves."""
    if isinstance(item, list | tuple):
        return [_hidden(one, rule) for one in item]
    return "[secret]" if item and type(item) in (str, int, float) else value(item, rule)


@cache
def _masks(rule: Rule) -> tuple[Callable[[str], str], ...]:
    personal = (piipatterns.secrets, piipatterns.emails, piipatterns.numbers) if rule.pii else ()
    return (*personal, piipatterns.addresses) if rule.ips else personal
