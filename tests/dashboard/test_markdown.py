"""What agents and people write, as it is shown."""

from dashboard.markdown import LONGEST, render


def test_what_is_marked_is_shown_marked() -> None:
    assert render("I found **one** flight:\n\n1. `UDMOP1`\n2. SFO\nto PHX") == (
        "<p>I found <strong>one</strong> flight:</p>\n"
        "<ol>\n<li><code>UDMOP1</code></li>\n<li>SFO<br />\nto PHX</li>\n</ol>\n"
    )


def test_a_heading_is_no_heading_of_the_page() -> None:
    assert render("# Your trip") == '<p class="strong">Your trip</p>\n'


def test_html_is_shown_and_never_obeyed() -> None:
    assert render('<script>alert(1)</script> <b onclick="x()">b</b>') == (
        "<p>&lt;script&gt;alert(1)&lt;/script&gt; &lt;b onclick=&quot;x()&quot;&gt;b&lt;/b&gt;</p>\n"
    )


def test_links_lead_away_safely_and_nothing_is_fetched_by_looking() -> None:
    assert render("[a](javascript:alert(1)) [b](data:text/html,x)") == (
        "<p>[a](javascript:alert(1)) [b](data:text/html,x)</p>\n"
    )
    assert render("![seen](https://example.com/pixel.png)") == (
        '<p>!<a href="https://example.com/pixel.png" rel="noopener noreferrer nofollow" target="_blank">seen</a></p>\n'
    )


def test_a_table_carries_no_style_of_its_own() -> None:
    shown = render("| a | b |\n|--:|:-:|\n| 1 | 2 |")
    assert "<td>1</td>" in shown
    assert "style" not in shown


def test_a_very_long_text_is_shown_as_it_was_typed() -> None:
    assert render("*" * LONGEST + "<i>") == f'<p class="as-typed">{"*" * LONGEST}&lt;i&gt;</p>'
