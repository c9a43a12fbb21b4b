"""How large the data is, how it grows, and when the disk is full at this pace. The same for every project."""

from django.conf import settings
from django.http import Http404, HttpResponse
from django.template.response import TemplateResponse

from dashboard import growth as telling
from dashboard.access import PageRequest, page
from monitor import growth, room
from monitor.models.people import Role


@page
def growing(request: PageRequest) -> HttpResponse:
    """The whole page, or with `?part=growth` what is refreshed every minute."""
    part = request.GET.get("part")
    if part not in (None, "growth"):
        raise Http404
    found = growth.look(now=request.now)
    largest = max((one.size.bytes for one in found.kinds), default=0) or 1
    context = {
        "growth": found,
        "told": telling.tell(found, now=request.now),
        "kinds": [(one, one.size.bytes / largest) for one in found.kinds],
        "marks": (settings.DISK_WARN, settings.DISK_STOP),
        "reliefs": (settings.DISK_WARN - room.RELIEF, settings.DISK_STOP - room.RELIEF),
        "may_edit": request.visitor.may(Role.ADMIN),
    }
    return TemplateResponse(request, "system/_growth.html" if part else "system/growth.html", context)
