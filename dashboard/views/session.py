"""Signing in and out, the project one looks at, and whether one is there."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.views.decorators.http import require_POST
from redis import RedisError

from dashboard.access import PageRequest, page
from monitor import people
from monitor.models import Person
from monitor.models.people import Presence, Role

log = logging.getLogger(__name__)

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
        # Whatever was typed, as a key of one length.
        counter = f"sign-in:{hashlib.sha256(email.encode()).hexdigest()}"
        if _wrong_tries(counter) >= WRONG_TRIES:
            raise ValidationError("Too many wrong tries. Try again in 10 minutes.", code="throttled")
        try:
            cleaned = super().clean()
        except ValidationError:
            _count_wrong_try(counter)
            raise
        with _even_without_redis():
            cache.delete(counter)
        return cleaned or {}


@contextmanager
def _even_without_redis() -> Iterator[None]:
    """Without Redis wrong tries are not counted: people sign in all the same, as calls have no limits then."""
    try:
        yield
    except RedisError as error:
        log.warning("wrong tries to sign in are not counted: %s", error)


def _wrong_tries(counter: str) -> int:
    with _even_without_redis():
        return int(cache.get(counter, 0))
    return 0


def _count_wrong_try(counter: str) -> None:
    with _even_without_redis():
        if not cache.add(counter, 1, WRONG_TRIES_WITHIN_S):
            # It may have expired in between; then this try was the last of its ten minutes.
            with suppress(ValueError):
                cache.incr(counter)


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
