"""What surrounds every page: places, counts, project, person, watcher and time range."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import urlencode

from django.db.models import Count
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from alerts import statistics
from dashboard import words, written
from dashboard.access import Visitor
from monitor import jobs, room
from monitor.models import JobHeartbeat, QueueItem
from monitor.models.queue import ItemStatus
from monitor.together import Together

Presence = Literal["online", "away", "offline"]


@dataclass(frozen=True, slots=True)
class Place:
    """One line of the navigation. A place whose url name does not resolve is not shown, so a page adds one line.

    `in_time` tells whether its pages obey the time range.
    """

    name: str
    label: str
    icon: str
    key: str
    group: int = 0
    in_time: bool = True


PLACES = (
    Place("overview", "Overview", "layout-dashboard", "o"),
    Place("queue", "Queue", "inbox", "q"),
    Place("alerts", "Alerts", "bell", "a"),
    Place("executions", "Executions", "list-details", "e"),
    Place("agents", "Agents", "robot", "n"),
    Place("costs", "Costs", "coin", "c"),
    Place("reliability", "Reliability", "shield-check", "r"),
    Place("system", "System", "server-2", "s", group=1, in_time=False),
    Place("settings", "Settings", "settings", ",", group=1),
)


@dataclass(frozen=True, slots=True)
class NavItem:
    """A place as it stands in this page's sidebar; `urgent` colours the count red."""

    place: Place
    url: str
    here: bool = False
    count: int = 0
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """The time range that every list and chart of the page obeys."""

    key: str
    since: datetime
    until: datetime

    @property
    def words(self) -> str:
        """`24 h`, or the two days of a custom range."""
        if self.key in SPANS:
            return SPANS[self.key][0]
        return f"{self.since:%d %b} to {self.until:%d %b}"


SPANS: dict[str, tuple[str, timedelta]] = {
    "1h": ("1 h", timedelta(hours=1)),
    "24h": ("24 h", timedelta(hours=24)),
    "7d": ("7 d", timedelta(days=7)),
    "30d": ("30 d", timedelta(days=30)),
}
LONGEST = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the sidebar counts: queue items that wait, open alerts, and how many of those are critical."""

    queue: int = 0
    alerts: int = 0
    critical: int = 0


@dataclass(frozen=True, slots=True)
class Watcher:
    """The heartbeat of the periodic jobs; `last_at` is the most recent one."""

    on_time: bool = True
    jobs: int = 0
    last_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Banner:
    """Shown over every page, only for the watcher itself: `strong` is a sentence, `text` its consequence."""

    strong: str
    text: str = ""
    url: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True)
class ProjectLink:
    """A project that the person may switch to; the switch is a POST to `url`."""

    id: str
    name: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Face:
    """The signed-in person. `presence_url` takes POST presence=online|away|offline; empty for viewers."""

    name: str
    email: str = ""
    role: str = "viewer"
    presence: Presence = "offline"
    presence_url: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything base.html needs besides the page itself."""

    nav: tuple[NavItem, ...]
    range: Range
    project: ProjectLink | None = None
    projects: tuple[ProjectLink, ...] = ()
    person: Face | None = None
    counts: Counts = field(default_factory=Counts)
    watcher: Watcher = field(default_factory=Watcher)
    banner: Banner | None = None
    stream_url: str = ""
    stream_as: str = ""
    search_url: str = ""

    @property
    def spans(self) -> list[tuple[str, str]]:
        """The choices of the range control: (key, words); none where the page obeys none."""
        if any(item.here and not item.place.in_time for item in self.nav):
            return []
        return [(key, words) for key, (words, _) in SPANS.items()]


def range_of(query: Mapping[str, str], *, now: datetime) -> Range:
    """The range that the address asks for: `?range=7d`, or `?range=custom&from=…&to=…`; 24 h when unreadable."""
    key = query.get("range", "24h")
    if key == "custom":
        start, end = written.moment(query.get("from", "")), written.moment(query.get("to", "")) or now
        if start is not None and start < end and end - start <= LONGEST:
            return Range("custom", start, end)
    if key not in SPANS:
        key = "24h"
    return Range(key, now - SPANS[key][1], now)


def nav_for(path: str, counts: Counts) -> tuple[NavItem, ...]:
    """The places that exist, the one that holds `path` marked."""
    numbers = {"queue": (counts.queue, counts.queue > 0), "alerts": (counts.alerts, counts.critical > 0)}
    items = []
    for place in PLACES:
        try:
            url = reverse(place.name)
        except NoReverseMatch:
            continue
        here = path == url or (url != "/" and path.startswith(f"{url.rstrip('/')}/"))
        count, urgent = numbers.get(place.name, (0, False))
        items.append(NavItem(place, url, here, count, urgent))
    return tuple(items)


def frame_for(request: HttpRequest, *, now: datetime, here: str = "") -> Frame:
    """The frame of one request, as seen from `here`. The one place that gathers counts, watcher, project and person."""
    span = range_of(request.GET, now=now)
    visitor: Visitor | None = getattr(request, "visitor", None)
    if visitor is None:
        return Frame(nav=(), range=span)
    counts, watcher, banner = _surroundings(visitor, now=now)
    if banner is None and room.gate.is_shut(now=now):
        strong, text = "The disk of the database is nearly full.", "Agents’ new work is refused until there is room."
        banner = Banner(strong, text, "/system/growth", "See Growth")
    human = visitor.human
    return Frame(
        nav=nav_for(here or request.path, counts),
        range=span,
        project=ProjectLink(str(visitor.project.pk), visitor.project.name),
        projects=tuple(
            ProjectLink(str(one.project_id), one.project.name, reverse("switch-project", args=[one.project_id]))
            for one in visitor.memberships
        ),
        person=Face(
            name=str(visitor.person),
            email=visitor.person.email,
            role=visitor.role,
            presence=human.status if human else "offline",  # type: ignore[arg-type]
            presence_url=reverse("presence") if human else "",
        ),
        counts=counts,
        watcher=watcher,
        banner=banner,
        stream_url=f"/events/?{urlencode({'project': visitor.project.name})}",
        stream_as=f"{visitor.person.pk}:{visitor.project.pk}",
        search_url="/search",
    )


def _surroundings(visitor: Visitor, *, now: datetime) -> tuple[Counts, Watcher, Banner | None]:
    """What the sidebar counts, and the state of our own jobs with the banner for a silent one; in one trip."""
    pending = QueueItem.objects.filter(project=visitor.project, status=ItemStatus.PENDING)
    with Together() as asked:
        waiting = asked.rows(pending.values("project_id").annotate(count=Count("pk")))
        alerts = asked.rows(statistics.firing(visitor.project.pk, now=now))
        signs = asked.rows(JobHeartbeat.objects.order_by("name"))
    open_now = alerts[0] if alerts else statistics.NONE
    counts = Counts(queue=waiting[0]["count"] if waiting else 0, alerts=open_now["open"], critical=open_now["critical"])
    return counts, *_watch(signs, now=now)


def _watch(signs: list[JobHeartbeat], *, now: datetime) -> tuple[Watcher, Banner | None]:
    """The state of our own jobs, and the banner when one of them is silent."""
    rows = [row for row in signs if jobs.is_periodic(row)]
    silent = jobs.silent_of(signs, now=now)
    last_at = max((row.last_ok_at for row in rows if row.last_ok_at), default=None)
    banner = None
    if silent:
        first = silent[0]
        name = first.name.removeprefix(jobs.PROCESS).partition("@")[0]
        ran = f"has not run for {words.took(now - first.last_ok_at)}" if first.last_ok_at else "has never run"
        banner = Banner(f"{name.capitalize()} {ran}.", "Silence may go unseen.", "/system", "See System")
    return Watcher(on_time=not silent, jobs=len(rows), last_at=last_at), banner


def frame(request: HttpRequest) -> dict[str, object]:
    """Context processor: `frame`, built only when a template asks, and `now`, the page's one clock."""
    now = getattr(request, "now", None) or timezone.now()
    return {"frame": SimpleLazyObject(lambda: frame_for(request, now=now)), "now": now}
