"""Tasks, memory and health, as the seed documents have them; a task is an execution."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.db import connection
from django.urls import path
from msgspec import Meta

from monitor import health, storyline
from monitor.api.door import Door, Request, endpoint
from monitor.api.problems import Problem
from monitor.models import Execution
from monitor.models.executions import ExecutionQuerySet, Status

TaskStatus = Literal["PENDING", "RUNNING", "COMPLETED", "FAILED"]
Aware = Annotated[datetime, Meta(tz=True)]
STATUSES: dict[str, tuple[str, ...]] = {
    "PENDING": (Status.PENDING,),
    "RUNNING": (Status.RUNNING, Status.RETRYING, Status.PAUSED, Status.HITL_PAUSED),
    "COMPLETED": (Status.COMPLETED,),
    "FAILED": (Status.FAILED, Status.TIMEOUT, Status.CANCELLED),
}
TASK_STATUS = {str(status): name for name, several in STATUSES.items() for status in several}
PREVIEW = 200
# Counting stops here: a list that long is read by filters.
MOST_COUNTED = 100_000
MEMORY_BACK = timedelta(days=30)


class TaskQuery(msgspec.Struct, kw_only=True):
    crew_id: Annotated[str, Meta(max_length=200)] | None = None
    status: TaskStatus | None = None
    start_date_from: Aware | None = None
    start_date_to: Aware | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    offset: Annotated[int, Meta(ge=0, le=MOST_COUNTED)] = 0


class TaskOut(msgspec.Struct, kw_only=True):
    task_id: UUID
    crew_id: str
    status: TaskStatus
    start_time: datetime
    end_time: datetime | None
    duration_ms: int | None
    input_summary: str
    error_preview: str


class TaskPage(msgspec.Struct, kw_only=True):
    """`total` counts to 100,000 and no further."""

    tasks: list[TaskOut]
    total: int
    limit: int
    offset: int


class TaskDetail(TaskOut, kw_only=True):
    agent: str
    task: str
    inputs: Any
    output: Any
    error_message: str
    logs_summary: list[storyline.Line]


class Tasks(Door):
    """Executions as tasks, newest start first."""

    @endpoint(scope="read", query=TaskQuery, answer=TaskPage)
    def get(self, request: Request, query: TaskQuery) -> TaskPage:
        found = Execution.objects.of(request.caller.project_id)
        if query.crew_id is not None:
            found = found.filter(crew_id=query.crew_id)
        if query.status is not None:
            found = found.filter(status__in=STATUSES[query.status])
        if query.start_date_from is not None:
            found = found.filter(started_at__gte=query.start_date_from)
        if query.start_date_to is not None:
            found = found.filter(started_at__lte=query.start_date_to)
        rows = list(found.order_by("-started_at", "-id")[query.offset : query.offset + query.limit])
        return TaskPage(
            tasks=[TaskOut(**_task(row)) for row in rows],
            total=_total(found, query, shown=len(rows)),
            limit=query.limit,
            offset=query.offset,
        )


def _total(found: ExecutionQuerySet, query: TaskQuery, *, shown: int) -> int:
    """How many there are, counted to MOST_COUNTED."""
    if shown < query.limit and (shown or not query.offset):
        # The list ends on this page.
        return min(query.offset + shown, MOST_COUNTED)
    return found.order_by()[:MOST_COUNTED].count()


class OneTask(Door):
    """A task in full; `logs_summary` tells its steps, tool calls and warnings in order."""

    @endpoint(scope="read", answer=TaskDetail)
    def get(self, request: Request, task_id: UUID) -> TaskDetail:
        row = Execution.objects.of(request.caller.project_id).filter(id=task_id).first()
        if row is None:
            raise Problem(404, "Not found", "There is no task with this id.")
        return TaskDetail(
            **_task(row),
            agent=row.agent,
            task=row.task,
            inputs=row.inputs,
            output=row.output,
            error_message=row.error,
            logs_summary=storyline.of(row, now=request.now),
        )


def _task(row: Execution) -> dict[str, Any]:
    return {
        "task_id": row.id,
        "crew_id": row.crew_id,
        "status": TASK_STATUS[row.status],
        "start_time": row.started_at,
        "end_time": row.ended_at,
        "duration_ms": row.duration_ms,
        "input_summary": _summary(row.inputs) or row.task[:PREVIEW],
        "error_preview": row.error[:PREVIEW],
    }


def _summary(inputs: Any) -> str:
    if inputs is None:
        return ""
    text = inputs if isinstance(inputs, str) else msgspec.json.encode(inputs).decode()
    return text if len(text) <= PREVIEW else f"{text[: PREVIEW - 1]}…"


class MemoryStats(msgspec.Struct, kw_only=True):
    """Of the last 30 days. We keep no other name of the agent: `letta_agent_id` is the one it reports, or ""."""

    app_agent_id: str
    letta_agent_id: str
    memories_stored_count: int
    memories_recalled_count: int
    last_activity_timestamp: datetime | None


# Read by the index span_by_agent. What stores says so in its name or its operation; all else recalls.
MEMORY = """
SELECT count(*) FILTER (WHERE stores), count(*) FILTER (WHERE NOT stores), max(started_at), max(letta)
  FROM (SELECT started_at, coalesce(attributes->>'letta.agent.id', '') AS letta,
               (coalesce(attributes->>'operation', '') || ' ' || name) ~* '(store|add|create|upsert|update|write|save)'
                   AS stores
          FROM monitor_span
         WHERE project_id = %(project_id)s AND agent = %(agent)s AND kind = 'memory'
           AND started_at >= %(since)s) AS memories
"""


class Memory(Door):
    """How much an agent stored in its memory, and recalled."""

    @endpoint(scope="read", answer=MemoryStats)
    def get(self, request: Request, agent: str) -> MemoryStats:
        parameters: dict[str, Any] = {
            "project_id": request.caller.project_id,
            "agent": agent,
            "since": request.now - MEMORY_BACK,
        }
        with connection.cursor() as cursor:
            cursor.execute(MEMORY, parameters)
            stored, recalled, last_at, letta = cursor.fetchone()
        return MemoryStats(
            app_agent_id=agent,
            letta_agent_id=letta or "",
            memories_stored_count=stored,
            memories_recalled_count=recalled,
            last_activity_timestamp=last_at,
        )


class SystemHealth(Door):
    """The database, Redis, workers, beat and every periodic job; `unhealthy` when nothing can be kept or judged."""

    @endpoint(scope="read", answer=health.SystemHealth)
    def get(self, request: Request) -> health.SystemHealth:
        return health.examine(now=request.now)


urlpatterns = [
    path("monitoring/tasks", Tasks.as_view()),
    path("monitoring/tasks/<uuid:task_id>", OneTask.as_view()),
    path("monitoring/agents/<path:agent>/memory/stats", Memory.as_view()),
    path("monitoring/system/health", SystemHealth.as_view()),
]
