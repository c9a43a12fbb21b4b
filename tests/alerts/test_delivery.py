"""Never lost, never sent twice: a real mail server, engines side by side, and a sender that is killed."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.urls import resolve

from alerts import lifecycle
from alerts.delivery import LEASE, deliver, give_up_leases
from alerts.models import Alert, Delivery
from monitor.tenancy import crossing, tenant
from tests.alerts.builders import NOW, a_channel, a_project, an_alert, at_once, deliveries, the_alert
from tests.alerts.mailserver import free_port, mail_server, silent_server, use

ROOT = Path(__file__).resolve().parents[2]
DELIVER = """
import django
from django.conf import settings
django.setup()
from datetime import datetime
from alerts.delivery import deliver
settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", {port}
deliver(now=datetime.fromisoformat("{now}"))
"""


def a_mail_channel(project_id: int, **options: Any) -> None:
    a_channel(project_id, "email", target="ops@example.org", **options)


def the_delivery(alert: Alert) -> Delivery:
    with crossing():
        return Delivery.objects.get(alert=alert)


def test_eight_engines_send_each_mail_once(committed_db: None, settings: Any) -> None:
    project_id = a_project()
    a_mail_channel(project_id)
    for n in range(40):
        an_alert(project_id, fingerprint=f"disk-{n}", title=f"Disk {n} is full", level="critical")
    with mail_server(settings) as mailbox:
        tried = sum(at_once([partial(deliver, now=NOW)] * 8))
    assert tried == 40
    assert Counter(mail["Subject"] for mail in mailbox.mails) == {f"[critical] Disk {n} is full": 1 for n in range(40)}
    with crossing():
        assert Delivery.objects.filter(status="sent", attempts=1, lease_until=None).count() == 40


def test_a_mail_says_what_where_and_why_and_carries_its_id(committed_db: None, settings: Any) -> None:
    project_id = a_project()
    a_mail_channel(project_id)
    alert = an_alert(project_id, message="Where: node 3", level="critical")
    with mail_server(settings) as mailbox:
        deliver(now=NOW)
    [mail] = mailbox.mails
    assert mail["To"] == "ops@example.org"
    assert mail["Message-ID"] == f"<{the_delivery(alert).pk}@handrail>" == the_delivery(alert).outcome
    assert mail.get_payload(decode=True).decode().splitlines() == [
        "Where: node 3",
        f"http://localhost:8000/alerts/{alert.pk}",
        "You get this because the channel “email” takes critical alerts.",
    ]


def test_a_server_that_is_down_gets_the_mail_when_it_is_back(committed_db: None, settings: Any) -> None:
    project_id = a_project()
    a_mail_channel(project_id)
    alert = an_alert(project_id)
    port = free_port()
    use(settings, port)
    assert deliver(now=NOW) == 1
    waiting = the_delivery(alert)
    assert (waiting.status, waiting.attempts) == ("pending", 1)
    assert timedelta(seconds=5) <= waiting.due_at - NOW <= timedelta(seconds=10)
    assert deliver(now=NOW + timedelta(seconds=4)) == 0
    with mail_server(settings, port) as mailbox:
        assert deliver(now=NOW + timedelta(seconds=30)) == 1
    assert len(mailbox.mails) == 1
    assert (the_delivery(alert).status, the_delivery(alert).attempts) == ("sent", 2)


def test_temporary_refusals_back_off_and_end_in_a_failure_that_is_told(committed_db: None, settings: Any) -> None:
    project_id = a_project()
    a_mail_channel(project_id, levels=("critical",))
    alert = an_alert(project_id, level="critical")
    pauses_s, now = [], NOW
    with mail_server(settings) as mailbox:
        mailbox.answer = "451 try later"
        while deliver(now=now) and the_delivery(alert).status == "pending":
            pauses_s.append((the_delivery(alert).due_at - now).total_seconds())
            now = the_delivery(alert).due_at
    pairs = list(zip(pauses_s, (5, 30, 120, 600, 1800), strict=True))
    assert all(least_s <= pause_s <= least_s * 1.2 + 10 for pause_s, least_s in pairs), pairs
    assert the_delivery(alert).status == "failed"
    assert the_delivery(alert).outcome.startswith("given up after 6 attempts: 451 try later")
    with crossing():
        told = Alert.objects.get(type="channel_failing")
        assert (told.level, told.title) == ("warning", "Alerts can't be sent by the channel “email”")
        for path in re.findall(r"/\S+?(?=[,.]?\s|\.?$)", told.message.replace("http://localhost:8000", "")):
            assert resolve(path)


def test_a_permanent_refusal_is_not_tried_again(committed_db: None, settings: Any) -> None:
    project_id = a_project()
    a_mail_channel(project_id, levels=("critical",))
    alert = an_alert(project_id, level="critical")
    with mail_server(settings) as mailbox:
        mailbox.answer = "550 no such person"
        deliver(now=NOW)
        assert deliver(now=NOW + timedelta(hours=1)) == 0
    assert (the_delivery(alert).status, the_delivery(alert).outcome) == ("failed", "550 no such person")


@pytest.mark.parametrize(
    ("level", "then"),
    [
        ("warning", [("unknown", "[warning] The disk is nearly full")]),
        (
            "critical",
            [
                ("unknown", "[critical] The disk is nearly full"),
                ("sent", "[critical] The disk is nearly full (may be a repeat)"),
            ],
        ),
    ],
)
def test_a_sender_killed_in_mid_sending_leaves_doubt(
    committed_db: None, settings: Any, level: str, then: list[tuple[str, str]]
) -> None:
    project_id = a_project()
    a_mail_channel(project_id)
    alert = an_alert(project_id, level=level)
    with mail_server(settings) as mailbox:
        mailbox.stalled = True
        program = DELIVER.format(port=settings.EMAIL_PORT, now=NOW.isoformat())
        environment = os.environ | {"DJANGO_SETTINGS_MODULE": "config.settings"}
        sender = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, env=environment)
        try:
            assert mailbox.got_one.wait(timeout=60)
        finally:
            sender.send_signal(signal.SIGKILL)
            sender.wait()
        mailbox.stalled = False
        assert the_delivery(alert).status == "sending"
        assert deliver(now=NOW) == 0

        later = NOW + LEASE + timedelta(minutes=1)
        deliver(now=later)
        deliver(now=later + LEASE)
        assert deliveries(alert.pk) == then
        assert len(mailbox.mails) == len(then)
        if level == "critical":
            assert mailbox.mails[-1].get_payload(decode=True).decode().rstrip().endswith("(may be a repeat)")
            # A mailbox that has the first can drop the second.
            assert len({mail["Message-ID"] for mail in mailbox.mails}) == 1


def test_a_repeat_in_doubt_is_not_repeated_again(db: None) -> None:
    project_id = a_project()
    a_mail_channel(project_id)
    alert = an_alert(project_id, level="critical")
    for turn in range(3):
        with crossing():
            Delivery.objects.filter(status="pending").update(status="sending", attempts=1, lease_until=NOW)
        give_up_leases(now=NOW + timedelta(minutes=turn + 1))
    assert [status for status, _ in deliveries(alert.pk)] == ["unknown", "unknown"]


@pytest.mark.parametrize(
    ("said", "status", "outcome"),
    [
        ("450 greylisted", "pending", "450 greylisted"),
        ("550 no such person", "failed", "550 no such person"),
        ("", "pending", "the line broke before anything was sent"),
    ],
)
def test_a_refused_recipient_got_nothing_and_that_is_known(
    committed_db: None, settings: Any, said: str, status: str, outcome: str
) -> None:
    project_id = a_project()
    a_mail_channel(project_id)
    alert = an_alert(project_id)
    with mail_server(settings) as mailbox:
        mailbox.answer_rcpt = said
        deliver(now=NOW)
        assert (the_delivery(alert).status, the_delivery(alert).outcome[: len(outcome)]) == (status, outcome)
        mailbox.answer_rcpt = "250 OK"
        deliver(now=NOW + timedelta(minutes=1))
    assert len(mailbox.mails) == (1 if status == "pending" else 0)


def test_a_line_that_hangs_after_the_text_was_sent_leaves_doubt(committed_db: None, settings: Any) -> None:
    project_id = a_project()
    a_mail_channel(project_id)
    alert = an_alert(project_id)
    settings.EMAIL_TIMEOUT = 0.5
    with mail_server(settings) as mailbox:
        mailbox.stalled = True
        deliver(now=NOW)
    assert (the_delivery(alert).status, len(mailbox.mails)) == ("unknown", 1)


def test_a_server_that_hangs_holds_up_no_other_channel(committed_db: None, settings: Any) -> None:
    project_id = a_project()
    a_mail_channel(project_id)
    for n in range(20):
        an_alert(project_id, fingerprint=f"disk-{n}", level="critical")
    a_channel(project_id, "in_app")
    told = an_alert(project_id, fingerprint="fire")
    with silent_server(settings):
        assert deliver(now=NOW) == 2
    assert sorted(Counter(status for status, _ in deliveries(told.pk)).items()) == [("pending", 1), ("sent", 1)]
    with crossing():
        [tried] = Delivery.objects.filter(channel__kind="email", attempts=1)
        assert (tried.status, Delivery.objects.filter(channel__kind="email", status="pending").count()) == (
            "pending",
            21,
        )


def test_an_acknowledgement_cancels_what_is_pending(committed_db: None, settings: Any) -> None:
    project_id = a_project()
    a_mail_channel(project_id)
    alert = an_alert(project_id, level="critical")
    with tenant(project_id):
        lifecycle.acknowledge(project_id, alert.pk, actor="ann", now=NOW)
    with mail_server(settings) as mailbox:
        assert deliver(now=NOW) == 0
    assert mailbox.mails == []
    assert deliveries(alert.pk) == [("cancelled", "[critical] The disk is nearly full")]


def test_the_alert_is_looked_at_again_after_the_claim(committed_db: None, settings: Any) -> None:
    project_id = a_project()
    a_mail_channel(project_id)
    alert = an_alert(project_id, level="critical")
    with crossing():
        # As if the acknowledgement had come between claim and sending.
        Alert.objects.filter(pk=alert.pk).update(status="acknowledged", acknowledged_by="ann")
    with mail_server(settings) as mailbox:
        assert deliver(now=NOW) == 1
    assert mailbox.mails == []
    assert (the_delivery(alert).status, the_delivery(alert).outcome) == ("cancelled", "the alert is acknowledged")
    assert the_alert(alert.pk).status == "acknowledged"


def test_a_project_without_channels_gets_console_and_in_app_and_the_configured_address(
    committed_db: None, settings: Any
) -> None:
    settings.ALERT_EMAIL_TO = "ceo@example.org"
    project_id = a_project()
    warning, critical = an_alert(project_id), an_alert(project_id, fingerprint="fire", level="critical")
    with crossing():
        told = Delivery.objects.values_list("alert_id", "channel__kind", "channel__target")
        assert sorted((str(pk), kind, target) for pk, kind, target in told) == sorted(
            [
                (str(warning.pk), "console", ""),
                (str(warning.pk), "in_app", ""),
                (str(critical.pk), "console", ""),
                (str(critical.pk), "in_app", ""),
                (str(critical.pk), "email", "ceo@example.org"),
            ]
        )
