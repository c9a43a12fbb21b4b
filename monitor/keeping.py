"""For how many days each kind of rows is kept: what holds, who may change it, and how late a span may come.

A project says days of its own or none; then those of the instance hold, then those of KINDS.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple

from django.db import connection

from monitor import changes, commons
from monitor.models import Keeping, Project, StateChange, Subject
from monitor.tenancy import crossing
from monitor.together import Together

# What a process remembers of a project's days is so old at most; a span may come a day too late all the same.
REMEMBERED_FOR = timedelta(seconds=10)
# By then all go by days that were shortened, and what they took by the longer ones is written.
SHORTENED_AFTER = timedelta(minutes=1)
# A span is taken for a day less than it is kept: else it might be dropped before anybody saw it.
MARGIN = timedelta(days=1)
MOST_REMEMBERED = 10_000
STANDING = """
SELECT kind, days, project_id IS NOT NULL, NULL::timestamptz FROM monitor_keeping
 WHERE project_id = %(project_id)s OR project_id IS NULL
 UNION ALL SELECT kind, NULL, NULL, at FROM monitor_wholesince WHERE project_id = %(project_id)s
"""
# Who holds nothing yet has lost nothing.
LENGTHENED = """
INSERT INTO monitor_wholesince AS held (project_id, kind, at)
SELECT project_id, %(kind)s, %(at)s FROM unnest(%(projects)s::int[]) AS longer (project_id)
 WHERE EXISTS (SELECT FROM monitor_run AS had WHERE had.project_id = longer.project_id)
    OR EXISTS (SELECT FROM monitor_execution AS had WHERE had.project_id = longer.project_id)
    OR EXISTS (SELECT FROM monitor_hourrollup AS had WHERE had.project_id = longer.project_id)
    OR EXISTS (SELECT FROM monitor_minuterollup AS had WHERE had.project_id = longer.project_id)
    OR EXISTS (SELECT FROM monitor_ledgerentry AS had WHERE had.project_id = longer.project_id)
    OR EXISTS (SELECT FROM monitor_span AS had WHERE had.project_id = longer.project_id)
 ORDER BY project_id
ON CONFLICT (project_id, kind) DO UPDATE SET at = greatest(held.at, excluded.at)
"""


class Kind(NamedTuple):
    """What is kept together: its name and what it holds, the days where nobody says others, and their bounds."""

    label: str
    holds: str
    days: int
    least: int
    most: int


# Least: what other parts look back on. Most: of what lies in days, what PostgreSQL's table of locks can hold at once.
KINDS: Mapping[str, Kind] = {
    "spans": Kind("Spans", "traces with what went in and out", 90, 3, 400),
    "messages": Kind("Messages", "what was said in conversations, and events for agents", 90, 8, 3650),
    "executions": Kind("Executions", "after their end, with their commands", 180, 8, 3650),
    "conversations": Kind("Conversations", "after their last move, and what stood in the queue", 180, 8, 3650),
    "ledger": Kind("Ledger", "a booking for every call that cost", 400, 35, 800),
    "journal": Kind("Journal", "every move and who made it", 400, 35, 800),
    "minutes": Kind("Minute sums", "what charts of a few hours read", 92, 10, 400),
    "hours": Kind("Hour sums", "what all other charts and reports read", 400, 35, 3650),
    "runs": Kind("Runs", "what each cost, and the windows of budgets", 400, 35, 3650),
    "alerts": Kind("Alerts", "after they were resolved, with their deliveries", 30, 7, 3650),
    "loops": Kind("Loops", "after they ended", 90, 7, 3650),
    "logs": Kind("Messages from logs", "which wait for their span", 7, 1, 90),
    "ids": Kind("Ids of clients", "by which a repeated report counts once", 30, 8, 400),
}
# What a span changes whenever it is booked, and for how many days more that has to stand: hours are summed from the
# minutes.
CHANGED_BY_SPANS: Mapping[str, int] = {"spans": 0, "minutes": 2, "ledger": 0, "runs": 0, "executions": 0, "hours": 0}


class BadDays(ValueError):
    """Days that can't be kept; `kind` names the culprit."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind} {message}")
        self.kind = kind
        self.message = message


class Kept(NamedTuple):
    """What holds for a kind: the days, those that the project says itself, and those that it has without.

    What is older than `whole_since` may have left already, when it was kept for less.
    """

    kind: str
    days: int
    own: int | None
    default: int
    whole_since: datetime | None = None


class Change(NamedTuple):
    """A kind whose days change from `was` to `days`; `own` is what the project, or the instance, says from now on."""

    kind: str
    was: int
    days: int
    own: int | None

    @property
    def is_shorter(self) -> bool:
        return self.days < self.was

    @property
    def is_longer(self) -> bool:
        return self.days > self.was


class Late(NamedTuple):
    """How long ago a span may have started to be booked, and the label of the kind that sets this limit.

    And where days were shorter, the moment before which it may not have, and the label of the kind that left.
    """

    most: timedelta
    limited_by: str
    whole_since: datetime | None = None
    lost: str = ""

    def oldest(self, *, now: datetime) -> datetime:
        """The moment before which nothing is booked any more: of what began earlier something may have left."""
        return now - self.most if self.whole_since is None else max(now - self.most, self.whole_since)

    def reason(self, *, now: datetime) -> str:
        """Why what started before `oldest` is refused, to follow on "it started"."""
        if self.whole_since is not None and self.whole_since > now - self.most:
            since = self.whole_since.astimezone(UTC)
            return f"before {since:%Y-%m-%d %H:%M} UTC, and {self.lost} of that time have left"
        return f"more than {self.most.days} days ago, which is longer than {self.limited_by} are kept"


def of_project(project_id: int) -> dict[str, Kept]:
    """What a project keeps, by kind; inside its transaction."""
    with connection.cursor() as cursor:
        cursor.execute(STANDING, {"project_id": project_id})
        rows = cursor.fetchall()
    kept = _kept([(kind, days, is_own) for kind, days, is_own, at in rows if at is None])
    for kind, _, _, at in rows:
        if at is not None and kind in kept:
            kept[kind] = kept[kind]._replace(whole_since=at)
    return kept


def of_instance() -> dict[str, Kept]:
    """What a project keeps that says nothing itself; `own` is what the instance's admins have set."""
    with crossing():
        said = dict(Keeping.objects.filter(project=None).values_list("kind", "days"))
    return {
        kind: Kept(kind, one.default, said.get(kind), KINDS[kind].days)
        for kind, one in _kept([(kind, days, False) for kind, days in said.items()]).items()
    }


def _kept(rows: list[tuple[str, int, bool]]) -> dict[str, Kept]:
    defaults = {kind: one.days for kind, one in KINDS.items()}
    defaults |= {kind: days for kind, days, is_own in rows if not is_own and kind in KINDS}
    own = {kind: days for kind, days, is_own in rows if is_own}
    return {kind: Kept(kind, own.get(kind, days), own.get(kind), days) for kind, days in defaults.items()}


@dataclass(frozen=True)
class Standing:
    """What everybody keeps at one moment: the days of each project, by kind."""

    days: Mapping[int, Mapping[str, int]]
    default: Mapping[str, int]

    def longest(self, kind: str) -> int:
        """The days after which nobody keeps it any more."""
        return max((own[kind] for own in self.days.values()), default=self.default[kind])

    def groups(self, kind: str) -> dict[int, list[int]]:
        """The projects by how many days they keep it."""
        found: dict[int, list[int]] = {}
        for project_id, own in self.days.items():
            found.setdefault(own[kind], []).append(project_id)
        return found


def standing() -> Standing:
    """What everybody keeps now."""
    with Together(across=True) as asked:
        found = asking(asked)
    return found()


def asking(asked: Together) -> Callable[[], Standing]:
    """`standing` asked with others, across projects; to be called once they are answered."""
    projects = asked.rows(Project.objects.order_by("pk").values_list("pk", flat=True))
    said = asked.rows(Keeping.objects.values_list("project_id", "kind", "days"))
    return lambda: _standing(projects, said)


def _standing(projects: Iterable[int], said: Sequence[tuple[int | None, str, int]]) -> Standing:
    kept = _kept([(kind, days, False) for project_id, kind, days in said if project_id is None])
    default = {kind: one.default for kind, one in kept.items()}
    days = {project_id: dict(default) for project_id in projects}
    for project_id, kind, own in said:
        if project_id in days and kind in default:
            days[project_id][kind] = own
    return Standing(days, default)


def settling(*, now: datetime) -> set[str]:
    """The kinds that spans change and somebody shortened so lately that some may still come by the longer days."""
    with crossing():
        changed = StateChange.objects.filter(
            project__in=Project.objects.all(),
            subject=Subject.KEEPING,
            subject_id__in=list(CHANGED_BY_SPANS),
            at__gt=now - SHORTENED_AFTER,
        )
        made = changed.values_list("subject_id", "data__was", "data__days")
        return {kind for kind, was, days in made if days < was}


def followers(kind: str) -> list[int]:
    """The projects that say no days of their own for a kind; inside a crossing transaction."""
    own = Keeping.objects.filter(kind=kind).exclude(project=None).values("project_id")
    return list(Project.objects.exclude(pk__in=own).order_by("pk").values_list("pk", flat=True))


def check(wanted: Mapping[str, int | None]) -> None:
    """Whether each of the wanted days is within its bounds, looked at alone. Raises BadDays."""
    for kind, own in wanted.items():
        if kind not in KINDS:
            raise BadDays(kind, f"is no kind that is kept; there are {', '.join(KINDS)}")
        bounds = KINDS[kind]
        if own is not None and not bounds.least <= own <= bounds.most:
            raise BadDays(kind, f"must be kept for {bounds.least} to {bounds.most} days")


def planned(wanted: Mapping[str, int | None], kept: Mapping[str, Kept]) -> list[Change]:
    """What the wanted days (None: those that hold without) change. Raises BadDays."""
    check(wanted)
    found = []
    for kind, own in wanted.items():
        days = kept[kind].default if own is None else own
        if own != kept[kind].own:
            found.append(Change(kind, kept[kind].days, days, own))
    _check_together(found, kept)
    return found


def _check_together(made: Iterable[Change], kept: Mapping[str, Kept]) -> None:
    """Whether all that a span changes stays as long as the span. Raises BadDays.

    A change that makes it no worse may be made: the days of all may have moved under those of the project.
    """
    changed = {one.kind: one for one in made}
    days = {kind: one.days for kind, one in kept.items()} | {kind: one.days for kind, one in changed.items()}
    spans = changed.get("spans")
    for kind, more in CHANGED_BY_SPANS.items():
        if days["spans"] + more <= days[kind]:
            continue
        label = KINDS[kind].label.lower()
        if spans is not None and spans.is_longer:
            most = days[kind] - more
            raise BadDays("spans", f"can be kept for {most} days at most, with {label} kept for {days[kind]}")
        if kind in changed and changed[kind].is_shorter:
            least = days["spans"] + more
            raise BadDays(kind, f"must be kept for {least} days at least, with spans kept for {days['spans']}")


def change(project_id: int, wanted: Mapping[str, int | None], *, actor: str, now: datetime) -> list[Change]:
    """Set what the project keeps, inside its transaction; returns what changed. Raises BadDays."""
    # Two who change at once come one after the other, so that the journal's "was" is true.
    Project.objects.select_for_update(no_key=True).get(pk=project_id)
    made = planned(wanted, of_project(project_id))
    _write(project_id, made)
    _remember(made, lambda kind: [project_id], now=now)
    _record(project_id, made, whose="project", actor=actor, now=now)
    return made


def change_for_all(wanted: Mapping[str, int | None], *, actor: str, now: datetime) -> list[Change]:
    """Set what every project keeps that says nothing itself: for the instance's admins. Raises BadDays."""
    keeper = commons.keeper()
    with crossing():
        Project.objects.select_for_update(no_key=True).get(pk=keeper)
        made = planned(wanted, of_instance())
        _write(None, made)
        _remember(made, followers, now=now)
        # With the days: whoever reads these knows that they were changed.
        _record(keeper, made, whose="instance", actor=actor, now=now)
    return made


def _write(project_id: int | None, made: list[Change]) -> None:
    for one in made:
        found = Keeping.objects.filter(kind=one.kind)
        found = found.filter(project=None) if project_id is None else found.filter(project_id=project_id)
        if one.own is None:
            found.delete()
        elif not found.update(days=one.own):
            Keeping.objects.create(project_id=project_id, kind=one.kind, days=one.own)
    forget()


def _remember(made: Iterable[Change], whose: Callable[[str], list[int]], *, now: datetime) -> None:
    """Note from when on there is all of what is kept for longer from now on; `whose` names the projects, by kind."""
    for one in made:
        if one.kind in CHANGED_BY_SPANS and one.is_longer:
            left: dict[str, Any] = {"kind": one.kind, "at": now - timedelta(days=one.was), "projects": whose(one.kind)}
            with connection.cursor() as cursor:
                cursor.execute(LENGTHENED, left)


def _record(project_id: int, made: list[Change], *, whose: str, actor: str, now: datetime) -> None:
    for one in made:
        changes.record(
            project_id,
            Subject.KEEPING,
            one.kind,
            to_state="changed",
            cause="edited",
            actor=actor,
            now=now,
            data={"of": whose, "was": one.was, "days": one.days, "own": one.own},
            concerns_alerts=False,
        )


# {project: (when it was read, what it said)}
_remembered: dict[int, tuple[datetime, Late]] = {}


def late(project_id: int, *, now: datetime) -> Late:
    """How late a span of the project may come: all that it changes has to stand still, and for a day more.

    Stored spans that are older stay as they are booked, whatever comes to their traces. Each process reads it anew
    after REMEMBERED_FOR.
    """
    known = _remembered.get(project_id)
    if known is not None and timedelta() <= now - known[0] < REMEMBERED_FOR:
        return known[1]
    if len(_remembered) >= MOST_REMEMBERED:
        _remembered.clear()
    found = lateness(of_project(project_id))
    _remembered[project_id] = now, found
    return found


def forget() -> None:
    """Read anew what everybody keeps."""
    _remembered.clear()


def lateness(kept: Mapping[str, Kept]) -> Late:
    """The limit that follows from the days that are kept, and from those that were."""
    most, kind = min(
        ((timedelta(days=kept[kind].days - more) - MARGIN, kind) for kind, more in CHANGED_BY_SPANS.items()),
        key=itemgetter(0),
    )
    lost = [
        (since + timedelta(days=more) + MARGIN, KINDS[kind].label.lower())
        for kind, more in CHANGED_BY_SPANS.items()
        if (since := kept[kind].whole_since) is not None
    ]
    return Late(most, KINDS[kind].label.lower(), *max(lost, default=(None, "")))
