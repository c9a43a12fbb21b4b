"""The calls of tools as they are stored: where new ones have come, and what was called there in which order."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from monitor import loops, masking

# What started longer ago is no news.
BACK = timedelta(days=1)
AHEAD = timedelta(minutes=10)
PLACES_A_PAGE = 20_000
PLACES_AT_ONCE = 500
# One statement returns no more than this, but for a single place: hashes made in SQL would be smaller, yet what is one
# spelling of the same arguments is decided by loops.canonical alone.
BYTES_AT_ONCE = 32 << 20
# With one new call, the calls before it that may make a loop together with it.
BEFORE = loops.ROUNDS * loops.LONGEST_CYCLE - 1
MOST_CALLS = 2_000
LONGEST_EXCERPT = 400
# Longer arguments are compared as they were written.
LONGEST_ARGUMENTS = 8_192
MASK = (1 << 64) - 1
# Pages need an order without nulls; an id of zeros names nothing.
NONE = UUID(int=0)

# New calls name their place; a new agent's span may have changed the place of all calls of its trace.
FRESH = """
WITH fresh AS MATERIALIZED (
    SELECT project_id, trace_id, execution_id, agent, kind, started_at FROM monitor_span
     WHERE kind IN ('tool', 'agent') AND received_at > %(since)s
       AND started_at > %(floor)s AND started_at < %(ceiling)s
), placed AS (
    SELECT project_id, trace_id, execution_id, agent, started_at FROM fresh WHERE kind = 'tool'
    UNION ALL
    SELECT told.project_id, told.trace_id, call.execution_id, call.agent, call.started_at
      FROM (SELECT DISTINCT project_id, trace_id FROM fresh WHERE kind = 'agent') AS told,
      LATERAL (
        SELECT execution_id, agent, started_at FROM monitor_span
         WHERE project_id = told.project_id AND trace_id = told.trace_id AND kind = 'tool'
           AND started_at > %(floor)s AND started_at < %(ceiling)s OFFSET 0) AS call
)
SELECT project_id, nullif(execution_id, %(none)s), nullif(trace_id, %(none)s), agent, started_at FROM (
    SELECT project_id, coalesce(execution_id, %(none)s) AS execution_id,
           CASE WHEN execution_id IS NULL THEN trace_id ELSE %(none)s END AS trace_id,
           CASE WHEN execution_id IS NULL THEN agent ELSE '' END AS agent, min(started_at) AS started_at
      FROM placed GROUP BY 1, 2, 3, 4
) AS place
 WHERE (project_id, execution_id, trace_id, agent)
     > (%(after_project)s, %(after_execution)s::uuid, %(after_trace)s::uuid, %(after_agent)s)
 ORDER BY place.project_id, place.execution_id, place.trace_id, place.agent LIMIT %(most)s
"""
# A client may send an attribute of that name too, of any length.
_SAID = f"attributes ->> '{masking.ARGUMENTS}'"
_HASHED = f"CASE WHEN octet_length({_SAID}) = {masking.HASH_LENGTH} THEN {_SAID} END"
COLUMNS = f"""
trace_id, span_id, parent_span_id, started_at, ended_at, agent, run_id, coalesce(nullif(tool, ''), name) AS tool,
tool_call_id, coalesce('hmac ' || {_HASHED},
    CASE WHEN octet_length(input) <= {LONGEST_ARGUMENTS} THEN input ELSE 'md5 ' || md5(input) END) AS arguments
"""
WHERE = {
    "execution": "execution_id = {execution_id}",
    "trace": "trace_id = {trace_id} AND execution_id IS NULL AND agent = {agent}",
}
_OF_PLACE = {"execution_id": "place.execution_id", "trace_id": "place.trace_id", "agent": "place.agent"}
_OF_PARAMETERS = {"execution_id": "%(execution_id)s", "trace_id": "%(trace_id)s", "agent": "%(agent)s"}
IN_PLACE = {by: where.format(**_OF_PARAMETERS) for by, where in WHERE.items()}
# About what a call takes on its way here.
SIZE = f"1000 + coalesce(least(octet_length(input), {LONGEST_ARGUMENTS}), 0) AS size, started_at"
# The calls since the first new one and the few before it.
_AROUND = {
    (by, columns): f"""
  FROM unnest(%(projects)s::int[], %(executions)s::uuid[], %(traces)s::uuid[], %(agents)s::text[],
              %(since)s::timestamptz[]) WITH ORDINALITY AS place (project_id, execution_id, trace_id, agent, since, n),
LATERAL (
    (SELECT {columns}, ctid FROM monitor_span
      WHERE project_id = place.project_id AND {where.format(**_OF_PLACE)} AND kind = 'tool'
        AND started_at >= place.since AND started_at > %(floor)s AND started_at < %(ceiling)s
      ORDER BY started_at, ctid LIMIT %(most)s)
    UNION ALL
    (SELECT {columns}, ctid FROM monitor_span
      WHERE project_id = place.project_id AND {where.format(**_OF_PLACE)} AND kind = 'tool'
        AND started_at < place.since AND started_at > %(floor)s
      ORDER BY started_at DESC, ctid DESC LIMIT %(before)s)
) AS call
"""  # noqa: S608
    for by, where in WHERE.items()
    for columns in (COLUMNS, SIZE)
}
# Fewer calls than rounds are no loop.
SIZES = {
    by: f"SELECT place.n, sum(call.size) {_AROUND[by, SIZE]} GROUP BY 1 HAVING count(*) >= {loops.ROUNDS} ORDER BY 1"
    for by in WHERE
}
# Calls of one moment stand in the order in which they came.
AROUND = {
    by: f"SELECT place.n, call.* {_AROUND[by, COLUMNS]} ORDER BY place.n, call.started_at, call.ctid" for by in WHERE
}
# The newest of a place, and what was answered.
ALL = {
    by: f"""
SELECT {COLUMNS}, left(input, {LONGEST_EXCERPT}) AS excerpt, md5(output) AS answer
  FROM monitor_span
 WHERE project_id = %(project_id)s AND kind = 'tool' AND {where}
   AND started_at > %(floor)s AND started_at < %(ceiling)s
 ORDER BY started_at DESC, ctid DESC LIMIT %(most)s
"""  # noqa: S608
    for by, where in IN_PLACE.items()
}


class Place(NamedTuple):
    """Where calls belong together: one execution, or where there is none one trace and agent."""

    project_id: int
    execution_id: UUID | None
    trace_id: UUID | None
    agent: str

    @property
    def name(self) -> str:
        return str(self.execution_id) if self.trace_id is None else f"{self.trace_id.hex} {self.agent}"


class Call(NamedTuple):
    """One call of a tool; `arguments` are None where they were not sent, and a hash where they were masked or are long.

    The last two are empty unless asked for.
    """

    trace_id: UUID
    span_id: int
    parent_span_id: int | None
    started_at: datetime
    ended_at: datetime | None
    agent: str
    run_id: str
    tool: str
    tool_call_id: str
    arguments: str | None
    excerpt: str | None = None
    answer: str | None = None

    @property
    def key(self) -> str | None:
        return loops.key(self.tool, self.arguments)

    @property
    def span(self) -> str:
        return f"{self.trace_id.hex}-{self.span_id & MASK:016x}"


def fresh(
    *, since: datetime, now: datetime, after: Place | None = None, most: int = PLACES_A_PAGE
) -> list[tuple[Place, datetime]]:
    """The next `most` places after `after`, in all projects, in which calls were received after `since`.

    Each stands with the start of its first new call.
    """
    last: dict[str, Any] = {
        "after_project": after.project_id if after else 0,
        "after_execution": (after and after.execution_id) or NONE,
        "after_trace": (after and after.trace_id) or NONE,
        "after_agent": after.agent if after else "",
    }
    with connection.cursor() as cursor:
        cursor.execute(FRESH, {"since": since, "most": most, "none": NONE, **last, **_within(now)})
        return [(Place(*row[:4]), row[4]) for row in cursor.fetchall()]


def around(
    places: Sequence[tuple[Place, datetime]], *, now: datetime, bytes_at_once: int = BYTES_AT_ONCE
) -> Iterator[tuple[Place, list[Call]]]:
    """Each place that may have a loop with its calls since a moment, and the few before that may belong to it."""
    for begin in range(0, len(places), PLACES_AT_ONCE):
        part = places[begin : begin + PLACES_AT_ONCE]
        for by in WHERE:
            chosen = [one for one in part if (one[0].execution_id is None) == (by == "trace")]
            if chosen:
                sizes = {n: int(size) for n, size in _ask(SIZES[by], chosen, now=now)}
                for those in _parts(sizes, bytes_at_once):
                    yield from _around(by, [chosen[n - 1] for n in those], now=now)


def _parts(sizes: dict[int, int], most: int) -> Iterator[list[int]]:
    """The keys in their order, in parts that are together no greater than `most`, or of one."""
    part: list[int] = []
    taken = 0
    for key, size in sizes.items():
        if part and taken + size > most:
            yield part
            part, taken = [], 0
        part.append(key)
        taken += size
    if part:
        yield part


def _around(by: str, places: Sequence[tuple[Place, datetime]], *, now: datetime) -> Iterator[tuple[Place, list[Call]]]:
    for n, rows in groupby(_ask(AROUND[by], places, now=now), key=lambda row: row[0]):
        yield places[n - 1][0], [Call(*row[1:-1]) for row in rows]


def _ask(statement: str, places: Sequence[tuple[Place, datetime]], *, now: datetime) -> list[Any]:
    wanted: dict[str, Any] = {
        "projects": [place.project_id for place, _ in places],
        "executions": [place.execution_id for place, _ in places],
        "traces": [place.trace_id for place, _ in places],
        "agents": [place.agent for place, _ in places],
        "since": [since for _, since in places],
    }
    with connection.cursor() as cursor:
        cursor.execute(statement, {**wanted, "most": MOST_CALLS, "before": BEFORE, **_within(now)})
        return cursor.fetchall()


def of_place(place: Place, *, now: datetime) -> list[Call]:
    """The newest MOST_CALLS of a place, in their order, with what they were asked and answered."""
    with connection.cursor() as cursor:
        by = "execution" if place.trace_id is None else "trace"
        cursor.execute(ALL[by], {**place._asdict(), "most": MOST_CALLS, **_within(now)})
        return [Call(*row) for row in cursor.fetchall()][::-1]


def counted(calls: Iterable[Call], exempt: frozenset[str]) -> list[Call]:
    """The calls that count, each once: none of an exempt tool (in small letters), and none that is told of twice.

    A call is told of twice when a span of the same call stands above it (a client and a server of one tool), or one
    with the same id of the call overlaps it (two instrumentations).
    """
    counting = [(call, call.key) for call in calls if call.tool.lower() not in exempt]
    keys = {(call.trace_id, call.span_id): key for call, key in counting}
    kept: list[Call] = []
    twins: dict[str, tuple[Call, str]] = {}
    for call, key in counting:
        if key is not None:
            if call.parent_span_id is not None and keys.get((call.trace_id, call.parent_span_id)) == key:
                continue
            twin = twins.get(call.tool_call_id) if call.tool_call_id else None
            if twin is not None and twin[1] == key and _overlap(twin[0], call):
                continue
            twins[call.tool_call_id] = call, key
        kept.append(call)
    return kept


def _overlap(earlier: Call, later: Call) -> bool:
    return earlier.ended_at is None or later.started_at < earlier.ended_at


def _within(now: datetime) -> dict[str, datetime]:
    return {"floor": now - BACK, "ceiling": now + AHEAD}
