"""What a page calls today begins at the first midnight of the project's day, also where midnight comes twice."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from alerts import lifecycle
from alerts.models import Alert
from dashboard import alertlist, listing
from dashboard.views import overview, queue
from monitor.folding import RollupDelta, fold
from monitor.models import Person, Project
from monitor.tenancy import tenant
from monitor.together import Together
from tests.monitor.spending import a_project, a_span, accept

HAVANA = "America/Havana"
FIRST = datetime(2026, 11, 1, 4, tzinfo=UTC)
WITHIN, BEFORE = FIRST + timedelta(minutes=30), FIRST - timedelta(hours=2)
# 00:30 in Havana for the second time that day; at Greenwich the same day has begun before `BEFORE`.
NOW = FIRST + timedelta(minutes=90)


@pytest.fixture
def project(db: None) -> Project:
    return a_project(time_zone=HAVANA)


def test_the_day_of_lists_and_of_the_queue(project: Project) -> None:
    failed = listing.Asked(since=BEFORE, until=NOW, range="24h", view="failed")

    assert listing.bounds(failed, now=NOW, time_zone=HAVANA) == (FIRST, NOW)
    assert queue.today_in(project, now=NOW) == FIRST


def test_alerts_that_were_resolved_today(project: Project) -> None:
    with tenant(project.pk):
        for cause, at in (("old", BEFORE), ("new", WITHIN)):
            alert, _ = lifecycle.raise_alert(
                project.pk, fingerprint=cause, level="warning", type="disk_full", title=f"The {cause} disk", now=at
            )
            Alert.objects.filter(pk=alert.pk).update(status="resolved", resolved_at=at)
        found = alertlist.Found([], list(Alert.objects.order_by("-resolved_at")))
        groups = alertlist.listing(project, found, me=Person(email="ann@example.org"), now=NOW).groups

    assert [(group.name, [row.title for row in group.rows]) for group in groups] == [
        ("Resolved today", ["The new disk"]),
        ("Resolved before", ["The old disk"]),
    ]


def test_what_was_spent_today(project: Project) -> None:
    told = [
        a_span(n, 1, agent=agent, started_at=at, reported_usd=Decimal(usd))
        for n, (agent, at, usd) in enumerate([("a", WITHIN, 2), ("b", BEFORE, 5)], start=1)
    ]
    for span in told:
        assert accept(project, [span], now=span.started_at + timedelta(seconds=2)).accepted == 1
    with tenant(project.pk):
        with Together() as asked:
            spend = overview.spend_today(asked, project.pk, HAVANA, now=NOW)
            agents = overview.agents_today(project, asked, now=NOW)

        assert (spend().spent_usd, spend().by_hour) == (2, [2.0])
        assert [(one.name, one.cost_usd) for one in agents()["agents"]] == [("a", 2)]


def test_what_was_finished_today(project: Project) -> None:
    with tenant(project.pk):
        fold(project.pk, [RollupDelta(at=at, kind="execution", agent="a") for at in (BEFORE, WITHIN)], now=WITHIN)

        assert overview.quiet(project, None, now=NOW).finished_today == 1
