"""What people do with an item of the queue: one verb a request, the centre of the page as the answer."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib import messages as flash
from django.db import transaction
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.views.decorators.http import require_POST

from dashboard import refusals, waiting
from dashboard.access import PageRequest, page
from dashboard.amounts import usd_of
from dashboard.views.queue import Looking, centre_of, item_of
from monitor import claims, conversations, executions, handback, people, queue, transcript, trips
from monitor.models import HumanAgent, QueueItem, Trip
from monitor.models.conversations import MessageRole, Visibility
from monitor.models.people import Role
from monitor.models.queue import ItemKind

LONGEST_TEXT = 20_000
LONGEST_NOTE = 10_000
DECISIONS: dict[str, tuple[Callable[..., Any], str]] = {
    "resume": (executions.resume, "Resumed."),
    "retry": (executions.retry, "Retried."),
    "cancel": (executions.cancel, "Cancelled."),
}


class Unreadable(queue.QueueRefusal):
    """A field of the form is missing or makes no sense."""


Verb = Callable[[PageRequest, QueueItem, HumanAgent], str]


def verb(act: Verb) -> Callable[..., HttpResponse]:
    """Make a verb of an item a door: an operator's POST; a refusal undoes it and is said in words."""

    @require_POST
    @page(role=Role.OPERATOR)
    def door(request: PageRequest, item_id: UUID) -> HttpResponse:
        item, me = item_of(request, item_id), request.visitor.human
        if me is None:
            raise Http404
        try:
            with transaction.atomic():
                strong, text, refused = act(request, item, me), "", False
        except (*refusals.REFUSALS, transcript.SaidOtherwise) as error:
            about = waiting.customer_name(item.conversation.customer) if item.conversation else item.title
            strong, text = refusals.in_words(error, about, now=request.now)
            refused = True
        return _answer(request, item_id, strong, text, refused=refused)

    return door


def _answer(request: PageRequest, item_id: UUID, strong: str, text: str, *, refused: bool) -> HttpResponse:
    if request.headers.get("HX-Request") != "true":
        if strong:
            (flash.warning if refused else flash.success)(request, f"{strong} {text}".strip())
        return HttpResponseRedirect(reverse("queue-item", args=[item_id]))
    context = centre_of(Looking(request, item_of(request, item_id)))
    context |= {"swaps": True, "refused": f"{strong} {text}" if refused else ""}
    answer = TemplateResponse(request, "queue/_centre.html", context, status=409 if refused else 200)
    if strong:
        told = {"strong": strong, "text": text}
        told |= {"icon": "alert-triangle", "tone": "amber"} if refused else {}
        answer.headers["HX-Trigger"] = json.dumps({"toast": told})
    return answer


@verb
def claim(request: PageRequest, item: QueueItem, me: HumanAgent) -> str:
    """Take the item."""
    claims.claim(item.project_id, item.pk, me, now=request.now, actor=request.visitor.person.email)
    return ""


@verb
def release(request: PageRequest, item: QueueItem, me: HumanAgent) -> str:
    """Put the item back into the queue."""
    claims.release(item.project_id, item.pk, me, now=request.now, note=_note(request))
    return "Back in the queue."


@verb
def transfer(request: PageRequest, item: QueueItem, me: HumanAgent) -> str:
    """Give the item to another person."""
    to = people.human_for(item.project_id, email=request.POST.get("to", ""))
    if to is None:
        raise Unreadable("choose who is to have it")
    claims.transfer(item.project_id, item.pk, me, to, now=request.now, note=_note(request))
    return f"{to.person} has it now."


@verb
def resolve(request: PageRequest, item: QueueItem, me: HumanAgent) -> str:
    """Close the item and its conversation."""
    outcome = request.POST.get("outcome", "")[:40]
    claims.resolve(item.project_id, item.pk, me, now=request.now, outcome=outcome, note=_note(request))
    return "Resolved."


@verb
def back(request: PageRequest, item: QueueItem, me: HumanAgent) -> str:
    """Give the conversation back to the AI, with an instruction or an explicit "none"."""
    none = request.POST.get("how") == "none"
    instruction = handback.NO_INSTRUCTION if none else request.POST.get("instruction", "")[:LONGEST_NOTE]
    handback.hand_back(item.project_id, item.pk, me, instruction=instruction, now=request.now, note=_note(request))
    return "Back with the AI."


@verb
def say(request: PageRequest, item: QueueItem, me: HumanAgent) -> str:
    """Write to the customer, or a note for the team."""
    text = request.POST.get("content", "").strip()[:LONGEST_TEXT]
    if item.conversation_id is None:
        raise Unreadable("there is no conversation to write into")
    if not text:
        raise Unreadable("there is nothing to send")
    is_note = request.POST.get("kind") != "reply"
    conversations.say(
        item.project_id,
        item.conversation_id,
        MessageRole.HUMAN,
        text,
        human=me,
        client_id=request.POST.get("client_id", "")[:200] or None,
        visibility=Visibility.INTERNAL if is_note else Visibility.PUBLIC,
        now=request.now,
    )
    return ""


@verb
def decide(request: PageRequest, item: QueueItem, me: HumanAgent) -> str:
    """Resume, retry or cancel the paused execution."""
    chosen = DECISIONS.get(request.POST.get("decision", ""))
    if chosen is None or item.kind != ItemKind.PAUSED_EXECUTION:
        raise Http404
    _refuse_what_others_have(item, me)
    act, said = chosen
    actor = request.visitor.person.email
    act(item.project_id, UUID(item.subject_id), now=request.now, actor=actor, note=_note(request))
    return said


@verb
def reset(request: PageRequest, item: QueueItem, me: HumanAgent) -> str:
    """Reset the trip: its spenders may go on, by the top-up or by the limit once more."""
    if item.kind != ItemKind.TRIP:
        raise Http404
    trip = Trip.objects.filter(request.visitor.sees, pk=item.subject_id).first()
    if trip is None:
        raise Http404
    _refuse_what_others_have(item, me)
    trips.reset(
        trip,
        note=_note(request),
        top_up_usd=_top_up(request),
        actor=request.visitor.person.email,
        project_id=item.project_id,
        now=request.now,
    )
    return "Reset."


@require_POST
@page(role=Role.OPERATOR)
def seen(request: PageRequest) -> HttpResponse:
    """The person is at a page of ours: they are not shown as away."""
    if request.visitor.human is not None:
        people.seen(request.visitor.project.pk, request.visitor.human.pk, now=request.now)
    return HttpResponse(status=204)


def _refuse_what_others_have(item: QueueItem, me: HumanAgent) -> None:
    if item.assignee is not None and item.assignee.pk != me.pk:
        raise queue.TakenBy(item.assignee, item.claimed_at)


def _note(request: PageRequest) -> str:
    return request.POST.get("note", "").strip()[:LONGEST_NOTE]


def _top_up(request: PageRequest) -> Decimal | None:
    """The amount of US dollars, None when the field is empty."""
    given = request.POST.get("top_up_usd", "").strip()
    amount = usd_of(given)
    if given and amount is None:
        raise Unreadable(f"a top-up is an amount of 0 to {trips.MOST_TOP_UP_USD:,} dollars, like 1,250.50")
    return amount


VERBS = {
    "claim": claim,
    "release": release,
    "transfer": transfer,
    "resolve": resolve,
    "back": back,
    "say": say,
    "decide": decide,
    "reset": reset,
}
urlpatterns = [
    *(path(f"queue/<uuid:item_id>/{name}", door, name=f"queue-{name}") for name, door in VERBS.items()),
    path("presence/seen", seen, name="seen"),
]
