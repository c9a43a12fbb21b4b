"""The HTTP door of alerts, their channels and what was sent (api.md, Alerts)."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.urls import path

from alerts import bodies, channels, delivery, lifecycle, planning, statistics
from alerts.models import Alert, AlertStatus, Channel, Delivery, EventKind
from monitor import patience
from monitor.api.acting import acting
from monitor.api.caller import Request
from monitor.api.door import Answer, Door, endpoint
from monitor.api.pages import PageQuery, paginate
from monitor.api.problems import Problem, bad_field
from monitor.ids import uuid7
from monitor.tenancy import tenant

LONGEST_SNOOZE = timedelta(days=30)


class Alerts(Door):
    @endpoint(scope="read", query=bodies.AlertQuery, answer=bodies.AlertPage)
    def get(self, request: Request, query: bodies.AlertQuery) -> bodies.AlertPage:
        """Alerts, last seen first."""
        found = Alert.objects.filter(project_id=request.caller.project_id)
        if query.level:
            found = found.filter(level__in=query.level)
        if query.type:
            found = found.filter(type=query.type)
        if query.status:
            found = found.filter(status__in=query.status)
        if query.since:
            found = found.filter(last_seen_at__gte=query.since)
        if query.search:
            words = query.search
            found = found.filter(Q(title__icontains=words) | Q(message__icontains=words) | Q(agent__icontains=words))
        with patience.searching(query.search):
            rows, following = paginate(found, ("-last_seen_at", "-id"), query, request)
        return bodies.AlertPage(results=[bodies.alert_out(alert) for alert in rows], next=following)

    @endpoint(scope="ingest", body=bodies.NewAlert, answer=bodies.AlertOut, status=201, also=(200,))
    def post(self, request: Request, body: bodies.NewAlert) -> Answer:
        """Raise an alert: 201 for a new one, 200 when it was folded into one of the same fingerprint."""
        alert, event = lifecycle.raise_alert(
            request.caller.project_id,
            fingerprint=body.fingerprint or _fingerprint(body),
            level=body.level,
            type=body.type,
            title=body.title,
            message=body.message,
            data=body.data,
            agent=body.agent,
            run_id=body.run_id,
            execution_id=body.execution_id,
            conversation_id=body.conversation_id,
            now=request.now,
            actor=request.caller.actor,
        )
        return Answer(bodies.alert_out(alert), status=201 if event.kind == EventKind.FIRED else 200)


class OneAlert(Door):
    @endpoint(scope="read", answer=bodies.AlertDetail, also=(404,))
    def get(self, request: Request, alert_id: UUID) -> bodies.AlertDetail:
        """An alert with the last 100 events of its history and the last 100 of what was sent."""
        alert = _alert(request, alert_id)
        events = alert.events.order_by("-id")[: bodies.MOST_OF_EACH]
        deliveries = alert.deliveries.order_by("-created_at", "-id")[: bodies.MOST_OF_EACH]
        return bodies.alert_detail(alert, list(events)[::-1], list(deliveries)[::-1])


class Acknowledge(Door):
    @endpoint(scope="operate", body=bodies.Act, answer=bodies.AlertOut, also=(404, 409))
    def post(self, request: Request, alert_id: UUID, body: bodies.Act) -> bodies.AlertOut:
        """Take it: nothing more is sent and it does not escalate."""
        return _act(request, alert_id, body, lifecycle.acknowledge)


class Snooze(Door):
    @endpoint(scope="operate", body=bodies.Snooze, answer=bodies.AlertOut, also=(404, 409))
    def post(self, request: Request, alert_id: UUID, body: bodies.Snooze) -> bodies.AlertOut:
        """Quiet until a moment, at most 30 days away; then it is told again."""
        if not request.now < body.until <= request.now + LONGEST_SNOOZE:
            raise bad_field("until", "must lie in the future, at most 30 days away")
        return _act(request, alert_id, body, lifecycle.snooze, until=body.until)


class Resolve(Door):
    @endpoint(scope="operate", body=bodies.Act, answer=bodies.AlertOut, also=(404, 409))
    def post(self, request: Request, alert_id: UUID, body: bodies.Act) -> bodies.AlertOut:
        """It is over."""
        return _act(request, alert_id, body, lifecycle.resolve)


class Reopen(Door):
    @endpoint(scope="operate", body=bodies.Act, answer=bodies.AlertOut, also=(404, 409))
    def post(self, request: Request, alert_id: UUID, body: bodies.Act) -> bodies.AlertOut:
        """Firing again: told and escalating afresh."""
        try:
            return _act(request, alert_id, body, lifecycle.reopen)
        except lifecycle.AlreadyOpen as error:
            raise Problem(409, "Conflict", str(error), alert_id=str(error.alert.pk)) from error


class SeedAcknowledge(Door):
    @endpoint(scope="operate", body=bodies.SeedAcknowledge, answer=bodies.Success, also=(404, 409))
    def post(self, request: Request, body: bodies.SeedAcknowledge) -> bodies.Success:
        """Acknowledge an alert; one that somebody has acknowledged already is fine too."""
        if _alert(request, body.alert_id).status != AlertStatus.ACKNOWLEDGED:
            _act(request, body.alert_id, bodies.Act(note=body.note), lifecycle.acknowledge)
        return bodies.Success(success=True)


class AlertStats(Door):
    @endpoint(scope="read", query=bodies.StatsQuery, answer=bodies.Stats)
    def get(self, request: Request, query: bodies.StatsQuery) -> bodies.Stats:
        """Counts by level and state, mean times to acknowledge and to resolve."""
        since = request.now - statistics.window(query.window)
        return bodies.Stats(window=query.window, **asdict(statistics.figures(request.caller.project_id, since=since)))


class Channels(Door):
    @endpoint(scope="read", query=PageQuery, answer=bodies.ChannelPage)
    def get(self, request: Request, query: PageQuery) -> bodies.ChannelPage:
        """The ways out, by name."""
        planning.ensure_defaults(request.caller.project_id)
        found = Channel.objects.filter(project_id=request.caller.project_id)
        rows, following = paginate(found, ("name", "id"), query, request)
        return bodies.ChannelPage(results=[bodies.channel_out(channel) for channel in rows], next=following)

    @endpoint(scope="admin", body=bodies.NewChannel, answer=bodies.ChannelOut, status=201, also=(409,))
    def post(self, request: Request, body: bodies.NewChannel) -> bodies.ChannelOut:
        """Add a way out."""
        planning.ensure_defaults(request.caller.project_id)
        _check_target(body.kind, body.target)
        channel = Channel.objects.create(
            project_id=request.caller.project_id,
            kind=body.kind,
            name=body.name,
            target=body.target,
            levels=sorted(set(body.levels)),
            enabled=body.enabled,
            created_at=request.now,
        )
        return bodies.channel_out(channel)


class OneChannel(Door):
    @endpoint(scope="read", answer=bodies.ChannelOut, also=(404,))
    def get(self, request: Request, channel_id: UUID) -> bodies.ChannelOut:
        return bodies.channel_out(_channel(request, channel_id))

    @endpoint(scope="admin", body=bodies.ChannelChange, answer=bodies.ChannelOut, also=(404, 409))
    def patch(self, request: Request, channel_id: UUID, body: bodies.ChannelChange) -> bodies.ChannelOut:
        """Change what is given; what is already planned goes to the new target."""
        channel = _channel(request, channel_id)
        given = {name: value for name in body.__struct_fields__ if (value := getattr(body, name)) is not None}
        if "target" in given:
            _check_target(channel.kind, given["target"])
        if given:
            Channel.objects.filter(pk=channel.pk, project_id=channel.project_id).update(**given)
        return bodies.channel_out(_channel(request, channel_id))

    @endpoint(scope="admin", status=204, also=(404,))
    def delete(self, request: Request, channel_id: UUID) -> None:
        """Remove it with the record of what it sent; turning it off keeps that."""
        _channel(request, channel_id).delete()


class TestChannel(Door):
    # Sending can take a while: it happens outside of any transaction.
    @endpoint(scope="admin", answer=bodies.TestOutcome, also=(404,), bound=False)
    def post(self, request: Request, channel_id: UUID) -> bodies.TestOutcome:
        """Send a test by the road of real messages, and say what came of it."""
        with tenant(request.caller.project_id):
            channel = _channel(request, channel_id)
        try:
            provider_id = delivery.test_message(
                channel, actor=request.caller.actor, test_id=str(uuid7()), now=request.now
            )
        except channels.InDoubt as error:
            return bodies.TestOutcome(outcome="unknown", detail=str(error))
        except channels.ChannelError as error:
            return bodies.TestOutcome(outcome="failed", detail=str(error))
        return bodies.TestOutcome(outcome="sent", detail=provider_id)


class Notifications(Door):
    @endpoint(scope="read", query=bodies.DeliveryQuery, answer=bodies.DeliveryPage)
    def get(self, request: Request, query: bodies.DeliveryQuery) -> bodies.DeliveryPage:
        """What was sent, newest first."""
        found = Delivery.objects.filter(project_id=request.caller.project_id)
        if query.status:
            found = found.filter(status__in=query.status)
        if query.alert_id:
            found = found.filter(alert_id=query.alert_id)
        if query.channel_id:
            found = found.filter(channel_id=query.channel_id)
        rows, following = paginate(found, ("-id",), query, request)
        return bodies.DeliveryPage(results=[bodies.delivery_out(row) for row in rows], next=following)


def _act(
    request: Request, alert_id: UUID, body: bodies.Act, verb: Callable[..., Alert | None], **more: Any
) -> bodies.AlertOut:
    """Do the verb in the caller's name; a 409 that says how the alert stands when it does not apply."""
    _, actor = acting(request, body.as_)
    alert = verb(request.caller.project_id, alert_id, actor=actor, note=body.note, now=request.now, **more)
    if alert is None:
        present = _alert(request, alert_id)
        by = present.acknowledged_by if present.status == AlertStatus.ACKNOWLEDGED else present.resolved_by
        detail = f"The alert is {present.status}" + (f" by {by}" if by else "") + "."
        raise Problem(409, "Conflict", detail, present=present.status)
    return bodies.alert_out(alert)


def _alert(request: Request, alert_id: UUID) -> Alert:
    alert = Alert.objects.filter(project_id=request.caller.project_id, pk=alert_id).first()
    if alert is None:
        raise Problem(404, "Not found", "There is no such alert.")
    return alert


def _channel(request: Request, channel_id: UUID) -> Channel:
    channel = Channel.objects.filter(project_id=request.caller.project_id, pk=channel_id).first()
    if channel is None:
        raise Problem(404, "Not found", "There is no such channel.")
    return channel


def _check_target(kind: str, target: str) -> None:
    objection = channels.CHANNELS[kind].objection(target)
    if objection:
        raise bad_field("target", objection)


def _fingerprint(body: bodies.NewAlert) -> str:
    """What makes two alerts the same when their sender does not say: type, title, agent and run."""
    parts = "\x1f".join([body.type, body.title, body.agent, body.run_id])
    return f"api:{hashlib.sha256(parts.encode()).hexdigest()[:32]}"


urlpatterns = [
    path("api/v1/alerts", Alerts.as_view()),
    path("api/v1/alerts/stats", AlertStats.as_view()),
    path("api/v1/alerts/<uuid:alert_id>", OneAlert.as_view()),
    path("api/v1/alerts/<uuid:alert_id>/acknowledge", Acknowledge.as_view()),
    path("api/v1/alerts/<uuid:alert_id>/snooze", Snooze.as_view()),
    path("api/v1/alerts/<uuid:alert_id>/resolve", Resolve.as_view()),
    path("api/v1/alerts/<uuid:alert_id>/reopen", Reopen.as_view()),
    path("api/v1/channels", Channels.as_view()),
    path("api/v1/channels/<uuid:channel_id>", OneChannel.as_view()),
    path("api/v1/channels/<uuid:channel_id>/test", TestChannel.as_view()),
    path("api/v1/notifications", Notifications.as_view()),
    path("api/metrics/acknowledge", SeedAcknowledge.as_view()),
]
