"""The only way a page gets at rows: who looks, at which project, with which rights."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, wraps
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import BadRequest
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse

from monitor import commons
from monitor.api.caller import KNOWN_BY, SESSION
from monitor.deadlocks import unhindered
from monitor.models import HumanAgent, Membership, Person, Project
from monitor.models.people import Role
from monitor.people import human_for
from monitor.tenancy import crossing
from monitor.together import Together

RANKS = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}


@dataclass
class Visitor:
    """A signed-in person in one project; `memberships` are all of theirs, by project name, as are `humans`."""

    person: Person
    project: Project
    role: str
    memberships: list[Membership]
    humans: list[HumanAgent]

    def may(self, role: str) -> bool:
        """Whether the person has this role, or one above it."""
        return RANKS[Role(self.role)] >= RANKS[Role(role)]

    @property
    def sees(self) -> Q:
        """Which budgets and trips are shown to the person."""
        return commons.visible(self.project.pk, is_instance_admin=self.person.is_instance_admin)

    @cached_property
    def human(self) -> HumanAgent | None:
        """The person as one who takes conversations; viewers are none."""
        if not self.may(Role.OPERATOR):
            return None
        known = (one for one in self.humans if one.project_id == self.project.pk)
        return next(known, None) or human_for(self.project.pk, person_id=self.person.pk)


class PageRequest(HttpRequest):
    """What a page gets: Django's request with its visitor and its one clock."""

    visitor: Visitor
    now: datetime


Page = Callable[..., HttpResponse]


def page(view: Page | None = None, *, role: str = Role.VIEWER, binds: bool = True) -> Any:
    """Make a function a page: signed in, a member with `role`, inside the project's transaction.

    A NUL in what the browser sends is a 400, for no text may hold it. After a deadlock it runs once more. With
    `binds` false it opens its own transactions, because each thing that it moves stands for itself.

    Without a session the answer leads to the sign-in page; below the role it is the 404 of no permission.
    """

    def decorate(handler: Page) -> Page:
        @wraps(handler)
        def wrapped(request: PageRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not request.user.is_authenticated:
                return to_sign_in(request)
            request.META[KNOWN_BY] = SESSION
            if holds_nul(request.GET, request.POST) or _holds_nul(kwargs.values()):
                raise BadRequest("a NUL in the address or the form")
            request.now = datetime.now(UTC)
            visitor = visitor_of(request)
            if not visitor.may(role):
                raise Http404

            def answer() -> HttpResponse:
                # Each try meets a visitor of its own: what the last one remembered may be rolled back.
                request.visitor = replace(visitor)
                response = handler(request, *args, **kwargs)
                if isinstance(response, TemplateResponse):
                    # While the project is bound: the frame and lazy querysets read rows too.
                    response.render()
                return response

            response = unhindered(visitor.project.pk, answer) if binds else answer()
            if request.method == "GET":
                response.headers.setdefault("Cache-Control", "no-store")
            return response

        return wrapped

    return decorate if view is None else decorate(view)


def holds_nul(*sent: QueryDict) -> bool:
    """Whether a name or a value of these fields holds a NUL."""
    return any(_holds_nul((name, *texts)) for fields in sent for name, texts in fields.lists())


def _holds_nul(values: Iterable[Any]) -> bool:
    return any(isinstance(value, str) and "\0" in value for value in values)


def visitor_of(request: HttpRequest) -> Visitor:
    """The person of the session in the project they looked at last, else in their first.

    Raises Http404 for a person without any project.
    """
    person = request.user
    assert isinstance(person, Person)
    with crossing(), Together() as asked:
        memberships = asked.rows(
            Membership.objects.filter(person=person).select_related("project").order_by("project__name")
        )
        humans = asked.rows(HumanAgent.objects.filter(person=person).select_related("person"))
    if not memberships:
        raise Http404("no project")
    chosen = next((one for one in memberships if one.project_id == person.last_project_id), memberships[0])
    return Visitor(person, chosen.project, chosen.role, memberships, humans)


def to_sign_in(request: HttpRequest) -> HttpResponse:
    """To the sign-in page and back; a fragment makes the whole page go there."""
    is_fragment = request.headers.get("HX-Request") == "true"
    back = request.headers.get("HX-Current-URL", "/") if is_fragment else request.get_full_path()
    url = f"/sign-in?{urlencode({'next': back})}"
    if is_fragment:
        return HttpResponse(status=401, headers={"HX-Redirect": url})
    return HttpResponseRedirect(url)
