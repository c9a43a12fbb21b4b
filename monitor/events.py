"""The numbered events of a project: what the agent side reads by its one cursor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from django.db import connection

from monitor import news

# The counter's row lock, held until commit, puts commits in order of number.
APPEND = """
WITH counter AS (
    INSERT INTO monitor_eventcounter (project_id, last_seq) VALUES (%(project_id)s, %(count)s)
    ON CONFLICT (project_id) DO UPDATE SET last_seq = monitor_eventcounter.last_seq + %(count)s
    RETURNING last_seq
), appended AS (
    INSERT INTO monitor_queueevent (project_id, seq, kind, conversation_id, execution_id, data, at)
    SELECT %(project_id)s, last_seq - %(count)s + place, event->>0, event->>1, (event->>2)::uuid, event->3, %(now)s
      FROM counter, jsonb_array_elements(%(events)s::jsonb) WITH ORDINALITY AS listed (event, place)
)
SELECT last_seq FROM counter
"""


@dataclass(frozen=True)
class Announcement:
    """An event that has no number yet."""

    kind: str
    conversation_id: str = ""
    execution_id: UUID | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


def announce(
    project_id: int,
    kind: str,
    *,
    now: datetime,
    conversation_id: str = "",
    execution_id: UUID | None = None,
    data: Mapping[str, Any] | None = None,
) -> int:
    """Append an event and return its number. Holds the project's counter until commit: call it last."""
    return announce_all(project_id, [Announcement(kind, conversation_id, execution_id, data or {})], now=now)


def announce_all(project_id: int, announcements: Sequence[Announcement], *, now: datetime) -> int:
    """Append events in this order and return the last one's number. Holds the counter until commit: call it last."""
    events = [[one.kind, one.conversation_id, one.execution_id, one.data] for one in announcements]
    with connection.cursor() as cursor:
        cursor.execute(
            APPEND,
            {"project_id": project_id, "count": len(events), "events": orjson.dumps(events).decode(), "now": now},
        )
        (last_seq,) = cursor.fetchone()
    subjects = {one.conversation_id or str(one.execution_id or "") for one in announcements}
    # Many at once are one hint: whoever waits looks for what is theirs.
    news.tell(project_id, "events", subjects.pop() if len(subjects) == 1 else "")
    return int(last_seq)
