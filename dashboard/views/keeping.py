"""How long things are kept, as admins edit it: for their project, and the instance's admins for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from dashboard import words
from dashboard.access import PageRequest, page
from dashboard.keepings import lines
from monitor import keeping, leaving
from monitor.keeping import KINDS, BadDays, Change, Kept, Kind
from monitor.leaving import Leaving
from monitor.models.people import Role

PROJECT, INSTANCE = "project", "instance"


@dataclass(frozen=True)
class Field:
    """A kind with what holds for it, and what stands in its field."""

    kind: str
    about: Kind
    kept: Kept
    text: str
    error: str


@page(role=Role.ADMIN)
def kept(request: PageRequest) -> HttpResponse:
    """Every kind with its days; a POST sets those of the project, or with `of=instance` those of all."""
    if request.method == "POST":
        return _set(request)
    return _show(request)


def _set(request: PageRequest) -> HttpResponse:
    project_id, whose = request.visitor.project.pk, request.POST.get("of", "")
    if whose not in (PROJECT, INSTANCE) or (whose == INSTANCE and not request.visitor.person.is_instance_admin):
        raise Http404
    is_all = whose == INSTANCE
    held = keeping.of_instance() if is_all else keeping.of_project(project_id)
    wanted, errors = _wanted(request.POST, held)
    if errors:
        return _show(request, whose, errors=errors)
    plan = keeping.planned(wanted, held)
    if any(one.is_shorter for one in plan) and request.POST.get("confirmed") != _mark(plan):
        left = (
            leaving.of_all(plan, now=request.now) if is_all else leaving.of_project(plan, project_id, now=request.now)
        )
        return _show(request, whose, plan=plan, left=left)
    by: dict[str, Any] = {"actor": request.visitor.person.email, "now": request.now}
    made = keeping.change_for_all(wanted, **by) if is_all else keeping.change(project_id, wanted, **by)
    messages.success(request, _said(made))
    return redirect("keeping")


def _wanted(sent: Mapping[str, str], held: Mapping[str, Kept]) -> tuple[dict[str, int | None], dict[str, str]]:
    """(days by kind, None for those that hold without; what is wrong, by kind)."""
    wanted: dict[str, int | None] = {}
    errors: dict[str, str] = {}
    for kind, bounds in KINDS.items():
        text = sent.get(kind, "").strip()
        if text and not (text.isascii() and text.isdigit() and len(text) <= 5):
            errors[kind] = f"Give whole days, {bounds.least} to {bounds.most}, or nothing."
            continue
        wanted[kind] = int(text) if text else None
        try:
            keeping.check({kind: wanted[kind]})
        except BadDays:
            errors[kind] = f"{bounds.label} can be kept for {bounds.least} to {bounds.most} days."
    if not errors:
        try:
            keeping.planned(wanted, held)
        except BadDays as error:
            errors[error.kind] = f"{KINDS[error.kind].label} {error.message}."
    return wanted, errors


def _mark(plan: Sequence[Change]) -> str:
    """What a person has agreed to: these kinds, from so many days to so many."""
    return " ".join(f"{one.kind}:{one.was}:{one.days}" for one in plan if one.is_shorter)


def _said(made: Sequence[Change]) -> str:
    if not made:
        return "Nothing was changed."
    named = [f"{KINDS[one.kind].label}: {one.days}{words.GAP}days" for one in made]
    return f"{', '.join(named)}, from now on."


def _show(
    request: PageRequest,
    whose: str = "",
    *,
    errors: Mapping[str, str] | None = None,
    plan: Sequence[Change] = (),
    left: Sequence[Leaving] = (),
) -> HttpResponse:
    is_instance_admin = request.visitor.person.is_instance_admin
    sent = request.POST if whose else {}
    own = keeping.of_project(request.visitor.project.pk)
    forms = [_form(PROJECT, own, whose, sent, errors or {})]
    if is_instance_admin:
        forms.append(_form(INSTANCE, keeping.of_instance(), whose, sent, errors or {}))
    by_kind = {one.kind: one for one in left}
    context = {
        "forms": forms,
        "whose": whose,
        "plan": [(KINDS[one.kind], one, by_kind[one.kind]) for one in plan if one.is_shorter],
        "sent": [(kind, sent.get(kind, "")) for kind in KINDS],
        "mark": _mark(plan),
        "edits": lines(request.visitor, now=request.now),
        "late": request.now - keeping.lateness(own).oldest(now=request.now),
    }
    return TemplateResponse(request, "system/keeping.html", context, status=400 if errors else 200)


def _form(
    whose: str, held: Mapping[str, Kept], sent_of: str, sent: Mapping[str, str], errors: Mapping[str, str]
) -> dict[str, Any]:
    is_sent = whose == sent_of
    fields = [
        Field(
            kind=kind,
            about=about,
            kept=held[kind],
            text=sent.get(kind, "") if is_sent else str(held[kind].own or ""),
            error=errors.get(kind, "") if is_sent else "",
        )
        for kind, about in KINDS.items()
    ]
    return {"whose": whose, "fields": fields}
