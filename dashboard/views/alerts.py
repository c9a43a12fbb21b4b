"""Alerts: the list, one alert beside it, and what a person does about it."""

import json
from collections.abc import Callable
from datetime import datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.http import require_POST

from alerts import lifecycle, statistics
from alerts.api import LONGEST_SNOOZE
from alerts.lifecycle import AlreadyOpen
from alerts.models import Alert, AlertStatus, Level
from dashboard import alertlist, alertstory, words, written
from dashboard.access import PageRequest, page
from dashboard.alertlist import OURSELVES, Names, Wanted
from dashboard.arrival import curl
from dashboard.frame import range_of
from monitor.models.people import Role
from monitor.together import Together

SNOOZES = {
    "30m": ("30 min", timedelta(minutes=30)),
    "1h": ("1 h", timedelta(hours=1)),
    "4h": ("4 h", timedelta(hours=4)),
}
MORNING = time(9)
DETAIL_PARTS = {"alert": "alerts/_alert.html", "head": "alerts/_head.html", "story": "alerts/_story.html"}
DETAIL_PARTS["timeline"] = "alerts/_timeline.html"
KEYS = [("j", ""), ("k", "move"), ("a", "acknowledge"), ("s", "snooze"), ("e", "escalate")]
NOTE_LENGTH = 4000
FIRST_ALERT = {"level": "warning", "type": "test", "title": "Hello"}


@page
def alerts(request: PageRequest) -> HttpResponse:
    """The list with its first alert beside it; with `?part=` the list alone, its counts, or what continues it."""
    part = request.GET.get("part")
    if part not in (None, "list", "counts", "older"):
        raise Http404
    if part == "counts":
        counts = statistics.unanswered(request.visitor.project.pk, now=request.now)
        return TemplateResponse(request, "alerts/_counts.html", {"counts": counts})
    context: dict[str, Any] = _list(request)
    if part is not None:
        return TemplateResponse(request, f"alerts/_{part}.html", context)
    first = context["listing"].first
    if first is not None:
        context |= _detail(request, _alert(request, first.id))
    return TemplateResponse(request, "alerts/page.html", context | {"pane": "list"})


@page
def alert(request: PageRequest, alert_id: UUID) -> HttpResponse:
    """One alert beside the list; with `?part=` only it, or one of its live parts."""
    part = request.GET.get("part")
    if part is not None and part not in DETAIL_PARTS:
        raise Http404
    found = _alert(request, alert_id)
    if part is not None:
        return TemplateResponse(request, DETAIL_PARTS[part], _detail(request, found))
    return TemplateResponse(request, "alerts/page.html", _list(request) | _detail(request, found) | {"pane": "main"})


@require_POST
@page(role=Role.OPERATOR)
def acknowledge(request: PageRequest, alert_id: UUID) -> HttpResponse:
    """Take it."""
    undo = reverse("alert-reopen", args=[alert_id])
    return _act(request, alert_id, lifecycle.acknowledge, "Acknowledged.", "Nothing more is sent for it.", undo=undo)


@require_POST
@page(role=Role.OPERATOR)
def resolve(request: PageRequest, alert_id: UUID) -> HttpResponse:
    """It is over."""
    undo = reverse("alert-reopen", args=[alert_id])
    return _act(request, alert_id, lifecycle.resolve, "Resolved.", "The same within 1 h opens it again.", undo=undo)


@require_POST
@page(role=Role.OPERATOR)
def escalate(request: PageRequest, alert_id: UUID) -> HttpResponse:
    """Critical at once."""
    return _act(request, alert_id, lifecycle.make_critical, "Escalated.", "It is critical and told again.")


@require_POST
@page(role=Role.OPERATOR)
def snooze(request: PageRequest, alert_id: UUID) -> HttpResponse:
    """Quiet for `for` (30m, 1h, 4h, tomorrow), or until the moment `until`, UTC; at most 30 days."""
    until = _until(request)
    if until is None or not request.now < until <= request.now + LONGEST_SNOOZE:
        return _answer(request, _alert(request, alert_id), "Not snoozed.", "Choose a time within 30 days.", bad=True)
    back = alertlist.short_clock(until, now=request.now)
    return _act(request, alert_id, lifecycle.snooze, "Snoozed.", f"It comes back at {back}.", until=until)


@require_POST
@page(role=Role.OPERATOR)
def reopen(request: PageRequest, alert_id: UUID) -> HttpResponse:
    """Firing again."""
    try:
        return _act(request, alert_id, lifecycle.reopen, "Open again.", "It is told and counts afresh.")
    except AlreadyOpen as error:
        twin = {"told": "The same trouble is open already, as a newer alert.", "told_url": _url(error.alert.pk)}
        return _answer(request, _alert(request, alert_id), "Not reopened.", str(twin["told"]), bad=True, more=twin)


@require_POST
@page(role=Role.OPERATOR)
def note(request: PageRequest, alert_id: UUID) -> HttpResponse:
    """A line for whoever takes this next."""
    if not request.POST.get("note", "").strip():
        return _answer(request, _alert(request, alert_id), "Nothing noted.", "The note is empty.", bad=True)
    return _act(request, alert_id, lifecycle.note, "Noted.", "It stands in the timeline.")


def _act(
    request: PageRequest,
    alert_id: UUID,
    verb: Callable[..., Alert | None],
    strong: str,
    text: str,
    *,
    undo: str = "",
    **more: Any,
) -> HttpResponse:
    """Do the verb in the visitor's name; when somebody was faster, say who, and when."""
    before = _alert(request, alert_id)
    actor, said = request.visitor.person.email, request.POST.get("note", "").strip()[:NOTE_LENGTH]
    done = verb(request.visitor.project.pk, alert_id, actor=actor, note=said, now=request.now, **more)
    if done is not None:
        return _answer(request, done, strong, text, undo=undo)
    before.refresh_from_db()
    lost = _who_was_faster(request, before)
    return _answer(request, before, "Nothing changed.", lost, bad=True, more={"told": lost})


def _who_was_faster(request: PageRequest, alert: Alert) -> str:
    """`Jonas Weber acknowledged it 2 s before you.`"""
    done = {
        AlertStatus.ACKNOWLEDGED: ("acknowledged", alert.acknowledged_by, alert.acknowledged_at),
        AlertStatus.RESOLVED: ("resolved", alert.resolved_by, alert.resolved_at),
    }.get(AlertStatus(alert.status))
    if done is None:
        return "It is critical already." if alert.level == Level.CRITICAL else "It is open already."
    word, actor, at = done
    ago = words.took(max(request.now - at, timedelta(0))) if at else ""
    if actor in OURSELVES:
        return f"It {word} itself {ago} before you."
    if actor == request.visitor.person.email:
        return f"You {word} it {ago} ago."
    who = Names(alert.project_id, [actor], me=request.visitor.person).start(actor)
    return f"{who} {word} it {ago} before you."


def _answer(
    request: PageRequest,
    alert: Alert,
    strong: str,
    text: str,
    *,
    bad: bool = False,
    undo: str = "",
    more: dict[str, str] | None = None,
) -> HttpResponse:
    """The alert as it is now with a toast; where it does not stand beside the list, the toast alone."""
    if request.headers.get("HX-Request") != "true":
        (messages.warning if bad else messages.success)(request, f"{strong} {text}")
        return HttpResponseRedirect(_url(alert.pk))
    toast = {"strong": strong, "text": text, "undo_url": undo}
    if bad:
        toast |= {"tone": "amber", "icon": "alert-triangle"}
    response: HttpResponse
    if request.headers.get("HX-Target") == "alert":
        response = TemplateResponse(request, "alerts/_alert.html", _detail(request, alert) | (more or {}))
    else:
        response = HttpResponse(status=204)
    response.headers["HX-Trigger"] = json.dumps({"toast": toast})
    return response


def _list(request: PageRequest) -> dict[str, Any]:
    project, person = request.visitor.project, request.visitor.person
    wanted, span = Wanted.of(request.GET), range_of(request.GET, now=request.now)
    with Together() as asked:
        found = alertlist.asking(asked, project, wanted, span, now=request.now, after=request.GET.get("after", ""))
        counts = asked.rows(statistics.firing(project.pk, now=request.now))
        types = alertlist.types(asked, project.pk)
    return {
        "listing": alertlist.listing(project, found, me=person, now=request.now),
        "counts": counts[0] if counts else statistics.NONE,
        "types": [(one, alertlist.type_words(one)) for one in types],
        "levels": [(level, Level(level).label) for level in reversed(Level.values)],
        "wanted": wanted,
        "kept": wanted.address(span),
        "span": span,
        "wider": alertlist.wider(span),
        "may_act": request.visitor.may(Role.OPERATOR),
        "me": person,
        "keys": KEYS,
        "first_command": curl(request, "/alerts", FIRST_ALERT),
    }


def _detail(request: PageRequest, found: Alert) -> dict[str, Any]:
    now = request.now
    with Together() as asked:
        last_events = asked.rows(alertstory.events_of(found))
        last_deliveries = asked.rows(alertstory.deliveries_of(found))
        related = asked.rows(alertstory.related(found, now=now))
    events, deliveries = last_events[::-1], last_deliveries[::-1]
    actors = [found.acknowledged_by, found.resolved_by, *(event.actor for event in events)]
    names = Names(found.project_id, actors, me=request.visitor.person)
    snoozed = alertlist.is_snoozed(found, now=now)
    return {
        "alert": found,
        "is_snoozed": snoozed,
        "is_open": found.status != AlertStatus.RESOLVED,
        "may_acknowledge": found.status == AlertStatus.FIRING,
        "may_escalate": found.status == AlertStatus.FIRING and found.level != Level.CRITICAL,
        "may_reopen": found.status != AlertStatus.FIRING,
        "may_act": request.visitor.may(Role.OPERATOR),
        "holder": names.start(found.acknowledged_by) if found.acknowledged_by else "",
        "resolver": names.of(found.resolved_by) if found.resolved_by not in OURSELVES else "",
        "type_words": alertlist.type_words(found.type),
        "why": alertstory.why(found),
        "about": alertstory.about(found, now=now),
        "sent": alertstory.sent(deliveries, now=now),
        "related": [(one, alertlist.look_of(one, now=now)) for one in related],
        "timeline": alertstory.timeline(found, events, deliveries, names, now=now),
        "next_at": alertstory.next_at(found, deliveries, now=now),
        "snoozes": [(key, words) for key, (words, _) in SNOOZES.items()],
        "kept": Wanted.of(request.GET).address(range_of(request.GET, now=now)),
    }


def _until(request: PageRequest) -> datetime | None:
    choice = request.POST.get("for", "")
    if choice in SNOOZES:
        return request.now + SNOOZES[choice][1]
    zone = ZoneInfo(request.visitor.project.time_zone)
    if choice == "tomorrow":
        day = request.now.astimezone(zone).date() + timedelta(days=1)
        return datetime.combine(day, MORNING, zone)
    return written.moment(request.POST.get("until", ""))


def _alert(request: PageRequest, alert_id: UUID) -> Alert:
    found = Alert.objects.filter(project_id=request.visitor.project.pk, pk=alert_id).first()
    if found is None:
        raise Http404
    return found


def _url(alert_id: UUID) -> str:
    return reverse("alert", args=[alert_id])
