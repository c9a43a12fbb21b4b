"""The list of executions and the page of one, as a signed-in person gets them."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test import Client

from dashboard import listing
from monitor import executions, ingest, patience
from monitor.ids import uuid7
from monitor.models import Execution, Loop, Membership, Person, Span, StateChange
from monitor.tenancy import crossing, tenant
from tests.dashboard.test_alerts_page import an_alert
from tests.monitor.fleets import a_project, an_execution, beat, look
from tests.monitor.spending import a_bare_span, pending

LIST = "/executions"


def now() -> datetime:
    return datetime.now(UTC)


def before(seconds: float) -> datetime:
    return now() - timedelta(seconds=seconds)


def signed_in(project_id: int, role: str = "operator", name: str = "ann") -> Client:
    with crossing():
        person = Person.objects.create_user(f"{name}@example.org", "correct horse battery staple", name=name.title())
        Membership.objects.create(project_id=project_id, person=person, role=role)
    browser = Client()
    browser.force_login(person)
    return browser


def ended(project_id: int, count: int = 1, **fields: Any) -> list[Execution]:
    """Executions that are over, one a second back from now."""
    made = []
    for at in range(count):
        usual: dict[str, Any] = {
            "agent": "clerk",
            "task": f"Task {at}",
            "status": "completed",
            "started_at": before(60 + at),
            "ended_at": before(30),
            "duration_ms": 30_000 + at,
            "cost_usd": Decimal("0.3812"),
        }
        made.append(Execution(project_id=project_id, id=uuid7(), digest=b"", **(usual | fields)))
    with tenant(project_id):
        return Execution.objects.bulk_create(made)


def a_span(project_id: int, execution: Execution, **fields: Any) -> Span:
    with tenant(project_id):
        with connection.cursor() as cursor:
            day = execution.started_at.date()
            cursor.execute("SELECT handrail_make_partitions('monitor_span', %s, %s)", [day, day + timedelta(days=1)])
        usual: dict[str, Any] = {
            "trace_id": uuid4(),
            "span_id": 5,
            "started_at": execution.started_at,
            "ended_at": execution.started_at + timedelta(seconds=2),
            "received_at": now(),
            "kind": "llm",
            "name": "chat gpt-4o",
            "model": "gpt-4o",
            "execution_id": execution.id,
            "digest": b"",
        }
        return Span.objects.create(project_id=project_id, **(usual | fields))


def fail(project_id: int, one: UUID) -> None:
    with tenant(project_id):
        executions.fail(project_id, one, error="no seats", now=before(2), actor="key:agents", jitter=0)


def page(browser: Client, where: str) -> str:
    answer = browser.get(where)
    assert answer.status_code == 200, where
    return answer.content.decode()


def rows(text: str) -> list[UUID]:
    return [UUID(one) for one in re.findall(r'<tr data-row="([^"]+)"', text)]


def test_an_empty_project_shows_how_to_get_the_first_one(db: None) -> None:
    text = page(signed_in(a_project()), LIST)
    assert "No execution has been reported yet." in text
    assert "/api/v1/executions" in text
    assert "<table" not in text


def test_what_needs_a_person_comes_first_then_what_is_open_then_the_newest(db: None) -> None:
    project = a_project()
    old, young = ended(project, agent="old", started_at=before(500)), ended(project, agent="young")
    running = an_execution(
        project, now=before(400), task="Book a room", max_retries=0, timeout_s=3000, heartbeat_s=3000
    )
    waits = an_execution(project, now=before(300), task="Refund", max_retries=0, timeout_s=3000, heartbeat_s=3000)
    browser = signed_in(project)
    beat(project, running, now=before(5), progress=45)
    fail(project, waits)

    text = page(browser, LIST)
    assert rows(text) == [waits, running, young[0].id, old[0].id]
    assert [words for words in ("Needs a person", "Running", "Completed") if words in text]
    for shown in ("Refund", "Book a room", "1/1", "45", "$0.3812", "30\xa0s"):
        assert shown in text
    assert rows(page(browser, f"{LIST}?order=started")) == [young[0].id, waits, running, old[0].id]


def test_filters_and_views_choose_rows_and_say_how_many(db: None) -> None:
    project = a_project()
    good = ended(project, 3, run_id="eval-1")
    bad = ended(
        project, 2, agent="planner", status="failed", error="flight HAT030 is not available", started_at=before(1)
    )
    past = ended(project, started_at=before(3 * 86400), task="Long ago")[0]
    browser = signed_in(project)

    assert set(rows(page(browser, LIST))) == {one.id for one in good + bad}
    assert past.id in rows(page(browser, f"{LIST}?range=7d"))
    assert set(rows(page(browser, f"{LIST}?status=failed&status=timeout"))) == {one.id for one in bad}
    assert set(rows(page(browser, f"{LIST}?agent=planner"))) == {one.id for one in bad}
    assert set(rows(page(browser, f"{LIST}?run_id=eval-1"))) == {one.id for one in good}
    assert set(rows(page(browser, f"{LIST}?q=HAT030"))) == {one.id for one in bad}
    assert rows(page(browser, f"{LIST}?q=Task+2")) == [good[2].id]
    assert rows(page(browser, f"{LIST}?q={past.id}")) == [past.id]
    assert set(rows(page(browser, f"{LIST}?view=failed"))) == {one.id for one in bad}
    assert rows(page(browser, f"{LIST}?view=needs")) == []
    assert "Nothing needs a person." in page(browser, f"{LIST}?view=needs")
    assert "No execution matches." in page(browser, f"{LIST}?q=%25")
    foot = page(browser, f"{LIST}?part=foot")
    assert "5 of 5 shown" in foot
    assert "3 completed, 2 failed" in foot
    assert page(browser, f"{LIST}?part=views").count('class="count-bare') == 5


def test_what_is_open_is_found_however_long_ago_it_began(db: None) -> None:
    project = a_project()
    one = an_execution(project, now=before(5 * 86400), timeout_s=30 * 86400, heartbeat_s=86400)
    browser = signed_in(project)
    assert rows(page(browser, LIST)) == []
    assert rows(page(browser, f"{LIST}?status=running")) == [one]


def test_older_rows_come_page_by_page_and_none_twice(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_ROWS", 4)
    project = a_project()
    moment = before(50)
    same = ended(project, 5, started_at=moment)
    rest = ended(project, 5, status="failed")
    open_ones = {an_execution(project, now=before(9), agent=f"agent-{at}") for at in range(2)}
    browser = signed_in(project)
    for order in ("", "&order=started"):
        seen: list[UUID] = []
        where = f"{LIST}?range=1h{order}"
        for _ in range(9):
            text = page(browser, where)
            seen += rows(text)
            older = re.search(r'href="(\?[^"]*)" rel="next"', text)
            if older is None:
                break
            where = LIST + older[1].replace("&amp;", "&")
        assert len(seen) == 12
        assert set(seen) == {one.id for one in same + rest} | open_ones
    assert page(browser, f"{LIST}?after=nonsense").count("<tr data-row") == 4


def test_many_are_counted_to_a_limit_that_is_said(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "COUNTED_TO", 10)
    project = a_project()
    ended(project, 12)
    text = page(signed_in(project), f"{LIST}?part=foot")
    assert "10+ shown" in text
    assert "More than 10,000 match." in text


def test_a_search_that_takes_too_long_is_stopped_and_says_so(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SEARCH_MS", 1)
    project = a_project()
    ended(project, 2000, error="x" * 2000)
    text = page(signed_in(project), f"{LIST}?q=zzzz")
    assert "took longer than 3 s" in text
    assert "Not counted" in text


def test_several_are_commanded_at_once_and_each_has_its_verdict(db: None) -> None:
    project = a_project()
    one, two = (an_execution(project, now=before(5), task=task) for task in ("Book", "Refund"))
    over = ended(project, task="Done <b>long</b> ago")[0]
    missing = uuid7()
    browser = signed_in(project)
    answer = browser.post(
        f"{LIST}/act", {"command": "pause", "id": [one, two, over.id, missing], "note": "Site is down."}
    )
    text = answer.content.decode()
    assert "2 paused, 2 refused." in text
    assert "Done &lt;b&gt;long&lt;/b&gt; ago</a> has ended, completed." in text
    assert "is not there any more" in text
    assert json.loads(answer.headers["HX-Trigger"])["live:look"] == {"topic": "executions"}
    assert [look(project, each).status for each in (one, two, over.id)] == ["paused", "paused", "completed"]
    with tenant(project):
        paused = StateChange.objects.filter(to_state="paused").values_list("actor", "note")
        assert list(paused) == [("ann@example.org", "Site is down.")] * 2
    assert browser.post(f"{LIST}/act", {"command": "explode", "id": [one]}).status_code == 404
    assert browser.post(f"{LIST}/act", {"command": "cancel", "id": ["x"]}).status_code == 404


def test_a_viewer_sees_no_commands_and_may_give_none(db: None) -> None:
    project = a_project()
    one = an_execution(project, now=before(5))
    browser = signed_in(project, "viewer")
    for where in (LIST, f"{LIST}/{one}"):
        text = page(browser, where)
        assert "hx-post" not in text
        assert 'type="checkbox" name="id"' not in text
    assert browser.post(f"{LIST}/act", {"command": "cancel", "id": [one]}).status_code == 404
    assert browser.post(f"{LIST}/{one}/cancel").status_code == 404
    assert look(project, one).status == "running"


def test_another_projects_execution_is_not_there(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    one = an_execution(north, now=before(5), task="Secret")
    browser = signed_in(south)
    assert browser.get(f"{LIST}/{one}").status_code == 404
    assert browser.get(f"{LIST}/{one}/spans/try-1").status_code == 404
    assert "Secret" not in page(browser, f"{LIST}?q={one}")
    answer = browser.post(f"{LIST}/{one}/cancel", headers={"HX-Request": "true"})
    assert json.loads(answer.headers["HX-Trigger"])["toast"]["strong"] == "Not cancelled."
    assert look(north, one).status == "running"


def test_a_command_says_what_it_did_or_who_was_first(db: None) -> None:
    project = a_project()
    one = an_execution(project, now=before(5), task="Book a room")
    ann, bob = signed_in(project), signed_in(project, name="bob")

    def give(browser: Client, command: str) -> dict[str, str]:
        answer = browser.post(f"{LIST}/{one}/{command}", {"note": "why"}, headers={"HX-Request": "true"})
        assert answer.status_code == 204
        return json.loads(answer.headers["HX-Trigger"])["toast"]

    assert give(ann, "pause")["strong"] == "Paused."
    assert give(ann, "resume")["strong"] == "Resumed."
    assert give(bob, "cancel")["strong"] == "Cancelled."
    refused = give(ann, "pause")
    assert (refused["strong"], refused["tone"]) == ("Not paused.", "amber")
    assert re.fullmatch(
        r"Book a room has ended, cancelled at \d\d:\d\d:\d\d by Bob\.", refused["text"].replace("\xa0", " ")
    )
    assert ann.post(f"{LIST}/{one}/cancel").headers["Location"] == f"{LIST}/{one}"
    assert ann.post(f"{LIST}/{one}/explode").status_code == 404


def test_each_state_offers_its_commands(db: None) -> None:
    project = a_project()
    browser = signed_in(project)

    def offered(one: UUID) -> set[str]:
        return set(re.findall(rf'hx-post="{LIST}/{one}/(\w+)"', page(browser, f"{LIST}/{one}")))

    one = an_execution(project, now=before(5), max_retries=0)
    assert offered(one) == {"pause", "retry", "cancel"}
    fail(project, one)
    assert offered(one) == {"resume", "retry", "cancel"}
    assert offered(ended(project)[0].id) == set()


def test_a_page_tells_state_trace_and_what_happens_next(db: None) -> None:
    project = a_project()
    one = an_execution(
        project, now=before(20), task="Book a room", run_id="chat-7", inputs={"goal": "<script>"}, timeout_s=600
    )
    beat(project, one, now=before(3), progress=60, message="asks the hotel")
    execution = look(project, one)
    span = a_span(project, execution, input='{"city": "<b>Rome</b>"}', cost_usd=Decimal("0.01"), pricing="priced")
    a_span(project, execution, span_id=6, kind="tool", tool="find_room", failed=True, error="no room")
    browser = signed_in(project)

    text = page(browser, f"{LIST}/{one}")
    for shown in ("Book a room", "chat-7", "Zombie in", "unless it beats", "asks the hotel", "Try 2 may start"):
        assert shown in text
    figure = json.loads(re.search(r'<script id="trace"[^>]*>(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert [row[3] for row in figure["spans"]] == ["chat gpt-4o", "find_room"]
    # Payloads are read when they are opened, and not before.
    assert "Rome" not in text
    key = f"{span.trace_id.hex}-{5:016x}"
    panel = page(browser, f"{LIST}/{one}/spans/{key}")
    assert "&lt;b&gt;Rome&lt;/b&gt;" in panel
    assert page(browser, f"{LIST}/{one}/spans/try-1").count("Try 1, running") == 1
    for wrong in ("try-9", "x", f"{uuid4().hex}-{5:016x}"):
        assert browser.get(f"{LIST}/{one}/spans/{wrong}").status_code == 404

    assert "The agent registered it" in page(browser, f"{LIST}/{one}?tab=moves")
    calls = page(browser, f"{LIST}/{one}?tab=calls")
    assert "gpt-4o" in calls
    assert "$0.0100" in calls
    assert "find_room" in page(browser, f"{LIST}/{one}?tab=tools")
    assert "&lt;script&gt;" in page(browser, f"{LIST}/{one}?tab=payloads")
    raw = page(browser, f"{LIST}/{one}?tab=raw")
    assert "&quot;heartbeat_s&quot;: 30" in raw
    for part in ("state", "commands"):
        assert page(browser, f"{LIST}/{one}?part={part}").count(f'id="{part}"') == 1
    assert browser.get(f"{LIST}/{one}?tab=nothing").status_code == 404


def test_an_execution_without_spans_has_a_page(db: None) -> None:
    project = a_project()
    browser = signed_in(project)
    for one in (an_execution(project, now=before(5)), ended(project)[0].id):
        for tab in ("trace", "moves", "calls", "tools", "payloads", "conversation", "raw"):
            page(browser, f"{LIST}/{one}?tab={tab}")
        assert "No spans have come for this execution." in page(browser, f"{LIST}/{one}")


def test_a_call_without_a_known_price_is_unknown_and_not_nothing(db: None) -> None:
    project = a_project()
    one = ended(project)[0]
    a_span(project, one, pricing="unpriced", bears_usage=True, input_tokens=900)
    text = page(signed_in(project), f"{LIST}/{one.id}?tab=calls")
    assert text.count("unknown") == 2
    assert "1 call</dd>" in text


def looping(project: int, execution: Execution, **fields: Any) -> Loop:
    """A finding as it might stand in the table."""
    span = f"{1:032x}-{7:016x}"
    usual: dict[str, Any] = {
        "place": str(execution.id),
        "fingerprint": "f" * 32,
        "execution_id": execution.id,
        "trace_id": UUID(int=1),
        "agent": execution.agent,
        "cycle": [{"tool": "search", "arguments": '{"city":"<Oslo>"}'}],
        "rounds": 5,
        "calls": 5,
        "first_at": before(60),
        "last_at": before(10),
        "spans": [span] * 5,
        "found_at": before(5),
        "moved_at": before(5),
        "told_rounds": 5,
    }
    with tenant(project):
        return Loop.objects.create(project_id=project, **(usual | fields))


def test_a_loop_is_shown_with_its_evidence_and_marked_in_the_list(db: None) -> None:
    project = a_project()
    one = look(project, an_execution(project, now=before(120)))
    clean = ended(project, task="Clean")[0]
    loop = looping(project, one)
    browser = signed_in(project, role="viewer")
    text = page(browser, f"{LIST}/{one.id}")
    assert "It loops. search: the same call 5 times in a row" in text
    assert "{&quot;city&quot;:&quot;&lt;Oslo&gt;&quot;}" in text
    assert f'href="/executions/{one.id}?tab=trace#span-{loop.spans[0]}"' in text
    assert "Loop" in page(browser, LIST)
    assert "It loops" not in page(browser, f"{LIST}/{clean.id}")
    with tenant(project):
        Loop.objects.update(ended_at=before(1), end="the agent does something else")
    part = page(browser, f"{LIST}/{one.id}?part=loops")
    assert "It looped." in part
    assert "Over: the agent does something else." in part
    assert "Looped" in page(browser, LIST)
    assert browser.get(f"{LIST}/{uuid4()}?part=loops").status_code == 404
    strange = signed_in(a_project("south"), name="bob")
    assert strange.get(f"{LIST}/{one.id}?part=loops").status_code == 404


def test_operations_stand_below_the_tools(db: None) -> None:
    project = a_project()
    one = an_execution(project, now=before(5))
    browser = signed_in(project)
    assert "Operations" not in page(browser, f"{LIST}/{one}?tab=tools")
    for n in range(2):
        a_span(project, look(project, one), kind="operation", name="embed", model="", span_id=n, failed=n == 1)
    text = page(browser, f"{LIST}/{one}?tab=tools")
    for shown in ("Operations", "embed", "50", "2.0"):
        assert shown in text
    assert "No tool call has come" not in text


def test_a_trace_that_brings_nothing_any_more_says_so(db: None) -> None:
    project = a_project()
    fields = {"from_spans": True, "status": "running", "ended_at": None, "duration_ms": None}
    one = ended(project, **fields, last_heartbeat_at=before(700), silent_at=before(100))[0]
    text = page(signed_in(project), f"{LIST}/{one.id}")
    assert "Nothing comes of its trace, and nobody can ask it." in text
    assert "silent for 11\xa0min" in text
    assert "Zombie" in text


def test_search_finds_executions_people_and_goes_straight_to_an_id(db: None) -> None:
    project = a_project()
    one = ended(project, task="Amelia Davis, refund")[0]
    browser = signed_in(project)
    text = page(browser, "/search?q=amelia")
    assert rows(text) == [one.id]
    assert browser.get(f"/search?q={one.id}").headers["Location"] == f"{LIST}/{one.id}"
    assert "Nothing matches." in page(browser, "/search?q=nobody")
    assert browser.get("/search?q=").headers["Location"] == LIST


def test_search_says_when_it_shows_only_the_newest(db: None) -> None:
    project = a_project()
    for n in range(10):
        an_alert(project, f"supplier {n}")
    browser = signed_in(project)
    assert "the newest 10" not in page(browser, "/search?q=supplier")
    an_alert(project, "supplier 10")
    text = page(browser, "/search?q=supplier")
    assert "the newest 10" in text
    assert text.count('<a class="cut" href="/alerts/') == 10


def test_the_search_page_takes_a_whole_name_for_one_and_the_list_takes_it_for_words(db: None) -> None:
    project = a_project()
    of_run = ended(project, run_id="order-7", task="Ship it")[0]
    speaks_of_it = ended(project, run_id="order-70", task="What became of order-7?")[0]
    # An id comes before a name, even where somebody calls a run by it.
    ended(project, run_id=str(of_run.id), task="Named after another")
    browser = signed_in(project)
    assert rows(page(browser, "/search?q=order-7")) == [of_run.id]
    assert set(rows(page(browser, "/search?q=became of order-7"))) == {speaks_of_it.id}
    assert set(rows(page(browser, f"{LIST}?q=order-7"))) == {of_run.id, speaks_of_it.id}
    assert browser.get(f"/search?q={of_run.id}").headers["Location"] == f"{LIST}/{of_run.id}"


def test_what_only_its_trace_tells_of_has_no_clocks_and_takes_no_commands(db: None) -> None:
    project = a_project()
    began = before(60).replace(microsecond=0)
    triage = a_bare_span(1, 1, kind="agent", agent="triage", agent_stated=True, name="sort mail", started_at=began)
    refund = a_bare_span(1, 2, 1, kind="agent", agent="refund", agent_stated=True, name="pay back", started_at=began)
    call = a_bare_span(1, 3, 2, started_at=began)
    with tenant(project):
        ingest.accept(project, [pending(triage), refund, call], now=now())
        outer, inner = (Execution.objects.get(agent=agent) for agent in ("triage", "refund"))
    browser = signed_in(project)

    text = page(browser, f"{LIST}/{outer.id}")
    for shown in ("known from its trace", "nobody beats for it", "Runs until its trace tells of an end", "sort mail"):
        assert shown in text
    for absent in ("hx-post=", "Timeout", "Beats", "Zombie", "unless it beats"):
        assert absent not in text
    # The waterfall shows the agents below too; calls and costs are each one's own.
    figure = json.loads(re.search(r'<script id="trace"[^>]*>(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert sorted(row[3] for row in figure["spans"]) == ["chat", "pay back", "sort mail"]
    assert page(browser, f"{LIST}/{outer.id}/spans/{UUID(int=1).hex}-{3:016x}")
    assert "$0.0035" not in page(browser, f"{LIST}/{outer.id}?tab=calls")
    assert "$0.0035" in page(browser, f"{LIST}/{inner.id}?tab=calls")
    assert "Completed, as its trace tells." in page(browser, f"{LIST}/{inner.id}")
    assert "Its trace told of it" in page(browser, f"{LIST}/{inner.id}?tab=moves")
    listed = page(browser, LIST)
    assert set(rows(listed)) == {outer.id, inner.id}

    told = browser.post(f"{LIST}/act", {"command": "cancel", "id": [outer.id]}).content.decode()
    assert "known from its trace alone" in told
    assert browser.post(f"{LIST}/{outer.id}/cancel", {"note": ""}).status_code < 500
    with tenant(project):
        assert Execution.objects.get(id=outer.id).status == "running"
