"""`manage.py project NAME`: what holds for all agents of a project; prints it, after changing what options name."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Annotated, Any
from zoneinfo import available_timezones

import msgspec
from django.core.management.base import BaseCommand, CommandError
from msgspec import Meta

from config.keeping import ACTOR, add_keep, confirm, lines, planned, wanted
from monitor import keeping, leaving, zones
from monitor.models import Project
from monitor.tenancy import crossing, tenant

Seconds = Annotated[int, Meta(ge=1, le=86_400)]
Days = Annotated[int, Meta(ge=1, le=80 * 86_400)]
Tool = Annotated[str, Meta(min_length=1, max_length=200)]
Phrase = Annotated[str, Meta(min_length=1, max_length=200)]
Count = Annotated[int, Meta(ge=1, le=100)]
# Each option: what its words have to be, and what it means. A field that may be null takes `off`.
OPTIONS: dict[str, tuple[Any, str]] = {
    "time_zone": (str, "how days and months are cut, such as Europe/Berlin"),
    "timeout_s": (Seconds, "how long an attempt may take, where its agent says nothing else"),
    "heartbeat_s": (Seconds, "how often an execution beats"),
    "max_retries": (Annotated[int, Meta(ge=0, le=100)], "tries after the first, before a person is asked"),
    "stall_s": (Seconds, "how long an attempt may beat without progress, where its agent says nothing else"),
    "handover_phrases": (Annotated[list[Phrase], Meta(max_length=100)], "what customers say, with commas"),
    "handover_confidence_below": (Annotated[float, Meta(ge=0, le=1)], "hands over what is less sure than this"),
    "handover_errors_in_a_row": (Count, "hands over after so many errors"),
    "loop_exempt_tools": (Annotated[list[Tool], Meta(max_length=100)], "tools that may be polled, with commas"),
    "trace_silent_s": (Seconds, "an alert follows when an open span's trace has brought nothing for this time"),
    "trace_lost_s": (Days, "when nothing has come for this time, the open span counts as lost"),
    "claim_within_s": (Seconds, "an alert follows when nobody has claimed in this time"),
    "mask_pii": (bool, "on: personal data and secrets are masked in telemetry before it is stored"),
    "mask_ips": (bool, "on: addresses of machines are masked likewise"),
}
SWITCHES = {"on": True, "off": False}

# Fields of several words; `off` leaves none.
LISTS = ("handover_phrases", "loop_exempt_tools")


class Command(BaseCommand):
    help = "Show what holds for a project's agents, and change what the options name; `off` ends a trigger or clock."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name")
        for field, (_, words) in OPTIONS.items():
            parser.add_argument(f"--{field.replace('_', '-')}", dest=field, help=words)
        add_keep(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        named = {field: _value(field, options[field]) for field in OPTIONS if options[field] is not None}
        days, now = wanted(options["keep"]), datetime.now(UTC)
        project = _project(options["name"])
        if days:
            with tenant(project.pk):
                made = planned(days, keeping.of_project(project.pk))
                left = leaving.of_project(made, project.pk, now=now)
            confirm(self, made, left, is_sure=options["yes"])
        with tenant(project.pk):
            if "time_zone" in named:
                zones.move(project.pk, named["time_zone"], now=now)
            if named:
                Project.objects.filter(pk=project.pk).update(**named)
            if days:
                keeping.change(project.pk, days, actor=ACTOR, now=now)
            kept = keeping.of_project(project.pk)
            project.refresh_from_db()
        for field in OPTIONS:
            self.stdout.write(f"{field:<26} {_shown(getattr(project, field))}")
        for line in lines(kept):
            self.stdout.write(line)


def _project(name: str) -> Project:
    """Raises CommandError, which names those that there are."""
    with crossing():
        project = Project.objects.filter(name=name).first()
        if project is None:
            known = ", ".join(Project.objects.order_by("name").values_list("name", flat=True))
            raise CommandError(f"There is no project {name!r}. There is: {known}.")
    return project


def _value(field: str, text: str) -> Any:
    """What the words mean for this field. Raises CommandError."""
    option, kind = f"--{field.replace('_', '-')}", OPTIONS[field][0]
    if kind is bool:
        if text not in SWITCHES:
            raise CommandError(f"{option} {text!r}: say on or off.")
        return SWITCHES[text]
    if text == "off" and field in LISTS:
        return []
    if text == "off" and Project._meta.get_field(field).null:
        return None
    if field == "time_zone" and text not in available_timezones():
        raise CommandError(f"{option}: there is no time zone {text!r}.")
    given = [part.strip() for part in text.split(",")] if field in LISTS else text
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise CommandError(f"{option} {text!r}: {error}.") from error


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "off"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "off" if value is None else str(value)
