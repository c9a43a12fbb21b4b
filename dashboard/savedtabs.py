"""The tabs above the list of executions: the built-in views, then the saved ones."""

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from dashboard import listing
from dashboard.access import Visitor
from dashboard.listing import Asked
from monitor import savedviews
from monitor.models import SavedView
from monitor.models.people import Role

# Each count costs a look at up to 10,000 rows; further saved views are shown without.
COUNTED_VIEWS = 8
MOST_SHOWN = 40
# The counts that are coloured as soon as they are more than none.
TONES = {"needs": "red", "still": "amber"}


@dataclass(frozen=True)
class Tab:
    """`count` is "" where nobody counted."""

    word: str
    address: str
    count: str
    is_current: bool
    tone: str = ""
    title: str = ""


@dataclass(frozen=True)
class Current:
    """The saved view that is open, and what the visitor may do with it."""

    id: UUID
    name: str
    is_shared: bool
    is_own: bool
    is_default: bool
    may_remove: bool


def tabs(visitor: Visitor, asked: Asked, *, now: datetime) -> tuple[list[Tab], Current | None]:
    """The tabs with how many each list holds, and the saved view whose list it is, if it is one's."""
    project = visitor.project
    plain = Asked(since=asked.since, until=asked.until, range=asked.range)
    built_in = [replace(plain, view=view) for view in listing.VIEWS]
    found = list(savedviews.seen_by(project.pk, visitor.person.pk)[:MOST_SHOWN])
    saved = [(one, listing.asked_of(one.query, now=now)) for one in found]
    # A search looks at every text of its range.
    counted = [(one.pk, list_) for one, list_ in saved if not list_.q][:COUNTED_VIEWS]
    lists = built_in + [list_ for _, list_ in counted]
    numbers = listing.counts_of(project.pk, lists, now=now, time_zone=project.time_zone)
    of_saved = {pk: listing.counted(number) for (pk, _), number in zip(counted, numbers[len(built_in) :], strict=True)}
    here = asked.address()
    current = next((one for one, list_ in saved if list_.address() == here), None)
    shown = [
        Tab(
            word,
            replace(list_, order=asked.order).address(),
            listing.counted(number),
            is_current=current is None and asked.view == view,
            tone=TONES.get(view, "") if number else "",
        )
        for (view, word), list_, number in zip(listing.VIEWS.items(), built_in, numbers, strict=False)
    ]
    shown += [
        Tab(
            one.name,
            list_.address(),
            of_saved.get(one.pk, ""),
            is_current=one is current,
            title=_whose(one, visitor),
        )
        for one, list_ in saved
    ]
    return shown, _current(current, visitor) if current else None


def _whose(view: SavedView, visitor: Visitor) -> str:
    if view.owner_id == visitor.person.pk:
        whose = "Yours, shared with the project" if view.is_shared else "Yours alone"
        return f"{whose}; your list opens with it" if view.is_default else whose
    return f"Shared by {view.owner}"


def _current(view: SavedView, visitor: Visitor) -> Current:
    is_own = view.owner_id == visitor.person.pk
    return Current(
        view.pk,
        view.name,
        view.is_shared,
        is_own,
        is_own and view.is_default,
        may_remove=is_own or visitor.may(Role.ADMIN),
    )
