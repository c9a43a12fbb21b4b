"""The first page of an empty project: a key, the lines to paste, and the overview as soon as data arrives."""

from django.http import HttpResponse
from django.template.response import TemplateResponse
from django.views.decorators.http import require_POST

from dashboard.access import PageRequest, page
from dashboard.arrival import is_empty
from monitor import doorcounts, keys
from monitor.models.keys import Scope
from monitor.models.people import Role

KEY_PLACE = "YOUR_KEY"


def first_run(request: PageRequest) -> HttpResponse:
    """How to send the first trace; called by the overview inside its transaction."""
    return TemplateResponse(request, "overview/first_run.html", _snippets(request, KEY_PLACE) | _refused(request))


@require_POST
@page(role=Role.OPERATOR)
def make_key(request: PageRequest) -> HttpResponse:
    """Make a key that may only send data, and show it once, in the lines."""
    _, text = keys.make(request.visitor.project, "first key", [Scope.INGEST], now=request.now)
    return TemplateResponse(request, "overview/_snippets.html", _snippets(request, text) | {"key": text})


@page
def arrival(request: PageRequest) -> HttpResponse:
    """The live part that waits: once something has arrived it leads to the overview."""
    arrived = not is_empty(request.visitor.project.pk)
    return TemplateResponse(request, "overview/_arrival.html", {"arrived": arrived, **_refused(request)})


def _refused(request: PageRequest) -> dict[str, object]:
    """What came and could not be taken, for whoever waits in vain."""
    return {"refused": doorcounts.refused(request.visitor.project.pk, now=request.now)}


def _snippets(request: PageRequest, key: str) -> dict[str, object]:
    address = f"{request.scheme}://{request.get_host()}"
    return {"address": address, "shown_key": key, "may_make_key": request.visitor.may(Role.OPERATOR)}
