"""What the end of an hour, day, week or month does: nothing is refused any more, so nobody has to decide on a trip."""

from datetime import datetime

from django.db.models import Q, QuerySet

from monitor import changes, commons, queue, windows
from monitor.models import QueueItem, StateChange, Subject, Trip
from monitor.models.money import Period
from monitor.models.queue import OPEN_ITEMS, ItemKind, ItemStatus
from monitor.tenancy import crossing

AT_ONCE = 1000
CAUSE = "window_over"
OUTCOME = "its time is over"


def close_over(*, now: datetime) -> int:
    """Close the open trips of windows that are over, and what waits in the queue for them; returns how many trips.

    At most AT_ONCE of them; the rest is the next run's.
    """
    with crossing():
        trips = list(_over(now=now).select_for_update(of=("self",), skip_locked=True).order_by("pk")[:AT_ONCE])
        if not trips:
            return 0
        Trip.objects.filter(pk__in=[trip.pk for trip in trips]).update(reset_at=now, note=OUTCOME)
        waiting = QueueItem.objects.filter(
            kind=ItemKind.TRIP, subject_id__in=[str(trip.pk) for trip in trips], status__in=OPEN_ITEMS
        )
        items = {item.subject_id: item for item in waiting.select_for_update(no_key=True).order_by("pk")}
        QueueItem.objects.filter(pk__in=[item.pk for item in items.values()]).update(
            status=ItemStatus.CANCELLED, closed_at=now, outcome=OUTCOME
        )
        homes = {
            trip.pk: items[str(trip.pk)].project_id if str(trip.pk) in items else commons.home(trip) for trip in trips
        }
        changes.record_all(
            [
                *(_trip_closed(trip, home, now=now) for trip in trips if (home := homes[trip.pk]) is not None),
                *(_item_closed(item, now=now) for item in items.values()),
            ]
        )
        return len(trips)


def _over(*, now: datetime) -> "QuerySet[Trip]":
    """The open trips of windows before the present ones, by the time zone of each; a run's window is never over."""
    opened = Trip.objects.filter(reset_at=None).exclude(period=Period.RUN)
    over = Q(pk__in=[])
    for zone, period in opened.values_list("project__time_zone", "period").distinct():
        began = windows.starts_at(period, zone or "UTC", now=now)
        over |= Q(project__time_zone=zone, period=period, window_starts_at__lt=began)
    return opened.filter(over)


def _trip_closed(trip: Trip, project_id: int, *, now: datetime) -> StateChange:
    return StateChange(
        project_id=project_id,
        at=now,
        subject=Subject.TRIP,
        subject_id=str(trip.pk),
        from_state="open",
        to_state="closed",
        cause=CAUSE,
        data={"scope": trip.scope, "target": trip.target, "period": trip.period},
    )


def _item_closed(item: QueueItem, *, now: datetime) -> StateChange:
    return StateChange(
        project_id=item.project_id,
        at=now,
        subject=Subject.QUEUE_ITEM,
        subject_id=str(item.pk),
        from_state=item.status,
        to_state=ItemStatus.CANCELLED,
        cause=CAUSE,
        data=queue.facts(item),
    )
