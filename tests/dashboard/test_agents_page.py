"""The list of agents and the page of one, as signed-in people get them."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from alerts.judge import judge as judge_alerts
from dashboard import agentlist
from monitor import agents, cadence
from monitor.agents import Edit
from monitor.models import Agent, StateChange
from monitor.registration import NewExecution, register
from monitor.reporting import record_call
from monitor.reports import Call
from monitor.tenancy import tenant
from tests.dashboard.builders import SignedIn, signed_in

LIST = "/agents"
OF_THE_FRAME = 22
FORM = {"version": "1", "expected_unit": "h"}


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every story needs the database."""


@pytest.fixture
def mara() -> SignedIn:
    return signed_in()


def now() -> datetime:
    return datetime.now(UTC)


def work(who: SignedIn, agent: str, count: int = 1, **body: Any) -> None:
    with tenant(who.project_id):
        for _ in range(count):
            register(who.project_id, NewExecution(agent=agent, **body), now=now(), actor="key:agents")


def done(who: SignedIn, agent: str, count: int = 1, *, failed: int = 0) -> None:
    work(who, agent, count, status="completed", duration_ms=2000)
    work(who, agent, failed, status="failed", duration_ms=2000)


def enter(who: SignedIn, name: str, *, at: datetime | None = None, **edit: Any) -> None:
    with tenant(who.project_id):
        agents.enter(who.project_id, name, Edit(**edit), actor=who.person.email, now=at or now())


def text(who: SignedIn, where: str = LIST) -> str:
    answer = who.client.get(where)
    assert answer.status_code == 200, where
    return answer.content.decode()


def rows(page: str) -> list[str]:
    return [unescape(one) for one in re.findall(r'<tr data-row="([^"]+)"', page)]


def cells(page: str, name: str) -> list[str]:
    """The words of each cell of a row."""
    row = re.search(rf'<tr data-row="{re.escape(name)}">(.*?)</tr>', page, re.DOTALL)
    assert row is not None
    found = re.findall(r"<td[^>]*>(.*?)</td>", row[1], re.DOTALL)
    return [" ".join(unescape(re.sub(r"<[^>]+>", "", one)).replace("\xa0", " ").split()) for one in found]


def agent(who: SignedIn, name: str) -> Agent:
    with tenant(who.project_id):
        return Agent.objects.get(name=name)


def test_an_empty_project_shows_how_to_get_the_first_one(mara: SignedIn) -> None:
    page = text(mara)
    assert "No agent has been heard from yet." in page
    assert "/api/v1/executions" in page
    assert "<table" not in page
    assert 'href="/agents"' in text(mara, "/")


def test_a_row_tells_health_work_latency_and_cost(mara: SignedIn) -> None:
    done(mara, "planner", 6, failed=2)
    work(mara, "planner")
    with tenant(mara.project_id):
        record_call(mara.project_id, Call(model="gpt-4o", agent="planner", cost_usd=Decimal("1.20")), now=now())
    enter(mara, "planner", capabilities=["plan", "book"], cost_tier="high")
    page = text(mara)
    found = cells(page, "planner")
    assert found[0] == "Failing"
    assert found[2:7] == ["plan, book", "high", "1", "8", "25.0%"]
    assert found[7].endswith("s")
    assert found[9:11] == ["$1.20", "$0.2000"]
    for where in (
        "/agents/planner",
        "/executions?agent=planner&amp;status=running&amp;range=30d",
        "/executions?agent=planner&amp;range=24h",
        "/executions?agent=planner&amp;status=failed&amp;status=timeout&amp;range=24h",
        "/costs?by=agent&amp;range=24h",
    ):
        assert f'href="{where}"' in page


def test_each_health_has_its_tab_and_what_needs_a_look_comes_first(mara: SignedIn) -> None:
    done(mara, "good", 20)
    done(mara, "worse", 8, failed=1)
    done(mara, "bad", 6, failed=4)
    done(mara, "unlucky", 0, failed=1)
    enter(mara, "new")
    with tenant(mara.project_id):
        agents.saw(mara.project_id, "old", now=now() - timedelta(days=9))
    enter(mara, "gone", at=now() - timedelta(hours=2), expected_every_s=3600)
    cadence.judge(now=now())
    page = text(mara)
    assert rows(page) == ["gone", "bad", "worse", "unlucky", "good", "old", "new"]
    assert [cells(page, name)[0] for name in rows(page)] == [
        "Silent", "Failing", "Degraded", "Degraded", "Healthy", "Idle", "Never seen",
    ]  # fmt: skip
    assert rows(text(mara, f"{LIST}?health=degraded")) == ["worse", "unlucky"]
    assert "1 silent, 1 failing, 2 degraded, 1 healthy, 1 idle, 1 never seen" in page
    assert rows(text(mara, f"{LIST}?order=name"))[:2] == ["bad", "gone"]
    assert rows(text(mara, f"{LIST}?order=executions"))[0] == "good"
    assert rows(text(mara, f"{LIST}?order=errors"))[0] == "unlucky"
    assert rows(text(mara, f"{LIST}?order=heard"))[-1] in ("gone", "new")
    for number in ("-1", "0", "0000", "²", "000001" + "0" * 5000):
        assert rows(text(mara, f"{LIST}?order=nonsense&health=nonsense&page={number}")) == rows(page)


def test_filters_choose_by_what_agents_can_do_by_tier_and_by_words(mara: SignedIn) -> None:
    enter(mara, "planner", capabilities=["plan"], cost_tier="high", description="Plans trips.")
    enter(mara, "crew/scout", capabilities=["plan", "look"], cost_tier="low", type="scout")
    assert rows(text(mara, f"{LIST}?capability=look")) == ["crew/scout"]
    assert rows(text(mara, f"{LIST}?cost_tier=high")) == ["planner"]
    assert rows(text(mara, f"{LIST}?q=TRIPS")) == ["planner"]
    assert rows(text(mara, f"{LIST}?q=crew")) == ["crew/scout"]
    nothing = text(mara, f"{LIST}?q=nobody")
    assert "No agent matches." in nothing
    assert "No agent is like this now." in text(mara, f"{LIST}?health=failing")
    assert 'href="?capability=plan&amp;range=24h"' in text(mara)


def test_a_thousand_come_page_by_page_and_more_are_said(
    mara: SignedIn, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    monkeypatch.setattr(agentlist, "MOST_AGENTS", 250)
    with tenant(mara.project_id):
        at = now()
        Agent.objects.bulk_create(
            Agent(project_id=mara.project_id, name=f"a{n:03}", first_seen_at=at, last_seen_at=at - timedelta(hours=n))
            for n in range(260)
        )
    with django_assert_max_num_queries(OF_THE_FRAME + 5):
        page = text(mara)
    assert "There are 260: the 250 that were heard last" in page
    seen = []
    for number in (1, 2, 3):
        seen += rows(text(mara, f"{LIST}?page={number}"))
    assert seen == [f"a{n:03}" for n in range(250)]
    assert 'rel="next"' not in text(mara, f"{LIST}?page=3")
    assert rows(text(mara, f"{LIST}?page=4")) == []
    assert rows(text(mara, f"{LIST}?q=a259")) == ["a259"]


def test_the_live_part_is_the_list_without_its_page(mara: SignedIn) -> None:
    done(mara, "planner")
    part = text(mara, f"{LIST}?part=list")
    assert rows(part) == ["planner"]
    assert "<html" not in part
    for element in ('id="tabs"', 'id="rows"', 'id="foot"'):
        assert element in part
    assert mara.client.get(f"{LIST}?part=nonsense").status_code == 404


def test_an_operator_enters_an_agent_and_a_viewer_does_not(mara: SignedIn) -> None:
    answer = mara.client.post(LIST, {"name": " crew/night owl "}, follow=True)
    assert answer.redirect_chain == [("/agents/crew/night%20owl", 302)]
    assert "Never seen" in answer.content.decode()
    again = mara.client.post(LIST, {"name": "crew/night owl"}, follow=True)
    assert "is in the registry already" in again.content.decode()
    assert "1 to 200 characters" in mara.client.post(LIST, {"name": "x" * 201}, follow=True).content.decode()

    vera = signed_in(role="viewer")
    assert vera.client.post(LIST, {"name": "mine"}).status_code == 404
    assert '<form method="post" action="/agents' not in text(vera)
    page = text(vera, "/agents/crew/night%20owl")
    assert "part=edit" not in page
    assert vera.client.get("/agents/crew/night%20owl?part=edit").status_code == 404
    assert vera.client.post("/agents/crew/night%20owl", FORM).status_code == 404
    with tenant(mara.project_id):
        assert Agent.objects.count() == 1


@pytest.mark.parametrize(
    "name", ["crew/writer", "a?b#c%d&e", "<b>bold</b>", "two\nlines", "/led", "performance", "ünï €", "x" * 200]
)
def test_any_name_has_a_page_that_the_list_leads_to(mara: SignedIn, name: str) -> None:
    done(mara, name)
    for where in (LIST, "/executions", "/"):
        page = text(mara, where)
        assert "<b>bold" not in page
        assert f'href="{where_of(name)}"' in page, where
    assert unescape(re.search(r"<h1[^>]*>(.*?)</h1>", text(mara, unescape(where_of(name))), re.DOTALL)[1]) == name  # type: ignore[index]


def where_of(name: str) -> str:
    return reverse("agent", args=[name]).replace("&", "&amp;")


def test_one_agent_shows_figures_charts_work_and_what_holds_for_it(mara: SignedIn) -> None:
    done(mara, "planner", 3, failed=1)
    done(mara, "other", 50)
    with tenant(mara.project_id):
        agents.change(
            mara.project_id, "planner", Edit(timeout_s=300, description="Plans."), actor="ann@example.org", now=now()
        )
    page = text(mara, "/agents/planner")
    assert len(rows(page)) == 4
    plain = " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).replace("\xa0", " ").split())
    assert "Time for an attempt 5 min its own , not 1 min" in plain
    assert "Heartbeat 30 s the project’s" in plain
    assert "ann@example.org" in plain
    assert "changed description, time for an attempt: 5 min" in plain
    assert page.count('data-chart="') == 2
    for part in ("state", "figures", "work", "about"):
        piece = text(mara, f"/agents/planner?part={part}")
        assert f'id="{part}"' in piece
        assert "<html" not in piece
    assert mara.client.get("/agents/planner?part=nonsense").status_code == 404


def test_the_form_sets_what_it_says_and_leaves_a_line_in_the_journal(mara: SignedIn) -> None:
    done(mara, "planner")
    form = text(mara, "/agents/planner?part=edit")
    assert 'placeholder="60"' in form
    sent = FORM | {
        "expected": "90", "expected_unit": "min", "timeout_s": "300", "max_retries": "0", "mode": "execute",
        "capabilities": "plan\r\n\r\nbook, and pay\n", "description": "Plans.",
    }  # fmt: skip
    assert mara.client.post("/agents/planner", sent).headers["Location"] == "/agents/planner"
    row = agent(mara, "planner")
    assert (row.expected_every_s, row.timeout_s, row.heartbeat_s, row.max_retries) == (5400, 300, None, 0)
    assert (row.capabilities, row.mode, row.version) == (["plan", "book, and pay"], "execute", 2)
    with tenant(mara.project_id):
        [change] = StateChange.objects.filter(subject="agent", subject_id="planner")
    assert (change.actor, change.data["is"]["timeout_s"]) == (mara.person.email, 300)
    again = text(mara, "/agents/planner?part=edit")
    assert 'name="expected" inputmode="numeric" value="90"' in again
    assert '<option value="min" selected>' in again


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("timeout_s", "soon", "Whole seconds"),
        ("timeout_s", "0", "Whole seconds"),
        ("heartbeat_s", "99999999", "Whole seconds"),
        ("max_retries", "101", "0 to 100"),
        ("expected", "100000", "1 minute to 90 days"),
        ("cost_tier", "x" * 21, "at most 20"),
        ("capabilities", "x" * 101, "at most 100"),
    ],
)
def test_what_cannot_be_is_said_beside_its_field_and_nothing_is_lost(
    mara: SignedIn, field: str, value: str, said: str
) -> None:
    done(mara, "planner")
    answer = mara.client.post("/agents/planner", FORM | {"description": "Typed.", field: value})
    page = answer.content.decode()
    assert answer.status_code == 400
    assert said in page
    assert "Typed." in page
    assert value in page
    assert agent(mara, "planner").version == 1


def test_of_two_who_edit_at_once_the_second_is_told(mara: SignedIn) -> None:
    bob = signed_in(email="bob@north.example")
    done(mara, "planner")
    bob.client.post("/agents/planner", FORM | {"cost_tier": "low"})
    late = mara.client.post("/agents/planner", FORM | {"cost_tier": "high"})
    page = late.content.decode()
    assert late.status_code == 400
    assert "bob@north.example has edited planner since you opened this" in page
    assert 'value="high"' in page
    assert agent(mara, "planner").cost_tier == "low"
    assert 'name="version" value="2"' in page
    mara.client.post("/agents/planner", FORM | {"cost_tier": "high", "version": "2"})
    assert agent(mara, "planner").cost_tier == "high"


def test_a_silent_agent_shows_its_alert_and_the_alert_leads_back(mara: SignedIn) -> None:
    enter(mara, "crew/night owl", at=now() - timedelta(hours=2), expected_every_s=3600)
    cadence.judge(now=now())
    judge_alerts(now=now())
    page = text(mara, "/agents/crew/night%20owl")
    assert "We have never heard from crew/night owl; it is expected every hour" in page
    assert "Handrail" in page
    assert "missed it" in page
    [alert] = re.findall(r'href="(/alerts/[^"]+)"><span class="glyph', page)
    assert "/agents/crew/night%20owl" in text(mara, alert)


def test_an_operator_forgets_an_agent_that_has_no_open_work(mara: SignedIn) -> None:
    done(mara, "planner")
    work(mara, "planner")
    refused = mara.client.post("/agents/planner", {"do": "forget"}, follow=True).content.decode()
    assert "planner is not forgotten: it has open executions." in refused
    enter(mara, "planer")
    assert "Takes planer and all that is said here" in text(mara, "/agents/planer?part=edit")
    vera = signed_in(role="viewer")
    assert vera.client.post("/agents/planer", {"do": "forget"}).status_code == 404
    assert signed_in("south", role="admin").client.post("/agents/planer", {"do": "forget"}).status_code == 404
    gone = mara.client.post("/agents/planer", {"do": "forget"}, follow=True)
    assert gone.redirect_chain == [("/agents", 302)]
    assert "planer is forgotten." in gone.content.decode()
    with tenant(mara.project_id):
        assert list(Agent.objects.values_list("name", flat=True)) == ["planner"]


def test_another_projects_agent_is_not_there(mara: SignedIn) -> None:
    done(mara, "planner")
    south = signed_in("south", role="admin")
    assert south.client.get("/agents/planner").status_code == 404
    assert south.client.post("/agents/planner", FORM).status_code == 404
    assert rows(text(south)) == []
