"""How long things are kept and how they grow, over HTTP."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client

from monitor import keeping
from monitor.models import Keeping, Project, StateChange, Subject
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import signed_in
from tests.monitor.api.conftest import client_with, make_key
from tests.monitor.spending import a_project, a_span, accept

NOW = datetime.now(UTC)
PATH = "/api/v1/retention"


@pytest.fixture
def project(db: None) -> Project:
    return a_project()


@pytest.fixture
def client(project: Project) -> Client:
    return client_with(make_key(project, ["admin"])[1])


def patch(client: Client, **body: Any) -> HttpResponse:
    return client.patch(PATH, json.dumps(body), content_type="application/json")


def kinds(answer: HttpResponse) -> dict[str, dict[str, Any]]:
    assert answer.status_code == 200, answer.content
    return {one["kind"]: one for one in answer.json()["kinds"]}


def test_what_holds_is_told_with_its_bounds(client: Client) -> None:
    answer = client.get(PATH)
    assert kinds(answer)["spans"] == {
        "kind": "spans",
        "days": 90,
        "own_days": None,
        "default_days": 90,
        "least_days": 3,
        "most_days": 400,
    }
    assert (answer.json()["of"], answer.json()["span_may_be_late_s"]) == ("project", 89 * 86_400)


def test_a_longer_time_holds_at_once_and_null_takes_it_back(client: Client, project: Project) -> None:
    assert kinds(patch(client, days={"spans": 120, "minutes": 122}))["spans"]["own_days"] == 120
    assert client.get(PATH).json()["span_may_be_late_s"] == 119 * 86_400
    assert kinds(patch(client, days={"spans": None}, confirm=True))["spans"]["days"] == 90
    with tenant(project.pk):
        told = StateChange.objects.filter(subject=Subject.KEEPING).order_by("id")
        assert [(one.actor, one.subject_id, one.data["days"]) for one in told] == [
            ("key:test", "spans", 120),
            ("key:test", "minutes", 122),
            ("key:test", "spans", 90),
        ]


def test_days_that_were_fewer_for_a_moment_are_told_by_the_limit_for_late_spans(
    client: Client, project: Project
) -> None:
    accept(project, [a_span(1, 1)])
    kinds(patch(client, days={"spans": 3}, confirm=True))
    answer = patch(client, days={"spans": None})
    assert kinds(answer)["spans"]["days"] == 90
    assert answer.json()["span_may_be_late_s"] == 2 * 86_400


def test_what_deletes_says_how_much_and_wants_to_be_confirmed(client: Client, project: Project) -> None:
    accept(project, [a_span(ago, ago, started_at=NOW - timedelta(days=ago)) for ago in (1, 20, 21)], now=NOW)
    refused = patch(client, days={"spans": 10, "ledger": 500})
    assert refused.status_code == 409
    [leaves] = refused.json()["leaves"]
    # Two spans with their traces.
    assert (leaves["kind"], leaves["rows"], leaves["is_exact"]) == ("spans", 4, True)
    with crossing():
        assert not Keeping.objects.exists()
    after = kinds(patch(client, days={"spans": 10, "ledger": 500}, confirm=True))
    assert (after["spans"]["days"], after["ledger"]["days"]) == (10, 500)


@pytest.mark.parametrize(
    ("days", "field"),
    [
        ({"spans": 120}, "days.spans"),
        ({"minutes": 91, "ledger": 500}, "days.minutes"),
        ({"spans": 2}, "days.spans"),
        ({"spans": 401}, "days.spans"),
        ({"secrets": 30}, "days.secrets"),
        ({"spans": "30"}, "days[…]"),
        ({"spans": 30.5}, "days[…]"),
    ],
)
def test_days_that_cannot_be_meant_are_named(client: Client, days: dict[str, Any], field: str) -> None:
    refused = patch(client, days=days, confirm=True)
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["field"].replace("[...]", "[…]") == field
    with crossing():
        assert not Keeping.objects.exists()


@pytest.mark.parametrize("scope", ["ingest", "read", "operate"])
def test_only_admins_see_and_set_it(project: Project, scope: str) -> None:
    client = client_with(make_key(project, [scope])[1])
    assert client.get(PATH).status_code == 403
    assert patch(client, days={"spans": 120}).status_code == 403


def test_no_key_sets_what_holds_for_all_and_an_admin_of_the_instance_does(client: Client) -> None:
    assert client.get(f"{PATH}?of=instance").status_code == 403
    assert patch(client, days={"spans": 80}, of="instance").status_code == 403
    visitor = signed_in("south", role="admin")
    with crossing():
        type(visitor.person).objects.filter(pk=visitor.person.pk).update(is_instance_admin=True)
    browser = visitor.client
    assert kinds(browser.get(f"{PATH}?of=instance"))["spans"]["own_days"] is None
    assert kinds(patch(browser, days={"spans": 120, "minutes": 122}, of="instance"))["spans"]["own_days"] == 120
    assert kinds(browser.get(f"{PATH}?of=instance"))["spans"]["own_days"] == 120
    assert kinds(client.get(PATH))["spans"]["days"] == 120


def test_growth_is_told_to_whoever_may_read(project: Project) -> None:
    client = client_with(make_key(project, ["read"])[1])
    answer = client.get("/api/v1/monitoring/growth").json()
    assert {one["kind"] for one in answer["kinds"]} == {*keeping.KINDS, "other"}
    assert answer["bytes"] == sum(one["bytes"] for one in answer["kinds"])
    assert (answer["room"], answer["forecast"]) == (None, None)
    assert [(one["kind"], one["ahead"], one["wanted_ahead"]) for one in answer["partitions"]] == [
        ("spans", 7, 7),
        ("ledger", 7, 7),
        ("journal", 7, 7),
    ]
    assert client_with(make_key(project, ["ingest"])[1]).get("/api/v1/monitoring/growth").status_code == 403
