"""One alert told: what happened, what comes next, who was told, what it is about."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.urls import reverse

from alerts.endings import ENDINGS
from alerts.lifecycle import SAME_EPISODE_FOR
from alerts.models import OPEN_ALERTS, Alert, AlertEvent, AlertStatus, ChannelKind, Delivery, DeliveryStatus, EventKind
from dashboard import words
from dashboard.alertlist import OURSELVES, Names, is_snoozed, said_of, short_clock
from dashboard.waiting import KIND_WORDS, customer_name
from monitor.models import Agent, Execution, QueueItem, Trip
from monitor.models.queue import ItemKind

EVENTS_SHOWN = 60
DELIVERIES_SHOWN = 30
RELATED_SHOWN = 6
RELATED_WITHIN = timedelta(hours=24)
CHANNEL_GLYPHS = {
    "console": "terminal-2",
    "email": "mail",
    "in_app": "app-window",
    "slack": "brand-slack",
    "telegram": "brand-telegram",
    "teams": "message-2",
    "pagerduty": "bell-ringing",
    "sms": "device-mobile",
    "webhook": "webhook",
}
CHANNEL_WORDS = {ChannelKind.CONSOLE: "the server's log", ChannelKind.IN_APP: "everybody here"}


@dataclass(frozen=True)
class Step:
    """A line of the timeline; `when` stands in place of a time, `css` is its place and tone in the plan."""

    strong: str
    text: str = ""
    at: datetime | None = None
    when: str = ""
    css: str = ""


@dataclass(frozen=True)
class Sent:
    """A delivery in words; `at` is when it was sent, or is due while `is_planned`."""

    glyph: str
    channel: str
    to: str
    at: datetime | None
    is_planned: bool
    tries: int
    look: str
    outcome: str
    detail: str


@dataclass(frozen=True)
class About:
    """What the alert speaks of: facts as (label, value, state), and the way there."""

    heading: str
    facts: list[tuple[str, str, str]]
    url: str
    verb: str


def why(alert: Alert) -> list[str]:
    """The message as prose: how bad, what was done already, what follows if nobody acts."""
    said = said_of(alert.message)
    if "How bad" not in said:
        return said.get("", "").splitlines()
    otherwise = said.get("If nobody acts", "")
    sentences = [said["How bad"], said.get("Done already", ""), f"if nobody acts, {otherwise}" if otherwise else ""]
    return [" ".join(_sentence(one.strip()) for one in sentences if one.strip())]


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."


def events_of(alert: Alert) -> QuerySet[AlertEvent]:
    """The last events but mere repeats, newest first."""
    return alert.events.exclude(kind=EventKind.REPEATED).order_by("-id")[:EVENTS_SHOWN]


def deliveries_of(alert: Alert) -> QuerySet[Delivery]:
    """The last deliveries, newest first."""
    return alert.deliveries.select_related("channel").order_by("-created_at", "-id")[:DELIVERIES_SHOWN]


def timeline(
    alert: Alert, events: list[AlertEvent], deliveries: list[Delivery], names: Names, *, now: datetime
) -> list[Step]:
    """What was, what is now, what will be."""
    done = [_happened(event, alert, names, now=now) for event in events] + _told(deliveries)
    if alert.count > 1:
        done.append(Step(f"Seen {alert.count} times", "this is the last one", at=alert.last_seen_at))
    done.sort(key=lambda step: step.at or now)
    return [*done, *_present(alert, names, now=now), *_ahead(alert, deliveries, now=now)]


def next_at(alert: Alert, deliveries: list[Delivery], *, now: datetime) -> datetime | None:
    """When something happens by itself next, if a clock runs."""
    if alert.status not in OPEN_ALERTS:
        return None
    due = [moment for moment in (alert.escalate_at, alert.snoozed_until) if moment and moment > now]
    due += [one.due_at for one in deliveries if _is_again(one) and one.due_at > now]
    return min(due, default=None)


def _happened(event: AlertEvent, alert: Alert, names: Names, *, now: datetime) -> Step:
    who, level = names.start(event.actor), str(event.data.get("level", alert.level))
    tone = {"critical": "is-red", "warning": "is-amber"}.get(level, "")
    by_us = event.actor in OURSELVES
    until = event.data.get("until")
    back = short_clock(datetime.fromisoformat(until), now=now) if until else ""
    told: dict[str, tuple[str, str, str]] = {
        EventKind.FIRED: (f"Fired, {level}", "" if by_us else f"raised by {names.of(event.actor)}", tone),
        EventKind.RAISED: (
            (f"Became {level}", "there was worse news", tone)
            if by_us
            else (f"{who} escalated it", "critical now, told again", "is-red")
        ),
        EventKind.ESCALATED: ("Became critical", "nobody had acknowledged it", "is-red"),
        EventKind.ACKNOWLEDGED: (
            f"{who} acknowledged it",
            f"{words.rough(event.at - alert.first_seen_at)} after it fired",
            "",
        ),
        EventKind.SNOOZED: (f"{who} snoozed it", f"until {back}", ""),
        EventKind.WOKEN: ("The snooze is over", "the trouble is not, so it is told again", tone),
        EventKind.RESOLVED: ("Resolved itself" if by_us else f"{who} resolved it", "", "is-green"),
        EventKind.REOPENED: ("It came back" if by_us else f"{who} reopened it", "told and counting afresh", tone),
        EventKind.NOTED: ("Noted" if by_us else f"{who} noted", "", ""),
    }
    strong, text, css = told.get(EventKind(event.kind), (event.get_kind_display(), "", ""))
    return Step(strong, event.note or text, at=event.at, css=css)


def _told(deliveries: list[Delivery]) -> list[Step]:
    """One line for each time that somebody was told, with the channels that took it."""
    by_event: dict[str, list[Delivery]] = {}
    for one in deliveries:
        if one.status == DeliveryStatus.SENT and one.sent_at:
            by_event.setdefault(one.key.split(":")[1], []).append(one)
    steps = []
    for sent in by_event.values():
        channels = ", ".join(dict.fromkeys(one.channel.name for one in sent))
        arrived = "arrived" if len(sent) == 1 else f"all {len(sent)} arrived"
        steps.append(Step(f"Told {channels}", arrived, at=min(one.sent_at for one in sent if one.sent_at)))
    return steps


def _present(alert: Alert, names: Names, *, now: datetime) -> Iterable[Step]:
    if is_snoozed(alert, now=now):
        yield Step("Quiet while it is snoozed", at=now, css="is-now is-accent")
    elif alert.status == AlertStatus.ACKNOWLEDGED:
        who = names.start(alert.acknowledged_by)
        yield Step(f"{who} {'have' if who == 'You' else 'has'} it", "nothing more is sent", now, css="is-now is-accent")
    elif alert.status == AlertStatus.FIRING:
        yield Step("Nobody has acknowledged it yet", at=now, css="is-now is-accent")


def _ahead(alert: Alert, deliveries: list[Delivery], *, now: datetime) -> list[Step]:
    steps = []
    if alert.status == AlertStatus.FIRING and alert.escalate_at:
        steps.append(Step("Becomes critical", "unless somebody acknowledges it", alert.escalate_at))
    if is_snoozed(alert, now=now):
        steps.append(Step("Is told again", "unless it is over by then", alert.snoozed_until))
    steps += [Step(f"Tries {one.channel.name} again", one.outcome, one.due_at) for one in deliveries if _is_again(one)]
    steps.sort(key=lambda step: step.at or now)
    if alert.status in OPEN_ALERTS:
        ending = ENDINGS.get(alert.type)
        steps.append(
            Step("Resolves itself", ending.words, when="on clear")
            if ending
            else Step("Stays open", "until a person resolves it", when="else")
        )
    elif alert.resolved_at and alert.resolved_at + SAME_EPISODE_FOR > now:
        steps.append(Step("Counts as over", "the same before that reopens it", alert.resolved_at + SAME_EPISODE_FOR))
    return [Step(one.strong, one.text, one.at, one.when, "is-planned") for one in steps]


def _is_again(delivery: Delivery) -> bool:
    return delivery.status == DeliveryStatus.PENDING and delivery.attempts > 0


def sent(deliveries: list[Delivery], *, now: datetime) -> list[Sent]:
    """The deliveries in words."""
    return [_sent(one, now=now) for one in deliveries]


def _sent(one: Delivery, *, now: datetime) -> Sent:
    look, outcome, detail = "planned", "planned", ""
    match one.status:
        case DeliveryStatus.SENT:
            look, outcome = "sent", "arrived"
        case DeliveryStatus.SENDING:
            look, outcome = "planned", "on its way"
        case DeliveryStatus.PENDING if one.attempts:
            look, outcome, detail = "busy", f"busy, again {short_clock(one.due_at, now=now)}", one.outcome
        case DeliveryStatus.FAILED:
            look, outcome, detail = "undelivered", "not delivered", one.outcome
        case DeliveryStatus.UNKNOWN:
            look, outcome, detail = "unknown", "unknown", one.outcome
        case DeliveryStatus.CANCELLED:
            look, outcome, detail = "cancelled", "called off", one.outcome
    return Sent(
        glyph=CHANNEL_GLYPHS.get(one.channel.kind, "bell"),
        channel=one.channel.name,
        to=one.channel.target or CHANNEL_WORDS.get(ChannelKind(one.channel.kind), "–"),
        at=one.sent_at or (one.due_at if one.status == DeliveryStatus.PENDING else None),
        is_planned=one.sent_at is None,
        tries=one.attempts,
        look=look,
        outcome=outcome,
        detail=detail,
    )


def related(alert: Alert, *, now: datetime) -> QuerySet[Alert]:
    """Alerts of the same agent, run or conversation seen in the last 24 h, newest first."""
    same = Q()
    for name in ("agent", "run_id", "conversation_id"):
        if value := getattr(alert, name):
            same |= Q(**{name: value})
    if not same:
        return Alert.objects.none()
    found: QuerySet[Alert] = Alert.objects.filter(same, project_id=alert.project_id).exclude(pk=alert.pk)
    found = found.filter(last_seen_at__gte=now - RELATED_WITHIN).order_by("-last_seen_at", "-id")
    return found.defer("data", "message")[:RELATED_SHOWN]


def about(alert: Alert, *, now: datetime) -> About | None:
    """The execution, queue item, agent or trip that it speaks of; None when it speaks of none, or that is gone."""
    project_id = alert.project_id
    if alert.execution_id:
        execution = Execution.objects.of(project_id).filter(id=alert.execution_id).defer("inputs", "output").first()
        return _of_execution(execution, now=now) if execution else None
    if alert.type == "handover_unclaimed":
        item_id = _uuid(alert.fingerprint.partition(":")[2])
        items = QueueItem.objects.filter(project_id=project_id, pk__in=[item_id] if item_id else [])
        item = items.select_related("conversation", "assignee__person").first()
        return _of_item(item, now=now) if item else None
    if alert.type == "agent_silent":
        agent = Agent.objects.filter(project_id=project_id, name=alert.agent).first()
        return _of_agent(agent, now=now) if agent else None
    if trip_id := _uuid(alert.data.get("trip_id")):
        trip = Trip.objects.filter(project_id=project_id, pk=trip_id).first()
        return _of_trip(trip, now=now) if trip else None
    return None


def _of_execution(one: Execution, *, now: datetime) -> About:
    silent = words.rough(now - one.last_heartbeat_at) if one.last_heartbeat_at else ""
    took = words.took(one.duration_ms / 1000 if one.duration_ms is not None else now - one.started_at)
    look = "zombie" if one.status == "retrying" and one.verdict == "zombie" else one.status
    facts = [
        ("State", "", look),
        ("Agent", one.agent, ""),
        ("Task", one.task, ""),
        ("Run", one.run_id, ""),
        ("Try", f"{one.attempt} of {one.tries}", ""),
        ("Last beat", f"{silent} ago" if silent else "", ""),
        ("Progress", words.percent(one.progress / 100) if one.progress is not None else "", ""),
        ("Took" if one.ended_at else "Runs for", took, ""),
        ("Cost", words.usd_one(one.cost_usd), ""),
        ("Error", one.error[:300], ""),
    ]
    return About("Execution", _known(facts), f"/executions/{one.id}", "Show the execution")


def _of_item(one: QueueItem, *, now: datetime) -> About:
    facts = [
        ("Who", customer_name(one.conversation.customer) if one.conversation else one.title, ""),
        ("Kind", KIND_WORDS[ItemKind(one.kind)], ""),
        ("Agent", one.agent, ""),
        ("Waits" if not one.claimed_at else "Waited", words.took((one.claimed_at or now) - one.requested_at), ""),
        ("Taken by", str(one.assignee.person) if one.assignee else "nobody", ""),
    ]
    return About("Queue", _known(facts), f"/queue/{one.pk}", "Show it in the queue")


def _of_agent(one: Agent, *, now: datetime) -> About:
    expected = f"every {words.period(one.expected_every_s)}" if one.expected_every_s else "by nobody any more"
    facts = [
        ("Agent", one.name, ""),
        ("Last heard", words.ago(one.last_seen_at, now=now) if one.last_seen_at else "never", ""),
        ("Expected", expected, ""),
        ("Missed", words.clock(one.missed_at, now=now) if one.missed_at else "", ""),
    ]
    return About("Agent", _known(facts), reverse("agent", args=[one.name]), "Show the agent")


def _of_trip(one: Trip, *, now: datetime) -> About:
    facts = [
        ("Scope", f"{one.scope} {one.target}".strip(), ""),
        ("Period", one.period, ""),
        ("Spent", words.usd(one.total_cost_usd), ""),
        ("Limit", words.usd_limit(one.threshold_usd), ""),
        ("Calls", words.amount(one.call_count), ""),
        ("Tripped", words.clock(one.tripped_at, now=now), ""),
        ("Reset", words.clock(one.reset_at, now=now) if one.reset_at else "not yet", ""),
    ]
    return About("Budget trip", _known(facts), "/costs", "Show the budget")


def _known(facts: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return [fact for fact in facts if fact[1] or fact[2]]


def _uuid(text: Any) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None
