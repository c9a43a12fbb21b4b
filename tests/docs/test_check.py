"""The check of the documents finds what is out of step."""

import ast
from pathlib import Path

import pytest

from docs import check


def test_the_documents_are_in_step() -> None:
    assert list(check.problems()) == []


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ('env.int("HANDRAIL_X", default=1)', {"HANDRAIL_X"}),
        ('os.environ.get("HANDRAIL_X")', {"HANDRAIL_X"}),
        ('os.environ["HANDRAIL_X"]', {"HANDRAIL_X"}),
        ('"HANDRAIL_X" not in os.environ', {"HANDRAIL_X"}),
        ('_number(environ, "HANDRAIL_X", default=1, most=9)', {"HANDRAIL_X"}),
        ('_usd("DAILY_BUDGET")', {"DAILY_BUDGET"}),
        ('_usd(f"{name.upper()}_BUDGET")', {"SALES_BUDGET", "MARKETING_BUDGET", "OPERATIONS_BUDGET", "SUPPORT_BUDGET"}),
        ('os.environ["HANDRAIL_X"] = "1"', set()),
        ('os.environ.setdefault("HANDRAIL_X", "1")', set()),
        ('other.get("HANDRAIL_X")', set()),
    ],
)
def test_a_setting_is_found_where_it_is_read(line: str, names: set[str]) -> None:
    found = {name for node in ast.walk(ast.parse(line)) for name in check._names(node)}
    assert found == names


def test_what_is_missing_and_what_is_too_much_are_both_named() -> None:
    found = list(check._differ("docs/x.md", "the call", {"GET /a", "GET /b"}, ["GET /b", "GET /c"]))
    assert found == ["docs/x.md: the call GET /a is not described.", "docs/x.md: the call GET /c does not exist."]


def test_a_dead_link_a_missing_heading_and_a_lost_file_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# One two\n`monitor/gone.py` [a](#one-two) [b](gone.md) [c](#three) [d](https://example.com)\n```\n[e](no.md)\n```\n"
    )
    assert list(check._links(page)) == [
        "page.md: there is no monitor/gone.py.",
        "page.md: the link to gone.md leads nowhere.",
        "page.md: page.md has no heading #three.",
    ]
