"""The search box of the frame."""

from urllib.parse import urlencode

from django.http import HttpResponse, HttpResponseRedirect
from django.urls import reverse

from dashboard.access import PageRequest, page


@page
def search(request: PageRequest) -> HttpResponse:
    """To the executions that match."""
    return HttpResponseRedirect(f"{reverse('executions')}?{urlencode({'q': request.GET.get('q', '')})}")
