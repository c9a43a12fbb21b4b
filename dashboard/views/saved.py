"""Saved views of the list of executions: save the present list, rename it, share it, open with it, take it away."""

from uuid import UUID

from django.contrib import messages
from django.core.exceptions import BadRequest
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_POST

from dashboard import listing
from dashboard.access import PageRequest, holds_nul, page
from dashboard.frame import range_of
from monitor import savedviews
from monitor.models.people import Role
from monitor.models.views import MOST_A_PERSON

LONGEST_NAME = 60


@require_POST
@page(role=Role.OPERATOR)
def save(request: PageRequest) -> HttpResponse:
    """Keep the list of the `query` that is sent under a name."""
    query = _query(request)
    asked = listing.read(query, range_of(query, now=request.now))
    name = _name(request)
    if not name:
        messages.warning(request, f"A view’s name has 1 to {LONGEST_NAME} characters.")
        return _back(asked.address())
    try:
        savedviews.save(
            request.visitor.project.pk,
            request.visitor.person.pk,
            name=name,
            query=listing.query_of(asked),
            is_shared=request.POST.get("shared") == "on",
            now=request.now,
        )
        messages.success(request, f"The view {name} is saved.")
    except savedviews.NameTaken:
        messages.warning(request, f"You have a view {name} already. Open it to rename or delete it.")
    except savedviews.TooManyViews:
        messages.warning(request, f"You have {MOST_A_PERSON} views, as many as there can be. Delete one first.")
    return _back(asked.address())


@require_POST
@page(role=Role.OPERATOR)
def change(request: PageRequest, view_id: UUID) -> HttpResponse:
    """Do one of DONE, `rename` or `delete`, on one's own view; an admin deletes shared ones too."""
    visitor, do = request.visitor, request.POST.get("do")
    whose = (visitor.project.pk, visitor.person.pk, view_id)
    query = _query(request)
    back = listing.read(query, range_of(query, now=request.now)).address()
    if do == "delete":
        if not savedviews.remove(*whose, is_admin=visitor.may(Role.ADMIN)):
            raise Http404
        messages.success(request, "The view is deleted; the executions are as they were.")
        return _back(back)
    if do == "rename" and not _name(request):
        messages.warning(request, f"A view’s name has 1 to {LONGEST_NAME} characters.")
        return _back(back)
    if do not in DONE:
        raise Http404
    asked = {"name": _name(request)} if do == "rename" else SETS[do]
    try:
        if not savedviews.change(*whose, **asked):
            raise Http404
        messages.success(request, DONE[do])
    except savedviews.NameTaken:
        messages.warning(request, f"You have a view {_name(request)} already.")
    return _back(back)


SETS = {
    "share": {"is_shared": True},
    "unshare": {"is_shared": False},
    "default": {"is_default": True},
    "no-default": {"is_default": False},
}
DONE = {
    "rename": "The view is renamed.",
    "share": "Everybody in the project sees the view now.",
    "unshare": "You alone see the view now.",
    "default": "Your list opens with the view now.",
    "no-default": "Your list opens with all executions now.",
}


def _query(request: PageRequest) -> QueryDict:
    """The list that was sent as one field. Raises BadRequest for a NUL in it, which `page` can't see there."""
    query = QueryDict(request.POST.get("query", ""))
    if holds_nul(query):
        raise BadRequest("a NUL in the query")
    return query


def _name(request: PageRequest) -> str:
    """The name that was sent, on one line; "" when it is too long."""
    name = " ".join(request.POST.get("name", "").split())
    return name if len(name) <= LONGEST_NAME else ""


def _back(address: str) -> HttpResponse:
    return redirect(f"{reverse('executions')}?{address}")
