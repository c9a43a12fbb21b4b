"""The costs page: budgets, the chart with its sums, runs, trips and their reset, models without a price."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from dashboard.spending import reached_at
from monitor import ingest
from monitor.models import Budget, Person, Project, Run, Trip
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import SignedIn, an_execution, signed_in
from tests.monitor.spending import a_span

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
UNPRICED = {"model": "nobody-knows-me", "request_model": "nobody-knows-me", "reported_usd": None}
# Session, person, project, memberships, counts, alerts, jobs and the bindings of row-level security.
OF_THE_FRAME = 22


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every story needs the database."""


@pytest.fixture
def mara() -> SignedIn:
    return signed_in(role="admin")


def spend(visitor: SignedIn, usd: str, n: int, *, ago: timedelta = timedelta(seconds=1), **fields: Any) -> None:
    """One call that its client says cost so much, received as it was made."""
    now = datetime.now(UTC) - ago
    given = {"run_id": "night", "started_at": now - timedelta(seconds=1), "reported_usd": Decimal(usd)} | fields
    with tenant(visitor.project_id):
        ingest.accept(visitor.project_id, [a_span(n, n, **given)], now=now)


def limit(visitor: SignedIn, scope: str, usd: str, period: str = "day", **fields: Any) -> Budget:
    with crossing():
        return Budget.objects.create(
            project_id=None if scope == "global" else visitor.project_id,
            scope=scope,
            period="run" if scope == "run" else period,
            limit_usd=Decimal(usd),
            **fields,
        )


def instance_admin(visitor: SignedIn) -> SignedIn:
    with crossing():
        Person.objects.filter(pk=visitor.person.pk).update(is_instance_admin=True)
    return visitor


def text(visitor: SignedIn, path: str = "/costs") -> str:
    """The page as its words, tags left out."""
    answer = visitor.client.get(path)
    assert answer.status_code == 200
    return " ".join(re.sub(r"<[^>]*>", " ", answer.content.decode()).replace("\u00a0", " ").split())


def row(visitor: SignedIn, id: str) -> str:
    """One line of the budgets as its words."""
    page = visitor.client.get("/costs?part=budgets").content.decode()
    found = re.search(rf'<tr data-row="{re.escape(id)}".*?</tr>', page, re.DOTALL)
    assert found is not None
    return " ".join(re.sub(r"<[^>]*>", " ", found[0]).replace("\u00a0", " ").split())


def the_trip(visitor: SignedIn) -> Trip:
    with tenant(visitor.project_id):
        return Trip.objects.get()


def test_a_stranger_is_led_to_sign_in() -> None:
    assert Client().get("/costs").headers["location"] == "/sign-in?next=%2Fcosts"


def test_an_empty_project_says_how_to_begin(mara: SignedIn) -> None:
    page = text(mara)
    assert "$0.00 is spent today." in page
    assert "There are no budgets." in page
    assert "No call was made in this time." in page
    assert "curl http://testserver/api/v1/calls" in page
    assert "No run was active in this time." in page


def test_the_sentence_says_what_is_spent_and_whether_it_lasts(mara: SignedIn) -> None:
    limit(mara, "project", "100000")
    spend(mara, "42.10", 1)
    page = text(mara)
    assert "$42.10 of today’s $100,000 is spent." in page
    assert "At $42.10 an hour the limit is not reached today." in page


def test_a_limit_that_will_be_reached_is_told_with_its_time() -> None:
    midnight = NOON + timedelta(hours=12)
    assert reached_at(Decimal(30), Decimal(10), now=NOON, until=midnight) == NOON + timedelta(hours=3)
    assert reached_at(Decimal(121), Decimal(10), now=NOON, until=midnight) is None
    assert reached_at(Decimal(1), Decimal(0), now=NOON, until=midnight) is None
    # Neither overflows: a rate of next to nothing, and a limit of next to everything.
    assert reached_at(Decimal("1e18"), Decimal("1e-10"), now=NOON, until=midnight) is None


def test_each_budget_has_its_line(mara: SignedIn) -> None:
    limit(mara, "project", "10", "month")
    limit(mara, "department", "4", "month")
    limit(mara, "department", "50", "month", target="Sales")
    spend(mara, "2", 1, department="Sales")
    spend(mara, "3.5", 2, department="Support")
    assert row(mara, "project::month").split()[2:6] == ["55", "%", "$5.50", "of"]
    assert row(mara, "department:Sales:month").startswith("Sales department, month 4 % $2.00 of $50 $48.00 $50")
    assert row(mara, "department:Support:month").startswith("Support department, month 88 % $3.50 of $4 $0.50 $4")


def test_a_tripped_run_is_red_and_can_be_reset(mara: SignedIn) -> None:
    limit(mara, "run", "5")
    spend(mara, "5.02", 1, run_id="eval-114")
    line = row(mara, "run:eval-114:run")
    assert "tripped" in line
    assert line.endswith("Reset")
    assert "1 open trip" in text(mara)
    assert "tripped" in text(mara, "/costs/runs/eval-114")


def test_a_reset_gives_more_to_spend_once(mara: SignedIn) -> None:
    limit(mara, "run", "5")
    spend(mara, "6", 1)
    path = f"/costs/trips/{the_trip(mara).pk}/reset"
    form = mara.client.get(path, headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in form
    assert "its limit once more" in form
    wrong = mara.client.post(path, {"top_up_usd": "lots"}).content.decode()
    assert "An amount of 0 to 1,000,000 dollars." in wrong
    assert the_trip(mara).reset_at is None
    answer = mara.client.post(path, {"top_up_usd": "$2.50", "note": "the evaluation may end"}, follow=True)
    assert "Run night may spend $2.50 more." in answer.content.decode()
    trip = the_trip(mara)
    assert (trip.top_up_usd, trip.note, trip.reset_by) == (
        Decimal("2.5"),
        "the evaluation may end",
        mara.person.email,
    )
    late = mara.client.post(path, {}, follow=True).content.decode()
    assert f"{mara.person.email} was faster: Run night was reset" in late
    assert the_trip(mara).top_up_usd == Decimal("2.5")


def test_a_viewer_sees_everything_and_can_do_nothing(mara: SignedIn) -> None:
    budget = limit(mara, "run", "5")
    spend(mara, "6", 1)
    viewer = signed_in(role="viewer")
    page = text(viewer)
    assert "tripped" in page
    assert "Reset" not in page
    assert "Edit budgets" not in page
    path = f"/costs/trips/{the_trip(mara).pk}/reset"
    assert viewer.client.post(path, {}).status_code == 404
    assert viewer.client.get("/costs/budgets").status_code == 404
    assert viewer.client.post(f"/costs/budgets/{budget.pk}", {"do": "delete"}).status_code == 404
    assert the_trip(mara).reset_at is None
    operator = signed_in(role="operator")
    assert "Edit budgets" not in text(operator)
    assert operator.client.get("/costs/budgets").status_code == 404


def test_the_instances_budgets_are_for_its_admins(mara: SignedIn) -> None:
    everything = limit(mara, "global", "1000")
    assert "All projects" not in text(mara)
    change = {"limit_usd": "1", "warn_at": "80", "action": "stop"}
    assert mara.client.post(f"/costs/budgets/{everything.pk}", change).status_code == 404
    assert mara.client.post("/costs/budgets", change | {"scope": "global", "period": "hour"}).status_code == 404
    instance_admin(mara)
    assert "All projects, today" in text(mara)
    assert mara.client.post(f"/costs/budgets/{everything.pk}", change).status_code == 302
    everything.refresh_from_db()
    assert everything.limit_usd == 1
    edited = "All projects, day changed: $1 instead of $1,000"
    assert edited in text(mara, "/costs/budgets")
    others = instance_admin(signed_in("south", role="admin"))
    assert edited in text(others, "/costs/budgets")
    with crossing():
        Person.objects.update(is_instance_admin=False)
    assert edited not in text(mara, "/costs/budgets")
    assert edited not in text(others, "/costs/budgets")


def test_an_admin_makes_changes_and_deletes_a_budget(mara: SignedIn) -> None:
    new = {"scope": "agent", "target": "planner", "period": "day", "limit_usd": "$1,250.50", "warn_at": "70"}
    new["action"] = "alert"
    assert "Agent planner, day: $1,250.50" in mara.client.post("/costs/budgets", new, follow=True).content.decode()
    made = Budget.objects.get()
    assert (made.limit_usd, made.warn_at, made.action) == (Decimal("1250.5"), 0.7, "alert")
    twice = mara.client.post("/costs/budgets", new)
    assert twice.status_code == 400
    assert "There is one for this already" in twice.content.decode()
    path = f"/costs/budgets/{made.pk}"
    for wrong in ({"limit_usd": "-1"}, {"limit_usd": "nan"}, {"warn_at": "0"}, {"warn_at": "²"}):
        assert mara.client.post(path, new | wrong).status_code == 400
    made.refresh_from_db()
    assert made.limit_usd == Decimal("1250.5")
    assert mara.client.post(path, new | {"limit_usd": "3"}).status_code == 302
    made.refresh_from_db()
    assert made.limit_usd == 3
    assert mara.client.post(path, new | {"limit_usd": "3"}).status_code == 302
    assert mara.client.post(path, {"do": "delete"}).status_code == 302
    assert not Budget.objects.exists()
    told = text(mara, "/costs/budgets").partition("Changed within 30 days")[2]
    told = " ".join(word for word in told.split() if not re.fullmatch(r"[\d:]{5,8}", word))
    who = mara.person.email
    assert (
        f"Agent planner, day removed: $3, warns at 70 %, only alerts {who} "
        f"Agent planner, day changed: $3 instead of $1,250.50 {who} "
        f"Agent planner, day made: $1,250.50, warns at 70 %, only alerts {who}"
    ) in told


def test_a_target_of_the_project_makes_no_sense(mara: SignedIn) -> None:
    new = {"scope": "project", "target": "x", "period": "day", "limit_usd": "1", "warn_at": "80", "action": "stop"}
    answer = mara.client.post("/costs/budgets", new)
    assert (answer.status_code, Budget.objects.count()) == (400, 0)
    assert "has no meaning for the scope project" in answer.content.decode()


def test_the_chart_splits_the_cost_and_says_all_three_sums(mara: SignedIn) -> None:
    limit(mara, "project", "260")
    spend(mara, "2", 1)
    spend(mara, "1", 2, agent="critic", model="gpt-4.1", request_model="gpt-4.1")
    spend(mara, "0", 3, **UNPRICED)
    page = text(mara, "/costs?range=7d")
    assert "Cost by day and model" in page
    assert "gpt-4o $2.00 67 % gpt-4.1 $1.00 33 % nobody-knows-me, no price unknown, 1 call" in page
    assert "Recorded by the clients $3.00" in page
    assert "Without a price unknown, 1 call" in page
    spec = spec_of(mara, "/costs?part=chart&range=7d")
    assert [(one["name"], one["y"][-1]) for one in spec["series"]] == [("gpt-4o", 2), ("gpt-4.1", 1)]
    assert spec["thresholds"] == [{"y": 260.0, "label": "daily limit $260", "level": "limit"}]
    by_agent = spec_of(mara, "/costs?part=chart&by=agent")
    assert (by_agent["dt"], [one["name"] for one in by_agent["series"]]) == (3600, ["planner", "critic"])
    assert "thresholds" not in by_agent


def spec_of(visitor: SignedIn, path: str) -> dict[str, Any]:
    page = visitor.client.get(path).content.decode()
    found = re.search(r'<script id="chart-costs"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_sixth_group_joins_the_others(mara: SignedIn) -> None:
    for n in range(1, 8):
        spend(mara, str(10 - n), n, agent=f"agent-{n}")
    spec = spec_of(mara, "/costs?part=chart&by=agent")
    assert [one["name"] for one in spec["series"]] == [*(f"agent-{n}" for n in range(1, 6)), "others"]
    assert sum(spec["series"][-1]["y"]) == 4 + 3


def test_days_are_those_of_the_project(mara: SignedIn) -> None:
    with crossing():
        Project.objects.filter(pk=mara.project_id).update(time_zone="Pacific/Kiritimati")
    spend(mara, "2", 1)
    spec = spec_of(mara, "/costs?part=chart&range=7d")
    there = (datetime.now(UTC) + timedelta(hours=14)).date()
    last = datetime.fromisoformat(spec["t0"]).date() + timedelta(days=len(spec["series"][0]["y"]) - 1)
    assert (last, spec["series"][0]["y"][-1]) == (there, 2)


def test_runs_come_page_by_page_each_once(mara: SignedIn) -> None:
    now = datetime.now(UTC)
    with tenant(mara.project_id):
        Run.objects.bulk_create(
            Run(
                project_id=mara.project_id,
                run_id=f"run-{n:03d}",
                first_at=now - timedelta(minutes=9),
                last_at=now - timedelta(minutes=n // 40),
                cost_usd=Decimal(n % 7),
            )
            for n in range(120)
        )
    for order in ("newest", "cost"):
        seen: list[str] = []
        address = f"part=runs&order={order}"
        while address:
            page = mara.client.get(f"/costs?{address}").content.decode()
            seen += re.findall(r'data-row="([^"]+)"', page)
            following = re.search(r'href="\?([^"#]*after=[^"#]*)#h-runs" rel="next"', page)
            address = f"part=runs&{following[1].replace('&amp;', '&')}" if following else ""
        assert (len(seen), len(set(seen))) == (120, 120)
    assert mara.client.get("/costs?after=nonsense&order=cost").status_code == 200
    assert "run-007" in text(mara, "/costs?part=runs&run=007")
    assert "run-008" not in text(mara, "/costs?part=runs&run=007")
    assert "No run has this in its id." in text(mara, "/costs?part=runs&run=nothing")


def test_a_whole_run_id_is_found_at_any_time(mara: SignedIn) -> None:
    spend(mara, "1", 1, run_id="long-gone", ago=timedelta(days=5))
    assert "long-gone" not in text(mara, "/costs?part=runs&range=1h&run=long")
    assert "long-gone" in text(mara, "/costs?part=runs&range=1h&run=long-gone")


def test_one_run_tells_models_executions_and_both_costs(mara: SignedIn) -> None:
    spend(mara, "2", 1, run_id="a/b?c#d")
    spend(mara, "0", 2, run_id="a/b?c#d", **UNPRICED)
    an_execution(mara.project_id, run_id="a/b?c#d", task="Bags on 1N99U6")
    assert "/costs/runs/a/b%3Fc%23d" in mara.client.get("/costs").content.decode()
    page = text(mara, "/costs/runs/a/b%3Fc%23d")
    assert "Counted $2.0000 Recorded by the client $2.0000 Computed from prices $0.0035" in page
    assert "gpt-4o 1 1.0 k 100 $2.0000 $0.0035 $2.0000" in page
    assert "nobody-knows-me 1 1.0 k 100 – – unknown 1" in page
    assert "Bags on 1N99U6" in page


def test_another_projects_money_is_not_seen(mara: SignedIn) -> None:
    limit(mara, "run", "1")
    spend(mara, "6", 1, run_id="their-run")
    stranger = signed_in("south", role="admin")
    assert "their-run" not in text(stranger)
    assert stranger.client.get("/costs/runs/their-run").status_code == 404
    assert stranger.client.get(f"/costs/trips/{the_trip(mara).pk}/reset").status_code == 404
    assert "No budget has ever tripped." in text(stranger, "/costs/trips")


def test_trips_stand_dearest_first(mara: SignedIn) -> None:
    limit(mara, "run", "1")
    for n, (run, usd) in enumerate((("cheap", "2"), ("dear", "9")), start=1):
        spend(mara, usd, n, run_id=run)
    page = text(mara, "/costs/trips?status=open")
    assert page.index("Run dear") < page.index("Run cheap")
    assert "gpt-4o $9.00" in page


def test_a_trip_whose_window_is_over_stops_nobody(mara: SignedIn) -> None:
    limit(mara, "project", "1", "hour")
    spend(mara, "2", 1, ago=timedelta(hours=2))
    assert "its hour is over" in text(mara, "/costs/trips")
    assert "not this hour" in row(mara, "project::hour")
    path = f"/costs/trips/{the_trip(mara).pk}/reset"
    assert "it leaves the queue by itself" in mara.client.get(path).content.decode()


def test_models_without_a_price_are_listed(mara: SignedIn) -> None:
    assert "Nothing is unknown." in text(mara, "/costs/unpriced")
    spend(mara, "0", 1, **UNPRICED)
    spend(mara, "1", 2)
    page = text(mara, "/costs/unpriced")
    assert "1 call of the last 24 h cost an unknown amount." in page
    assert "nobody-knows-me 1 1 1.0 k 100 unknown" in page
    assert "gpt-4o" not in page


def test_the_page_asks_little_however_much_there_is(
    mara: SignedIn, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for scope in ("project", "department", "agent", "run"):
        limit(mara, scope, "1")
    limit(mara, "department", "1", "month")
    limit(instance_admin(mara), "global", "1")
    for n in range(1, 9):
        spend(mara, "2", n, run_id=f"run-{n}", agent=f"agent-{n}", department=f"department-{n}")
    with django_assert_max_num_queries(12 + OF_THE_FRAME):
        page = text(mara)
    assert "2 more agents, day" in page


@pytest.mark.parametrize("part", ["budgets", "chart", "runs"])
def test_a_part_comes_alone(mara: SignedIn, part: str) -> None:
    fragment = mara.client.get(f"/costs?part={part}").content.decode()
    assert f'id="{part}"' in fragment
    assert "<html" not in fragment
    assert mara.client.get("/costs?part=nothing").status_code == 404
