"""What is open swallows no next trouble: each is told."""

import re
from decimal import Decimal

import pytest

from alerts import lifecycle
from alerts.endings import settle_over
from alerts.judge import judge
from alerts.judgements import fingerprint
from monitor import trips
from monitor.models import Budget, Trip
from monitor.tenancy import crossing, tenant
from tests.alerts.builders import deliveries, timeline
from tests.alerts.troubles import DAY, NOON, a_budget, a_project, after, alerts, set_limit, spend, turn
from tests.monitor import fleets


def test_tomorrows_budget_is_told_whatever_became_of_todays(db: None) -> None:
    project_id = a_project()
    a_budget(project_id, action="alert")
    spend(project_id, "8", now=NOON)
    judge(now=NOON)
    [today] = alerts("budget_warning")
    with tenant(project_id):
        lifecycle.acknowledge(project_id, today.pk, actor="ann", now=NOON)
    spend(project_id, "8", now=NOON + DAY)
    judge(now=NOON + DAY)
    today, tomorrow = alerts("budget_warning")
    assert (today.count, tomorrow.status, deliveries(tomorrow.pk)) == (
        1,
        "firing",
        [("pending", "[warning] Budget nearly used up for the whole project, per day: $8.00 of $10.00")],
    )


def test_a_budget_that_stops_nothing_is_told_when_it_is_passed(db: None) -> None:
    project_id = a_project()
    a_budget(project_id, action="alert")
    spend(project_id, "9", now=NOON)
    turn(now=NOON)
    spend(project_id, "90", now=after(60))
    turn(now=after(60))
    assert [one.status for one in alerts("budget_warning")] == ["resolved"]
    [passed] = alerts("budget_exceeded")
    title = "[critical] Budget passed, and nothing stops it, for the whole project, per day: $99.00 of $10.00"
    assert deliveries(passed.pk) == [("pending", title)]


def test_one_call_that_passes_the_limit_is_told_once(db: None) -> None:
    project_id = a_project()
    a_budget(project_id)
    spend(project_id, "12", now=NOON)
    turn(now=NOON)
    assert (len(alerts("budget_warning")), len(alerts("budget_tripped"))) == (0, 1)


def test_a_raised_limit_warns_and_is_passed_anew(db: None) -> None:
    project_id = a_project()
    a_budget(project_id, action="alert")
    spend(project_id, "12", now=NOON)
    turn(now=NOON)
    set_limit(project_id, "100")
    turn(now=after(60))
    spend(project_id, "70", now=after(120))
    turn(now=after(120))
    [warning] = alerts("budget_warning")
    assert (warning.status, warning.data["limit_usd"]) == ("firing", "100.0000000000")
    spend(project_id, "20", now=after(180))
    turn(now=after(180))
    old, new = alerts("budget_exceeded")
    assert (old.status, new.status, len(deliveries(new.pk))) == ("resolved", "firing", 1)


def test_a_limit_that_is_raised_when_nobody_has_the_warning_any_more_warns_anew(db: None) -> None:
    project_id = a_project()
    a_budget(project_id)
    spend(project_id, "9", now=NOON)
    turn(now=NOON)
    [first] = alerts("budget_warning")
    with tenant(project_id):
        lifecycle.resolve(project_id, first.pk, actor="ann", now=after(1))
    set_limit(project_id, "11")
    spend(project_id, "0.01", now=after(60))
    turn(now=after(60))
    assert len(alerts("budget_warning")) == 1
    set_limit(project_id, "20")
    spend(project_id, "8", now=after(120))
    turn(now=after(120))
    assert [one.status for one in alerts("budget_warning")] == ["resolved", "firing"]


def test_a_global_trip_that_is_reset_from_another_project_is_over_in_the_first(db: None) -> None:
    north, south = a_project(), a_project("south")
    with crossing():
        Budget.objects.create(project=None, scope="global", period="day", limit_usd=Decimal(10))
    spend(north, "12", now=NOON)
    turn(now=NOON)
    with tenant(south):
        trip = Trip.objects.get(project=None)
        trips.reset(trip, note="", top_up_usd=None, actor="root@example.org", project_id=south, now=after(60))
    turn(now=after(60))
    [alert] = alerts("budget_tripped")
    assert (alert.project_id, alert.status, timeline(alert.pk)) == (north, "resolved", ["fired", "resolved"])


@pytest.mark.parametrize("action", ["alert", "stop"])
def test_what_all_projects_spend_is_told_in_none_of_them(db: None, action: str) -> None:
    north = a_project()
    with crossing():
        Budget.objects.create(project=None, scope="global", period="day", limit_usd=Decimal(173), action=action)
    spend(north, "169.25", now=NOON)
    turn(now=NOON)
    spend(north, "8", now=after(60))
    turn(now=after(60))
    told = alerts("budget_warning") + alerts("budget_tripped" if action == "stop" else "budget_exceeded")
    assert len(told) == 2
    for one in told:
        assert "all projects together" in one.title
        assert not re.search(r"173|169|177", f"{one.title} {one.message} {one.fingerprint} {one.data}")


def test_a_second_silence_is_told_while_the_first_still_fires(db: None) -> None:
    project_id = a_project()
    for _ in range(10):
        fleets.an_execution(project_id, now=NOON, timeout_s=3600, max_retries=0)
    fleets.tick(now=after(60))
    judge(now=after(60))
    fleets.tick(now=after(200))
    for _ in range(10):
        fleets.an_execution(project_id, now=after(3000), timeout_s=3600)
    fleets.tick(now=after(3060))
    judge(now=after(3060))
    assert [(one.status, one.count, len(deliveries(one.pk))) for one in alerts("fleet_silent")] == [
        ("firing", 1, 1)
    ] * 2


def test_an_alert_that_cannot_be_read_keeps_no_other_open(db: None) -> None:
    project_id = a_project()
    a_budget(project_id)
    spend(project_id, "9", now=NOON)
    judge(now=NOON)
    with tenant(project_id):
        lifecycle.raise_alert(
            project_id, fingerprint="mine", level="warning", type="budget_warning", title="of a program", now=NOON
        )
    assert settle_over(now=NOON + DAY) == 1
    assert sorted(one.status for one in alerts("budget_warning")) == ["firing", "resolved"]


def test_names_of_causes_stay_apart_however_long_they_are(db: None) -> None:
    one, other = (fingerprint("budget", "warned", "a" * 300, period) for period in ("day", "hour"))
    assert one != other
    assert {len(one), len(other)} == {200}
