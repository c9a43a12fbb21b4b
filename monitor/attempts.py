"""One attempt at an execution: its clocks, and how it is given up. Every verdict falls here, whoever gives it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from django.db import connection

from monitor import commands, news, queue
from monitor.commands import Order
from monitor.models import Conversation, Execution
from monitor.models.executions import Status, Verdict
from monitor.models.queue import ItemKind

# An attempt is alive for its heartbeat interval and a grace of half of it.
ALIVE_INTERVALS = 1.5
FIRST_BACKOFF_S = 2.0
MOST_BACKOFF_S = 60.0
# More lead beyond the longest backoff, and after a thousand beyond what PostgreSQL can count.
MOST_DOUBLINGS = 10
SILENT_VERDICTS = (Verdict.ZOMBIE, Verdict.TIMED_OUT, Verdict.NOT_PICKED_UP)
# An abort after one of these ends as a time-out.
LATE_VERDICTS = (*SILENT_VERDICTS, Verdict.STALLED)
HEADLINES = {
    Verdict.ZOMBIE: "went silent",
    Verdict.TIMED_OUT: "ran out of time",
    Verdict.NOT_PICKED_UP: "was not picked up again",
    Verdict.STALLED: "makes no progress",
    Verdict.ERROR: "keeps failing",
}


def spoken(time: timedelta) -> str:
    """A length of time as people say it: `48 s`, `12 min`, `3 h`."""
    seconds = int(time.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def alive_for(execution: Execution) -> timedelta:
    """How long after a sign of life the attempt counts as alive."""
    return timedelta(seconds=execution.heartbeat_s * ALIVE_INTERVALS)


def deadline(execution: Execution, attempt_started_at: datetime, *, now: datetime) -> datetime:
    """When an attempt that gave a sign of life now is overdue: the earlier of heartbeat and timeout."""
    return min(now + alive_for(execution), attempt_started_at + timedelta(seconds=execution.timeout_s))


def pickup_deadline(execution: Execution, retry_at: datetime) -> datetime:
    """Until when an attempt that may start at `retry_at` has to give its first sign of life."""
    return deadline(execution, retry_at, now=retry_at)


def timeout_left_ms(execution: Execution, *, now: datetime) -> int | None:
    """What is left of a running attempt's timeout, never below 0; None when its clock has not started."""
    if execution.attempt_started_at is None:
        return None
    left = execution.attempt_started_at + timedelta(seconds=execution.timeout_s) - now
    return max(0, left // timedelta(milliseconds=1))


def stall_due_at(execution: Execution, *, now: datetime) -> datetime | None:
    """Until when an attempt that moves now has to move again; None where no such clock runs."""
    return None if execution.stall_s is None else now + timedelta(seconds=execution.stall_s)


def stall_left_ms(execution: Execution, *, now: datetime) -> int | None:
    """What is left of the clock of progress, never below 0; None when it does not run."""
    due_at = execution.stall_due_at
    return None if due_at is None else max(0, (due_at - now) // timedelta(milliseconds=1))


# One statement gives up any number of attempts and journals each: whoever locks the row first gives the
# verdict, and nobody gives it twice. An attempt that has used up its timeout, or its time without progress, goes
# on, after a person's resume, with a whole one: else it would be overdue again at once.
GIVE_UP = """
WITH lost AS (
    SELECT project_id, id, status AS from_status, attempt AS lost_attempt, attempt <= max_retries AS again,
           coalesce(%(verdict)s::text, CASE
               WHEN status = 'retrying' THEN 'not_picked_up'
               WHEN attempt_started_at + make_interval(secs => timeout_s) <= deadline_at THEN 'timed_out'
               ELSE 'zombie' END) AS why,
           greatest(0, extract(epoch FROM
               %(now)s - coalesce(greatest(last_heartbeat_at, attempt_started_at), started_at))) AS silent_s,
           CASE status
               WHEN 'running' THEN
                   timeout_s * 1000 - extract(epoch FROM %(now)s - attempt_started_at) * 1000
               WHEN 'paused' THEN timeout_left_ms END AS left_ms,
           CASE status
               WHEN 'running' THEN extract(epoch FROM stall_due_at - %(now)s) * 1000
               WHEN 'paused' THEN stall_left_ms END AS moves_left_ms,
           'alive, but no progress for ' || stall_s || ' s'
               || CASE message WHEN '' THEN '' ELSE ': ' || left(message, 200) END AS hangs,
           least(%(first_backoff_s)s * 2 ^ least(attempt - 1, %(most_doublings)s), %(most_backoff_s)s)
               * (1 - 0.5 * coalesce(%(jitter)s, random())) AS backoff_s
      FROM monitor_execution
     WHERE {which}
), told AS (
    SELECT lost.*, CASE why
               WHEN 'zombie' THEN 'no heartbeat for ' || round(silent_s) || ' s'
               WHEN 'timed_out' THEN coalesce(nullif(%(reason)s, ''), 'ran longer than its timeout')
               WHEN 'not_picked_up' THEN 'attempt ' || lost_attempt || ' was not picked up'
               WHEN 'stalled' THEN coalesce(nullif(%(reason)s, ''), hangs)
               ELSE %(reason)s END AS reason
      FROM lost
), moved AS (
    UPDATE monitor_execution e SET
           status = CASE WHEN again THEN 'retrying' ELSE 'hitl_paused' END,
           attempt = lost_attempt + again::int,
           verdict = why,
           error = reason,
           command = '',
           command_reason = reason,
           attempt_started_at = CASE WHEN again THEN NULL ELSE attempt_started_at END,
           retry_at = CASE WHEN again THEN %(now)s + make_interval(secs => backoff_s) END,
           deadline_at = CASE WHEN again THEN
               %(now)s + make_interval(secs => backoff_s + least(heartbeat_s * {alive_intervals}, timeout_s)) END,
           timeout_left_ms = CASE WHEN NOT again THEN CASE
               WHEN why <> 'timed_out' AND left_ms > 0 THEN floor(left_ms)::bigint ELSE timeout_s * 1000 END END,
           stalled_at = NULL,
           stall_due_at = NULL,
           stall_left_ms = CASE WHEN NOT again AND why <> 'stalled' AND moves_left_ms > 0
               THEN floor(moves_left_ms)::bigint END
      FROM told
     WHERE e.project_id = told.project_id AND e.id = told.id
 RETURNING e.project_id, e.id, e.agent, e.run_id, e.task, e.conversation_id, e.status, e.attempt, e.max_retries,
           e.retry_at, e.verdict, told.from_status, told.lost_attempt, told.reason,
           round(told.silent_s * 1000)::bigint AS silent_ms
), journal AS (
    INSERT INTO monitor_statechange
           (project_id, at, subject, subject_id, from_state, to_state, cause, actor, note, attempt, data)
    SELECT project_id, %(now)s, 'execution', id::text, from_status, status, verdict, %(actor)s, reason, lost_attempt,
           jsonb_build_object('agent', agent, 'run_id', run_id, 'task', task, 'conversation_id', conversation_id,
               'silent_ms', silent_ms, 'attempt', lost_attempt, 'max_retries', max_retries, 'next', status,
               'next_attempt', attempt, 'retry_at', retry_at)
      FROM moved
)
SELECT * FROM moved ORDER BY project_id, id
"""


@dataclass(frozen=True)
class Lost:
    """An attempt that was given up, and what its execution is now."""

    project_id: int
    id: UUID
    agent: str
    run_id: str
    task: str
    conversation_id: str
    status: str
    attempt: int
    max_retries: int
    retry_at: datetime | None
    verdict: str
    from_status: str
    lost_attempt: int
    reason: str
    silent_ms: int


def give_up(
    which: str,
    params: Mapping[str, Any],
    *,
    now: datetime,
    actor: str,
    verdict: Verdict | None = None,
    reason: str = "",
    jitter: float | None = None,
) -> list[Lost]:
    """Give up the attempts of the executions that the SQL condition `which` locks: retry, or ask a person.

    Without a `verdict` each gets the one that its clocks tell. `jitter`, 0 to 1, takes up to half off the
    backoff; random for each when None. Announces commands last, as the counter of events demands.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            GIVE_UP.format(which=which, alive_intervals=ALIVE_INTERVALS),
            {
                **params,
                "now": now,
                "actor": actor,
                "verdict": verdict,
                "reason": reason,
                "jitter": jitter,
                "first_backoff_s": FIRST_BACKOFF_S,
                "most_backoff_s": MOST_BACKOFF_S,
                "most_doublings": MOST_DOUBLINGS,
            },
        )
        lost = [Lost(*row) for row in cursor.fetchall()]
    for one in lost:
        if one.status == Status.HITL_PAUSED:
            _ask_a_person(one, now=now)
    for project_id, group in groupby(lost, key=lambda one: one.project_id):
        _tell(project_id, list(group), now=now, actor=actor)
    return lost


def _ask_a_person(lost: Lost, *, now: datetime) -> None:
    conversation = None
    if lost.conversation_id:
        conversation = Conversation.objects.filter(
            project_id=lost.project_id, conversation_id=lost.conversation_id
        ).first()
    what = f"{lost.agent} {HEADLINES[Verdict(lost.verdict)]}"
    queue.open_item(
        lost.project_id,
        ItemKind.PAUSED_EXECUTION,
        lost.id,
        title=f"{what}: {lost.task}" if lost.task else what,
        trigger=lost.verdict,
        evidence={
            "reason": lost.reason,
            "run_id": lost.run_id,
            "attempt": lost.lost_attempt,
            "max_retries": lost.max_retries,
            "silent_ms": lost.silent_ms,
        },
        agent=lost.agent,
        conversation=conversation,
        now=now,
    )


def _tell(project_id: int, lost: Sequence[Lost], *, now: datetime, actor: str) -> None:
    news.tell(project_id, "executions", str(lost[0].id) if len(lost) == 1 else "")
    orders = [
        Order(
            one.id,
            "retry" if one.status == Status.RETRYING else "pause",
            one.reason,
            one.attempt,
            conversation_id=one.conversation_id,
            retry_at=one.retry_at,
        )
        for one in lost
    ]
    commands.issue(project_id, orders, now=now, actor=actor)
