"""The HTTP door: stories of an agent that raises, and of people who answer."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.cache import cache
from django.test import Client

from alerts import lifecycle
from alerts.models import Alert
from monitor import keys, people
from monitor.models import Project
from monitor.tenancy import crossing, tenant
from tests.alerts.builders import timeline
from tests.alerts.mailserver import mail_server

EVERY_SCOPE = ("ingest", "read", "operate", "admin")


def a_client(name: str = "north", scopes: tuple[str, ...] = EVERY_SCOPE) -> Client:
    with crossing():
        project, _ = Project.objects.get_or_create(name=name)
    with tenant(project.pk):
        _, text = keys.make(project, f"{name} key", scopes, now=datetime.now(UTC))
    return Client(headers={"authorization": f"Bearer {text}"}, raise_request_exception=False)


@pytest.fixture
def api(db: None) -> Client:
    cache.clear()
    return a_client()


def post(client: Client, path: str, **body: Any) -> Any:
    return client.post(path, body, content_type="application/json")


def raised(client: Client, **body: Any) -> dict[str, Any]:
    answer = post(client, "/api/v1/alerts", **{"title": "The disk is full", "level": "warning", "type": "disk"} | body)
    assert answer.status_code in (200, 201), answer.content
    return answer.json()


def test_raising_twice_is_one_alert_with_a_count(api: Client) -> None:
    body = {"title": "The disk is full", "level": "warning", "type": "disk", "agent": "crawler", "data": {"free": 1}}
    first, second = post(api, "/api/v1/alerts", **body), post(api, "/api/v1/alerts", **body)
    assert (first.status_code, second.status_code) == (201, 200)
    alert = second.json()
    assert (alert["id"], alert["count"], alert["status"]) == (first.json()["id"], 2, "firing")
    assert alert["first_seen_at"] < alert["last_seen_at"] < alert["escalate_at"]
    assert (alert["agent"], alert["data"], alert["acknowledged_by"]) == ("crawler", {"free": 1}, "")


def test_a_person_acknowledges_and_the_second_one_hears_who_was_first(api: Client) -> None:
    alert = raised(api, level="critical")
    path = f"/api/v1/alerts/{alert['id']}"
    taken = post(api, f"{path}/acknowledge", note="on it")
    assert taken.status_code == 200
    assert (taken.json()["status"], taken.json()["acknowledged_by"]) == ("acknowledged", "key:north key")

    late = post(api, f"{path}/acknowledge")
    assert late.status_code == 409
    assert late.json()["detail"] == "The alert is acknowledged by key:north key."
    assert late.json()["present"] == "acknowledged"

    assert post(api, f"{path}/resolve").json()["status"] == "resolved"
    assert post(api, f"{path}/reopen").json()["status"] == "firing"
    detail = api.get(path).json()
    assert [event["kind"] for event in detail["events"]] == ["fired", "acknowledged", "resolved", "reopened"]
    assert detail["events"][1]["note"] == "on it"
    assert {delivery["status"] for delivery in detail["deliveries"]} == {"cancelled", "pending"}


def test_snoozing_needs_a_moment_in_the_future(api: Client) -> None:
    path = f"/api/v1/alerts/{raised(api)['id']}/snooze"
    past = post(api, path, until="2020-01-01T00:00:00Z")
    assert (past.status_code, past.json()["errors"][0]["field"]) == (400, "until")
    assert post(api, path).json()["errors"] == [{"field": "until", "message": "is required"}]
    until = datetime.now(UTC) + timedelta(hours=1)
    quiet = post(api, path, until=until.isoformat()).json()
    assert (quiet["status"], quiet["escalate_at"]) == ("firing", None)
    assert datetime.fromisoformat(quiet["snoozed_until"]) == until


def test_lists_are_filtered_and_paged(api: Client) -> None:
    for n in range(3):
        raised(api, title=f"Disk {n}", fingerprint=f"disk-{n}")
    raised(api, title="Fire", fingerprint="fire", level="critical", type="fire")

    def titles(query: str) -> list[str]:
        answer = api.get(f"/api/v1/alerts?{query}")
        assert answer.status_code == 200, answer.content
        return [alert["title"] for alert in answer.json()["results"]]

    assert titles("") == ["Fire", "Disk 2", "Disk 1", "Disk 0"]
    assert titles("level=critical") == titles("type=fire") == titles("search=fir") == ["Fire"]
    assert titles("status=resolved") == titles("since=2100-01-01T00:00:00Z") == []
    page = api.get("/api/v1/alerts?limit=3").json()
    assert [alert["title"] for alert in api.get(page["next"]).json()["results"]] == ["Disk 0"]
    assert api.get("/api/v1/alerts?colour=red").status_code == 400


def test_the_seed_acknowledgement_is_harmless_twice(api: Client) -> None:
    alert = raised(api)
    for _ in range(2):
        answer = post(api, "/api/metrics/acknowledge", alertId=alert["id"])
        assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert timeline(alert["id"]) == ["fired", "acknowledged"]
    assert post(api, "/api/metrics/acknowledge", alertId=str(uuid4())).status_code == 404
    post(api, f"/api/v1/alerts/{alert['id']}/resolve")
    assert post(api, "/api/metrics/acknowledge", alertId=alert["id"]).status_code == 409


def test_another_project_sees_and_moves_nothing(api: Client) -> None:
    alert = raised(api)
    stranger = a_client("south")
    assert stranger.get("/api/v1/alerts").json()["results"] == []
    assert stranger.get(f"/api/v1/alerts/{alert['id']}").status_code == 404
    assert post(stranger, f"/api/v1/alerts/{alert['id']}/acknowledge").status_code == 404
    assert timeline(alert["id"]) == ["fired"]


def test_scopes_decide(api: Client) -> None:
    alert = raised(api)
    reader = a_client(scopes=("read",))
    assert reader.get("/api/v1/alerts").status_code == 200
    assert post(reader, "/api/v1/alerts", title="x").status_code == 403
    assert post(reader, f"/api/v1/alerts/{alert['id']}/acknowledge").status_code == 403
    assert post(reader, "/api/v1/channels", kind="console", name="c", levels=["info"]).status_code == 403
    assert timeline(alert["id"]) == ["fired"]


def test_a_key_may_act_for_a_human_agent_and_both_are_recorded(api: Client) -> None:
    path = f"/api/v1/alerts/{raised(api)['id']}/acknowledge"
    with crossing():
        project_id = Project.objects.get().pk
    with tenant(project_id):
        people.add(project_id, "ann@example.org", name="Ann")
    assert post(api, path, **{"as": "ann@example.org"}).status_code == 403
    deputy = a_client(scopes=("operate", "act-as"))
    assert post(deputy, path, **{"as": "nobody@example.org"}).status_code == 400
    taken = post(deputy, path, **{"as": "Ann@example.org"}).json()
    assert taken["acknowledged_by"] == "ann@example.org (through key:north key)"


def test_long_names_of_a_key_and_a_person_fit_the_journal(api: Client) -> None:
    path = f"/api/v1/alerts/{raised(api)['id']}/acknowledge"
    with crossing():
        project = Project.objects.get()
    email = f"{'a' * 60}@{'.'.join(['b' * 60] * 2)}.example"
    with tenant(project.pk):
        people.add(project.pk, email)
        _, key = keys.make(project, "k" * 100, ["operate", "act-as"], now=datetime.now(UTC))
    client = Client(headers={"authorization": f"Bearer {key}"})
    answer = post(client, path, **{"as": email})
    assert answer.status_code == 200
    assert answer.json()["acknowledged_by"] == f"{email} (through key:{'k' * 100}"[:200]


def test_of_a_long_history_the_last_hundred_are_shown(api: Client) -> None:
    alert = raised(api)
    with crossing():
        told = Alert.objects.get()
    for again in range(100):
        with tenant(told.project_id):
            seen_at = told.first_seen_at + timedelta(seconds=again)
            lifecycle.raise_alert(
                told.project_id, fingerprint=told.fingerprint, level="warning", type="disk", title="Full", now=seen_at
            )
    shown = api.get(f"/api/v1/alerts/{alert['id']}").json()
    assert (shown["count"], [event["kind"] for event in shown["events"]]) == (101, ["repeated"] * 100)
    moments = [event["at"] for event in shown["events"]]
    assert moments == sorted(moments)
    assert timeline(alert["id"])[0] == "fired"


def test_figures_count_by_level_and_time_the_answers(api: Client) -> None:
    for level in ("info", "warning", "critical"):
        raised(api, level=level, fingerprint=level)
    alert = raised(api, level="critical", fingerprint="critical")
    post(api, f"/api/v1/alerts/{alert['id']}/acknowledge")
    begin = datetime.fromisoformat(alert["first_seen_at"]) - timedelta(minutes=10)
    with crossing():
        Alert.objects.filter(pk=alert["id"]).update(first_seen_at=begin)
    stats = api.get("/api/v1/alerts/stats?window=7d").json()
    assert (stats["window"], stats["total"], stats["open"]) == ("7d", 3, 3)
    assert stats["by_level"] == {"info": 1, "warning": 1, "critical": 1}
    assert stats["by_status"] == {"firing": 2, "acknowledged": 1, "resolved": 0}
    assert 600_000 <= stats["mean_time_to_acknowledge_ms"] < 660_000
    assert stats["mean_time_to_resolve_ms"] is None
    assert api.get("/api/v1/alerts/stats?window=soon").status_code == 400


def test_channels_are_made_changed_tested_and_removed(api: Client, settings: Any) -> None:
    assert [row["name"] for row in api.get("/api/v1/channels").json()["results"]] == ["console", "in-app"]
    wrong = post(api, "/api/v1/channels", kind="email", name="ops", target="nowhere", levels=["critical"])
    assert wrong.json()["errors"] == [{"field": "target", "message": "not an email address"}]
    made = post(api, "/api/v1/channels", kind="email", name="ops", target="ops@example.org", levels=["critical"])
    assert made.status_code == 201
    path = f"/api/v1/channels/{made.json()['id']}"
    again = post(api, "/api/v1/channels", kind="email", name="ops", target="ops@example.org", levels=["info"])
    assert again.status_code == 409

    changed = api.patch(path, {"levels": ["warning", "critical"]}, content_type="application/json").json()
    assert (changed["levels"], changed["target"]) == (["warning", "critical"], "ops@example.org")
    with mail_server(settings) as mailbox:
        assert post(api, f"{path}/test").json()["outcome"] == "sent"
        mailbox.answer = "550 no such person"
        assert post(api, f"{path}/test").json() == {"outcome": "failed", "detail": "550 no such person"}
    assert [mail["Subject"] for mail in mailbox.mails] == ["[test] Handrail can reach you"]

    raised(api)
    sent = api.get(f"/api/v1/notifications?channel_id={made.json()['id']}").json()["results"]
    assert [(row["status"], row["subject"]) for row in sent] == [("pending", "[warning] The disk is full")]
    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404
