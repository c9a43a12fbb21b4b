"""docs/otlp.md is in step with the mapper."""

from monitor import spanrows
from monitor.records import Tokens
from tests.monitor.otlp_page import PAGE, refreshed


def test_the_tables_of_the_page_are_those_of_the_mapper():
    page = PAGE.read_text()

    assert refreshed(page) == page, "run python -m tests.monitor.otlp_page"


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
