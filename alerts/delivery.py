"""Send what was planned: never lost, never sent twice unless in doubt, and then marked.

A delivery is claimed under a lease in one transaction, sent outside of any, and its outcome written in another.
Whoever dies in between leaves an expired lease: nobody knows whether it was sent.
"""

import logging
import random
import time
from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection

from alerts import channels, lifecycle, planning
from alerts.models import Alert, Channel, Delivery, DeliveryStatus, Level
from alerts.wording import message, one_line
from monitor import news
from monitor.tenancy import crossing, tenant

log = logging.getLogger(__name__)

LEASE = timedelta(minutes=2)
BACKOFF_S = (5, 30, 120, 600, 1800)
JITTER = 0.2
FAILING_CHANNEL = "channel_failing"

CLAIM = """
UPDATE alerts_delivery SET status = 'sending', attempts = attempts + 1, lease_until = %(lease_until)s
 WHERE id = (
     SELECT delivery.id FROM alerts_delivery AS delivery JOIN alerts_alert AS alert ON alert.id = delivery.alert_id
      WHERE delivery.status = 'pending' AND delivery.due_at <= %(now)s
        AND delivery.channel_id <> ALL(%(resting)s::uuid[])
      ORDER BY alert.level <> 'critical', delivery.due_at LIMIT 1
        FOR UPDATE OF delivery SKIP LOCKED)
RETURNING id
"""


class Turn:
    """The time of a turn, which goes on while messages are sent: a lease is counted from its claim."""

    def __init__(self, now: datetime) -> None:
        self._began_at = now
        self._began_s = time.monotonic()

    @property
    def now(self) -> datetime:
        return self._began_at + timedelta(seconds=time.monotonic() - self._began_s)


def deliver(*, now: datetime, limit: int = 50) -> int:
    """Send up to `limit` messages that are due, criticals first; returns how many were tried by this call.

    A channel in trouble rests for the turn: a server that hangs must not hold up the others.
    """
    turn = Turn(now)
    give_up_leases(now=now)
    tried, resting = 0, set[UUID]()
    while tried < limit and (delivery := _claim(resting, now=turn.now)) is not None:
        tried += 1
        if _is_still_wanted(delivery, now=turn.now) and not _send(delivery, turn):
            resting.add(delivery.channel_id)
    return tried


def give_up_leases(*, now: datetime) -> int:
    """Call what was claimed and never reported in doubt; returns how many."""
    expired = Delivery.objects.filter(status=DeliveryStatus.SENDING, lease_until__lt=now)
    given_up = 0
    with crossing():
        found = list(expired.values_list("pk", flat=True)[:500])
    for pk in found:
        with crossing():
            delivery = expired.filter(pk=pk).select_for_update(no_key=True, skip_locked=True).first()
            if delivery is not None:
                _doubt(delivery, "the sender died before it could say whether it had sent", now=now)
                given_up += 1
    return given_up


def _claim(resting: Collection[UUID], *, now: datetime) -> Delivery | None:
    with crossing(), connection.cursor() as cursor:
        cursor.execute(CLAIM, {"now": now, "lease_until": now + LEASE, "resting": list(resting)})
        claimed = cursor.fetchone()
        return Delivery.objects.select_related("channel").get(pk=claimed[0]) if claimed else None


def _is_still_wanted(delivery: Delivery, *, now: datetime) -> bool:
    """Look at the alert again, now that the delivery is ours; waits for whoever is just acknowledging it."""
    with crossing():
        alert = Alert.objects.select_for_update(no_key=True).get(pk=delivery.alert_id)
        delivery.alert = alert
        if not planning.is_wanted(alert, now=now):
            _finish(delivery, DeliveryStatus.CANCELLED, f"the alert is {alert.status}")
            return False
        if not delivery.channel.enabled:
            _finish(delivery, DeliveryStatus.CANCELLED, "the channel is off")
            return False
    return True


def _send(delivery: Delivery, turn: Turn) -> bool:
    """Send and write the outcome, in a transaction of its own; whether the channel gave a clear answer."""
    with crossing():
        rendered = message_of(delivery)
    try:
        provider_id = channels.send(delivery.channel.kind, rendered)
    except channels.Temporary as error:
        with crossing():
            _try_again(delivery, str(error), now=turn.now)
    except channels.Permanent as error:
        with crossing():
            _fail(delivery, str(error), now=turn.now)
        return True
    except channels.InDoubt as error:
        with crossing():
            _doubt(delivery, str(error), now=turn.now)
    except Exception as error:
        log.exception("channel %s broke", delivery.channel.kind)
        with crossing():
            _doubt(delivery, f"the channel broke: {error!r}", now=turn.now)
    else:
        with crossing():
            _finish(delivery, DeliveryStatus.SENT, provider_id, sent_at=turn.now)
        return True
    return False


def message_of(delivery: Delivery) -> channels.Message:
    """What the channel is given: the words that were stored when it was planned."""
    return channels.Message(
        id=str(planning.first_of(delivery)),
        project_id=delivery.project_id,
        alert_id=str(delivery.alert_id),
        level=delivery.alert.level,
        target=delivery.channel.target,
        subject=delivery.subject,
        body=delivery.body,
    )


def test_message(channel: Channel, *, actor: str, test_id: str, now: datetime) -> str:
    """Send a test by the road of real messages; the provider's id, or a ChannelError. Where it arrives, all is well."""
    words = f"This is a test of the channel “{channel.name}”, asked for by {actor}. Nothing is wrong."
    provider_id = channels.send(
        channel.kind,
        channels.Message(
            id=test_id,
            project_id=channel.project_id,
            alert_id="",
            level=Level.INFO,
            target=channel.target,
            subject="[test] Handrail can reach you",
            body=words,
        ),
    )
    with tenant(channel.project_id):
        lifecycle.settle(
            channel.project_id, fingerprint=f"channel:{channel.pk}", note="a test arrived", actor=actor, now=now
        )
    return provider_id


def _try_again(delivery: Delivery, reason: str, *, now: datetime) -> None:
    """Pending again after a pause that grows; failed when the pauses are used up."""
    if delivery.attempts > len(BACKOFF_S):
        _fail(delivery, f"given up after {delivery.attempts} attempts: {reason}", now=now)
        return
    pause_s = BACKOFF_S[delivery.attempts - 1] * random.uniform(1, 1 + JITTER)
    _finish(delivery, DeliveryStatus.PENDING, reason, due_at=now + timedelta(seconds=pause_s))


def _fail(delivery: Delivery, reason: str, *, now: datetime) -> None:
    """It will not arrive this way; say so by the other ways."""
    if not _finish(delivery, DeliveryStatus.FAILED, reason):
        return
    if delivery.alert.type == FAILING_CHANNEL:
        return
    channel = delivery.channel
    lifecycle.raise_alert(
        delivery.project_id,
        fingerprint=f"channel:{channel.pk}",
        level=Level.WARNING,
        type=FAILING_CHANNEL,
        title=one_line(f"Alerts can't be sent by the channel “{channel.name}”", 300),
        message=message(
            where=f"channel “{channel.name}” ({channel.kind} {channel.target})".replace(" )", ")"),
            since=f"the alert “{one_line(delivery.alert.title, 120)}”",
            bad=one_line(reason, 500),
            done="the message was given up; the other channels still get theirs.",
            otherwise="nobody is reached by this channel. Correct it with PATCH /api/v1/channels/"
            f"{channel.pk}, then send a test with POST /api/v1/channels/{channel.pk}/test.",
            path=f"/alerts/{delivery.alert_id}",
        ),
        now=now,
    )


def _doubt(delivery: Delivery, reason: str, *, now: datetime) -> None:
    """Unknown. Once more with a mark if it is critical, or without where sending twice is harmless."""
    if not _finish(delivery, DeliveryStatus.UNKNOWN, reason):
        return
    way = channels.CHANNELS.get(delivery.channel.kind)
    idempotent = way is not None and way.idempotent
    if idempotent or delivery.alert.level == Level.CRITICAL:
        planning.plan_repeat(delivery, marked=not idempotent, now=now)


def _finish(
    delivery: Delivery,
    status: str,
    outcome: str,
    *,
    sent_at: datetime | None = None,
    due_at: datetime | None = None,
) -> bool:
    """End this attempt, unless somebody called it in doubt meanwhile: the attempt is the fence."""
    mine = Delivery.objects.filter(pk=delivery.pk, status=DeliveryStatus.SENDING, attempts=delivery.attempts)
    done = mine.update(
        status=status,
        outcome=outcome[:2000],
        lease_until=None,
        sent_at=sent_at,
        due_at=due_at or delivery.due_at,
    )
    news.tell(delivery.project_id, "alerts", str(delivery.alert_id))
    return bool(done)
