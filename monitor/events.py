"""The numbered events of a project: what the agent side reads by its one cursor."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from monitor import news
from monitor.models import QueueEvent

NEXT_SEQ = """
INSERT INTO monitor_eventcounter (project_id, last_seq) VALUES (%(project_id)s, 1)
ON CONFLICT (project_id) DO UPDATE SET last_seq = monitor_eventcounter.last_seq + 1
RETURNING last_seq
"""


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
    with connection.cursor() as cursor:
        cursor.execute(NEXT_SEQ, {"project_id": project_id})
        (seq,) = cursor.fetchone()
    QueueEvent.objects.create(
        project_id=project_id,
        seq=seq,
        kind=kind,
        conversation_id=conversation_id,
        execution_id=execution_id,
        data=dict(data or {}),
        at=now,
    )
    news.tell(project_id, "events", conversation_id or str(execution_id or ""))
    return int(seq)
