"""The search box of the frame: executions, the people in conversations, and alerts that match."""

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.http import HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse

from alerts.models import Alert
from dashboard import listing, written
from dashboard.access import PageRequest, page
from dashboard.frame import range_of
from dashboard.views.executions import row_of
from dashboard.waiting import customer_name
from monitor import patience
from monitor.models import Conversation, Execution

SHOWN = 10
# Without a range in the address a search looks this far back.
LOOKS_BACK = timedelta(days=30)


@page
def search(request: PageRequest) -> HttpResponse:
    """What matches `?q=`, newest first, SHOWN of each kind; the id of an execution leads straight to it."""
    project = request.visitor.project
    asked = listing.read(request.GET, range_of(request.GET, now=request.now))
    if "range" not in request.GET:
        asked = replace(asked, since=request.now - LOOKS_BACK, range="30d")
    asked = replace(asked, view="all", statuses=(), agent="", run_id="", order="started", after=None)
    if not asked.q:
        return HttpResponseRedirect(reverse("executions"))
    within = partial(listing.matching, project.pk, now=request.now, time_zone=project.time_zone)
    # An id finds its row, the name of a run or a conversation what is of it and nothing else; other words are looked
    # for in every row.
    named = None if written.uuid(asked.q) else within(replace(asked, q="")).named(asked.q)
    found = within(asked) if named is None else named
    context: dict[str, Any] = {"asked": asked, "all_executions": asked.address(order="state"), "took_too_long": False}
    try:
        with patience.searching(asked.q):
            context |= _look(request, asked, found, is_name=named is not None)
    except patience.TookTooLong:
        context["took_too_long"] = True
    rows = context.get("rows", [])
    if len(rows) == 1 and str(rows[0].id) == asked.q.lower():
        return HttpResponseRedirect(reverse("execution", args=[rows[0].id]))
    return TemplateResponse(request, "search/page.html", context)


def _look(request: PageRequest, asked: listing.Asked, found: QuerySet[Execution], *, is_name: bool) -> dict[str, Any]:
    shown, after = listing.page(found, asked)
    talks = Conversation.objects.filter(project=request.visitor.project, updated_at__gte=asked.since)
    conversations = list(talks.filter(conversation_id=asked.q))
    if not conversations and not is_name:
        conversations = list(
            talks.alias(customer_text=Cast("customer", TextField()))
            .filter(Q(conversation_id__icontains=asked.q) | Q(customer_text__icontains=asked.q))
            .order_by("-updated_at")[: SHOWN + 1]
        )
    alerts = list(
        Alert.objects.filter(project=request.visitor.project, last_seen_at__gte=asked.since)
        .filter(Q(title__icontains=asked.q) | Q(message__icontains=asked.q) | Q(agent__icontains=asked.q))
        .order_by("-last_seen_at")[: SHOWN + 1]
    )
    return {
        "rows": [row_of(one, now=request.now) for one in shown[:SHOWN]],
        "more_executions": len(shown) > SHOWN or after is not None,
        "conversations": [
            (
                customer_name(one.customer),
                one,
                f"{reverse('executions')}?{urlencode({'q': one.conversation_id, 'range': '30d'})}",
            )
            for one in conversations[:SHOWN]
        ],
        "more_conversations": len(conversations) > SHOWN,
        "alerts": [(one, _alert_url(one)) for one in alerts[:SHOWN]],
        "more_alerts": len(alerts) > SHOWN,
    }


def _alert_url(alert: Alert) -> str:
    try:
        return reverse("alert", args=[alert.pk])
    except NoReverseMatch:
        return ""
