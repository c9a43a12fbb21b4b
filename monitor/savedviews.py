"""Saved views of the list of executions: whose they are, who sees them, and what they may ask for."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.db import IntegrityError, transaction
from django.db.models import Case, Q, QuerySet, Value, When
from msgspec import Meta

from monitor.models import SavedView
from monitor.models.executions import StatusName
from monitor.models.views import MOST_A_PERSON
from monitor.standstill import StillName

ONE_PER_NAME = "view_one_per_name_of_a_person"
Text = Annotated[str, Meta(max_length=200)]
Aware = Annotated[datetime, Meta(tz=True)]
ViewName = Annotated[str, Meta(min_length=1, max_length=60)]


class Query(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename={"since": "from"}):
    """What a view asks for, in the words of the list's address. A custom range has `from` and `to`."""

    view: Literal["all", "recent", "needs", "still", "failed"] = "all"
    status: Annotated[list[StatusName], Meta(max_length=9)] = []
    still: Annotated[list[StillName], Meta(max_length=2)] = []
    agent: Text = ""
    run_id: Text = ""
    q: Text = ""
    order: Literal["state", "started"] = "state"
    range: Literal["1h", "24h", "7d", "30d", "custom"] = "24h"
    since: Aware | None = None
    to: Aware | None = None

    def __post_init__(self) -> None:
        if (self.range == "custom") != (self.since is not None and self.to is not None):
            raise ValueError("from and to belong to the range custom, both of them")
        if self.since and self.to and self.since >= self.to:
            raise ValueError("from must lie before to")

    def plain(self) -> dict[str, Any]:
        """As JSON keeps it."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


class TooManyViews(Exception):
    """The person has as many views as there are places."""


class NameTaken(Exception):
    """The person has a view of this name already."""


def seen_by(project_id: int, person_id: int | None) -> QuerySet[SavedView]:
    """The person's own views by place, then those that others share by name; without a person the shared ones."""
    found = SavedView.objects.filter(project_id=project_id).select_related("owner")
    if person_id is None:
        return found.filter(is_shared=True).order_by("name", "id")
    mine = Q(owner_id=person_id)
    place = Case(When(mine, then="position"), default=Value(MOST_A_PERSON))
    return found.filter(mine | Q(is_shared=True)).order_by(place, "name", "id")


def save(
    project_id: int, person_id: int, *, name: str, query: Query, is_shared: bool = False, now: datetime
) -> SavedView:
    """Keep a list under a name. Raises NameTaken, TooManyViews."""
    for _ in range(MOST_A_PERSON):
        taken = set(_own(project_id, person_id).values_list("position", flat=True))
        free = next((place for place in range(MOST_A_PERSON) if place not in taken), None)
        if free is None:
            break
        try:
            with transaction.atomic():
                return SavedView.objects.create(
                    project_id=project_id,
                    owner_id=person_id,
                    name=name,
                    query=query.plain(),
                    is_shared=is_shared,
                    position=free,
                    created_at=now,
                )
        except IntegrityError as error:
            # Else the person's other window was faster with this place.
            if _constraint(error) == ONE_PER_NAME:
                raise NameTaken from error
    raise TooManyViews


def change(
    project_id: int,
    person_id: int,
    view_id: UUID,
    *,
    name: str | None = None,
    query: Query | None = None,
    is_shared: bool | None = None,
    is_default: bool | None = None,
) -> bool:
    """Set what is given on one's own view; False when there is none. Raises NameTaken.

    A person has one default at most: the one that was before is none any more.
    """
    given = {
        "name": name,
        "query": query.plain() if query else None,
        "is_shared": is_shared,
        "is_default": is_default,
    }
    fields = {field: value for field, value in given.items() if value is not None}
    own = _own(project_id, person_id).filter(pk=view_id)
    if not fields:
        return own.exists()
    try:
        with transaction.atomic():
            if is_default and not _no_default_but(project_id, person_id, view_id):
                return False
            return bool(own.update(**fields))
    except IntegrityError as error:
        if _constraint(error) == ONE_PER_NAME:
            raise NameTaken from error
        raise


def _no_default_but(project_id: int, person_id: int, view_id: UUID) -> bool:
    """Take the default back from the person's other views; False when they have no such view."""
    own = _own(project_id, person_id)
    # In one order, so that of two windows the second waits for the first and then sees what it did.
    held = list(own.order_by("pk").select_for_update(no_key=True).values_list("pk", flat=True))
    if view_id not in held:
        return False
    own.filter(is_default=True).exclude(pk=view_id).update(is_default=False)
    return True


def default_of(project_id: int, person_id: int) -> SavedView | None:
    """The view with which the person's list opens."""
    return _own(project_id, person_id).filter(is_default=True).first()


def remove(project_id: int, person_id: int, view_id: UUID, *, is_admin: bool) -> bool:
    """Take away one's own view, or as an admin one that is shared; False when there is none."""
    whose = Q(owner_id=person_id) | (Q(is_shared=True) if is_admin else Q(pk__in=[]))
    removed, _ = SavedView.objects.filter(whose, project_id=project_id, pk=view_id).delete()
    return bool(removed)


def _own(project_id: int, person_id: int) -> QuerySet[SavedView]:
    return SavedView.objects.filter(project_id=project_id, owner_id=person_id)


def _constraint(error: IntegrityError) -> str:
    return getattr(getattr(error.__cause__, "diag", None), "constraint_name", "") or ""
