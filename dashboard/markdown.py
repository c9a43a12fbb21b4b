"""What agents and people write is CommonMark with tables; it becomes HTML of a few harmless elements."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

# Longer texts are rare, and their looks are not worth the time.
LONGEST = 8_000
# HTML is shown as what it is, and no address is fetched by looking: pictures stay links.
PARSER = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table").disable("image")


def _link_open(self: RendererHTML, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
    for name, value in (("rel", "noopener noreferrer nofollow"), ("target", "_blank")):
        tokens[idx].attrSet(name, value)
    return str(self.renderToken(tokens, idx, options, env))


PARSER.add_render_rule("link_open", _link_open)


def render(text: str) -> SafeString:
    """The text as block elements; headings become paragraphs `.strong`, for a page has an outline of its own."""
    # Nothing is kept of what is longer.
    return _rendered(text) if len(text) <= LONGEST else format_html('<p class="as-typed">{}</p>', text)


@lru_cache(maxsize=2000)
def _rendered(text: str) -> SafeString:
    tokens = PARSER.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "p"
            if token.nesting == 1:
                token.attrSet("class", "strong")
        elif token.type in ("th_open", "td_open"):
            # The content policy lets nothing carry a style of its own.
            token.attrs.pop("style", None)
    options: Any = PARSER.options
    return mark_safe(PARSER.renderer.render(tokens, options, {}))  # noqa: S308
