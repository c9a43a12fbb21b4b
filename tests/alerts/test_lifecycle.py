"""The life of an alert, and the races that it must survive."""

from datetime import timedelta
from functools import partial
from itertools import product

import pytest
from django.db import DatabaseError, transaction

from alerts import lifecycle
from alerts.escalation import escalate_due
from alerts.judge import judge
from alerts.models import (
    DELIVERY_MOVES,
    MOVES,
    Alert,
    AlertEvent,
    AlertStatus,
    Channel,
    Delivery,
    DeliveryStatus,
    Level,
)
from monitor.models import StateChange
from monitor.tenancy import crossing, tenant
from tests.alerts.builders import (
    NOW,
    a_change,
    a_channel,
    a_project,
    an_alert,
    at_once,
    deliveries,
    the_alert,
    timeline,
)

HOUR = timedelta(hours=1)


def test_repeats_fold_into_one_open_alert(db: None) -> None:
    project_id = a_project()
    a_channel(project_id)
    first = an_alert(project_id)
    again = an_alert(project_id, now=NOW + 10 * HOUR, title="The disk is full")
    assert first.pk == again.pk
    assert (again.count, again.title, again.last_seen_at) == (2, "The disk is full", NOW + 10 * HOUR)
    assert timeline(first.pk) == ["fired", "repeated"]
    assert len(deliveries(first.pk)) == 1


def test_a_resolved_alert_opens_again_within_the_hour_and_is_a_new_one_later(db: None) -> None:
    project_id = a_project()
    alert = an_alert(project_id)
    with tenant(project_id):
        assert lifecycle.resolve(project_id, alert.pk, actor="ann", now=NOW)
    back = an_alert(project_id, now=NOW + HOUR - timedelta(seconds=1))
    assert (back.pk, back.status, back.reopened, back.resolved_at) == (alert.pk, "firing", 1, None)
    with tenant(project_id):
        assert lifecycle.resolve(project_id, alert.pk, actor="ann", now=NOW)
    assert an_alert(project_id, now=NOW + HOUR).pk != alert.pk


def test_a_higher_level_is_told_even_when_acknowledged_and_a_lower_one_never_lowers(db: None) -> None:
    project_id = a_project()
    a_channel(project_id)
    alert = an_alert(project_id)
    with tenant(project_id):
        lifecycle.acknowledge(project_id, alert.pk, actor="ann", now=NOW)
    worse = an_alert(project_id, level="critical")
    assert (worse.level, worse.status, worse.acknowledged_by, worse.escalate_at) == ("critical", "firing", "", None)
    assert an_alert(project_id, level="info").level == "critical"
    assert [status for status, _ in deliveries(alert.pk)] == ["cancelled", "pending"]


def test_sixteen_threads_raise_one_alert(committed_db: None) -> None:
    project_id = a_project()
    at_once([partial(an_alert, project_id) for _ in range(16)])
    with crossing():
        alert = Alert.objects.get()
        assert (alert.count, AlertEvent.objects.count()) == (16, 16)
    assert sorted(timeline(alert.pk)) == ["fired"] + ["repeated"] * 15


def test_eight_judges_judge_three_hundred_changes_once_each(committed_db: None) -> None:
    project_id = a_project()
    for n in range(100):
        a_change(project_id, "job", f"job-{n}", "silent", "heartbeat")
        a_change(project_id, "job", f"job-{n}", "alive", "heartbeat")
        a_change(project_id, "job", f"job-{n}", "silent", "heartbeat")
    judged = sum(at_once([partial(judge, now=NOW)] * 8))
    with crossing():
        left = StateChange.objects.filter(judged_at=None).count()
    assert judged + left == 300
    assert judge(now=NOW) == left
    with crossing():
        # Judged in the order of their subject: each episode was opened, settled and opened again.
        stories = {tuple(timeline(pk)) for pk in Alert.objects.values_list("pk", flat=True)}
        assert stories == {("fired", "resolved", "reopened")}
        assert Alert.objects.filter(status="firing", count=2).count() == 100
        ids = list(AlertEvent.objects.values_list("change_id", flat=True))
        assert len(ids) == len(set(ids)) == 300


def test_a_warning_becomes_critical_after_an_hour_exactly_once(committed_db: None) -> None:
    project_id = a_project()
    a_channel(project_id)
    alert = an_alert(project_id)
    assert alert.escalate_at == NOW + HOUR
    assert escalate_due(now=NOW + HOUR - timedelta(seconds=1)) == 0
    assert sum(at_once([partial(escalate_due, now=NOW + HOUR)] * 8)) == 1
    assert (the_alert(alert.pk).level, the_alert(alert.pk).escalate_at) == ("critical", None)
    assert timeline(alert.pk) == ["fired", "escalated"]
    assert deliveries(alert.pk) == [
        ("cancelled", "[warning] The disk is nearly full"),
        ("pending", "[critical] nobody has answered: The disk is nearly full"),
    ]


def test_a_snoozed_alert_is_quiet_and_comes_back(db: None) -> None:
    project_id = a_project()
    a_channel(project_id)
    alert = an_alert(project_id)
    until = NOW + 3 * HOUR
    with tenant(project_id):
        assert lifecycle.snooze(project_id, alert.pk, until=until, actor="ann", now=NOW)
    assert escalate_due(now=NOW + 2 * HOUR) == 0
    assert [status for status, _ in deliveries(alert.pk)] == ["cancelled"]
    assert escalate_due(now=until) == 1
    awake = the_alert(alert.pk)
    assert (awake.status, awake.level, awake.snoozed_until) == ("firing", "warning", None)
    assert awake.escalate_at == until + HOUR
    assert timeline(alert.pk) == ["fired", "snoozed", "woken"]
    assert deliveries(alert.pk)[-1] == ("pending", "[warning] still there: The disk is nearly full")


def test_reopening_beside_an_open_twin_is_refused(db: None) -> None:
    project_id = a_project()
    old = an_alert(project_id)
    with tenant(project_id):
        lifecycle.resolve(project_id, old.pk, actor="ann", now=NOW)
    new = an_alert(project_id, now=NOW + 2 * HOUR)
    with tenant(project_id), pytest.raises(lifecycle.AlreadyOpen) as refusal:
        lifecycle.reopen(project_id, old.pk, actor="ann", now=NOW + 2 * HOUR)
    assert refusal.value.alert.pk == new.pk
    assert the_alert(old.pk).status == "resolved"


def test_acknowledging_races_escalation_two_hundred_times(committed_db: None) -> None:
    project_id = a_project()
    a_channel(project_id)
    alerts = [an_alert(project_id, fingerprint=f"disk-{n}") for n in range(200)]

    def acknowledge_all() -> int:
        taken = 0
        for alert in alerts:
            with tenant(project_id):
                taken += lifecycle.acknowledge(project_id, alert.pk, actor="ann", now=NOW + HOUR) is not None
        return taken

    acknowledged, escalated = at_once([acknowledge_all, partial(escalate_due, now=NOW + HOUR)])
    assert acknowledged == 200
    with crossing():
        assert Alert.objects.filter(status="acknowledged", escalate_at=None).count() == 200
        # Whoever was first: nothing is left to be sent, and each escalation is told in its timeline.
        assert not Delivery.objects.exclude(status="cancelled").exists()
        assert Alert.objects.filter(level="critical").count() == escalated
        assert AlertEvent.objects.filter(kind="escalated").count() == escalated
        assert Delivery.objects.count() == 200 + escalated


def test_the_database_allows_exactly_the_moves_of_an_alert(db: None) -> None:
    project_id = a_project()
    allowed = {(old, new) for new, olds in MOVES.items() for old in olds}
    for old, new in product(AlertStatus.values, repeat=2):
        with crossing():
            Alert.objects.all().delete()
            alert = Alert.objects.create(
                project_id=project_id,
                fingerprint="x",
                level=Level.INFO,
                status=old,
                first_seen_at=NOW,
                last_seen_at=NOW,
            )
            assert _moves(alert, status=new) is (old == new or (old, new) in allowed), (old, new)


def test_the_database_allows_exactly_the_moves_of_a_delivery(db: None) -> None:
    project_id = a_project()
    channel, alert = a_channel(project_id), an_alert(project_id)
    allowed = {(old, new) for new, olds in DELIVERY_MOVES.items() for old in olds}
    for old, new in product(DeliveryStatus.values, repeat=2):
        with crossing():
            row = _a_delivery(project_id, alert, channel, old)
            assert _moves(row, status=new) is (old == new or (old, new) in allowed), (old, new)


def test_history_is_append_only(db: None) -> None:
    alert = an_alert(a_project())
    with crossing(), pytest.raises(DatabaseError, match="permission denied"):
        AlertEvent.objects.filter(alert=alert).update(note="never happened")


def _a_delivery(project_id: int, alert: Alert, channel: Channel, status: str) -> Delivery:
    return Delivery.objects.create(
        project_id=project_id,
        alert=alert,
        channel=channel,
        key=f"test:{Delivery.objects.count()}",
        status=status,
        due_at=NOW,
        lease_until=NOW,
        subject="",
        body="",
        created_at=NOW,
    )


def _moves(row: Alert | Delivery, **change: str) -> bool:
    try:
        with transaction.atomic():
            type(row)._default_manager.filter(pk=row.pk).update(**change)
    except DatabaseError as error:
        if "refuses this change" not in str(error):
            raise
        return False
    return True
