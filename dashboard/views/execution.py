"""One execution."""

from uuid import UUID

from django.http import Http404, HttpResponse

from dashboard.access import PageRequest, page


@page
def execution(request: PageRequest, execution_id: UUID) -> HttpResponse:
    raise Http404
