"""What templates say and draw: `{% load handrail %}`. The words stand in words.py, the pictures in drawings.py."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django import template
from django.template import Context
from django.urls import reverse
from django.utils import timezone
from django.utils.html import conditional_escape, format_html, json_script
from django.utils.safestring import SafeString

from dashboard import drawings, markdown, words
from dashboard.states import Look, look_of

register = template.Library()

register.filter("took", words.took)
register.filter("period", words.period)
register.filter("seconds", words.seconds)
register.filter("lasted", words.lasted)
register.filter("usd", words.usd)
register.filter("usd_one", words.usd_one)
register.filter("usd_limit", words.usd_limit)
register.filter("tokens", words.amount)
register.filter("amount", words.amount)
register.filter("bytes", words.size)
register.filter("percent", words.percent)
register.filter("short_id", words.short_id)
register.filter("initials", words.initials)
register.filter("markdown", markdown.render)

register.simple_tag(drawings.icon, name="icon")
register.simple_tag(drawings.spark, name="spark")
register.simple_tag(drawings.bar, name="bar")
register.simple_tag(drawings.split, name="split")


def _now(context: Context) -> datetime:
    """The page's own clock (`now` in the context) where it has one, so that a page is of one moment."""
    now = context.get("now")
    return now if isinstance(now, datetime) else timezone.now()


@register.filter
def unit(text: str) -> SafeString:
    """The unit after a number in the colour of labels: `31 %` with a quiet per cent sign."""
    number, gap, rest = str(text).partition(words.GAP)
    if not gap or words.GAP in rest:
        return conditional_escape(text)
    return format_html('{}<span class="unit">{}</span>', number, rest)


@register.simple_tag(takes_context=True)
def ago(context: Context, moment: datetime | None) -> SafeString:
    """A relative time that keeps itself fresh, with the exact time on hover."""
    if moment is None:
        return format_html('<span class="none">{}</span>', words.NONE)
    return _time(moment, words.ago(moment, now=_now(context)), "ago")


@register.simple_tag(takes_context=True)
def clock(context: Context, moment: datetime | None) -> SafeString:
    """The clock today, date and clock on another day, with the exact time on hover."""
    if moment is None:
        return format_html('<span class="none">{}</span>', words.NONE)
    return _time(moment, words.clock(moment, now=_now(context)), "clock")


@register.simple_tag(takes_context=True)
def about(context: Context, moment: datetime) -> SafeString:
    """The clock to the minute today, the date on another day, with the exact time on hover."""
    text = words.about(moment, now=_now(context))
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), words.exact(moment), text)


@register.simple_tag(takes_context=True)
def since(context: Context, moment: datetime, finished_at: datetime | None = None) -> SafeString:
    """How long it has lasted: counts on while nothing has finished it."""
    if finished_at is not None:
        return format_html("<span>{}</span>", words.took(finished_at - moment))
    return _time(moment, words.took(_now(context) - moment), "since")


@register.simple_tag(takes_context=True)
def age(context: Context, moment: datetime) -> SafeString:
    """How old it is, roughly, for lists: `13 min`, `1 h 40 min`."""
    return _time(moment, words.rough(_now(context) - moment), "age")


def _time(moment: datetime, text: str, kind: str) -> SafeString:
    return format_html(
        '<time datetime="{}" title="{}" data-time="{}">{}</time>',
        moment.isoformat(),
        words.exact(moment),
        kind,
        text,
    )


@register.simple_tag(takes_context=True)
def countdown(
    context: Context,
    due_at: datetime,
    from_at: datetime | None = None,
    verb: str = "",
    after: str = "",
) -> SafeString:
    """A ring and what happens when it is empty: verb `denies in` gives `denies in 41:12`, late `0:42 late`.

    `from_at` is when the clock started (default: an hour before it is due); amber in the last fifth.
    """
    started = from_at or due_at - timedelta(hours=1)
    left_s = (due_at - _now(context)).total_seconds()
    share = left_s / max(1.0, (due_at - started).total_seconds())
    tone = "red" if left_s < 0 else "amber" if share <= 0.2 else "grey"
    text = f"{words.remaining(left_s)} late" if left_s < 0 else f"{verb} {words.remaining(left_s)} {after}".strip()
    return format_html(
        '<span class="count is-{}" data-countdown data-due="{}" data-from="{}" data-verb="{}" data-after="{}" '
        'title="{}">{}<span class="count-text">{}</span></span>',
        tone,
        due_at.isoformat(),
        started.isoformat(),
        verb,
        after,
        words.exact(due_at),
        drawings.ring(1 if left_s < 0 else share),
        text,
    )


@register.simple_tag
def state(name: str, word: str = "", size: int = 16) -> SafeString:
    """Glyph and word of a state in a list; `word` replaces the table's, such as `Retrying, try 2 of 3`."""
    look = look_of(name)
    return _stateful("state", look, word, size)


@register.simple_tag
def chip(name: str, word: str = "") -> SafeString:
    """Glyph and word on the soft ground of its colour: for headers only."""
    return _stateful("chip", look_of(name), word, 16)


@register.simple_tag
def glyph(name: str, size: int = 16) -> SafeString:
    """Only the glyph, with the word for those who cannot see it."""
    look = look_of(name)
    return format_html(
        '<span class="glyph is-{}">{}</span>', look.tone, drawings.icon(look.glyph, size, label=look.word)
    )


def _stateful(css: str, look: Look, word: str, size: int) -> SafeString:
    return format_html(
        '<span class="{} is-{}{}">{}<span>{}</span></span>',
        css,
        look.tone,
        " speaks" if look.speaks else "",
        drawings.icon(look.glyph, size),
        word or look.word,
    )


@register.filter
def look(name: str) -> Look:
    """The table's row for a state: `{% with l=state|look %}{{ l.tone }}`."""
    return look_of(name)


@register.simple_tag
def copy_id(full: object, text: str = "") -> SafeString:
    """A short id that copies the whole one."""
    return format_html(
        '<button type="button" class="id mono" data-copy="{}" title="{}, copy">{}</button>',
        full,
        full,
        text or words.short_id(full),
    )


@register.simple_tag
def agent_link(name: str, css: str = "") -> SafeString:
    """An agent's name that leads to its page; a dash where there is none."""
    if not name:
        return format_html('<span class="none">{}</span>', words.NONE)
    return format_html('<a class="{}" href="{}">{}</a>', css, reverse("agent", args=[name]), name)


@register.simple_tag
def money(amount_usd: Decimal | None, one: bool = False) -> SafeString:
    """An amount for a table cell; the unknown is amber and says so."""
    text = words.usd_one(amount_usd) if one else words.usd(amount_usd)
    return format_html('<span class="{}">{}</span>', "money is-amber" if amount_usd is None else "money", text)


@register.simple_tag
def spent(amount_usd: Decimal, one: bool = False) -> SafeString:
    """What a piece of work has cost; a dash where nothing is booked for it."""
    return money(amount_usd, one) if amount_usd else format_html('<span class="none">{}</span>', words.NONE)


@register.simple_tag
def chart(spec: dict[str, Any], name: str, title: str, size: str = "md", summary: str = "") -> SafeString:
    """A figure drawn by charts.js from a compact spec; `summary` says it in words, the table is made on demand.

    `size` is sm (160), md (232) or lg (296 pixels).
    """
    return format_html(
        '{}<figure class="chart chart-{}" data-chart="chart-{}" aria-label="{}">'
        '<figcaption class="unseen">{}</figcaption><div class="chart-plot" aria-hidden="true"></div>'
        '<details class="chart-table"><summary>As a table</summary><div></div></details></figure>',
        json_script(spec, f"chart-{name}"),
        size,
        name,
        title,
        summary or title,
    )
