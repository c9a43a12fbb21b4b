"""Looks for agents that loop: beside the ingest, so that a batch waits for nothing, and from the stored calls alone.

A finding follows from the calls of its place, whatever order they came in. Who writes holds the lock of the project's
loops and reads under it, so that of any number of workers one finds.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import F

from monitor import changes, jobs, loops, toolcalls
from monitor.models import Execution, Loop, Project, Subject
from monitor.models.executions import ENDED, Verdict
from monitor.tenancy import crossing, tenant
from monitor.toolcalls import Call, Place

JOB = "loops.look"
# A batch is dated when its request came, and is seen when it has committed.
OVERLAP = timedelta(minutes=1)
FURTHEST_BACK = timedelta(hours=6)
# How long the agent does something else, or nothing at all, before the loop is over.
ELSE_FOR = timedelta(minutes=1)
NOTHING_FOR = timedelta(minutes=10)
LONGEST_ARGUMENTS = 300
# So many spans of a finding are named: from the first, and the last.
FIRST_SPANS, LAST_SPANS = 18, 6
AT_ONCE = 500
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('loops:' || %s, 0))"
# A new attempt may do again what the last one did.
PARTING = ("picked_up", "started", "retried", *Verdict.values)
LATER = {
    by: f"""
SELECT EXISTS (SELECT FROM monitor_span
                WHERE project_id = %(project_id)s AND kind = 'tool' AND {where}
                  AND started_at > %(last_at)s AND started_at < %(ceiling)s
                  AND NOT lower(coalesce(nullif(tool, ''), name)) = ANY(%(exempt)s))
"""  # noqa: S608
    for by, where in toolcalls.IN_PLACE.items()
}
STILL_THERE = f"""
SELECT EXISTS (SELECT FROM monitor_span
                WHERE project_id = %(project_id)s AND {toolcalls.IN_PLACE["trace"]} AND started_at = %(last_at)s)
"""  # noqa: S608


class Finding(NamedTuple):
    """A cycle and all its stretches among the calls of a place, in their order."""

    fingerprint: str
    length: int
    rounds: int
    calls: list[Call]

    @property
    def first_at(self) -> datetime:
        return self.calls[0].started_at

    @property
    def last_at(self) -> datetime:
        return self.calls[-1].started_at


def look(*, now: datetime, places_a_page: int = toolcalls.PLACES_A_PAGE) -> int:
    """Find the loops among what was received since shortly before the last look began, and end those that are over.

    Returns how many findings are new, went on, or ended.
    """
    with crossing():
        # What was committed while the last look went on, it may have missed.
        began_at = jobs.last_good_began_at(JOB)
    since = max(min(began_at or now, now) - OVERLAP, now - FURTHEST_BACK)
    moved = 0
    after: Place | None = None
    while True:
        with crossing():
            places = toolcalls.fresh(since=since, now=now, after=after, most=places_a_page)
            suspects = _suspects(places, now=now)
        moved += jobs.one_by_one(_look_at, [(place,) for place in suspects], now=now)
        if len(places) < places_a_page:
            return moved + settle(now=now)
        after = places[-1][0]


def _suspects(places: Sequence[tuple[Place, datetime]], *, now: datetime) -> list[Place]:
    """The places where the new calls may have begun, moved or ended a loop."""
    exempt = {project.pk: exempt_tools(project) for project in Project.objects.only("loop_exempt_tools")}
    looping = [
        place
        for place, calls in toolcalls.around(places, now=now)
        if _stretches([toolcalls.counted(calls, exempt[place.project_id])])
    ]
    return looping + _known([place for place, _ in places], but=set(looping))


def exempt_tools(project: Project) -> frozenset[str]:
    """The tools whose repeated calls are no loop, in small letters."""
    return frozenset(name.lower() for name in project.loop_exempt_tools)


def _known(places: Sequence[Place], *, but: set[Place]) -> list[Place]:
    """Of the places those that have a finding: what came since may show it otherwise."""
    by_name = {(place.project_id, place.name): place for place in places if place not in but}
    projects, names = {project for project, _ in by_name}, {name for _, name in by_name}
    found = Loop.objects.filter(project_id__in=projects, place__in=names).values_list("project_id", "place")
    return [by_name[one] for one in sorted(set(found)) if one in by_name]


def _look_at(place: Place, *, now: datetime) -> bool:
    with tenant(place.project_id):
        lock(place.project_id)
        project = Project.objects.get(pk=place.project_id)
        every = toolcalls.counted(toolcalls.of_place(place, now=now), exempt_tools(project))
        begins_at = every[0].started_at if every else now
        findings = _findings(_attempts(place, every))
        known = {one.fingerprint: one for one in Loop.objects.filter(project_id=place.project_id, place=place.name)}
        moved = [
            _keep(place, finding, known.get(finding.fingerprint) or _adopted(place, finding), begins_at, now=now)
            for finding in findings
        ]
        told = {finding.fingerprint for finding in findings}
        for loop in known.values():
            # Calls that came late, or an agent above them, showed it otherwise.
            if loop.fingerprint not in told and loop.first_at >= begins_at:
                moved.append(_withdraw(loop, now=now))
    return any(moved)


def lock(project_id: int) -> None:
    """Keep all others from the project's loops until commit."""
    with connection.cursor() as cursor:
        cursor.execute(LOCK, [str(project_id)])


def _attempts(place: Place, calls: Sequence[Call]) -> list[list[Call]]:
    """The calls, parted where an attempt was given up or began."""
    if place.execution_id is None:
        return [list(calls)]
    work = Execution.objects.of(place.project_id).filter(id=place.execution_id, attempt__gt=1).first()
    if work is None:
        return [list(calls)]
    # A stall that is only told of goes on with the same attempt.
    parted = changes.journal_of(work).filter(cause__in=PARTING).exclude(from_state=F("to_state"))
    bounds = list(parted.order_by("at").values_list("at", flat=True))
    segments: list[list[Call]] = [[] for _ in range(len(bounds) + 1)]
    for call in calls:
        segments[sum(call.started_at >= bound for bound in bounds)].append(call)
    return segments


def _stretches(segments: Sequence[Sequence[Call]]) -> list[tuple[Sequence[Call], loops.Stretch]]:
    return [(segment, stretch) for segment in segments for stretch in loops.find([call.key for call in segment])]


def _findings(segments: Sequence[Sequence[Call]]) -> list[Finding]:
    found: dict[str, Finding] = {}
    for segment, stretch in _stretches(segments):
        calls = list(segment[stretch.first : stretch.last + 1])
        name = loops.fingerprint(str(call.key) for call in calls[: stretch.length])
        before = found.get(name)
        found[name] = Finding(
            name,
            stretch.length,
            stretch.rounds + (before.rounds if before else 0),
            [*(before.calls if before else []), *calls],
        )
    return list(found.values())


def _adopted(place: Place, finding: Finding) -> Loop | None:
    """The finding as it was kept before an agent's span came and made its place an execution."""
    if place.execution_id is None:
        return None
    loop = Loop.objects.filter(
        project_id=place.project_id,
        execution_id=None,
        fingerprint=finding.fingerprint,
        trace_id__in={call.trace_id for call in finding.calls},
    ).first()
    if loop is not None:
        loop.place, loop.execution_id = place.name, place.execution_id
        loop.save(update_fields=["place", "execution_id"])
    return loop


def _keep(place: Place, finding: Finding, loop: Loop | None, begins_at: datetime, *, now: datetime) -> bool:
    """Write what was found; False when it is known already."""
    last = finding.calls[-1]
    said: dict[str, Any] = {
        "agent": last.agent,
        "run_id": last.run_id,
        "rounds": finding.rounds,
        "calls": len(finding.calls),
        "answers_differ": _answers_differ(finding),
        "first_at": finding.first_at,
        "last_at": finding.last_at,
        "spans": _named(finding),
    }
    if loop is None:
        cycle = [{"tool": call.tool, "arguments": _shortened(call)} for call in finding.calls[: finding.length]]
        over = _over_before(place, finding, now=now)
        loop = Loop.objects.create(
            project_id=place.project_id,
            place=place.name,
            fingerprint=finding.fingerprint,
            execution_id=place.execution_id,
            trace_id=last.trace_id,
            cycle=cycle,
            found_at=now,
            moved_at=now,
            told_rounds=finding.rounds,
            ended_at=now if over else None,
            end=over,
            **said,
        )
        _record(loop, "found", now=now, concerns_alerts=not over)
        return True
    if loop.first_at < begins_at:
        said |= _added(loop, finding)
    if all(getattr(loop, name) == value for name, value in said.items()):
        return False
    goes_on = finding.last_at > loop.last_at
    again = goes_on and loop.ended_at is not None
    tells = again or (goes_on and said["rounds"] >= 2 * loop.told_rounds)
    if goes_on:
        said |= {"moved_at": now, "ended_at": None, "end": ""}
    if tells:
        said["told_rounds"] = said["rounds"]
    Loop.objects.filter(project_id=loop.project_id, pk=loop.pk).update(**said)
    if tells:
        loop.refresh_from_db()
        _record(loop, "found_again" if again else "goes_on", now=now)
    return True


def _over_before(place: Place, finding: Finding, *, now: datetime) -> str:
    """Why what is found only now alarms nobody: it was over before anybody told of it; "" when it is news."""
    if now - finding.last_at >= NOTHING_FOR:
        return "it was over when its calls came"
    if place.execution_id is None:
        return ""
    tracked = Execution.objects.of(place.project_id).filter(
        id=place.execution_id, status__in=ENDED, attempt_started_at=None, from_spans=False
    )
    return "its work was over when it was told" if tracked.exists() else ""


def _added(loop: Loop, finding: Finding) -> dict[str, Any]:
    """What a finding adds to one that began before all calls that were read."""
    new = [call for call in finding.calls if call.started_at > loop.last_at]
    calls = loop.calls + len(new)
    return {
        "first_at": loop.first_at,
        "last_at": max(loop.last_at, finding.last_at),
        "calls": calls,
        "rounds": max(loop.rounds, calls // finding.length),
        "answers_differ": loop.answers_differ or _answers_differ(finding),
        "spans": loop.spans[:FIRST_SPANS] + _named(finding)[-LAST_SPANS:] if new else loop.spans,
    }


def _answers_differ(finding: Finding) -> bool:
    asked = {call.key for call in finding.calls}
    return len({(call.key, call.answer) for call in finding.calls if call.answer is not None}) > len(asked)


def _named(finding: Finding) -> list[str]:
    spans = [call.span for call in finding.calls]
    return spans[:FIRST_SPANS] + spans[FIRST_SPANS:][-LAST_SPANS:]


def _shortened(call: Call) -> str:
    text = loops.canonical(call.excerpt or "")
    return text if len(text) <= LONGEST_ARGUMENTS else f"{text[: LONGEST_ARGUMENTS - 1]}…"


def settle(*, now: datetime) -> int:
    """End the open loops that are over; returns how many. Those that moved least lately come first."""
    with crossing():
        settled = Loop.objects.filter(ended_at=None, moved_at__lte=now).order_by("moved_at")
        found = list(settled.values_list("project_id", "pk")[:AT_ONCE])
    return jobs.one_by_one(_settle_one, found, now=now)


def _settle_one(project_id: int, loop_id: UUID, *, now: datetime) -> bool:
    with tenant(project_id):
        loop = Loop.objects.filter(project_id=project_id, pk=loop_id, ended_at=None).first()
        if loop is None:
            return False
        if loop.execution_id is None and not _asks(STILL_THERE, loop):
            # Agents above its calls were told of, who did them in turns: else they would have taken it over.
            lock(project_id)
            return _withdraw(loop, now=now)
        end = _why_over(loop, now=now)
        if not end:
            return False
        as_seen = Loop.objects.filter(project_id=project_id, pk=loop_id, ended_at=None, moved_at=loop.moved_at)
        if not as_seen.update(ended_at=now, end=end):
            return False
        loop.end = end
        _record(loop, "over", now=now)
    return True


def _why_over(loop: Loop, *, now: datetime) -> str:
    """Why it is over, "" while it is not."""
    if loop.execution_id is not None:
        work = Execution.objects.of(loop.project_id).filter(id=loop.execution_id).only("status", "ended_at").first()
        # An id that nobody registered never ends, and calls after the end may go on.
        if work is not None and work.ended_at is not None and loop.last_at <= work.ended_at:
            return f"the execution is {work.status}"
    if now - loop.moved_at >= NOTHING_FOR:
        return f"no further round for {int(NOTHING_FOR.total_seconds()) // 60} min"
    if now - loop.moved_at >= ELSE_FOR and _does_something_else(loop, now=now):
        return "the agent does something else"
    return ""


def _does_something_else(loop: Loop, *, now: datetime) -> bool:
    exempt = exempt_tools(Project.objects.get(pk=loop.project_id))
    by = "trace" if loop.execution_id is None else "execution"
    return _asks(LATER[by], loop, ceiling=now + toolcalls.AHEAD, exempt=sorted(exempt))


def _asks(statement: str, loop: Loop, **also: Any) -> bool:
    of_loop = {name: getattr(loop, name) for name in ("project_id", "execution_id", "trace_id", "agent", "last_at")}
    with connection.cursor() as cursor:
        cursor.execute(statement, {**of_loop, **also})
        return bool(cursor.fetchone()[0])


def _withdraw(loop: Loop, *, now: datetime) -> bool:
    """Take back what is still where it was."""
    gone, _ = Loop.objects.filter(project_id=loop.project_id, pk=loop.pk, place=loop.place).delete()
    if gone:
        loop.end = "its calls turned out not to follow each other"
        _record(loop, "withdrawn", now=now)
    return bool(gone)


def _record(loop: Loop, state: str, *, now: datetime, concerns_alerts: bool = True) -> None:
    """The journal's line, of which the alert is made: the finding itself may have moved on by then."""
    names = ("agent", "run_id", "cycle", "rounds", "calls", "answers_differ", "end")
    changes.record(
        loop.project_id,
        Subject.LOOP,
        loop.pk,
        to_state=state,
        cause="loop",
        now=now,
        data={
            **{name: getattr(loop, name) for name in names},
            "execution_id": str(loop.execution_id) if loop.execution_id else None,
            "first_at": loop.first_at.isoformat(),
            "last_at": loop.last_at.isoformat(),
            "span": loop.spans[0],
        },
        concerns_alerts=concerns_alerts,
    )
