"""From what happened to who must know: every state change is judged once, in the order of its subject."""

import logging
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Exists, OuterRef

from alerts import lifecycle
from alerts.judgements import Judgement, Raise, Remark, Settle
from alerts.models import Level
from alerts.rules import judgement
from alerts.wording import clock, message
from monitor.models import Execution, QueueItem, StateChange, Subject, Trip
from monitor.tenancy import crossing

log = logging.getLogger(__name__)

# So many are looked up at a time, in random order within them, so that several judges seldom meet.
AT_A_TIME = 100


class Waiting(NamedTuple):
    """Names an unjudged change."""

    at: datetime
    id: int


def judge(*, now: datetime, limit: int = 500) -> int:
    """Judge up to `limit` changes, each in a transaction of its own; returns how many this call judged."""
    judged = 0
    while judged < limit:
        fresh = sum(_judge_one(waiting, now=now) for waiting in _unjudged(limit - judged))
        if not fresh:
            break
        judged += fresh
    return judged


def _unjudged(limit: int) -> list[Waiting]:
    """The oldest changes whose turn it is: no older one of their subject is unjudged.

    Else a recovery could be judged before the trouble that it ends. Whose turn it is stays so: changes of one
    subject get their numbers under that subject's row lock, so that no older one can appear later.
    """
    older = StateChange.objects.filter(
        project_id=OuterRef("project_id"),
        subject=OuterRef("subject"),
        subject_id=OuterRef("subject_id"),
        id__lt=OuterRef("id"),
        judged_at=None,
    )
    with crossing():
        ready = StateChange.objects.filter(~Exists(older), judged_at=None)
        waiting = [Waiting(*row) for row in ready.order_by("id").values_list("at", "id")[: min(limit, AT_A_TIME)]]
    random.shuffle(waiting)
    return waiting


def _claim(waiting: Waiting) -> StateChange | None:
    """The change, locked, unless somebody else has it or had it. `at` names the day's partition."""
    unjudged = StateChange.objects.filter(at=waiting.at, id=waiting.id, judged_at=None)
    return unjudged.select_for_update(skip_locked=True).first()


def _judge_one(waiting: Waiting, *, now: datetime) -> bool:
    """Claim one change and draw its conclusion, whole or not at all. False when it is not ours to judge."""
    with crossing():
        change = _claim(waiting)
        if change is None:
            return False
        try:
            with transaction.atomic():
                _apply(change, judgement(change, _about(change)), now=now)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            # One change that no rule can read must not hold up those behind it, nor be lost.
            log.exception("state change %s could not be judged", change.id)
            _apply(change, _unreadable(change), now=now)
        StateChange.objects.filter(at=change.at, id=change.id).update(judged_at=now)
    return True


def _apply(change: StateChange, conclusion: Judgement, *, now: datetime) -> None:
    project_id = change.project_id
    match conclusion:
        case Raise():
            lifecycle.raise_alert(
                project_id,
                fingerprint=conclusion.fingerprint,
                level=conclusion.level,
                type=conclusion.type,
                title=conclusion.title,
                message=conclusion.message,
                data=conclusion.data,
                agent=conclusion.agent[:200],
                run_id=conclusion.run_id[:200],
                execution_id=conclusion.execution_id,
                conversation_id=conclusion.conversation_id[:200],
                now=now,
                change_id=change.id,
            )
        case Settle(fingerprint, note, actor):
            lifecycle.settle(project_id, fingerprint=fingerprint, note=note, actor=actor, now=now, change_id=change.id)
        case Remark(fingerprint, note):
            lifecycle.remark(project_id, fingerprint=fingerprint, note=note, now=now, change_id=change.id)


def _about(change: StateChange) -> Any:
    look = ABOUT.get(change.subject)
    return look(change) if look else None


def _execution(change: StateChange) -> Execution | None:
    return Execution.objects.filter(project_id=change.project_id, id=UUID(change.subject_id)).first()


def _trip(change: StateChange) -> Trip | None:
    # A global trip belongs to no project; the change names the one whose call tripped it.
    trip = Trip.objects.filter(pk=UUID(change.subject_id)).first()
    return trip if trip and trip.project_id in (None, change.project_id) else None


def _queue_item(change: StateChange) -> QueueItem | None:
    items = QueueItem.objects.filter(project_id=change.project_id, pk=UUID(change.subject_id))
    return items.select_related("conversation").first()


ABOUT: dict[str, Callable[[StateChange], Any]] = {
    Subject.EXECUTION: _execution,
    Subject.TRIP: _trip,
    Subject.QUEUE_ITEM: _queue_item,
}


def _unreadable(change: StateChange) -> Raise:
    what = f"{change.subject} {change.subject_id} → {change.to_state} ({change.cause})"
    return Raise(
        fingerprint=f"unreadable:{change.subject}:{change.cause}",
        level=Level.WARNING,
        type="judgement_failed",
        title=f"Handrail could not tell what this means: {what}"[:300],
        message=message(
            where=what,
            since=clock(change.at),
            bad="a rule failed on it; the reason is in the log.",
            done="it counts as judged, so that what came after it is not held up.",
            otherwise="nobody is told of the like. Look at it yourself, and at the log.",
            path="/alerts",
        ),
    )
