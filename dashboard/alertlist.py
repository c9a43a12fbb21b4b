"""The list of alerts: what is open, who has what, what is over, each as a row in words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import Case, Count, F, IntegerField, Q, QuerySet, Value, When, Window
from django.db.models.functions import RowNumber
from django.http import QueryDict
from django.utils import timezone

from alerts.lifecycle import RANK
from alerts.models import OPEN_ALERTS, Alert, AlertEvent, AlertStatus, EventKind, Level
from dashboard import words, written
from dashboard.frame import SPANS, Range
from monitor import calendars
from monitor.models import Membership, Person, Project
from monitor.pipeline import Statement
from monitor.together import Together

if TYPE_CHECKING:
    from django_stubs_ext import WithAnnotations

SHOWN_OPEN = 100
PAGE = 25
MOST_TYPES = 100
# From each type straight to the next one by the index, however many alerts are of it.
TYPES = """
WITH RECURSIVE found AS (
    (SELECT type FROM alerts_alert WHERE project_id = %(project_id)s ORDER BY type LIMIT 1)
    UNION ALL
    SELECT (SELECT following.type FROM alerts_alert AS following
             WHERE following.project_id = %(project_id)s AND following.type > found.type
             ORDER BY following.type LIMIT 1)
      FROM found WHERE found.type IS NOT NULL
)
SELECT type FROM found WHERE type IS NOT NULL LIMIT %(most)s
"""
# Who acts when nobody does: the jobs, and what has no name.
OURSELVES = {"", "handrail", "crank"}
PARTS = ("Where", "Since", "How bad", "Done already", "If nobody acts")


@dataclass(frozen=True)
class Wanted:
    """What the address asks for: levels, one type, words; empty is everything."""

    levels: tuple[str, ...] = ()
    type: str = ""
    search: str = ""

    @classmethod
    def of(cls, query: QueryDict) -> "Wanted":
        levels = tuple(level for level in query.getlist("level") if level in Level.values)
        return cls(levels, query.get("type", "")[:60], query.get("q", "").strip()[:200])

    def __bool__(self) -> bool:
        return bool(self.levels or self.type or self.search)

    def filter(self, found: QuerySet[Alert]) -> QuerySet[Alert]:
        if self.levels:
            found = found.filter(level__in=self.levels)
        if self.type:
            found = found.filter(type=self.type)
        if self.search:
            text = self.search
            found = found.filter(
                Q(title__icontains=text) | Q(message__icontains=text) | Q(agent__icontains=text) | Q(run_id=text)
            )
        return found

    def address(self, span: Range) -> str:
        """The query string that asks for the same again."""
        pairs = [("level", level) for level in self.levels]
        pairs += [(name, value) for name, value in (("type", self.type), ("q", self.search)) if value]
        if span.key == "custom":
            pairs += [("range", "custom"), ("from", span.since.isoformat()), ("to", span.until.isoformat())]
        elif span.key != "24h":
            pairs.append(("range", span.key))
        return urlencode(pairs)


@dataclass(frozen=True)
class Row:
    """One alert in the list. `since` counts on, `at` is the clock when it was over."""

    id: UUID
    look: str
    title: str
    second: str
    since: datetime | None
    at: datetime | None
    owner: str
    is_over: bool
    is_free: bool


@dataclass(frozen=True)
class Group:
    """Rows under one heading; `total` counts those that are not shown as well."""

    name: str
    rows: list[Row]
    total: int

    @property
    def more(self) -> int:
        return self.total - len(self.rows)


@dataclass(frozen=True)
class Listing:
    """The whole list; `older` is the query that continues it, "" at its end."""

    groups: list[Group]
    older: str

    @property
    def first(self) -> Row | None:
        return next((row for group in self.groups for row in group.rows), None)


class Bucketed(TypedDict):
    """Where an open alert stands: in which bucket, and how many there are in that."""

    bucket: str
    total: int


@dataclass(frozen=True)
class Found:
    """The alerts of a list, before anything is said of them; of those that are over one more than a page holds."""

    waiting: "list[WithAnnotations[Alert, Bucketed]]"
    over: list[Alert]


def asking(asked: Together, project: Project, wanted: Wanted, span: Range, *, now: datetime, after: str = "") -> Found:
    """Open ones of any age, then what was resolved in the range, newest first; with `after` only the latter."""
    waiting = [] if after else asked.rows(_open(project.pk, wanted, now=now))
    return Found(waiting, asked.rows(_resolved(project.pk, wanted, span, after)))


def listing(project: Project, found: Found, *, me: Person, now: datetime) -> Listing:
    """What was found, in its groups."""
    waiting, over, older = found.waiting, found.over[:PAGE], _older(found.over)
    said = _last_words([*waiting, *over], now=now)
    names = Names(project.pk, [*(one.acknowledged_by for one in waiting), *(by for by, _ in said.values())], me=me)
    groups = []
    for key, name in (("open", "Open"), ("acknowledged", "Acknowledged"), ("snoozed", "Snoozed")):
        bucket = [one for one in waiting if one.bucket == key]
        if bucket:
            rows = [_row(one, said, names, now=now) for one in bucket]
            groups.append(Group(name, rows, bucket[0].total))
    midnight, _ = calendars.bounds(now, ZoneInfo(project.time_zone))
    for name, is_today in (("Resolved today", True), ("Resolved before", False)):
        rows = [_row(one, said, names, now=now) for one in over if _is_since(one.resolved_at, midnight) is is_today]
        if rows:
            groups.append(Group(name, rows, len(rows)))
    return Listing(groups, urlencode({"after": older}) if older else "")


def types(asked: Together, project_id: int) -> list[str]:
    """The types that there are, by name, at most MOST_TYPES; filled when what is asked together is answered."""
    values = {"project_id": project_id, "most": MOST_TYPES}
    return asked.ask(Statement(TYPES, values), lambda rows: (type for (type,) in rows))


def type_words(type: str) -> str:
    return type.replace("_", " ").capitalize()


class Names:
    """Names for the actors of a project: people by name, the reader as "you", keys by theirs."""

    def __init__(self, project_id: int, actors: Iterable[str], *, me: Person) -> None:
        emails = {_email(actor) for actor in actors} - {""}
        others = emails - {me.email}
        found: Mapping[str, Person] = {}
        if others:
            members = Membership.objects.filter(project_id=project_id, person__email__in=others)
            found = {one.person.email: one.person for one in members.select_related("person")}
        self._names = {email: str(person) for email, person in found.items()} | {me.email: "you"}

    def of(self, actor: str) -> str:
        """Who it was; Handrail for ourselves."""
        if actor in OURSELVES:
            return "Handrail"
        if actor.startswith("key:"):
            return f"the key {actor.removeprefix('key:')}"
        return self._names.get(_email(actor), actor)

    def start(self, actor: str) -> str:
        """The same at the start of a sentence."""
        name = self.of(actor)
        return name[0].upper() + name[1:]


def _email(actor: str) -> str:
    """`a@b.c (through key:x)` is a@b.c; "" for what is no person."""
    email = actor.partition(" (through ")[0]
    return email if "@" in email else ""


def _open(project_id: int, wanted: Wanted, *, now: datetime) -> "QuerySet[WithAnnotations[Alert, Bucketed]]":
    """The open ones by bucket, level and age, at most SHOWN_OPEN of a bucket, each with `bucket` and its `total`."""
    bucket = Case(
        When(snoozed_until__gt=now, then=Value("snoozed")),
        When(status=AlertStatus.ACKNOWLEDGED, then=Value("acknowledged")),
        default=Value("open"),
    )
    level = Case(*(When(level=name, then=Value(-rank)) for name, rank in RANK.items()), output_field=IntegerField())
    order = [level, F("first_seen_at").desc(), F("id").desc()]
    found = wanted.filter(Alert.objects.filter(project_id=project_id, status__in=OPEN_ALERTS)).annotate(
        bucket=bucket,
        place=Window(RowNumber(), partition_by=[F("bucket")], order_by=order),
        total=Window(Count("*"), partition_by=[F("bucket")]),
    )
    return found.filter(place__lte=SHOWN_OPEN).defer("data").order_by("bucket", "place")


def _resolved(project_id: int, wanted: Wanted, span: Range, after: str) -> QuerySet[Alert]:
    """One page of what is over, and the first of the next one."""
    found = wanted.filter(Alert.objects.filter(project_id=project_id, status=AlertStatus.RESOLVED))
    found = found.filter(resolved_at__gte=span.since, resolved_at__lte=span.until)
    if (place := _place(after)) is not None:
        at, last_id = place
        found = found.filter(Q(resolved_at__lt=at) | Q(resolved_at=at, id__lt=last_id))
    return found.defer("data").order_by("-resolved_at", "-id")[: PAGE + 1]


def _older(over: list[Alert]) -> str:
    """Where the next page begins, "" where there is none."""
    last = over[PAGE - 1] if len(over) > PAGE else None
    return f"{last.resolved_at.isoformat()}_{last.pk}" if last and last.resolved_at else ""


def _place(after: str) -> tuple[datetime, UUID] | None:
    """The cursor of an address; None when somebody has written it by hand, wrongly."""
    at, _, last_id = after.partition("_")
    moment, found = written.moment(at), written.uuid(last_id)
    return (moment, found) if moment and found else None


def _last_words(alerts: list[Alert], *, now: datetime) -> dict[UUID, tuple[str, str]]:
    """Who snoozed or resolved each alert, and what they said."""
    quiet = [one.pk for one in alerts if one.resolved_at or is_snoozed(one, now=now)]
    if not quiet:
        return {}
    events = AlertEvent.objects.filter(alert_id__in=quiet, kind__in=[EventKind.SNOOZED, EventKind.RESOLVED])
    found = events.order_by("alert_id", "-id").distinct("alert_id").values_list("alert_id", "actor", "note")
    return {alert_id: (actor, note) for alert_id, actor, note in found}


def is_snoozed(alert: Alert, *, now: datetime) -> bool:
    return alert.status in OPEN_ALERTS and alert.snoozed_until is not None and alert.snoozed_until > now


def look_of(alert: Alert, *, now: datetime) -> str:
    """The glyph of the list: the level while it is open, else how it is quiet."""
    if alert.status == AlertStatus.RESOLVED:
        return "resolved"
    return "snoozed" if is_snoozed(alert, now=now) else alert.level


def _row(alert: Alert, said: dict[UUID, tuple[str, str]], names: Names, *, now: datetime) -> Row:
    by, note = said.get(alert.pk, ("", ""))
    over, snoozed = alert.status == AlertStatus.RESOLVED, is_snoozed(alert, now=now)
    owner = names.of(alert.acknowledged_by) if alert.acknowledged_by else ""
    if over and alert.resolved_at:
        lasted = words.rough(alert.resolved_at - alert.first_seen_at)
        how = note or ("cleared by itself" if by in OURSELVES else f"resolved by {names.of(by)}")
        second, owner = f"{lasted}, {how}", ""
    elif snoozed and alert.snoozed_until:
        second, owner = f"back at {short_clock(alert.snoozed_until, now=now)}", owner or names.of(by)
    else:
        second = in_short(alert)
    return Row(
        id=alert.pk,
        look=look_of(alert, now=now),
        title=alert.title,
        second=second,
        since=None if over else alert.first_seen_at,
        at=alert.resolved_at if over else None,
        owner=owner,
        is_over=over or snoozed or alert.status == AlertStatus.ACKNOWLEDGED,
        is_free=alert.status == AlertStatus.FIRING and not snoozed,
    )


def in_short(alert: Alert) -> str:
    """How bad it is, in half a line; how often it was seen."""
    parts = said_of(alert.message)
    bad = parts.get("How bad") or parts.get("") or words_of_type(alert)
    return f"{bad.rstrip('.')}, seen {alert.count} times" if alert.count > 1 else bad.rstrip(".")


def words_of_type(alert: Alert) -> str:
    return type_words(alert.type) + (f", {alert.agent}" if alert.agent else "")


def said_of(message: str) -> dict[str, str]:
    """The parts of a message of ours by their name; what has no name stands under ""; addresses are left out."""
    parts: dict[str, list[str]] = {}
    for line in message.splitlines():
        name, colon, text = line.partition(": ")
        if colon and name in PARTS:
            parts.setdefault(name, []).append(text)
        elif line.strip() and not line.startswith(("http://", "https://")):
            parts.setdefault("", []).append(line)
    return {name: "\n".join(lines) for name, lines in parts.items()}


def short_clock(moment: datetime, *, now: datetime) -> str:
    """`18:00`, with the day when it is not today."""
    local, today = timezone.localtime(moment), timezone.localtime(now)
    clock = f"{local:%H:%M}"
    return clock if local.date() == today.date() else f"{local.day}{words.GAP}{local:%b} {clock}"


def wider(span: Range) -> list[tuple[str, str]]:
    """The ranges that show more of what is over: (key, words)."""
    keys = list(SPANS)
    wider_than = keys[keys.index(span.key) + 1 :] if span.key in keys else []
    return [(key, SPANS[key][0]) for key in wider_than]


def _is_since(moment: Any, start: datetime) -> bool:
    return moment is not None and moment >= start
