"""Alerts: the list in its groups, one alert told, and what people do about it."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from pytest_django import DjangoAssertNumQueries

from alerts import lifecycle
from alerts.models import Alert, AlertEvent, Delivery, DeliveryStatus
from dashboard import alertlist
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import SignedIn, an_execution, signed_in
from tests.monitor.plans import analyze

HTMX = {"HX-Request": "true", "HX-Target": "alert"}


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every story needs the database."""


def an_alert(project_id: int, cause: str = "disk", **said: Any) -> Alert:
    values = {"level": "warning", "type": "disk_full", "title": f"The {cause} is full", "now": datetime.now(UTC)} | said
    with tenant(project_id):
        alert, _ = lifecycle.raise_alert(project_id, fingerprint=cause, **values)
    return alert


def fresh(alert: Alert) -> Alert:
    with crossing():
        return Alert.objects.get(pk=alert.pk)


def press(visitor: SignedIn, alert: Alert, verb: str, **fields: str) -> tuple[str, dict[str, str]]:
    """Press a button of the detail: the fragment that comes back, and its toast."""
    answer = visitor.client.post(f"/alerts/{alert.pk}/{verb}", fields, headers=HTMX)
    assert answer.status_code == 200
    return answer.content.decode(), json.loads(answer.headers["HX-Trigger"])["toast"]


def test_a_quiet_project_says_what_alerts_are() -> None:
    page = signed_in().client.get("/alerts").content.decode()
    assert "All quiet." in page
    assert "An alert is raised when" in page
    assert "/api/v1/alerts" in page


def test_the_list_stands_in_groups_with_what_is_critical_first() -> None:
    visitor = signed_in()
    project_id, now = visitor.project_id, datetime.now(UTC)
    an_alert(project_id, "disk", now=now - timedelta(minutes=1))
    an_alert(project_id, "memory", level="critical", now=now - timedelta(minutes=20))
    taken, slept, over = (an_alert(project_id, cause) for cause in ("cpu", "fan", "lamp"))
    with tenant(project_id):
        lifecycle.acknowledge(project_id, taken.pk, actor=visitor.person.email, now=now)
        lifecycle.snooze(project_id, slept.pk, actor="jonas@x", now=now, until=now + timedelta(hours=1))
        lifecycle.resolve(project_id, over.pk, actor="handrail", note="the lamp was changed", now=now)
    page = visitor.client.get("/alerts").content.decode()
    places = [
        page.index(text)
        for text in (
            ">Open<",
            "The memory is full</a>",
            "The disk is full</a>",
            ">Acknowledged<",
            "The cpu is full</a>",
            ">Snoozed<",
            "The fan is full</a>",
            ">Resolved today<",
            "The lamp is full</a>",
        )
    ]
    assert places == sorted(places)
    assert "2 open" in page
    assert "1 critical" in page
    assert "the lamp was changed" in page


def test_the_first_alert_stands_beside_the_list() -> None:
    visitor = signed_in()
    an_alert(visitor.project_id, "disk")
    worst = an_alert(visitor.project_id, "memory", level="critical")
    assert f'data-alert="{worst.pk}"' in visitor.client.get("/alerts").content.decode()


def test_filters_stand_in_the_address() -> None:
    visitor = signed_in()
    an_alert(visitor.project_id, "disk")
    an_alert(visitor.project_id, "memory", level="critical", type="memory_full")

    def found(query: str) -> list[str]:
        page = visitor.client.get(f"/alerts?part=list&{query}").content.decode()
        return [cause for cause in ("disk", "memory") if f"The {cause} is full</a>" in page]

    assert found("") == ["disk", "memory"]
    assert found("level=critical") == ["memory"]
    assert found("level=critical&level=warning") == ["disk", "memory"]
    assert found("type=disk_full") == ["disk"]
    assert found("q=MEMORY") == ["memory"]
    assert found("q=nothing") == []
    assert "No alert fits the filter." in visitor.client.get("/alerts?q=nothing").content.decode()


def test_what_is_over_comes_page_by_page_within_the_range() -> None:
    visitor = signed_in()
    project_id, now = visitor.project_id, datetime.now(UTC)
    for number in range(30):
        at = now - timedelta(minutes=number)
        one = an_alert(project_id, f"disk {number:02d}", now=at)
        with tenant(project_id):
            lifecycle.resolve(project_id, one.pk, actor="handrail", now=at)
    long_ago = an_alert(project_id, "old disk", now=now - timedelta(days=3))
    with tenant(project_id):
        lifecycle.resolve(project_id, long_ago.pk, actor="handrail", now=now - timedelta(days=3))
    page = visitor.client.get("/alerts?part=list").content.decode()
    assert page.count("<article") == 25
    following = page.split('hx-get="')[1].split('"')[0].replace("&amp;", "&")
    rest = visitor.client.get(following).content.decode()
    assert rest.count("<article") == 5
    assert "disk 29" in rest
    assert "Show older ones" not in rest
    assert "old disk" not in page + rest
    assert "old disk" in visitor.client.get("/alerts?part=list&range=7d&q=old").content.decode()


def test_one_alert_is_told_with_its_execution_its_plan_and_who_was_told() -> None:
    visitor = signed_in()
    work = an_execution(visitor.project_id, agent="airline-rebooking", task="Change of flight", attempt=2)
    message = (
        "Where: here\nSince: now\nHow bad: 3 of 3 tries spent\nDone already: it was paused\nIf nobody acts: it stays"
    )
    alert = an_alert(
        visitor.project_id, "loop", type="execution_zombie", message=message, agent=work.agent, execution_id=work.id
    )
    other = an_alert(visitor.project_id, "twin", agent=work.agent)
    page = visitor.client.get(f"/alerts/{alert.pk}").content.decode()
    assert "3 of 3 tries spent. It was paused. If nobody acts, it stays." in page
    assert f'href="/executions/{work.id}"' in page
    assert "2 of 4" in page
    assert "Nobody has acknowledged it yet" in page
    assert "Becomes critical" in page
    assert "next step in" in page
    assert "once the execution runs again or ends" in page
    assert "planned" in page
    assert f'<li><a href="/alerts/{other.pk}">' in page


def test_acknowledging_takes_one_press_and_calls_off_what_is_planned() -> None:
    visitor = signed_in()
    alert = an_alert(visitor.project_id)
    fragment, toast = press(visitor, alert, "acknowledge", note="It is mine")
    assert fresh(alert).acknowledged_by == visitor.person.email
    assert toast["strong"] == "Acknowledged."
    assert toast["undo_url"] == f"/alerts/{alert.pk}/reopen"
    assert "You acknowledged it" in fragment
    assert "It is mine" in fragment
    assert "You have it" in fragment
    assert "called off" in fragment


def test_from_the_list_only_the_toast_comes_back() -> None:
    visitor = signed_in()
    alert = an_alert(visitor.project_id)
    answer = visitor.client.post(f"/alerts/{alert.pk}/acknowledge", headers={"HX-Request": "true"})
    assert answer.status_code == 204
    assert "Acknowledged." in answer.headers["HX-Trigger"]
    assert fresh(alert).status == "acknowledged"


def test_a_lost_race_is_told_with_the_name() -> None:
    slow = signed_in(email="slow@north.example")
    quick = signed_in(email="quick@north.example")
    alert = an_alert(slow.project_id)
    with tenant(slow.project_id):
        now = datetime.now(UTC) - timedelta(seconds=2.5)
        lifecycle.acknowledge(slow.project_id, alert.pk, actor=quick.person.email, now=now)
    fragment, toast = press(slow, alert, "acknowledge")
    assert toast["text"].replace("\xa0", " ") == "Mara Lind acknowledged it 2 s before you."
    assert toast["text"] in fragment
    assert fresh(alert).acknowledged_by == quick.person.email


def test_snoozing_needs_a_time_within_30_days() -> None:
    visitor = signed_in()
    alert = an_alert(visitor.project_id)
    _, toast = press(visitor, alert, "snooze", **{"for": "until", "until": "2020-01-01T00:00"})
    assert toast["strong"] == "Not snoozed."
    assert fresh(alert).snoozed_until is None
    fragment, toast = press(visitor, alert, "snooze", **{"for": "4h"})
    until = fresh(alert).snoozed_until
    assert until is not None
    assert abs(until - datetime.now(UTC) - timedelta(hours=4)) < timedelta(seconds=20)
    assert "Quiet while it is snoozed" in fragment
    assert "Is told again" in fragment


def test_escalating_makes_it_critical_at_once_and_tells_again() -> None:
    visitor = signed_in()
    alert = an_alert(visitor.project_id)
    with crossing():
        before = Delivery.objects.filter(alert_id=alert.pk, status=DeliveryStatus.PENDING).count()
    fragment, _ = press(visitor, alert, "escalate")
    assert fresh(alert).level == "critical"
    assert "You escalated it" in fragment
    with crossing():
        waiting = Delivery.objects.filter(alert_id=alert.pk, status=DeliveryStatus.PENDING)
        assert waiting.count() == before
        assert all(one.subject.startswith("[critical]") for one in waiting)
    assert press(visitor, alert, "escalate")[1]["text"] == "It is critical already."


def test_resolving_and_reopening() -> None:
    visitor = signed_in()
    alert = an_alert(visitor.project_id)
    fragment, _ = press(visitor, alert, "resolve", note="cleaned up")
    assert "You resolved it" in fragment
    assert "Reopen" in fragment
    fragment, _ = press(visitor, alert, "reopen")
    assert fresh(alert).status == "firing"
    assert "You reopened it" in fragment


def test_reopening_leads_to_the_alert_that_is_open_already() -> None:
    visitor = signed_in()
    project_id, long_ago = visitor.project_id, datetime.now(UTC) - timedelta(hours=2)
    old = an_alert(project_id, now=long_ago)
    with tenant(project_id):
        lifecycle.resolve(project_id, old.pk, actor="handrail", now=long_ago)
    twin = an_alert(project_id)
    fragment, toast = press(visitor, old, "reopen")
    assert toast["strong"] == "Not reopened."
    assert f'href="/alerts/{twin.pk}">Show it' in fragment


def test_a_note_stands_in_the_timeline() -> None:
    visitor = signed_in()
    alert = an_alert(visitor.project_id)
    fragment, _ = press(visitor, alert, "note", note="Look at <b>the pipes</b>")
    assert "You noted" in fragment
    assert "Look at &lt;b&gt;the pipes&lt;/b&gt;" in fragment
    assert press(visitor, alert, "note", note="  ")[1]["strong"] == "Nothing noted."
    with crossing():
        assert AlertEvent.objects.filter(alert_id=alert.pk, kind="noted").count() == 1


def test_without_a_script_the_buttons_work_too() -> None:
    visitor = signed_in()
    alert = an_alert(visitor.project_id)
    answer = visitor.client.post(f"/alerts/{alert.pk}/acknowledge", follow=True)
    assert answer.redirect_chain == [(f"/alerts/{alert.pk}", 302)]
    assert "Acknowledged. Nothing more is sent for it." in answer.content.decode()


VERBS = ["acknowledge", "resolve", "escalate", "snooze", "reopen", "note"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_viewer_sees_but_cannot_act(verb: str) -> None:
    visitor = signed_in(role="viewer")
    alert = an_alert(visitor.project_id)
    page = visitor.client.get(f"/alerts/{alert.pk}").content.decode()
    assert "The disk is full" in page
    assert f"/alerts/{alert.pk}/{verb}" not in page
    answer = visitor.client.post(f"/alerts/{alert.pk}/{verb}", {"note": "x", "for": "1h"})
    assert answer.status_code == 404
    assert fresh(alert).status == "firing"


@pytest.mark.parametrize("verb", VERBS)
def test_the_alert_of_another_project_is_not_found(verb: str) -> None:
    theirs, mine = signed_in("theirs"), signed_in("mine")
    alert = an_alert(theirs.project_id, "their secret")
    assert "their secret" not in mine.client.get("/alerts").content.decode()
    assert mine.client.get(f"/alerts/{alert.pk}").status_code == 404
    assert mine.client.post(f"/alerts/{alert.pk}/{verb}", {"note": "x", "for": "1h"}).status_code == 404
    assert fresh(alert).status == "firing"


@pytest.mark.parametrize("part", ["alert", "head", "story", "timeline"])
def test_a_part_comes_alone(part: str) -> None:
    visitor = signed_in()
    alert = an_alert(visitor.project_id)
    fragment = visitor.client.get(f"/alerts/{alert.pk}?part={part}").content.decode()
    assert f'id="alert{"" if part == "alert" else f"-{part}"}"' in fragment
    assert "<html" not in fragment
    assert visitor.client.get(f"/alerts/{alert.pk}?part=nothing").status_code == 404


def test_a_full_list_says_how_many_are_not_shown_and_asks_little(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    visitor = signed_in()
    project_id, now = visitor.project_id, datetime.now(UTC)
    rows = [
        Alert(
            project_id=project_id,
            fingerprint=str(number),
            level="warning",
            type="disk_full",
            title=f"Disk {number}",
            agent="a",
            first_seen_at=now,
            last_seen_at=now,
        )
        for number in range(130)
    ]
    with tenant(project_id):
        Alert.objects.bulk_create(rows)
        lifecycle.acknowledge(project_id, rows[0].pk, actor="other@x", now=now)
        lifecycle.resolve(project_id, rows[1].pk, actor="other@x", now=now)
    # 12 of the page, 16 of session, project and frame.
    with django_assert_max_num_queries(28):
        page = visitor.client.get("/alerts").content.decode()
    assert "100 of 128" in page
    assert "28 more are not shown" in page


def test_each_type_is_offered_once_and_reading_them_takes_a_row_of_each() -> None:
    visitor, other = signed_in(), signed_in("south")
    now = datetime.now(UTC)
    kinds = ["disk_full", "custom", "tool_loop", "Überlauf"]
    with tenant(visitor.project_id):
        Alert.objects.bulk_create(
            Alert(
                project_id=visitor.project_id,
                fingerprint=str(number),
                level="warning",
                type=kinds[number % 4],
                first_seen_at=now,
                last_seen_at=now,
            )
            for number in range(2_000)
        )
    an_alert(other.project_id, type="of_another_project")
    analyze()
    page = visitor.client.get("/alerts").content.decode()
    offered = page.partition('id="filter-type"')[2].partition("</select>")[0]
    found = re.findall(r'value="([^"]+)"', offered)
    assert sorted(found) == sorted(kinds)
    with tenant(visitor.project_id), connection.cursor() as cursor:
        values = {"project_id": visitor.project_id, "most": alertlist.MOST_TYPES}
        cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF) {alertlist.TYPES}", values)
        plan = "\n".join(line for (line,) in cursor.fetchall())
        cursor.execute(alertlist.TYPES, values)
        assert [(one,) for one in found] == cursor.fetchall()
        cursor.execute(alertlist.TYPES, values | {"most": 2})
        assert [(one,) for one in found[:2]] == cursor.fetchall()
    read = re.findall(r"Scan using alert_by_type .*actual rows=([\d.]+) loops=(\d+)", plan)
    assert "Seq Scan" not in plan
    assert sum(round(float(rows) * int(loops)) for rows, loops in read) == len(kinds), plan
