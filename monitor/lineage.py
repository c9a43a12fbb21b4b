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

    `is_own` is true of an agent's span that is an execution itself, `parent_id` is then the execution above it.
    `awaits_agent` is true while an execution of the API has no agent's span yet on the way down. `is_rooted` is
    true when nothing above is missing.
    """

    agent: str
    conversation_id: str
    run_id: str
    execution_id: str | None
    is_own: bool
    parent_id: str | None
    awaits_agent: bool
    is_rooted: bool


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
    bereft: Mapping[int, Known] = NOBODY,
) -> dict[int, Place]:
    """Return the place of every span of one trace; `parents` are those known, without rings.

    `work` is the execution that was registered for the whole trace. The `bereft` are stored spans of a time of which
    something has left: what was above them shows in what they took from it.
    """
    whole = Place("", "", "", None, False, None, False, True)
    if work is not None:
        whole = Place(work.agent, work.conversation_id, work.run_id, work.id, False, None, True, True)
    torn = whole._replace(is_rooted=False)
    found: dict[int, Place] = {}
    # The bereft, and those below them.
    orphaned: set[int] = set()
    for start in spans:
        if start in found:
            continue
        path = [start]
        at = parents.get(start)
        while at is not None and at not in found:
            path.append(at)
            at = parents.get(at)
        first = path[-1]
        top = whole if spans[first].parent_span_id is None else torn
        if (held := bereft.get(first)) is not None:
            top = _as_it_was(top, held, project_id, trace)
        if first in bereft or at in orphaned:
            orphaned.update(path)
        above = top if at is None else found[at]
        for span_id in reversed(path):
            span = spans[span_id]
            if span_id in orphaned and isinstance(span, Known) and span.kind == "agent" and span.inherits & EXECUTION:
                # Whether one above was there to take the execution of the API does not show any more, but here.
                is_own = span.execution_id == execution_id(project_id, trace, span_id)
                above = above._replace(awaits_agent=not is_own)
            above = found[span_id] = _below(above, span, project_id, trace)
    return found


def _as_it_was(above: Place, held: Known, project_id: int, trace: str) -> Place:
    """What was above a stored span, as far as it took that from there."""
    unsaid = held.inherits
    execution, awaits = above.execution_id, above.awaits_agent
    if held.kind == "agent" and held.execution_id == execution_id(project_id, trace, held.span_id):
        execution, awaits = None, False
    elif unsaid & EXECUTION and held.execution_id not in (None, execution):
        execution, awaits = held.execution_id, held.kind == "agent"
    return above._replace(
        agent=(held.agent if unsaid & AGENT and held.agent != held.service else "") or above.agent,
        conversation_id=(held.conversation_id if unsaid & CONVERSATION else "") or above.conversation_id,
        run_id=(held.run_id if unsaid & RUN and held.run_id != trace else "") or above.run_id,
        execution_id=execution,
        awaits_agent=awaits,
    )


def _below(above: Place, span: Known | Row, project_id: int, trace: str) -> Place:
    unsaid = span.inherits
    is_agent = span.kind == "agent"
    is_own = False
    execution, parent, awaits = above.execution_id, None, above.awaits_agent
    if not unsaid & EXECUTION:
        execution, awaits = span.execution_id, not is_agent
    elif is_agent and not awaits:
        is_own, parent = True, execution
        execution = execution_id(project_id, trace, span.span_id)
    elif is_agent:
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
    )
