"""Ids that clients bring: one id is one row, although rows are kept by time."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from monitor import pipeline
from monitor.pipeline import Statement, array

TAKE = """
INSERT INTO monitor_ingestkey (project_id, key, at, trace_id, span_id, digest)
SELECT %(project_id)s, * FROM unnest(%(keys)s::uuid[], %(ats)s::timestamptz[], %(traces)s::uuid[], %(spans)s::bigint[],
    %(digests)s::bytea[])
ON CONFLICT (project_id, key) DO NOTHING RETURNING key
"""
FIND = """
SELECT key, at, trace_id, span_id, digest FROM monitor_ingestkey
 WHERE project_id = %(project_id)s AND key = ANY(%(keys)s::uuid[])
"""
GIVE_BACK = "DELETE FROM monitor_ingestkey WHERE project_id = %(project_id)s AND key = ANY(%(keys)s::uuid[])"


class Place(NamedTuple):
    """Where the row of an id lies, and what it said."""

    at: datetime
    trace_id: UUID
    span_id: int
    digest: bytes


def take(project_id: int, wanted: Mapping[UUID, Place]) -> dict[UUID, Place]:
    """Take the ids that are free; return those that were taken before, with their places.

    Somebody else's id is waited for until their transaction ends, so that two can't both be first.
    """
    if not wanted:
        return {}
    keys = sorted(wanted)
    places = [wanted[key] for key in keys]
    listed = {"project_id": project_id, "keys": array(keys)}
    (taken,) = pipeline.flush(
        [
            Statement(
                TAKE,
                listed
                | {
                    "ats": pipeline.times(place.at for place in places),
                    "traces": array(place.trace_id for place in places),
                    "spans": array(place.span_id for place in places),
                    "digests": pipeline.texts(f"\\x{place.digest.hex()}" for place in places),
                },
            )
        ]
    )
    free = {key for (key,) in taken}
    others = [key for key in keys if key not in free]
    if not others:
        return {}
    (found,) = pipeline.flush([Statement(FIND, listed | {"keys": array(others)})])
    return {key: Place(*place) for key, *place in found}


def give_back(project_id: int, keys: Iterable[UUID]) -> None:
    """Free ids that this transaction took for what was then refused."""
    pipeline.flush([Statement(GIVE_BACK, {"project_id": project_id, "keys": array(sorted(keys))})])
