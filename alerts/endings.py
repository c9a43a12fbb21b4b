"""What ends an alert of each type. Most troubles end by a change that a line of RULES settles; some have no such
moment, for too many things may end them: those are asked, while they are open, whether they are over.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from alerts import lifecycle
from alerts.models import OPEN_ALERTS, Alert, Channel, Delivery, DeliveryStatus
from monitor import fleet, jobs, relief, rollups
from monitor.models import Execution
from monitor.models.executions import Verdict
from monitor.models.money import BudgetScope
from monitor.tenancy import crossing
from monitor.windows import INSTANCE, Key

PRICED_FOR = timedelta(minutes=15)
UNUSED_FOR = timedelta(days=1)


class Ending(NamedTuple):
    """`words` end the sentence "Resolves itself …". `why_over` says why an open alert is over, "" while it is not;
    None where only a change of state ends it.
    """

    words: str
    why_over: Callable[[Alert, datetime], str] | None = None


def settle_over(*, now: datetime, limit: int = 500) -> int:
    """Resolve the open alerts whose trouble is over, each in a transaction of its own; returns how many."""
    asked = [type for type, ending in ENDINGS.items() if ending.why_over]
    with crossing():
        # In random order, so that each has its turn even where more are open than can be asked at once.
        found = Alert.objects.filter(status__in=OPEN_ALERTS, type__in=asked).order_by("?")
        causes: list[tuple[int, str]] = list(found.values_list("project_id", "fingerprint")[:limit])
    return jobs.one_by_one(_settle_one, causes, now=now)


def _settle_one(project_id: int, fingerprint: str, *, now: datetime) -> bool:
    with crossing():
        alert = lifecycle.open_episode(project_id, fingerprint=fingerprint)
        why_over = ENDINGS[alert.type].why_over if alert and alert.type in ENDINGS else None
        reason = why_over(alert, now) if alert and why_over else ""
        if alert is None or not reason:
            return False
        return lifecycle.resolve(project_id, alert.pk, actor="handrail", note=reason, now=now) is not None


def _warning(alert: Alert, now: datetime) -> str:
    return relief.of_warning(alert.project_id, _window(alert), now=now)


def _excess(alert: Alert, now: datetime) -> str:
    return relief.of_excess(alert.project_id, _window(alert), now=now)


def _window(alert: Alert) -> Key:
    facts = alert.data
    owner = INSTANCE if facts["scope"] == BudgetScope.GLOBAL else alert.project_id
    starts_at = datetime.fromisoformat(facts["window_starts_at"])
    return Key(owner, facts["scope"], facts["target"], facts["period"], starts_at)


def _unpriced(alert: Alert, now: datetime) -> str:
    """It is told once a day: the calls since then say whether it goes on."""
    quiet_for = now - alert.last_seen_at
    if quiet_for < PRICED_FOR:
        return ""
    calls, unpriced = _calls(alert, since=now - PRICED_FOR, now=now)
    if calls and not unpriced:
        return "its calls have a price"
    if quiet_for >= UNUSED_FOR and not _calls(alert, since=now - UNUSED_FOR, now=now)[1]:
        return "no call without a price for a day"
    return ""


def _calls(alert: Alert, *, since: datetime, now: datetime) -> tuple[int, int]:
    """Calls of the alert's model, and how many of them had no price."""
    found = rollups.totals(alert.project_id, since=since, until=now, kinds=("llm",), group_by="model")
    return next(((one.count, one.unpriced) for one in found if one.group == alert.data["model"]), (0, 0))


def _fleet(alert: Alert, now: datetime) -> str:
    silent_at = datetime.fromisoformat(alert.data["silent_at"])
    return "the fleet beats again" if fleet.is_back(alert.project_id, at=silent_at, now=now) else ""


def _silence(alert: Alert, now: datetime) -> str:
    """A registration may make the work somebody else's, and then no change tells of it."""
    if alert.execution_id is None:
        return "its execution is not known"
    work = Execution.objects.of(alert.project_id).filter(id=alert.execution_id, from_spans=True)
    return "" if work.exists() else "it is no execution of its own any more"


def _channel(alert: Alert, now: datetime) -> str:
    channel = Channel.objects.filter(project_id=alert.project_id, pk=UUID(alert.fingerprint.partition(":")[2])).first()
    if channel is None or not channel.enabled:
        return "the channel is off" if channel else "the channel is gone"
    sent = Delivery.objects.filter(channel=channel, status=DeliveryStatus.SENT, sent_at__gt=alert.last_seen_at)
    return "a message arrived" if sent.exists() else ""


EXECUTION = Ending("once the execution runs again or ends")
# A type that is not here waits for a person.
ENDINGS: dict[str, Ending] = {
    "execution_paused": EXECUTION,
    **{f"execution_{verdict}": EXECUTION for verdict in Verdict.values},
    "tool_loop": Ending("once the agent does something else for a minute, calls nothing for 10 min, or ends"),
    "trace_silent": Ending("once a span of its trace comes, it ends, or it counts as lost", _silence),
    "execution_stalled": Ending("once the work moves again, or the execution runs again or ends"),
    "budget_tripped": Ending("once the trip is reset or the budget renews"),
    "budget_warning": Ending("once the budget has room again or renews, or its limit is passed", _warning),
    "budget_exceeded": Ending("once the budget has room again or renews", _excess),
    "model_unpriced": Ending("once its calls have a price, or a day brings none without", _unpriced),
    "handover_unclaimed": Ending("once somebody takes it"),
    "agent_silent": Ending("once we hear from it, or somebody changes what is expected of it"),
    "fleet_silent": Ending("once the fleet beats again", _fleet),
    "job_silent": Ending("once it runs again, or ends on purpose"),
    "room_tight": Ending("once there is room again"),
    "room_out": Ending("once there is room for what agents report again"),
    "channel_failing": Ending("once a message arrives by it, or it is turned off", _channel),
}
