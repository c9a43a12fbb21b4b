"""Small pictures as SVG text: icons, sparklines, bars and countdown rings, drawn without inline styles. Pure."""

from collections.abc import Iterable, Sequence

from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe


def icon(name: str, size: int = 16, label: str = "") -> SafeString:
    """A glyph of the sprite; decoration unless it has a label."""
    told = format_html(' role="img" aria-label="{}"', label) if label else mark_safe(' aria-hidden="true"')
    return format_html(
        '<svg class="icon icon-{}" width="{}" height="{}"{}><use href="{}#{}"/></svg>',
        name,
        size,
        size,
        told,
        static("vendor/icons.svg"),
        name,
    )


def spark(values: Sequence[float | None], tone: str = "", label: str = "") -> SafeString:
    """A line of up to some hundred values, evenly spaced, low at the bottom; None is a gap. The dot ends it."""
    known = [value for value in values if value is not None]
    if not known:
        return mark_safe('<svg class="spark" aria-hidden="true"></svg>')
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    step = 100 / max(1, len(values) - 1)
    # The stroke and the dot stay inside the 28 pixels.
    heights = [None if v is None else 90 - 80 * (v - low) / span for v in values]
    if high == low:
        heights = [None if v is None else 90.0 for v in values]
    path, pen_up = [], True
    for place, height in enumerate(heights):
        if height is not None:
            path.append(f"{'M' if pen_up else 'L'}{place * step:.1f} {height:.1f}")
        pen_up = height is None
    end = next((index, h) for index, h in reversed(list(enumerate(heights))) if h is not None)
    told = format_html(' role="img" aria-label="{}"', label) if label else mark_safe(' aria-hidden="true"')
    return format_html(
        '<svg class="spark{}"{}><svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">'
        '<path d="{}"/></svg><circle cx="{}%" cy="{}%" r="2"/></svg>',
        f" is-{tone}" if tone else "",
        told,
        " ".join(path),
        f"{end[0] * step:.1f}",
        f"{end[1]:.1f}",
    )


def bar(
    share: float,
    tone: str = "",
    label: str = "",
    *,
    reserved: float = 0.0,
    mark: float | Sequence[float] | None = None,
    thin: bool = False,
) -> SafeString:
    """A share of one as a bar; `reserved` is hatched behind it, `mark` is a tick at a threshold, or several are."""
    filled = min(1.0, max(0.0, float(share)))
    held = min(1.0 - filled, max(0.0, float(reserved)))
    pieces = [format_html('<rect class="bar-fill" width="{}%" height="100%"/>', f"{filled * 100:.2f}")]
    if held:
        place = (f"{filled * 100:.2f}", f"{held * 100:.2f}")
        pieces.append(format_html('<rect class="bar-held" x="{}%" width="{}%" height="100%"/>', *place))
        pieces.append(format_html('<rect fill="url(#hatch)" x="{}%" width="{}%" height="100%"/>', *place))
    drawn = format_html(
        '<svg class="bar{}{}" role="img" aria-label="{}">{}</svg>',
        f" is-{tone}" if tone else "",
        " bar-thin" if thin else "",
        label or f"{filled * 100:.0f} %",
        _joined(pieces),
    )
    if mark is None:
        return drawn
    marks = [mark] if isinstance(mark, int | float) else mark
    ticks = _joined(format_html('<rect x="{}%" width="2" height="100%"/>', f"{one * 100:.2f}") for one in marks)
    return format_html(
        '<span class="bar-marked">{}<svg class="bar-mark" aria-hidden="true">{}</svg></span>', drawn, ticks
    )


def split(shares: Iterable[tuple[float, str, str]]) -> SafeString:
    """Parts of one whole side by side: (share, tone, what it is)."""
    pieces, start = [], 0.0
    for share, tone, what in shares:
        wide = f"{share * 100:.2f}"
        pieces.append(
            format_html(
                '<rect class="split-{}" x="{}%" width="{}%" height="100%"><title>{}</title></rect>',
                tone,
                f"{start * 100:.2f}",
                wide,
                what,
            )
        )
        start += share
    return format_html('<svg class="bar split" aria-hidden="true">{}</svg>', _joined(pieces))


def ring(left_share: float) -> SafeString:
    """The countdown ring: the share of the time that is left, drawn clockwise from the top."""
    arc = min(100.0, max(0.0, left_share * 100))
    return format_html(
        '<svg class="ring" viewBox="0 0 14 14" aria-hidden="true"><circle class="ring-track" cx="7" cy="7" r="5.5"/>'
        '<circle class="ring-arc" cx="7" cy="7" r="5.5" pathLength="100" stroke-dasharray="{} 100"/></svg>',
        f"{arc:.1f}",
    )


def _joined(pieces: Iterable[SafeString]) -> SafeString:
    return format_html_join("", "{}", ((piece,) for piece in pieces))
