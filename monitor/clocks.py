"""What time alone does to the human queue: nobody claims, nobody replies, somebody is gone. Each fires once."""

from datetime import datetime, timedelta
from uuid import UUID

from monitor import claims, jobs, queue
from monitor.models import QueueItem
from monitor.models.queue import ItemKind, ItemStatus
from monitor.tenancy import crossing, tenant

REPLY_WITHIN = timedelta(minutes=5)
AT_ONCE = 1000


def breaches(*, now: datetime) -> int:
    """Mark what nobody claimed in time; returns how many items this call marked."""
    with crossing():
        late = QueueItem.objects.filter(status=ItemStatus.PENDING, claim_due_at__lte=now, claim_breached_at=None)
        found = list(late.values_list("project_id", "pk")[:AT_ONCE])
    return jobs.one_by_one(_breach, found, now=now)


def _breach(project_id: int, item_id: UUID, *, now: datetime) -> bool:
    with tenant(project_id):
        row = QueueItem.objects.filter(project_id=project_id, pk=item_id)
        marked = row.filter(status=ItemStatus.PENDING, claim_breached_at=None).update(claim_breached_at=now)
        if marked:
            item = row.get()
            queue.record(item, from_state=item.status, to_state=item.status, cause="claim_breached", now=now)
    return bool(marked)


def unanswered(*, now: datetime) -> int:
    """Put chats back into the queue whose holder has not replied within 5 minutes; returns how many."""
    with crossing():
        silent = QueueItem.objects.filter(
            status=ItemStatus.CLAIMED, kind=ItemKind.CHAT, first_reply_at=None, claimed_at__lte=now - REPLY_WITHIN
        )
        found = list(silent.values_list("project_id", "pk", "version")[:AT_ONCE])
    return jobs.one_by_one(_requeue, found, now=now)


def _requeue(project_id: int, item_id: UUID, version: int, *, now: datetime) -> bool:
    with tenant(project_id):
        still = (
            QueueItem.objects.select_for_update(no_key=True)
            .filter(project_id=project_id, pk=item_id, version=version, status=ItemStatus.CLAIMED, first_reply_at=None)
            .first()
        )
        if still is not None:
            claims.release(project_id, still.pk, None, now=now, cause="no_reply")
    return still is not None
