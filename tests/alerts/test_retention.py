"""A resolved alert leaves whole after its time; an open one stays whole however old it is."""

from datetime import timedelta

from alerts import lifecycle, retention
from alerts.models import Alert, AlertEvent, Delivery, DeliveryStatus
from monitor.tenancy import crossing, tenant
from tests.alerts.builders import NOW, a_channel, a_project, an_alert, deliveries, timeline

DAY = timedelta(days=1)


def test_an_alert_leaves_with_its_history_a_month_after_it_was_resolved(db: None) -> None:
    project = a_project()
    a_channel(project)
    old, open_one = an_alert(project, fingerprint="old"), an_alert(project, fingerprint="open")
    with tenant(project):
        lifecycle.acknowledge(project, old.pk, actor="ada@example.org", now=NOW)
        lifecycle.resolve(project, old.pk, actor="ada@example.org", now=NOW + DAY)
    with crossing():
        Delivery.objects.filter(status=DeliveryStatus.PENDING).update(status=DeliveryStatus.CANCELLED)
    assert retention.prune(now=NOW + 31 * DAY) == 0
    assert retention.prune(now=NOW + 32 * DAY) == 1
    with crossing():
        assert Alert.objects.get().pk == open_one.pk
        assert set(AlertEvent.objects.values_list("alert", flat=True)) == {open_one.pk}
        assert set(Delivery.objects.values_list("alert", flat=True)) == {open_one.pk}
    assert retention.prune(now=NOW + 400 * DAY) == 0
    assert (timeline(open_one.pk), len(deliveries(open_one.pk))) == (["fired"], 1)


def test_an_alert_whose_news_has_not_gone_out_waits_for_it(db: None) -> None:
    project = a_project()
    channel = a_channel(project)
    alert = an_alert(project, fingerprint="old")
    with tenant(project):
        lifecycle.resolve(project, alert.pk, actor="ada@example.org", now=NOW)
        told = {"project_id": project, "alert": alert, "channel": channel, "subject": "It is over", "body": ""}
        unsent = Delivery.objects.create(**told, key="late", due_at=NOW, created_at=NOW)
    assert retention.prune(now=NOW + 32 * DAY) == 0
    with tenant(project):
        Delivery.objects.filter(pk=unsent.pk).update(status=DeliveryStatus.CANCELLED)
    assert retention.prune(now=NOW + 32 * DAY) == 1
