"""docs/otlp.md is in step with the mapper."""

import re
from collections.abc import Iterable, Mapping

from monitor import semconv, spanrows
from monitor.records import Tokens
from monitor.values import LONGEST_BLOB
from tests.monitor.otlp_page import PAGE, refreshed


def test_the_tables_of_the_page_are_those_of_the_mapper():
    page = PAGE.read_text()

    assert refreshed(page) == page, "run python -m tests.monitor.otlp_page"


def words(value: object) -> Iterable[str]:
    """The senders' words in a table; of a pair, the other is ours: a kind or a field."""
    match value:
        case str():
            yield value.strip()
        case Mapping() if all(isinstance(one, str) for one in value.values()):
            yield from words(list(value))
        case Mapping():
            yield from words(list(value.values()))
        case Iterable():
            for one in value:
                yield from words(one)


def test_every_name_that_the_mapper_knows_stands_on_the_page():
    told = set(re.findall(r"`([^`\n]+)`", PAGE.read_text()))
    known = {word for name, table in vars(semconv).items() if name.isupper() for word in words(table)}

    assert {"gen_ai.usage.raw", "GraphInterrupt", "lc_agent_name", "invoke_agent", "cachedContentTokenCount"} <= known
    assert [
        word for word in sorted(known - told) if not any(one.startswith(word) or one.endswith(word) for one in told)
    ] == []


def test_the_page_tells_how_long_an_object_may_be():
    assert f"{LONGEST_BLOB:,} characters" in " ".join(PAGE.read_text().split())


def test_every_bucket_is_explained():
    page = PAGE.read_text()

    for field in Tokens.__struct_fields__:
        assert f"`{field}`" in page


def test_the_page_tells_after_how_many_characters_things_are_cut():
    told = PAGE.read_text().split("**How long things may be.**")[1].split("\n\n")[0]

    for most in (
        spanrows.LONGEST_TITLE,
        spanrows.LONGEST_ERROR,
        spanrows.LONGEST_NAME,
        spanrows.LONGEST_SHORT_NAME,
    ):
        assert f" {most:,}" in told
