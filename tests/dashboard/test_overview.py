"""The overview: quiet, busy, empty, and its parts."""

from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from monitor import conversations, handover
from monitor.folding import RollupDelta, fold
from monitor.models import ApiKey
from monitor.tenancy import tenant
from tests.dashboard.builders import an_execution, signed_in


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every story needs the database."""


def test_a_stranger_is_led_to_sign_in() -> None:
    answer = Client().get("/?range=7d")
    assert answer.status_code == 302
    assert answer.headers["location"] == "/sign-in?next=%2F%3Frange%3D7d"


def test_an_empty_project_shows_how_to_send_the_first_trace() -> None:
    visitor = signed_in()
    answer = visitor.client.get("/")
    assert "Send your first trace" in answer.content.decode()
    assert "Make a key" in answer.content.decode()


def test_a_first_key_is_shown_once_and_may_only_send_data() -> None:
    visitor = signed_in()
    shown = visitor.client.post("/first-run/key").content.decode()
    with tenant(visitor.project_id):
        key = ApiKey.objects.get()
    assert key.scopes == ["ingest"]
    assert shown.count(f"hr_{key.prefix}_") >= 5
    assert key.prefix not in visitor.client.get("/").content.decode()


def test_a_viewer_is_offered_no_key() -> None:
    visitor = signed_in(role="viewer")
    assert "Make a key" not in visitor.client.get("/").content.decode()
    assert visitor.client.post("/first-run/key").status_code == 404


def test_the_waiting_page_leads_on_when_something_has_arrived() -> None:
    visitor = signed_in()
    assert "data-leads-to" not in visitor.client.get("/first-run/arrival").content.decode()
    an_execution(visitor.project_id)
    assert 'data-leads-to="/"' in visitor.client.get("/first-run/arrival").content.decode()


def test_a_quiet_fleet_says_so() -> None:
    visitor = signed_in()
    an_execution(visitor.project_id, status="running")
    page = visitor.client.get("/").content.decode()
    assert "All quiet" in page
    assert "Nobody waits for a person" in page


def test_who_waits_stands_first_with_name_and_clock() -> None:
    visitor = signed_in()
    now = datetime.now(UTC)
    an_execution(visitor.project_id)
    with tenant(visitor.project_id):
        talk, _ = conversations.open_conversation(
            visitor.project_id, "chat-1", agent="airline-support", customer={"name": "Amelia Davis"}, now=now
        )
        handover.hand_over(visitor.project_id, talk.pk, reason="She asked", trigger="phrase", now=now)
    page = visitor.client.get("/").content.decode()
    assert "1 thing needs you." in page
    assert "Amelia Davis" in page
    assert "asked for a person" in page
    assert "claim in" in page


@pytest.mark.parametrize("part", ["needs", "strip", "chart", "feed", "agents"])
def test_a_part_comes_alone(part: str) -> None:
    visitor = signed_in()
    an_execution(visitor.project_id)
    fragment = visitor.client.get(f"/?part={part}").content.decode()
    assert f'id="{part}"' in fragment
    assert "<html" not in fragment


def test_an_unknown_part_is_not_found() -> None:
    visitor = signed_in()
    an_execution(visitor.project_id)
    assert visitor.client.get("/?part=nothing").status_code == 404


def test_figures_come_from_the_rollups() -> None:
    visitor = signed_in()
    now = datetime.now(UTC)
    an_execution(visitor.project_id)
    with tenant(visitor.project_id):
        deltas = [
            RollupDelta(
                at=now - timedelta(minutes=5), kind="execution", agent="a", failed=int(n == 0), duration_ms=1000
            )
            for n in range(4)
        ]
        fold(visitor.project_id, deltas, now=now)
    strip = visitor.client.get("/?part=strip").content.decode()
    assert "25.0" in strip
    assert "1 of 4 failed" in strip


def test_another_project_is_not_seen() -> None:
    theirs, mine = signed_in("theirs"), signed_in("mine")
    an_execution(theirs.project_id, agent="their-secret-agent")
    an_execution(mine.project_id)
    assert "their-secret-agent" not in mine.client.get("/").content.decode()
    assert mine.client.post(f"/project/{theirs.project_id}").status_code == 404
