"""The numbered events of a project: what the agent side reads by its one cursor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from monitor import news
from monitor.models import QueueEvent

NEXT_SEQ = """
INSERT INTO monitor_eventcounter (project_id, last_seq) VALUES (%(project_id)s, %(count)s)
ON CONFLICT (project_id) DO UPDATE SET last_seq = monitor_eventcounter.last_seq + %(count)s
RETURNING last_seq
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
    with connection.cursor() as cursor:
        cursor.execute(NEXT_SEQ, {"project_id": project_id, "count": len(announcements)})
        (last_seq,) = cursor.fetchone()
    first_seq = int(last_seq) - len(announcements) + 1
    QueueEvent.objects.bulk_create(
        QueueEvent(
            project_id=project_id,
            seq=seq,
            kind=one.kind,
            conversation_id=one.conversation_id,
            execution_id=one.execution_id,
            data=dict(one.data),
            at=now,
        )
        for seq, one in enumerate(announcements, first_seq)
    )
    subjects = {one.conversation_id or str(one.execution_id or "") for one in announcements}
    # Many at once are one hint: whoever waits looks for what is theirs.
    news.tell(project_id, "events", subjects.pop() if len(subjects) == 1 else "")
    return int(last_seq)
