"""What a span takes from the spans above it: a pure function of its trace, whatever order its spans came in.

What a span leaves unsaid is said by the nearest span above it that says it, else by the execution that owns the
trace. Every agent's span is an execution, but for the outermost within work that the execution API reported.
"""

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID, uuid5

from monitor.spanrows import AGENT, CONVERSATION, EXECUTION, RUN, Known, Row, Work

NOBODY: Mapping[int, Known] = {}
TOLD_BY_SPANS = UUID("6d6a6f0e-3c0b-4b52-9c53-4a7f2d1f9e31")


class Place(NamedTuple):
    """Where a span stands: what it and those below it go by; "" and None where nobody says.

    `is_own` is true of an agent's span that is an execution itself, `parent_id` is then the execution above it;
    with `parent_left` that does not show any more in the spans, but in the execution alone. `awaits_agent` is true
    while an execution of the API has no agent's span yet on the way down, None where one that took it may have left.
    `is_rooted` is true when nothing above is missing.
    """

    agent: str
    conversation_id: str
    run_id: str
    execution_id: str | None
    is_own: bool
    parent_id: str | None
    awaits_agent: bool | None
    is_rooted: bool
    parent_left: bool = False


def execution_id(project_id: int, trace: str, span_id: int) -> str:
    """The id of the execution that an agent's span is: the same whenever and however often it is told."""
    return str(uuid5(TOLD_BY_SPANS, f"{project_id} {trace} {span_id}"))


def is_own(row: Row) -> bool:
    """Whether a placed span is an execution itself."""
    return bool(
        row.kind == "agent"
        and row.inherits & EXECUTION
        and row.execution_id == execution_id(row.project_id, row.trace_id, row.span_id)
    )


def places(
    project_id: int,
    trace: str,
    spans: Mapping[int, Known | Row],
    parents: Mapping[int, int],
    work: Work | None,
    stood: Mapping[int, Known] = NOBODY,
    *,
    has_left: bool = False,
) -> dict[int, Place]:
    """Return the place of every span of one trace; `parents` are those known, without rings.

    `work` is the execution that was registered for the whole trace. `stood` are the stored spans of a trace that began
    so long ago that this one may have left, and with `has_left` spans as well: what was above them shows in what they
    took from it.
    """
    whole = Place("", "", "", None, False, None, False, True)
    if work is not None:
        whole = Place(work.agent, work.conversation_id, work.run_id, work.id, False, None, True, True)
    torn = whole._replace(is_rooted=False)
    found: dict[int, Place] = {}
    for start in spans:
        if start in found:
            continue
        path = [start]
        at = parents.get(start)
        while at is not None and at not in found:
            path.append(at)
            at = parents.get(at)
        if at is not None:
            above = found[at]
        else:
            first = spans[path[-1]]
            above = whole if first.parent_span_id is None else torn
            held = stood.get(first.span_id)
            if held and held.parent_span_id == first.parent_span_id and held.parent_span_id not in spans:
                above = _as_it_was(above, held, project_id, trace, has_left=has_left)
        for span_id in reversed(path):
            above = found[span_id] = _below(above, spans[span_id], stood.get(span_id), project_id, trace)
    return found


def _as_it_was(above: Place, held: Known, project_id: int, trace: str, *, has_left: bool) -> Place:
    """What was above a stored span, as far as it took that from there; nothing has left above a root."""
    is_torn = has_left and held.parent_span_id is not None
    if above.execution_id is not None and not is_torn:
        return above
    unsaid = held.inherits
    kept = above._replace(
        agent=(held.agent if unsaid & AGENT and held.agent != held.service else "") or above.agent,
        conversation_id=(held.conversation_id if unsaid & CONVERSATION else "") or above.conversation_id,
        run_id=(held.run_id if unsaid & RUN and held.run_id != trace else "") or above.run_id,
    )
    if not unsaid & EXECUTION or held.execution_id is None:
        return kept
    if not _is_execution(held, project_id, trace):
        return kept._replace(execution_id=held.execution_id, awaits_agent=None if is_torn else True)
    if is_torn:
        return kept._replace(execution_id=None, awaits_agent=False, parent_left=True)
    return kept


def _is_execution(held: Known, project_id: int, trace: str) -> bool:
    """Whether a stored span that names no execution is one itself."""
    return held.kind == "agent" and held.execution_id == execution_id(project_id, trace, held.span_id)


def _below(above: Place, span: Known | Row, held: Known | None, project_id: int, trace: str) -> Place:
    """Where a span stands below another; `held` is how it was stored, where that may tell more than what is above."""
    unsaid = span.inherits
    is_own, parent, parent_left = False, None, False
    execution, awaits = above.execution_id, above.awaits_agent
    if not unsaid & EXECUTION:
        execution, awaits = span.execution_id, span.kind != "agent"
    elif span.kind == "agent":
        if awaits is None:
            awaits = held is not None and _took(held, project_id, trace)
        if not awaits:
            is_own, parent = True, execution
            # Where an agent's span is above, it tells of the parent of that one.
            parent_left = above.parent_left and not above.is_own
            execution = execution_id(project_id, trace, span.span_id)
        awaits = False
    return Place(
        above.agent if unsaid & AGENT else span.agent,
        above.conversation_id if unsaid & CONVERSATION else span.conversation_id,
        above.run_id if unsaid & RUN else span.run_id,
        execution,
        is_own,
        parent,
        awaits,
        above.is_rooted,
        parent_left,
    )


def _took(held: Known, project_id: int, trace: str) -> bool:
    """Whether a stored agent's span took the execution that it stands under from above."""
    return bool(held.kind == "agent" and held.inherits & EXECUTION) and not _is_execution(held, project_id, trace)
