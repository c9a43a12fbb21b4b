"""What comes in: bodies and query parameters, decoded into Structs; whatever is wrong is a 400 that names the field."""

import re
from codecs import BOM_UTF8
from collections.abc import Collection, Iterator, Sequence
from decimal import Decimal
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from django.http import HttpRequest, UnreadablePostError

from monitor import encodings
from monitor.api.problems import Problem, bad_field
from monitor.nesting import DEEPEST, nests_deeper_than
from monitor.otlp_json import whole
from monitor.otlp_text import shallow
from monitor.values import is_usd

T = TypeVar("T")

JSON = ("application/json",)
# One JSON document a line.
LINES = ("application/x-ndjson", "application/ndjson")
INT64 = range(-(2**63), 2**63)

# What may stand before a number becomes a colon and a digit a nought, so that a search finds where a long one begins.
_NUMBERS = bytes(ord("0" if n in b"0123456789" else ":" if n in b" \t\r\n:,[-" else " ") for n in range(256))
_LONG_NUMBER = b":" + b"0" * 19
_WHERE = re.compile(r"^(?P<message>.*?)(?: - at `(?:key` in `)?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>[^`]*)`$")
# What `__post_init__` of a body says of one of its fields.
_OWN = re.compile(r"^(?P<name>[a-z_.]+) (?P<message>must .*)$")


class TooLarge(Problem):
    def __init__(self, limit: int) -> None:
        super().__init__(413, "Too large", f"A body may have {limit:,} bytes, counted after decompression.")


class WrongType(Problem):
    def __init__(self, detail: str) -> None:
        super().__init__(415, "Unsupported media type", detail)


def read(request: HttpRequest, *, limit: int, content_types: Collection[str] = JSON) -> bytes:
    """The body, decompressed. Raises TooLarge, WrongType, or a 400 when it is not what its encoding says."""
    raw = _as_sent(request, limit=limit)
    if raw and request.content_type not in content_types:
        raise WrongType(f"Send {' or '.join(content_types)}, not {request.content_type or 'nothing'}.")
    return _plain(request, raw, limit=limit).removeprefix(BOM_UTF8)


def read_export(request: HttpRequest, *, limit: int) -> bytes:
    """The body of an export, decompressed, whatever it says of its type; raises as `read` does."""
    return _plain(request, _as_sent(request, limit=limit), limit=limit)


def _as_sent(request: HttpRequest, *, limit: int) -> bytes:
    """The body as it came. Raises TooLarge, or a 400 when it ends early."""
    # The bridge leaves away what is too large, and tells its length.
    declared = request.META.get("CONTENT_LENGTH") or ""
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(limit)
    try:
        raw = request.read(limit + 1)
    except UnreadablePostError as error:
        raise Problem(400, "Bad request", "The body ended early.") from error
    if len(raw) > limit:
        raise TooLarge(limit)
    return raw


def _plain(request: HttpRequest, raw: bytes, *, limit: int) -> bytes:
    if not raw:
        return raw
    try:
        return encodings.undone(raw, request.headers.get("Content-Encoding"), limit=limit)
    except encodings.TooLarge as error:
        raise TooLarge(limit) from error
    except encodings.Unsupported as error:
        raise WrongType(str(error)) from error
    except encodings.Corrupt as error:
        raise Problem(400, "Bad request", str(error)) from error


def decode(raw: bytes, into: type[T], *, is_cut: bool = False) -> T:
    """The JSON document as `into`. Raises a Problem that names the field.

    An empty body is an empty object where nothing is required. With `is_cut` what nests too deep has been cut.
    """
    if not raw.strip():
        raw = b"{}"
    try:
        value = msgspec.json.decode(raw, type=into)
    except msgspec.ValidationError as error:
        raise of(error) from error
    except RecursionError as error:
        cut = shallow_parts(raw) if getattr(into, "checks_parts", False) and not is_cut else None
        if cut is None:
            raise too_deep() from error
        return decode(cut, into, is_cut=True)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mended_raw = mended(raw) if getattr(into, "checks_parts", False) else None
        if mended_raw is None:
            raise unreadable(error) from error
        return decode(mended_raw, into, is_cut=is_cut)
    if not getattr(into, "checks_parts", False):
        check(raw)
    return value


def shallow_parts(raw: bytes) -> bytes | None:
    """JSON whose parts can be told apart and are refused for their depth still; None where there is nothing to cut."""
    try:
        cut = shallow(raw, b"[{")
    except RecursionError:
        return None
    return None if cut == raw else cut


def mended(raw: bytes) -> bytes | None:
    """JSON whose texts were cut in the middle of an escaped character, with U+FFFD there; None where that is not it."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    whole_text = whole(text)
    return None if whole_text == text else whole_text.encode()


def decode_as(content_type: str | None, raw: bytes, into: Any) -> Any:
    """The body as `into`, which may say itself how it is read. Raises a Problem that names the field."""
    if content_type in LINES:
        return into.of_lines(raw)
    return into.of_document(raw) if hasattr(into, "of_document") else decode(raw, into)


def check(raw: bytes) -> None:
    """Raise a Problem for JSON that is valid and yet cannot be kept: NUL characters, huge integers, deep nesting."""
    if nests_deeper_than(raw, DEEPEST):
        raise too_deep()
    if _may_have_faults(raw):
        for field, message in faults(msgspec.json.decode(raw)):
            raise bad_field(field, message)


def are_fit(objects: Sequence[bytes]) -> bool:
    """Whether `check` lets all these valid JSON objects pass, asked once; where it is False each has to be asked."""
    raw = b"\n".join(objects)
    return not nests_deeper_than(raw, DEEPEST, objects=len(objects)) and not _may_have_faults(raw)


def unreadable(error: Exception) -> Problem:
    return Problem(400, "Bad request", f"The body is not valid JSON in UTF-8: {error}")


def too_deep() -> Problem:
    return Problem(400, "Bad request", f"The body nests deeper than {DEEPEST} levels.")


def _may_have_faults(raw: bytes) -> bool:
    """False when a valid JSON document has no faults; at the speed of bytes."""
    if b"\\" in raw and b"\\u0000" in raw:
        return True
    return _LONG_NUMBER in (b":" + raw).translate(_NUMBERS)


def faults(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Where a decoded JSON value holds what PostgreSQL or JSON readers cannot: (field, message)."""
    match value:
        case str():
            if "\0" in value:
                yield path or "body", "must not contain the character NUL"
        case bool():
            pass
        case int():
            if value not in INT64:
                yield path or "body", "must be an integer of at most 64 bits"
        case dict():
            for key, inner in value.items():
                if "\0" in key:
                    yield path or "body", "has a key with the character NUL"
                yield from faults(inner, f"{path}.{key}" if path else key)
        case list():
            for index, inner in enumerate(value):
                yield from faults(inner, f"{path}[{index}]")


def of(error: msgspec.ValidationError, *, whole: str = "body") -> Problem:
    """The 400 that a failed validation is; `whole` names the place when no single field is at fault."""
    field, message = fault(error, whole=whole)
    return bad_field(field, message)


def fault(error: msgspec.ValidationError, *, whole: str = "body") -> tuple[str, str]:
    """(field, message) of a failed validation, such as ("calls[3].input_tokens", "Expected `int`, got `str`")."""
    found = _WHERE.match(str(error))
    assert found is not None
    message, path = found["message"], (found["path"] or "").removeprefix(".")
    if missing := _MISSING.match(message):
        return f"{path}.{missing['name']}".removeprefix("."), "is required"
    if unknown := _UNKNOWN.match(message):
        return f"{path}.{unknown['name']}".removeprefix("."), "is not known"
    if own := _OWN.match(message):
        return f"{path}.{own['name']}".removeprefix("."), own["message"]
    return path or whole, message.replace("`", "")


def decode_query(request: HttpRequest, into: type[T]) -> T:
    """The query parameters as `into`. Unknown ones, repeated single ones and NULs are a 400."""
    kind: Any = into  # a type hashes by identity
    many = _lists(kind)
    known = _names(kind)
    values: dict[str, Any] = {}
    for name, given in request.GET.lists():
        if name not in known:
            raise bad_field(name, f"is not a parameter here; there are {', '.join(sorted(known)) or 'none'}")
        if any("\0" in text for text in given):
            raise bad_field(name, "must not contain the character NUL")
        if name not in many and len(given) > 1:
            raise bad_field(name, "may be given once only")
        values[name] = given if name in many else given[0]
    try:
        return msgspec.convert(values, into, strict=False)
    except msgspec.ValidationError as error:
        raise of(error, whole="query") from error


@cache
def _names(into: type) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(into))


@cache
def _lists(into: type) -> frozenset[str]:
    hints = get_type_hints(into, include_extras=True)
    return frozenset(field.encode_name for field in msgspec.structs.fields(into) if _is_list(hints[field.name]))


def _is_list(hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Annotated:
        return _is_list(get_args(hint)[0])
    if origin in (Union, UnionType):
        return any(_is_list(part) for part in get_args(hint))
    return origin in (list, tuple, set, frozenset)


class Nothing(msgspec.Struct):
    """A query without parameters."""


def within_usd(value: Decimal | None, name: str) -> None:
    """For `__post_init__` of a body with money: raise ValueError unless it is 0 to 1,000,000 US dollars."""
    if value is not None and not is_usd(value):
        raise ValueError(f"{name} must be 0 to 1,000,000 US dollars")
