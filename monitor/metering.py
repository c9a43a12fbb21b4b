"""Which spans of one trace carry money: a pure function of the trace, whatever order its spans came in."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec


class Meter(msgspec.Struct, frozen=True, gc=False):
    """What of a span decides about money.

    `bears` is true when the span reports tokens, images or a cost above zero; `is_call` when it is a model
    call that ended, well or badly.
    """

    span_id: int
    parent_span_id: int | None = None
    bears: bool = False
    is_call: bool = False
    response_id: str | None = None
    tokens: int = 0


def billed(trace: Iterable[Meter], known_parents: Mapping[int, int] | None = None) -> frozenset[int]:
    """Return the span ids that are priced: the deepest that bear usage, one for each response.

    A span above another that bears usage repeats it and is never priced. Of several that report the same
    response the fullest is priced, then the one with the least id.
    """
    rows = {row.span_id: row for row in trace}
    bearing = [row for row in rows.values() if row.bears]
    above = _above(parents(rows) if known_parents is None else known_parents, bearing)
    chosen: dict[str, Meter] = {}
    alone: list[int] = []
    for row in bearing:
        if row.span_id in above:
            continue
        if not row.response_id:
            alone.append(row.span_id)
            continue
        held = chosen.get(row.response_id)
        if held is None or (-row.tokens, row.span_id) < (-held.tokens, held.span_id):
            chosen[row.response_id] = row
    return frozenset(alone) | {row.span_id for row in chosen.values()}


def unmetered(trace: Iterable[Meter], known_parents: Mapping[int, int] | None = None) -> frozenset[int]:
    """Return the ids of model calls that nobody counted: neither they, nor a span below, nor a twin."""
    rows = {row.span_id: row for row in trace}
    calls = [row for row in rows.values() if row.is_call or row.bears]
    above = _above(parents(rows) if known_parents is None else known_parents, calls)
    counted = {row.response_id for row in rows.values() if row.bears and row.response_id}
    return frozenset(
        row.span_id for row in calls if not row.bears and row.span_id not in above and row.response_id not in counted
    )


def _above(parents: Mapping[int, int], below: list[Meter]) -> set[int]:
    """Return the ids of all spans that have one of these underneath, each visited once."""
    above: set[int] = set()
    for row in below:
        parent = parents.get(row.span_id)
        while parent is not None and parent not in above:
            above.add(parent)
            parent = parents.get(parent)
    return above


class _Linked(Protocol):
    @property
    def parent_span_id(self) -> int | None: ...


def parents(rows: Mapping[int, _Linked]) -> dict[int, int]:
    """Return each span's parent as far as it is known; in a ring nobody is above anybody.

    Only a broken or hostile sender makes rings, and it must not get its calls for nothing by them.
    """
    found = {
        span_id: parent
        for span_id, row in rows.items()
        if (parent := row.parent_span_id) is not None and parent in rows
    }
    settled: set[int] = set()
    for start in rows:
        path: dict[int, None] = {}
        at: int | None = start
        while at is not None and at not in settled and at not in path:
            path[at] = None
            at = found.get(at)
        if at is not None and at in path:
            members = list(path)
            for member in members[members.index(at) :]:
                del found[member]
        settled.update(path)
    return found
