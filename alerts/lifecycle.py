"""The life of an alert: raise, acknowledge, snooze, wake, escalate, resolve, reopen, note.

Each verb runs in the caller's transaction, moves the alert by a guarded update, leaves an event and plans or cancels
deliveries with it. Losing a race is an ordinary None. Locks are taken in one order: the fingerprint, the alert, its
deliveries.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import F, QuerySet
from django.db.models.functions import Greatest

from alerts import planning, snapshot
from alerts.models import MOVES, OPEN_ALERTS, Alert, AlertEvent, AlertStatus, EventKind, Level
from monitor import news

ESCALATE_AFTER = timedelta(hours=1)
SAME_EPISODE_FOR = timedelta(hours=1)
# From the third return on the alert is flapping, and only the timeline tells of further ones.
RETURNS_TOLD = 3
RANK = {Level.INFO: 0, Level.WARNING: 1, Level.CRITICAL: 2}
LOCK_FINGERPRINT = "SELECT pg_advisory_xact_lock(hashtextextended('alert:' || %s || ':' || %s, 0))"


class AlreadyOpen(Exception):
    """Another alert of the same fingerprint is open: it tells the same story."""

    def __init__(self, alert: Alert) -> None:
        super().__init__(f"alert {alert.pk} of the same cause is {alert.status}")
        self.alert = alert


def raise_alert(
    project_id: int,
    *,
    fingerprint: str,
    level: str,
    type: str,
    title: str,
    now: datetime,
    message: str = "",
    data: Mapping[str, Any] | None = None,
    agent: str = "",
    run_id: str = "",
    execution_id: UUID | None = None,
    conversation_id: str = "",
    change_id: int | None = None,
    actor: str = "",
) -> tuple[Alert, AlertEvent]:
    """Open an episode, or add to the one that is open or was resolved within the hour.

    The level may rise, never fall. A higher level is news: it is told again, acknowledged or not.
    """
    _lock_fingerprint(project_id, fingerprint)
    said = {
        "type": type,
        "title": title,
        "message": message,
        "data": dict(data or {}),
        "agent": agent,
        "run_id": run_id,
        "execution_id": execution_id,
        "conversation_id": conversation_id,
    }
    of_cause = Alert.objects.filter(project_id=project_id, fingerprint=fingerprint)
    alert = of_cause.filter(status__in=OPEN_ALERTS).select_for_update(no_key=True).first()
    if alert is not None:
        kind, told = _fold(alert, level, said, now=now)
    elif (alert := _just_resolved(of_cause, now=now)) is not None:
        kind, told = _return(alert, level, said, now=now)
    else:
        alert = Alert.objects.create(
            project_id=project_id,
            fingerprint=fingerprint,
            level=level,
            first_seen_at=now,
            last_seen_at=now,
            escalate_at=_escalate_at(level, now=now),
            **said,
        )
        kind, told = EventKind.FIRED, True
    event = _record(alert, kind, now=now, actor=actor, data={"level": level, "title": title}, change_id=change_id)
    if told:
        planning.plan(alert, event, now=now)
    return alert, event


def acknowledge(project_id: int, alert_id: UUID, *, actor: str, now: datetime, note: str = "") -> Alert | None:
    """Somebody has it: nothing more is sent and it doesn't escalate. None unless it was firing."""
    snapshot.forget(project_id)
    return _move(
        project_id,
        alert_id,
        AlertStatus.ACKNOWLEDGED,
        EventKind.ACKNOWLEDGED,
        frm=[AlertStatus.FIRING],
        now=now,
        actor=actor,
        note=note,
        acknowledged_at=now,
        acknowledged_by=actor,
        escalate_at=None,
        snoozed_until=None,
    )


def resolve(
    project_id: int, alert_id: UUID, *, actor: str, now: datetime, note: str = "", change_id: int | None = None
) -> Alert | None:
    """It is over. None unless it was open."""
    return _move(
        project_id,
        alert_id,
        AlertStatus.RESOLVED,
        EventKind.RESOLVED,
        frm=list(OPEN_ALERTS),
        now=now,
        actor=actor,
        note=note,
        change_id=change_id,
        resolved_at=now,
        resolved_by=actor,
        escalate_at=None,
        snoozed_until=None,
    )


def snooze(
    project_id: int, alert_id: UUID, *, until: datetime, actor: str, now: datetime, note: str = ""
) -> Alert | None:
    """Quiet until `until`, then told again. None unless it was open."""
    row = _one(project_id, alert_id).filter(status__in=OPEN_ALERTS)
    alert = _update(row, alert_id, snoozed_until=until, escalate_at=None)
    if alert is not None:
        data = {"until": until.isoformat()}
        _record(alert, EventKind.SNOOZED, now=now, actor=actor, note=note, data=data)
        planning.cancel_pending(alert, outcome="snoozed")
    return alert


def wake(project_id: int, alert_id: UUID, *, now: datetime) -> Alert | None:
    """The snooze is over and the trouble is not: firing again. None unless a snooze had run out."""
    row = _one(project_id, alert_id).filter(status__in=OPEN_ALERTS, snoozed_until__lte=now)
    alert = _update(
        row, alert_id, status=AlertStatus.FIRING, snoozed_until=None, acknowledged_at=None, acknowledged_by=""
    )
    if alert is not None:
        _restart_escalation(alert, now=now)
        planning.plan(alert, _record(alert, EventKind.WOKEN, now=now), now=now)
    return alert


def escalate(project_id: int, alert_id: UUID, *, now: datetime) -> Alert | None:
    """A warning that nobody has answered becomes critical. None unless that was due."""
    row = _one(project_id, alert_id).filter(
        status=AlertStatus.FIRING, level=Level.WARNING, escalate_at__lte=now, snoozed_until=None
    )
    alert = _update(row, alert_id, level=Level.CRITICAL, escalate_at=None)
    if alert is not None:
        planning.plan(alert, _record(alert, EventKind.ESCALATED, now=now), now=now)
    return alert


def make_critical(project_id: int, alert_id: UUID, *, actor: str, now: datetime, note: str = "") -> Alert | None:
    """A person does not wait for the clock: critical and told at once. None unless it was firing below that."""
    row = _one(project_id, alert_id).filter(status=AlertStatus.FIRING).exclude(level=Level.CRITICAL)
    alert = _update(row, alert_id, level=Level.CRITICAL, escalate_at=None, snoozed_until=None)
    if alert is not None:
        event = _record(alert, EventKind.RAISED, now=now, actor=actor, note=note, data={"level": Level.CRITICAL})
        planning.plan(alert, event, now=now)
    return alert


def reopen(project_id: int, alert_id: UUID, *, actor: str, now: datetime, note: str = "") -> Alert | None:
    """Firing again, told and escalating afresh. None unless it was closed or acknowledged; raises AlreadyOpen."""
    fingerprint = _one(project_id, alert_id).values_list("fingerprint", flat=True).first()
    if fingerprint is None:
        return None
    _lock_fingerprint(project_id, fingerprint)
    twin = (
        Alert.objects.filter(project_id=project_id, fingerprint=fingerprint, status__in=OPEN_ALERTS)
        .exclude(pk=alert_id)
        .first()
    )
    if twin is not None:
        raise AlreadyOpen(twin)
    row = _one(project_id, alert_id).filter(status__in=MOVES[AlertStatus.FIRING])
    alert = _update(row, alert_id, **_afresh(), reopened=F("reopened") + 1)
    if alert is not None:
        _restart_escalation(alert, now=now)
        event = _record(alert, EventKind.REOPENED, now=now, actor=actor, note=note)
        planning.plan(alert, event, now=now)
    return alert


def open_episode(project_id: int, *, fingerprint: str) -> Alert | None:
    """The open episode of a cause, if there is one. Until commit nothing is added to it, nor another opened."""
    _lock_fingerprint(project_id, fingerprint)
    return Alert.objects.filter(project_id=project_id, fingerprint=fingerprint, status__in=OPEN_ALERTS).first()


def settle(
    project_id: int, *, fingerprint: str, note: str, now: datetime, actor: str = "", change_id: int | None = None
) -> Alert | None:
    """Resolve the open episode of a cause, if there is one."""
    alert = open_episode(project_id, fingerprint=fingerprint)
    if alert is None:
        return None
    return resolve(project_id, alert.pk, actor=actor or "handrail", note=note, now=now, change_id=change_id)


def remark(
    project_id: int, *, fingerprint: str, note: str, now: datetime, change_id: int | None = None
) -> AlertEvent | None:
    """A line in the timeline of a cause's latest episode, if there is one."""
    alert = Alert.objects.filter(project_id=project_id, fingerprint=fingerprint).order_by("-last_seen_at").first()
    return _record(alert, EventKind.NOTED, now=now, note=note, change_id=change_id) if alert else None


def note(project_id: int, alert_id: UUID, *, actor: str, now: datetime, note: str) -> Alert | None:
    """A person's line in the timeline, whatever state the alert is in. None when there is no such alert."""
    alert = _one(project_id, alert_id).first()
    if alert is not None:
        _record(alert, EventKind.NOTED, now=now, actor=actor, note=note)
    return alert


def _fold(alert: Alert, level: str, said: Mapping[str, Any], *, now: datetime) -> tuple[EventKind, bool]:
    """Add a repeat to an open alert. A worse one takes over the words and opens the matter again."""
    changes: dict[str, Any] = {"count": F("count") + 1, "last_seen_at": Greatest("last_seen_at", now)}
    worse = RANK[Level(level)] > RANK[Level(alert.level)]
    if RANK[Level(level)] >= RANK[Level(alert.level)]:
        changes |= said
    if worse:
        changes |= {**_afresh(), "level": level, "escalate_at": _escalate_at(level, now=now)}
    _change(alert, changes)
    return (EventKind.RAISED, True) if worse else (EventKind.REPEATED, False)


def _just_resolved(of_cause: QuerySet[Alert], *, now: datetime) -> Alert | None:
    """The last resolved alert of a cause, locked, while a repeat still belongs to its episode."""
    resolved = of_cause.filter(status=AlertStatus.RESOLVED, resolved_at__gt=now - SAME_EPISODE_FOR)
    return resolved.select_for_update(no_key=True).order_by("-resolved_at").first()


def _return(alert: Alert, level: str, said: Mapping[str, Any], *, now: datetime) -> tuple[EventKind, bool]:
    """Open a resolved alert again: criticals are told again, up to the point where it flaps."""
    kept = max(Level(level), Level(alert.level), key=RANK.__getitem__)
    changes: dict[str, Any] = {
        **_afresh(),
        "count": F("count") + 1,
        "reopened": F("reopened") + 1,
        "last_seen_at": Greatest("last_seen_at", now),
        "escalate_at": _escalate_at(kept, now=now),
        "level": kept,
    }
    worse = kept != alert.level
    if RANK[Level(level)] >= RANK[Level(alert.level)]:
        changes |= said
    _change(alert, changes)
    told = worse or (kept == Level.CRITICAL and alert.reopened <= RETURNS_TOLD)
    return EventKind.REOPENED, told


def _afresh() -> dict[str, Any]:
    """Firing, as if nobody had answered yet."""
    return {
        "status": AlertStatus.FIRING,
        "acknowledged_at": None,
        "acknowledged_by": "",
        "resolved_at": None,
        "resolved_by": "",
        "snoozed_until": None,
    }


def _move(
    project_id: int,
    alert_id: UUID,
    to: str,
    kind: EventKind,
    *,
    frm: list[str],
    now: datetime,
    actor: str,
    note: str,
    change_id: int | None = None,
    **fields: Any,
) -> Alert | None:
    """A quieting move: event, and nothing more is sent."""
    alert = _update(_one(project_id, alert_id).filter(status__in=frm), alert_id, status=to, **fields)
    if alert is not None:
        _record(alert, kind, now=now, actor=actor, note=note, change_id=change_id)
        planning.cancel_pending(alert, outcome=str(to))
    return alert


def _one(project_id: int, alert_id: UUID) -> QuerySet[Alert]:
    return Alert.objects.filter(project_id=project_id, pk=alert_id)


def _update(guarded: QuerySet[Alert], alert_id: UUID, **fields: Any) -> Alert | None:
    """The alert after a guarded update, None when the guard refused."""
    return Alert.objects.get(pk=alert_id) if guarded.update(**fields) else None


def _change(alert: Alert, changes: Mapping[str, Any]) -> None:
    """Change a locked alert and read it back."""
    Alert.objects.filter(pk=alert.pk, project_id=alert.project_id).update(**changes)
    alert.refresh_from_db()


def _restart_escalation(alert: Alert, *, now: datetime) -> None:
    _change(alert, {"escalate_at": _escalate_at(alert.level, now=now)})


def _escalate_at(level: str, *, now: datetime) -> datetime | None:
    return now + ESCALATE_AFTER if level == Level.WARNING else None


def _lock_fingerprint(project_id: int, fingerprint: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(LOCK_FINGERPRINT, [str(project_id), fingerprint])


def _record(
    alert: Alert,
    kind: EventKind,
    *,
    now: datetime,
    actor: str = "",
    note: str = "",
    data: Mapping[str, Any] | None = None,
    change_id: int | None = None,
) -> AlertEvent:
    event = AlertEvent.objects.create(
        project_id=alert.project_id,
        alert=alert,
        at=now,
        kind=kind,
        actor=actor,
        note=note,
        data=dict(data or {}),
        change_id=change_id,
    )
    news.tell(alert.project_id, "alerts", str(alert.pk))
    return event
