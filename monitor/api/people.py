"""Human agents over HTTP, and every path of the people's area."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.urls import URLPattern, path

from monitor import people
from monitor.api import agent_events, conversations, messages, queue
from monitor.api.acting import acting, acting_person, refusals
from monitor.api.caller import Request
from monitor.api.conversations import Skills
from monitor.api.door import Answer, Door, endpoint
from monitor.api.pages import PageQuery, paginate
from monitor.api.problems import Forbidden, Problem
from monitor.api.queue import Email
from monitor.models import HumanAgent, Membership
from monitor.models.keys import Scope
from monitor.models.queue import ItemKind, ItemStatus

Capacity = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Status = Literal["online", "away", "offline"]


class AddBody(msgspec.Struct, kw_only=True):
    email: Annotated[str, msgspec.Meta(max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")]
    name: Annotated[str, msgspec.Meta(max_length=120)] = ""
    skills: Skills = []
    capacity: Capacity = 5


class ChangeBody(msgspec.Struct, kw_only=True):
    skills: Skills | None = None
    capacity: Capacity | None = None


class PresenceBody(msgspec.Struct, kw_only=True):
    """How the person is; send it again within 90 s to stay online."""

    status: Status = "online"
    acts_for: Email = msgspec.field(name="as", default="")


class HumanAgentOut(msgspec.Struct, kw_only=True):
    """A person who takes conversations; `load` is what counts against `capacity`.

    `name` is the email of somebody with an account who is no member of the project.
    """

    id: int
    email: str
    name: str
    status: str
    skills: list[str]
    capacity: int
    load: int
    waiting_for_user: int
    last_seen_at: datetime | None

    @classmethod
    def of(cls, human: Any) -> "HumanAgentOut":
        plain = {name: getattr(human, name) for name in PLAIN}
        # Anybody's email may be added; that tells nobody whose it is. Who can't sign in was named by who added them.
        may_be_named = human.is_member or not human.person.has_usable_password()
        email = human.person.email
        return cls(**plain, email=email, name=str(human.person) if may_be_named else email)


PLAIN = [name for name in HumanAgentOut.__struct_fields__ if name not in ("email", "name")]


class HumanAgentPage(msgspec.Struct):
    results: list[HumanAgentOut]
    next: str | None


class HumanAgentQuery(PageQuery, kw_only=True):
    status: list[Status] = []
    skill: str = ""


class HumanAgents(Door):
    @endpoint(scope="read", query=HumanAgentQuery, answer=HumanAgentPage)
    def get(self, request: Request, query: HumanAgentQuery) -> HumanAgentPage:
        rows = _rows(request)
        if query.status:
            rows = rows.filter(status__in=query.status)
        if query.skill:
            rows = rows.filter(skills__contains=[query.skill])
        found, following = paginate(rows, ("id",), query, request)
        return HumanAgentPage([HumanAgentOut.of(row) for row in found], following)

    @endpoint(scope="admin", body=AddBody, answer=HumanAgentOut, status=201, also=(200,))
    def post(self, request: Request, body: AddBody) -> Answer:
        """Let a person take conversations; somebody who may already is a 200 and stays as they are."""
        human, made = people.add(
            request.caller.project_id, body.email, name=body.name, skills=body.skills, capacity=body.capacity
        )
        return Answer(_answer(request, human.pk), status=201 if made else 200)


class OneHumanAgent(Door):
    @endpoint(scope="read", answer=HumanAgentOut)
    def get(self, request: Request, human_id: int) -> HumanAgentOut:
        return _answer(request, human_id)

    @endpoint(scope="admin", body=ChangeBody, answer=HumanAgentOut)
    def patch(self, request: Request, human_id: int, body: ChangeBody) -> HumanAgentOut:
        with refusals():
            people.change(request.caller.project_id, human_id, skills=body.skills, capacity=body.capacity)
        return _answer(request, human_id)

    @endpoint(scope="admin", status=204)
    def delete(self, request: Request, human_id: int) -> Answer:
        """Take the person off the queue; what they hold returns to it."""
        with refusals():
            people.remove(request.caller.project_id, human_id, actor=request.caller.actor, now=request.now)
        return Answer(status=204)


class OwnPresence(Door):
    @endpoint(scope="operate", body=PresenceBody, answer=HumanAgentOut)
    def post(self, request: Request, body: PresenceBody) -> HumanAgentOut:
        """Say how one is: of the signed-in person, or of the one named by `as`."""
        human, actor = acting_person(request, body.acts_for)
        return _present(request, human.pk, body.status, actor)


class OnesPresence(Door):
    @endpoint(scope="operate", body=PresenceBody, answer=HumanAgentOut)
    def post(self, request: Request, human_id: int, body: PresenceBody) -> HumanAgentOut:
        """Say how a person is: oneself, or anybody with the scopes act-as or admin."""
        human, actor = acting(request, body.acts_for)
        own = human is not None and human.pk == human_id
        if not own and not request.caller.may(Scope.ACT_AS) and not request.caller.may(Scope.ADMIN):
            raise Forbidden("Somebody else's presence needs the scope act-as or admin.")
        return _present(request, human_id, body.status, actor)


def _present(request: Request, human_id: int, status: str, actor: str) -> HumanAgentOut:
    with refusals():
        people.present(request.caller.project_id, human_id, status, actor=actor, now=request.now)
    return _answer(request, human_id)


def _rows(request: Request) -> QuerySet[HumanAgent]:
    counted = Q(queue_items__status=ItemStatus.CLAIMED) & ~Q(queue_items__kind=ItemKind.APPROVAL)
    return (
        HumanAgent.objects.filter(project_id=request.caller.project_id)
        .select_related("person")
        .annotate(
            load=Count("queue_items", filter=counted),
            waiting_for_user=Count("queue_items", filter=Q(queue_items__status=ItemStatus.WAITING_USER)),
            is_member=Exists(Membership.objects.filter(project=OuterRef("project"), person=OuterRef("person"))),
        )
    )


def _answer(request: Request, human_id: int) -> HumanAgentOut:
    human = _rows(request).filter(pk=human_id).first()
    if human is None:
        raise Problem(404, "Not found")
    return HumanAgentOut.of(human)


urlpatterns: list[URLPattern] = [
    # Before the conversations: their last path takes everything.
    *messages.urlpatterns,
    *conversations.urlpatterns,
    *queue.urlpatterns,
    *agent_events.urlpatterns,
    path("human-agents", HumanAgents.as_view()),
    path("human-agents/presence", OwnPresence.as_view()),
    path("human-agents/<int:human_id>", OneHumanAgent.as_view()),
    path("human-agents/<int:human_id>/presence", OnesPresence.as_view()),
]
