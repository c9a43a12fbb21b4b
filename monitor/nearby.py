"""What a batch touches of a long trace, so that what it costs goes by what is new and not by how long the trace is.

A new span, or a newer version of one, can change
- what those below it take from above: their places;
- what those above it count for, for usage below takes the usage above it out of the books;
- what all count for that report a response which one of these reports.
For the first and the last it is read what hangs below them, and for all of them what they hang under: all of it, so
that rings are seen. Nothing else of the trace can change.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from monitor import pipeline
from monitor.bookings import CALL_KINDS
from monitor.pipeline import Statement, array, texts
from monitor.records import Span
from monitor.spanrows import Known, response_id

# A trace of no more spans is read whole, in one look, and of several so many together.
MOST_WHOLE, MOST_TOGETHER = 512, 20_000

COLUMNS = """span_id, parent_span_id, started_at, ended_at, digest, kind, bears_usage, response_id,
           input_tokens::bigint + cache_read_tokens + cache_write_tokens + audio_input_tokens + image_input_tokens
           + output_tokens + reasoning_tokens + audio_output_tokens, bookings,
           agent, service, department, conversation_id, run_id, execution_id::text, inherits"""
_LIES = "project_id = %(project_id)s AND started_at BETWEEN %(first_at)s AND %(last_at)s"
# LATERAL and OFFSET 0 for the reason that ground.KNOWN has.
NEAR = f"""
WITH RECURSIVE twin AS MATERIALIZED (
    SELECT span.* FROM unnest(%(response_traces)s::uuid[], %(responses)s::text[]) AS told (trace_id, response_id),
    LATERAL (
        SELECT trace_id, span_id FROM monitor_span
         WHERE {_LIES} AND trace_id = told.trace_id AND response_id = told.response_id AND response_id <> ''
        OFFSET 0
    ) AS span
), below (trace_id, span_id) AS (
    (SELECT * FROM unnest(%(top_traces)s::uuid[], %(tops)s::bigint[]) UNION SELECT * FROM twin)
    UNION
    SELECT span.* FROM below, LATERAL (
        SELECT trace_id, span_id FROM monitor_span
         WHERE {_LIES} AND trace_id = below.trace_id AND parent_span_id = below.span_id
        OFFSET 0
    ) AS span
), above (trace_id, span_id) AS (
    (SELECT * FROM unnest(%(start_traces)s::uuid[], %(starts)s::bigint[]) UNION SELECT * FROM twin)
    UNION
    SELECT span.* FROM above, LATERAL (
        SELECT trace_id, parent_span_id FROM monitor_span
         WHERE {_LIES} AND trace_id = above.trace_id AND span_id = above.span_id
        OFFSET 0
    ) AS span WHERE span.parent_span_id IS NOT NULL
)
SELECT encode(uuid_send(wanted.trace_id), 'hex'), span.*
  FROM (SELECT * FROM below UNION SELECT * FROM above) AS wanted,
LATERAL (
    SELECT {COLUMNS} FROM monitor_span WHERE {_LIES} AND trace_id = wanted.trace_id AND span_id = wanted.span_id
    OFFSET 0
) AS span
"""  # noqa: S608
REACH = f"""
SELECT min(started_at), max(coalesce(ended_at, started_at)), count(*) FROM monitor_span
 WHERE {_LIES} AND trace_id = %(trace_id)s AND run_id = %(run_id)s AND span_id <> ALL(%(others)s::bigint[])
"""  # noqa: S608

# Trace and span, or trace and response.
Key = tuple[str, Any]
# From where to where the spans of a trace lie.
Places = dict[str, tuple[datetime, datetime]]


class Part(NamedTuple):
    """A long trace of which a part was read: only the spans that are `touched` may change.

    Others were read to tell what these count for. The trace's spans start from `first_at` to `last_at`.
    """

    touched: frozenset[int]
    first_at: datetime
    last_at: datetime


def parted(places: Iterable[tuple[str, datetime, datetime, int]]) -> tuple[Places, Places]:
    """Where the traces lie that are read whole, and those of which a part is, given how many spans each has."""
    whole: Places = {}
    parts: Places = {}
    left = MOST_TOGETHER
    for trace, first_at, last_at, spans in places:
        fits = spans <= min(MOST_WHOLE, left)
        (whole if fits else parts)[trace] = first_at, last_at
        left -= spans if fits else 0
    return whole, parts


def read(
    project_id: int, told: Iterable[Span], places: Mapping[str, tuple[datetime, datetime]]
) -> tuple[dict[str, dict[int, Known]], dict[str, Part]]:
    """Read what the told spans touch of the traces in `places`: the stored spans by trace, and which may change."""
    new: dict[str, list[Span]] = {trace: [] for trace in places}
    for span in told:
        if (trace := span.trace_id.hex()) in new:
            new[trace].append(span)
    tops: set[Key] = set()
    starts: set[Key] = set()
    responses: set[Key] = set()
    for trace, spans in new.items():
        tops.update((trace, span.span_id) for span in spans)
        starts.update((trace, span.parent_span_id) for span in spans if span.parent_span_id is not None)
        responses.update((trace, response) for span in spans if (response := response_id(span)))
    known: dict[str, dict[int, Known]] = {trace: {} for trace in places}
    bounds = {
        "project_id": project_id,
        "first_at": min(first_at for first_at, _ in places.values()),
        "last_at": max(last_at for _, last_at in places.values()),
    }
    _look(known, bounds, tops, tops | starts, responses)
    touched: dict[str, set[int]] = {}
    counting: set[Key] = set()
    also: set[Key] = set()
    for trace, spans in new.items():
        stored = known[trace]
        inside = _below(stored, {span.span_id for span in spans})
        over = _above(stored, spans) - inside
        touched[trace] = inside | over
        counting.update((trace, span_id) for span_id in over if _counts(stored[span_id]))
        also.update((trace, one.response_id) for span_id in touched[trace] if (one := stored.get(span_id)))
    also = {(trace, response) for trace, response in also - responses if response}
    if counting or also:
        _look(known, bounds, counting, set(), also)
    for trace, response in responses | also:
        touched[trace].update(span_id for span_id, one in known[trace].items() if one.response_id == response)
    return known, {trace: Part(frozenset(touched[trace]), *place) for trace, place in places.items()}


def reach(project_id: int, trace: str, part: Part) -> tuple[datetime, datetime, int] | None:
    """From when to when the spans of a long trace reach that make the run named after it, and how many they are.

    Those that are touched are left out; None when there are no others.
    """
    ((first_at, last_at, spans),) = pipeline.flush(
        [
            Statement(
                REACH,
                {
                    "project_id": project_id,
                    "trace_id": trace,
                    "run_id": trace,
                    "others": array(sorted(part.touched)),
                    "first_at": part.first_at,
                    "last_at": part.last_at,
                },
            )
        ]
    )[0]
    return None if first_at is None else (first_at, last_at, spans)


def _look(
    known: dict[str, dict[int, Known]], bounds: Mapping[str, Any], tops: set[Key], starts: set[Key], responses: set[Key]
) -> None:
    """Add to `known` what hangs below the tops, what the starts hang under, and both of the responses' spans."""
    named: dict[str, Any] = dict(bounds)
    for traces, ids, keys in (("top_traces", "tops", tops), ("start_traces", "starts", starts)):
        named[traces] = array(trace for trace, _ in keys)
        named[ids] = array(span_id for _, span_id in keys)
    told = sorted(responses)
    named["response_traces"] = array(trace for trace, _ in told)
    named["responses"] = texts(response for _, response in told)
    for trace, *fields in pipeline.flush([Statement(NEAR, named)])[0]:
        known[trace][fields[0]] = Known(*fields)


def _counts(span: Known) -> bool:
    """Whether what is below decides what it counts for."""
    return span.bears_usage or (span.kind in CALL_KINDS and span.ended_at is not None)


def _below(stored: Mapping[int, Known], tops: set[int]) -> set[int]:
    """The tops and all that hang below them, by whatever version of a span is stored."""
    children: dict[int, list[int]] = {}
    for span_id, span in stored.items():
        if span.parent_span_id is not None:
            children.setdefault(span.parent_span_id, []).append(span_id)
    found = set(tops)
    left = list(tops)
    while left:
        for child in children.get(left.pop(), ()):
            if child not in found:
                found.add(child)
                left.append(child)
    return found


def _above(stored: Mapping[int, Known], spans: Sequence[Span]) -> set[int]:
    """The stored spans that the new ones hang under, or did by their older version."""
    left = [span.parent_span_id for span in spans]
    left += [held.parent_span_id for span in spans if (held := stored.get(span.span_id))]
    found: set[int] = set()
    while left:
        at = left.pop()
        if at is not None and at not in found and (span := stored.get(at)):
            found.add(at)
            left.append(span.parent_span_id)
    return found
