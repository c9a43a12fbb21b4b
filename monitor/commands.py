"""Commands on their way: issued with an event, delivered by whatever the agent reads first, acknowledged, and done.

The newest command of an execution is the one in force; `command_seq` on its row says which, so that a heartbeat that
has none to carry needs no look at them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection

from monitor import news
from monitor.events import Announcement, announce_all
from monitor.models import Command, Execution
from monitor.models.commands import Way
from monitor.models.executions import Status

ISSUE = """
INSERT INTO monitor_command (project_id, seq, execution_id, command, reason, actor, attempt, issued_at, delivered_by,
    effect, outcome)
SELECT %(project_id)s, seq, id, command, reason, %(actor)s, attempt, %(now)s, '', '', ''
  FROM unnest(%(seqs)s::bigint[], %(ids)s::uuid[], %(commands)s::text[], %(reasons)s::text[], %(attempts)s::int[])
    AS told (seq, id, command, reason, attempt)
"""
# Neither this nor DELIVER joins: of a project that is new the planner believes that it has a single row, and would
# compare each of its rows with each that is wanted.
PUT_IN_FORCE = """
UPDATE monitor_execution SET command_seq = (%(seq_by_id)s::jsonb ->> id::text)::bigint, command_told = false
 WHERE project_id = %(project_id)s AND id = ANY(%(ids)s)
"""
# The lock, taken in the order of the numbers, lets readers of the same events pass one after the other.
DELIVER = """
UPDATE monitor_command SET delivered_at = %(now)s, delivered_by = %(way)s
 WHERE project_id = %(project_id)s AND seq = ANY(ARRAY(
    SELECT seq FROM monitor_command
     WHERE project_id = %(project_id)s AND seq = ANY(%(seqs)s) AND delivered_at IS NULL
     ORDER BY seq FOR NO KEY UPDATE))
"""


@dataclass(frozen=True)
class Order:
    """What one execution's agent is told to do; `attempt` and `retry_at` are those it is to go on with."""

    execution_id: UUID
    command: str
    reason: str
    attempt: int
    conversation_id: str = ""
    retry_at: datetime | None = None


def issue(project_id: int, orders: Sequence[Order], *, now: datetime, actor: str) -> None:
    """Tell the agents, and put these commands in force. The caller has moved the executions, and does nothing more:
    the counter of events is held until commit.
    """
    last_seq = announce_all(project_id, [_announcement(one) for one in orders], now=now)
    seqs = range(last_seq - len(orders) + 1, last_seq + 1)
    ids = [one.execution_id for one in orders]
    commanded = Execution.objects.of(project_id).filter(id__in=ids).values_list("id", "command_seq")
    before = {execution_id: seq for execution_id, seq in commanded if seq is not None}
    with connection.cursor() as cursor:
        cursor.execute(
            ISSUE,
            {
                "project_id": project_id,
                "now": now,
                "actor": actor,
                "seqs": list(seqs),
                "ids": ids,
                "commands": [one.command for one in orders],
                "reasons": [one.reason for one in orders],
                "attempts": [one.attempt for one in orders],
            },
        )
        seq_by_id = json.dumps({str(one): seq for one, seq in zip(ids, seqs, strict=True)})
        cursor.execute(PUT_IN_FORCE, {"project_id": project_id, "ids": ids, "seq_by_id": seq_by_id})
    for command in dict.fromkeys(one.command for one in orders):
        told = [one.execution_id for one in orders if one.command == command]
        _close(project_id, [before[one] for one in told if one in before], f"superseded by {command}", now=now)


def _announcement(order: Order) -> Announcement:
    return Announcement(
        "command",
        conversation_id=order.conversation_id,
        execution_id=order.execution_id,
        data={
            "command": order.command,
            "reason": order.reason,
            "attempt": order.attempt,
            "retry_at": order.retry_at.isoformat() if order.retry_at else None,
        },
    )


def deliver_by_events(project_id: int, seqs: Iterable[int], *, now: datetime) -> int:
    """Note that these stand in an answer to the agent side; returns how many stood in none before."""
    wanted = list(seqs)
    with connection.cursor() as cursor:
        cursor.execute(DELIVER, {"project_id": project_id, "seqs": wanted, "now": now, "way": Way.AGENT_EVENTS.value})
        delivered = cursor.rowcount
    if delivered:
        news.tell(project_id, "executions")
    return delivered


def deliver_by_heartbeat(project_id: int, execution_id: UUID, seq: int, *, now: datetime) -> bool:
    """Note that this one stands in a heartbeat's answer; False when one has carried it before."""
    in_force = Execution.objects.of(project_id).filter(id=execution_id, command_seq=seq, command_told=False)
    if in_force.update(command_told=True) == 0:
        return False
    unheard = Command.objects.filter(project_id=project_id, seq=seq, delivered_at=None)
    unheard.update(delivered_at=now, delivered_by=Way.HEARTBEAT)
    news.tell(project_id, "executions", str(execution_id))
    return True


def acknowledge(
    project_id: int, execution_id: UUID, seq: int, *, now: datetime, effect: str = "", attempt: int | None = None
) -> Command:
    """The agent has heard it, and says what it did with it; twice is once, but for an effect that was left open.

    Raises Command.DoesNotExist.
    """
    known = Command.objects.filter(project_id=project_id, execution_id=execution_id, seq=seq)
    if known.get().command == "continue":
        # Who has heard that it may go on, and does, needs no more telling.
        told = Execution.objects.of(project_id).filter(id=execution_id, command_seq=seq, command_told=True)
        told.filter(status=Status.RUNNING).update(command_seq=None)
    heard = known.filter(acknowledged_at=None).update(acknowledged_at=now, acknowledged_attempt=attempt, effect=effect)
    if not heard and effect:
        heard = known.filter(effect="").update(effect=effect)
    if heard:
        news.tell(project_id, "executions", str(execution_id))
    return known.get()


def withdraw_heard(project_id: int, execution_id: UUID, seq: int) -> bool:
    """End a `continue` that was acknowledged before its first beat; False when it was not.

    The caller's beat holds the row.
    """
    if not Command.objects.filter(project_id=project_id, seq=seq, acknowledged_at__isnull=False).exists():
        return False
    return Execution.objects.of(project_id).filter(id=execution_id, command_seq=seq).update(command_seq=None) == 1


def happened(project_id: int, seq: int, outcome: str, *, now: datetime) -> None:
    """What we saw come of a command; the first outcome stays."""
    _close(project_id, [seq], outcome, now=now)


def _close(project_id: int, seqs: Sequence[int], outcome: str, *, now: datetime) -> None:
    still_open = Command.objects.filter(project_id=project_id, seq__in=seqs, outcome="")
    still_open.update(outcome=outcome, outcome_at=now)


def of(project_id: int, execution_id: UUID, *, most: int = 200) -> list[Command]:
    """The newest commands of an execution, oldest first."""
    found = Command.objects.filter(project_id=project_id, execution_id=execution_id)
    return list(found.order_by("-seq")[:most])[::-1]
