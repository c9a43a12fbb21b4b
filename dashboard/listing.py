"""Which executions a list shows: what the address asks for, and the bounded queries that answer it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from django.db import connection
from django.db.models import CharField, IntegerField, Q, QuerySet, Value
from django.db.models.functions import Cast
from django.http import QueryDict

from dashboard import written
from dashboard.frame import Range, range_of
from monitor import calendars, standstill
from monitor.models import Execution
from monitor.models.executions import ENDED, OPEN, ExecutionQuerySet, Status
from monitor.savedviews import Query
from monitor.standstill import Still

PAGE_ROWS = 100
COUNTED_TO = 10_000
# Executions are kept this long; a list that names no range looks no further back.
KEPT = timedelta(days=180)
RECENT = timedelta(minutes=30)
SEARCHED = (
    "task__icontains",
    "agent__icontains",
    "run_id__icontains",
    "conversation_id__icontains",
    "error__icontains",
    "id_text__icontains",
)
# The list's order: what needs a person first, then what is open, then what has ended, newest first in each.
SEGMENTS: tuple[tuple[Status, ...], ...] = (
    (Status.HITL_PAUSED,),
    (Status.RETRYING,),
    (Status.RUNNING,),
    (Status.PAUSED,),
    (Status.PENDING,),
    ENDED,
)
NOT_SHOWN_IN_ROWS = ("inputs", "output", "metadata", "message", "error", "command_reason", "digest")


@dataclass(frozen=True)
class Cursor:
    """The last row of a page; the next one begins after it."""

    segment: int
    started_at: datetime
    id: UUID

    def __str__(self) -> str:
        return f"{self.segment}_{self.started_at.isoformat()}_{self.id.hex}"

    @classmethod
    def read(cls, text: str) -> "Cursor | None":
        """The cursor of an address; None when somebody has written it by hand, wrongly."""
        segment, _, place = text.partition("_")
        started_at, _, id_hex = place.partition("_")
        moment, found = written.moment(started_at.replace(" ", "+")), written.uuid(id_hex)
        if segment not in map(str, range(len(SEGMENTS))) or moment is None or found is None:
            return None
        return cls(int(segment), moment, found)


@dataclass(frozen=True)
class Asked:
    """What the address asks for. `view` names the tab; `since` and `until` always bound the rows."""

    since: datetime
    until: datetime
    range: str
    view: str = "all"
    statuses: tuple[Status, ...] = ()
    still: tuple[Still, ...] = ()
    agent: str = ""
    run_id: str = ""
    q: str = ""
    order: str = "state"
    after: Cursor | None = None

    @property
    def is_filtered(self) -> bool:
        return bool(self.statuses or self.still or self.agent or self.run_id or self.q)

    def address(self, **changes: Any) -> str:
        """The query string of this list, with `changes` to its fields; a new list starts at its first page."""
        asked = replace(self, **({"after": None} | changes))
        pairs: list[tuple[str, str]] = [("view", asked.view)] if asked.view != "all" else []
        pairs += [("status", status) for status in asked.statuses]
        pairs += [("still", kind) for kind in asked.still]
        pairs += [(name, value) for name in ("agent", "run_id", "q") if (value := getattr(asked, name))]
        pairs += [("order", asked.order)] if asked.order != "state" else []
        if asked.range == "custom":
            pairs += [("range", "custom"), ("from", asked.since.isoformat()), ("to", asked.until.isoformat())]
        else:
            pairs += [("range", asked.range)]
        if asked.after:
            pairs.append(("after", str(asked.after)))
        return urlencode(pairs)


VIEWS = {
    "all": "All",
    "recent": "Last 30 min",
    "needs": "Needs a person",
    "still": "Stands still",
    "failed": "Failed today",
}


def read(query: QueryDict, span: Range) -> Asked:
    """The list that an address asks for; what it says wrongly is left out."""
    view = query.get("view", "all")
    return Asked(
        since=span.since,
        until=span.until,
        range=span.key,
        view=view if view in VIEWS else "all",
        statuses=tuple(Status(one) for one in dict.fromkeys(query.getlist("status")) if one in Status.values),
        still=tuple(Still(one) for one in dict.fromkeys(query.getlist("still")) if one in Still.values),
        agent=query.get("agent", "")[:200],
        run_id=query.get("run_id", "")[:200],
        q=query.get("q", "").strip()[:200],
        order="started" if query.get("order") == "started" else "state",
        after=Cursor.read(query.get("after", "")),
    )


def query_of(asked: Asked) -> Query:
    """What a saved view keeps of the list: its first page."""
    is_custom = asked.range == "custom"
    return msgspec.convert(
        {name: getattr(asked, name) for name in ("view", "agent", "run_id", "q", "order", "range")}
        | {"status": [str(one) for one in asked.statuses], "still": [str(one) for one in asked.still]}
        | ({"from": asked.since.isoformat(), "to": asked.until.isoformat()} if is_custom else {}),
        Query,
    )


def asked_of(saved: Mapping[str, Any], *, now: datetime) -> Asked:
    """The list that a saved view asks for, at `now`."""
    query = QueryDict(mutable=True)
    for name, value in saved.items():
        query.setlist(name, value if isinstance(value, list) else [value])
    return read(query, range_of(query, now=now))


def bounds(asked: Asked, *, now: datetime, time_zone: str) -> tuple[datetime, datetime]:
    """From when to when the view's executions have started."""
    if asked.view == "recent":
        return now - RECENT, now
    if asked.view in ("needs", "still") or asked.still:
        return now - KEPT, now
    if asked.view == "failed":
        midnight, _ = calendars.bounds(now, ZoneInfo(time_zone))
        return midnight, now
    if asked.statuses and set(asked.statuses) <= set(OPEN):
        # What is still open concerns people however long ago it began.
        return now - KEPT, now
    return asked.since, asked.until


def statuses_of(asked: Asked) -> tuple[Status, ...]:
    """The states that view and filter leave; all of them as ()."""
    of_view = {"needs": (Status.HITL_PAUSED,), "failed": (Status.FAILED, Status.TIMEOUT)}.get(asked.view, ())
    if kinds := kinds_of(asked):
        of_view = tuple(dict.fromkeys(state for kind in kinds for state in standstill.STATES[kind]))
    if of_view and asked.statuses:
        return tuple(one for one in of_view if one in asked.statuses) or of_view
    return of_view or asked.statuses


def kinds_of(asked: Asked) -> tuple[Still, ...]:
    """The ways of standing still that view and filter leave; () where it does not matter."""
    if asked.view in ("needs", "failed"):
        return ()
    return asked.still or (tuple(Still) if asked.view == "still" else ())


def matching(project_id: int, asked: Asked, *, now: datetime, time_zone: str) -> ExecutionQuerySet:
    """The executions that the address asks for, bounded in time, in no order. An id finds its row at any time."""
    since, until = bounds(asked, now=now, time_zone=time_zone)
    if (whole := written.uuid(asked.q)) is not None:
        return Execution.objects.of(project_id).filter(id=whole)
    found = Execution.objects.of(project_id).filter(started_at__gte=since)
    if asked.range == "custom" and asked.view == "all":
        found = found.filter(started_at__lte=until)
    if statuses := statuses_of(asked):
        found = found.filter(status__in=statuses)
    if kinds := kinds_of(asked):
        found = found.filter(standstill.chosen(kinds, now=now))
    if asked.agent:
        found = found.filter(agent=asked.agent)
    if asked.run_id:
        found = found.filter(run_id=asked.run_id)
    if asked.q:
        found = found.alias(id_text=Cast("id", CharField()))
        found = found.filter(reduce(or_, (Q(**{each: asked.q}) for each in SEARCHED)))
    return found


def page(found: QuerySet[Execution], asked: Asked) -> tuple[list[Execution], Cursor | None]:
    """At most PAGE_ROWS rows after the cursor, and the cursor of the next page when there is one.

    By state each segment is read by itself along its index, so that no order is made of more than a page.
    """
    if asked.order == "started":
        segments: list[tuple[int, QuerySet[Execution]]] = [(0, found)]
    else:
        wanted = set(statuses_of(asked)) or set(Status)
        segments = [(at, found.filter(status__in=states)) for at, states in enumerate(SEGMENTS) if wanted & set(states)]
    after = asked.after
    if after is not None:
        segments = [(at, rows) for at, rows in segments if at >= after.segment]
    parts = []
    for at, rows in segments:
        if after is not None and at == after.segment:
            older = Q(started_at__lt=after.started_at) | Q(started_at=after.started_at, id__lt=after.id)
            rows = rows.filter(older, started_at__lte=after.started_at)
        ranked = rows.annotate(segment=Value(at, output_field=IntegerField())).defer(*NOT_SHOWN_IN_ROWS)
        parts.append(ranked.order_by("-started_at", "-id")[: PAGE_ROWS + 1])
    if not parts:
        return [], None
    union = parts[0] if len(parts) == 1 else parts[0].union(*parts[1:], all=True)
    if len(parts) > 1:
        union = union.order_by("segment", "-started_at", "-id")[: PAGE_ROWS + 1]
    read: list[Execution] = list(union)
    if len(read) <= PAGE_ROWS:
        return read, None
    last = read[PAGE_ROWS - 1]
    return read[:PAGE_ROWS], Cursor(last.segment, last.started_at, last.id)  # type: ignore[attr-defined]


def count_by_status(found: QuerySet[Execution]) -> dict[str, int]:
    """How many are in each state, of at most COUNTED_TO + 1 of them."""
    counted, params = found.values("status")[: COUNTED_TO + 1].query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT status, count(*) FROM ({counted}) AS counted GROUP BY status", params)  # noqa: S608
        return dict(cursor.fetchall())


def counts_of(project_id: int, lists: Sequence[Asked], *, now: datetime, time_zone: str) -> list[int]:
    """How many each of the lists holds, counted to COUNTED_TO + 1; in one query."""
    parts = []
    values: tuple[Any, ...] = ()
    for at, asked in enumerate(lists):
        found = matching(project_id, asked, now=now, time_zone=time_zone).values("id")[: COUNTED_TO + 1]
        counted, params = found.query.sql_with_params()
        parts.append(f"(SELECT count(*) FROM ({counted}) AS view_{at})")  # noqa: S608
        values += tuple(params)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(parts)}", values)
        return list(cursor.fetchone())


def counted(number: int) -> str:
    """A count that stopped at COUNTED_TO: `1,412` or `10,000+`."""
    return f"{COUNTED_TO:,}+" if number > COUNTED_TO else f"{number:,}"
