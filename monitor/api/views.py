"""Saved views over HTTP: a person's own and the shared ones; a key, being nobody, sees the shared ones."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from django.urls import path

from monitor import savedviews
from monitor.api.caller import Request
from monitor.api.door import Answer, Door, endpoint
from monitor.api.problems import Forbidden, Problem, bad_field
from monitor.models import SavedView
from monitor.models.views import MOST_A_PERSON
from monitor.savedviews import Query, ViewName


class NewView(msgspec.Struct, kw_only=True):
    name: ViewName
    query: Query = msgspec.field(default_factory=Query)
    is_shared: bool = False


class ChangedView(msgspec.Struct, kw_only=True):
    name: ViewName | None = None
    query: Query | None = None
    is_shared: bool | None = None
    is_default: bool | None = None


class ViewOut(msgspec.Struct, kw_only=True):
    """`query` is what the list of executions is asked for; `is_own` says whether the caller may change it.

    `is_default` is true of the view with which the caller's own list opens.
    """

    id: UUID
    name: str
    query: dict[str, Any]
    is_shared: bool
    is_own: bool
    is_default: bool
    owner: str
    created_at: datetime


class ViewList(msgspec.Struct, kw_only=True):
    views: list[ViewOut]


class Views(Door):
    @endpoint(scope="read", answer=ViewList)
    def get(self, request: Request) -> ViewList:
        return ViewList(views=[_out(one, request) for one in _seen(request)])

    @endpoint(scope="operate", body=NewView, answer=ViewOut, status=201, also=(409,))
    def post(self, request: Request, body: NewView) -> ViewOut:
        person_id = _person(request)
        try:
            made = savedviews.save(
                request.caller.project_id,
                person_id,
                name=_name(body.name),
                query=body.query,
                is_shared=body.is_shared,
                now=request.now,
            )
        except savedviews.NameTaken as error:
            raise _taken() from error
        except savedviews.TooManyViews as error:
            raise Problem(409, "Conflict", f"A person keeps at most {MOST_A_PERSON} views.") from error
        return _out(made, request)


class OneView(Door):
    @endpoint(scope="operate", body=ChangedView, answer=ViewOut, also=(409,))
    def patch(self, request: Request, view_id: UUID, body: ChangedView) -> ViewOut:
        person_id = _person(request)
        try:
            changed = savedviews.change(
                request.caller.project_id,
                person_id,
                view_id,
                name=None if body.name is None else _name(body.name),
                query=body.query,
                is_shared=body.is_shared,
                is_default=body.is_default,
            )
        except savedviews.NameTaken as error:
            raise _taken() from error
        if not changed:
            raise Problem(404, "Not found", "You have no such view.")
        return _out(_seen(request).get(pk=view_id), request)

    @endpoint(scope="operate", status=204)
    def delete(self, request: Request, view_id: UUID) -> Answer:
        person_id, caller = _person(request), request.caller
        if not savedviews.remove(caller.project_id, person_id, view_id, is_admin=caller.may("admin")):
            raise Problem(404, "Not found", "You have no such view.")
        return Answer(status=204)


def _seen(request: Request) -> Any:
    return savedviews.seen_by(request.caller.project_id, request.caller.person_id)


def _person(request: Request) -> int:
    if request.caller.person_id is None:
        raise Forbidden("Views belong to people: sign in.")
    return request.caller.person_id


def _name(text: str) -> str:
    name = " ".join(text.split())
    if not name:
        raise bad_field("name", "must not be empty")
    return name


def _taken() -> Problem:
    return Problem(409, "Conflict", "You have a view of this name already.")


def _out(view: SavedView, request: Request) -> ViewOut:
    is_own = view.owner_id == request.caller.person_id
    return ViewOut(
        id=view.pk,
        name=view.name,
        query=view.query,
        is_shared=view.is_shared,
        is_own=is_own,
        is_default=is_own and view.is_default,
        owner=str(view.owner),
        created_at=view.created_at,
    )


urlpatterns = [
    path("views", Views.as_view()),
    path("views/<uuid:view_id>", OneView.as_view()),
]
