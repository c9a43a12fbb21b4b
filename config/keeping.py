"""What the commands that change how long things are kept share: their words, and the question before they delete."""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence

from django.core.management.base import BaseCommand, CommandError

from monitor import keeping
from monitor.keeping import KINDS, BadDays, Change, Kept
from monitor.leaving import Leaving

ACTOR = "manage.py"


def add_keep(parser: ArgumentParser) -> None:
    parser.add_argument("--keep", metavar="KIND=DAYS,…", default="", help=f"days by kind: {', '.join(KINDS)}")
    parser.add_argument("--yes", action="store_true", help="do not ask before a shorter time deletes")


def wanted(text: str) -> dict[str, int | None]:
    """`spans=30,ledger=off` as days by kind. Raises CommandError."""
    found: dict[str, int | None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, _, days = part.partition("=")
        if days != "off" and not (days.isascii() and days.isdigit()):
            raise CommandError(f"--keep {part!r}: give KIND=DAYS, such as spans=30, or KIND=off.")
        found[kind] = None if days == "off" else int(days)
    try:
        keeping.check(found)
    except BadDays as error:
        raise CommandError(f"--keep: {error}.") from error
    return found


def planned(days: Mapping[str, int | None], held: Mapping[str, Kept]) -> list[Change]:
    """What the days change of what holds. Raises CommandError."""
    try:
        return keeping.planned(days, held)
    except BadDays as error:
        raise CommandError(f"--keep: {error}.") from error


def confirm(command: BaseCommand, plan: Sequence[Change], left: Sequence[Leaving], *, is_sure: bool) -> None:
    """Say what a shorter time deletes, and ask. Raises CommandError when nobody agrees."""
    told = {one.kind: one for one in left}
    for one in plan:
        if not one.is_shorter:
            continue
        size = "unknown" if told[one.kind].bytes is None else f"{(told[one.kind].bytes or 0) / 1e6:,.1f} MB"
        about = "" if told[one.kind].is_exact else "about "
        command.stdout.write(
            f"{one.kind}: {one.was} days become {one.days}; {about}{told[one.kind].rows:,} rows leave, about {size}."
        )
    if left and not is_sure:
        command.stdout.write("Nothing brings them back. Go on? [y/N] ", ending="")
        command.stdout.flush()
        if not _agrees():
            raise CommandError("Nothing was changed.")


def lines(held: Mapping[str, Kept]) -> Iterator[str]:
    """`keep spans   30 days (without this 90)`."""
    for kind, one in held.items():
        own = "" if one.own is None else f" (without this {one.default})"
        yield f"{f'keep_{kind}':<26} {one.days} days{own}"


def _agrees() -> bool:
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False
