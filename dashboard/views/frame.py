"""The live parts of the frame: what the sidebar counts, and the watcher."""

from django.http import HttpResponse
from django.template.response import TemplateResponse

from dashboard.access import PageRequest, page
from dashboard.frame import frame_for


@page
def counts(request: PageRequest) -> HttpResponse:
    """The navigation with its counts as seen from the page `?here=`, and the watcher."""
    here = request.GET.get("here", "/")[:200]
    fresh = frame_for(request, now=request.now, here=here)
    return TemplateResponse(request, "parts/_counts.html", {"frame": fresh})
