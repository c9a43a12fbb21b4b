"""Signing in and out, the project one looks at, and whether one is there."""

from typing import Any

from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.views.decorators.http import require_POST

from dashboard.access import PageRequest, page
from monitor import people
from monitor.models import Person
from monitor.models.people import Presence, Role

WRONG_TRIES = 10
WRONG_TRIES_WITHIN_S = 600


class SignInForm(AuthenticationForm):
    """Email and password; ten wrong tries for one email make it wait, whoever tries."""

    error_messages = {
        "invalid_login": "This email and password do not belong together.",
        "inactive": "This account is switched off.",
    }

    def clean(self) -> dict[str, Any]:
        email = str(self.cleaned_data.get("username", "")).strip().lower()
        counter = f"sign-in:{email}"
        if cache.get(counter, 0) >= WRONG_TRIES:
            raise ValidationError("Too many wrong tries. Try again in 10 minutes.", code="throttled")
        try:
            cleaned = super().clean()
        except ValidationError:
            cache.add(counter, 0, WRONG_TRIES_WITHIN_S)
            cache.incr(counter)
            raise
        cache.delete(counter)
        return cleaned or {}


class SignIn(LoginView):
    template_name = "sign_in.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True
    extra_context = {"live_state": "off"}


class SignOut(LogoutView):
    next_page = "/sign-in"


@require_POST
@page
def switch_project(request: PageRequest, project_id: int) -> HttpResponse:
    """Look at another project of one's own."""
    if project_id not in {one.project_id for one in request.visitor.memberships}:
        raise Http404
    Person.objects.filter(pk=request.visitor.person.pk).update(last_project=project_id)
    return HttpResponseRedirect("/")


@require_POST
@page(role=Role.OPERATOR)
def presence(request: PageRequest) -> HttpResponse:
    """Say that one is online, away or offline; offline gives back what is unanswered."""
    status = request.POST.get("presence", "")
    human = request.visitor.human
    if status not in Presence.values or human is None:
        raise Http404
    people.present(request.visitor.project.pk, human.pk, status, now=request.now, actor=request.visitor.person.email)
    return HttpResponseRedirect(request.headers.get("Referer", "/") if _is_own(request) else "/")


def _is_own(request: HttpRequest) -> bool:
    return request.headers.get("Referer", "").startswith(f"{request.scheme}://{request.get_host()}/")
