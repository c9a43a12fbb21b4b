"""How times, money and amounts are said on pages; the only place that decides on wording. Pure."""

from datetime import datetime, timedelta
from decimal import Decimal

from django.utils import timezone

UNKNOWN = "unknown"
NONE = "–"
# Between a number and its unit, so that a line never breaks there.
GAP = "\u00a0"


def took(duration: timedelta | float | int | None) -> str:
    """A duration (seconds or timedelta) in at most two units: `48 s`, `3 min 11 s`, `1 h 40 min`, `2 d 4 h`."""
    if duration is None:
        return NONE
    total = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if 0 < total < 1:
        return f"{total:.1f}{GAP}s"
    seconds = max(0, int(total))
    if seconds < 60:
        return f"{seconds}{GAP}s"
    if seconds < 3600:
        return f"{seconds // 60}{GAP}min{GAP}{seconds % 60:02d}{GAP}s"
    if seconds < 86400:
        hours, minutes = seconds // 3600, seconds % 3600 // 60
        return f"{hours}{GAP}h{GAP}{minutes:02d}{GAP}min" if minutes else f"{hours}{GAP}h"
    days, hours = seconds // 86400, seconds % 86400 // 3600
    return f"{days}{GAP}d{GAP}{hours}{GAP}h" if hours else f"{days}{GAP}d"


def period(duration: timedelta | float | int) -> str:
    """A length that somebody has set, without the part that is nothing: `15 min`, `1 min 30 s`."""
    return took(duration).removesuffix(f"{GAP}00{GAP}s")


def seconds(value_s: float | None) -> str:
    """Seconds with one decimal, for traces: `41.2 s`."""
    return NONE if value_s is None else f"{value_s:,.1f}{GAP}s"


def lasted(value_s: float | None) -> str:
    """A duration as one figure: `41.2 s`, from 2 minutes on `4.9 min`, from 2 hours on `2.1 h`."""
    if value_s is None or value_s < 120:
        return seconds(value_s)
    return f"{value_s / 60:.1f}{GAP}min" if value_s < 7200 else f"{value_s / 3600:,.1f}{GAP}h"


def rough(duration: timedelta | float | int) -> str:
    """A duration for speech: seconds count under 2 minutes, then only the largest unit or two."""
    total = int(duration.total_seconds() if isinstance(duration, timedelta) else duration)
    if total < 120 or total >= 3600:
        return took(total)
    return f"{total // 60}{GAP}min"


def ago(moment: datetime | None, *, now: datetime) -> str:
    """Relative under an hour either way, the clock today, the date before that: `27 s ago`, `13:56`, `18 Nov`."""
    if moment is None:
        return NONE
    distance = (now - moment).total_seconds()
    if abs(distance) < 1:
        return "now"
    if 0 < distance < 3600:
        return f"{rough(distance)} ago"
    if -3600 < distance < 0:
        return f"in {rough(-distance)}"
    local, today = timezone.localtime(moment), timezone.localtime(now)
    if local.date() == today.date():
        return f"{local:%H:%M}"
    return f"{local.day}{GAP}{local:%b}" if local.year == today.year else f"{local.day}{GAP}{local:%b %Y}"


def clock(moment: datetime | None, *, now: datetime) -> str:
    """`14:05:31` today, `18 Nov 14:05` on another day."""
    if moment is None:
        return NONE
    local, today = timezone.localtime(moment), timezone.localtime(now)
    if local.date() == today.date():
        return f"{local:%H:%M:%S}"
    year = "" if local.year == today.year else f"{local:%Y} "
    return f"{local.day}{GAP}{local:%b} {year}{local:%H:%M}"


def about(moment: datetime, *, now: datetime) -> str:
    """A moment to the minute: `14:05` today, `18 Nov 14:05` within a day either way, `18 Nov` further off."""
    local, today = timezone.localtime(moment), timezone.localtime(now)
    if local.date() == today.date():
        return f"{local:%H:%M}"
    day = f"{local.day}{GAP}{local:%b}" + ("" if local.year == today.year else f" {local:%Y}")
    return f"{day} {local:%H:%M}" if abs((moment - now).total_seconds()) < 86400 else day


def exact(moment: datetime) -> str:
    """The whole truth, for the hover: `18 Nov 2026 14:05:31.250 UTC`."""
    local = timezone.localtime(moment)
    return f"{local.day} {local:%b %Y %H:%M:%S}.{local.microsecond // 1000:03d} {local:%Z}"


def usd(amount_usd: Decimal | None) -> str:
    """A sum: `$148.20`. None is `unknown`, never 0; more than nothing is never shown as nothing."""
    return _money(amount_usd, 2)


def usd_one(amount_usd: Decimal | None) -> str:
    """The cost of one execution or call: `$0.3812`."""
    return _money(amount_usd, 4)


def usd_limit(amount_usd: Decimal | None) -> str:
    """A limit: `$260`, with cents only where there are some."""
    whole = amount_usd is not None and amount_usd == amount_usd.to_integral_value()
    return _money(amount_usd, 0 if whole else 2)


def _money(amount_usd: Decimal | None, places: int) -> str:
    if amount_usd is None:
        return UNKNOWN
    least = Decimal(1).scaleb(-places)
    sign = "−" if amount_usd < 0 else ""
    if 0 < abs(amount_usd) < least / 2:
        return f"<{GAP}${least}"
    return f"{sign}${abs(amount_usd):,.{places}f}"


def amount(value: int | float | None) -> str:
    """A count that may be large: `812`, `118.2 k`, `1.9 M`, `3.4 G`."""
    if value is None:
        return UNKNOWN
    size = float(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,950 would round to 1000.0 k.
        if abs(size) >= limit * 0.99995 and (limit > 1e3 or abs(size) >= 1e3):
            return f"{size / limit:,.1f}{GAP}{letter}"
    return f"{size:,.0f}"


def size(count: int | float | None) -> str:
    """Bytes: `812 B`, `4.2 MB`, `1.3 GB`; None is `unknown`."""
    if count is None:
        return UNKNOWN
    sign, left = "−" if count < 0 else "", abs(float(count))
    for letter in ("B", "kB", "MB", "GB"):
        if left < 999.5:
            return f"{sign}{left:.0f}{GAP}{letter}" if letter in ("B", "kB") else f"{sign}{left:.1f}{GAP}{letter}"
        left /= 1000
    return f"{sign}{left:,.1f}{GAP}TB"


def percent(share: float | Decimal | None, places: int = 0) -> str:
    """A share of one: 0.31 is `31 %`, with one decimal where asked: `4.2 %`."""
    return UNKNOWN if share is None else f"{float(share) * 100:,.{places}f}{GAP}%"


def short_id(full: object) -> str:
    """The last 4 characters: ids begin with their time, so only the end tells them apart."""
    return str(full).replace("-", "")[-4:].lower() if full else NONE


def remaining(left_s: float) -> str:
    """A countdown: `0:26`, `41:12`, `1:05:00`; the sign is the caller's to say."""
    whole = abs(int(left_s))
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"


def initials(name: str) -> str:
    """`Mara Lind` is `ML`, `mara` is `MA`."""
    words = [word for word in name.replace("-", " ").replace(".", " ").replace("@", " ").split() if word]
    if not words:
        return "?"
    return (words[0][0] + words[-1][0] if len(words) > 1 else words[0][:2]).upper()
