"""The queue as people see it: who waits, why, what was said, and nothing of other projects."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pytest_django import DjangoAssertNumQueries

from monitor import claims, conversations, people
from monitor.ids import uuid7
from monitor.models import (
    Conversation,
    HumanAgent,
    QueueItem,
    Span,
)
from monitor.models.people import Presence
from monitor.models.queue import ItemStatus
from monitor.tenancy import tenant
from tests.dashboard.builders import signed_in
from tests.dashboard.queue_builders import a_chat, act, ago, now_of, shown

HTMX = {"HX-Request": "true"}


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every story needs the database."""


def test_the_empty_queue_says_what_comes_here() -> None:
    page = shown(signed_in(), "/queue")
    assert "Nobody waits for a person." in page
    assert "/api/v1/conversations/{id}/handover" in page


def test_the_list_tells_who_waits_since_when_and_leads_to_the_next() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id, summary="Nonstop and business class")
    page = shown(mara, "/queue")
    assert "Waiting for a person" in page
    assert "Nonstop and business class" in page
    assert "airline-support · nobody" in page
    assert "data-countdown" in page
    assert "Yara Garcia has waited 1" in page
    assert f'href="/queue/{item.pk}"' in page


@pytest.mark.parametrize("part", ["", "?part=list", "?part=centre", "?part=why", "?part=customer&fact=email"])
def test_another_projects_item_is_not_found(part: str) -> None:
    theirs, mine = signed_in("theirs"), signed_in("mine")
    item = a_chat(theirs.project_id)
    assert mine.client.get(f"/queue/{item.pk}{part}").status_code == 404
    assert act(mine, item, "claim").status_code == 404
    assert now_of(item).status == ItemStatus.PENDING
    assert "Yara Garcia" not in shown(mine, "/queue")


def test_the_reason_the_facts_and_the_trail_stand_beside_it() -> None:
    mara = signed_in()
    began = ago(300)

    def after(seconds: float) -> datetime:
        return began + timedelta(seconds=seconds)

    with tenant(mara.project_id):
        talk, _ = conversations.open_conversation(
            mara.project_id, "chat-1", agent="airline-support", customer={"name": "Amelia Davis"}, now=began
        )
        conversations.say(mara.project_id, talk.pk, "user", "Cancel UDMOP1.", now=after(1))
        for n in range(7):
            Span.objects.create(
                project_id=mara.project_id,
                trace_id=uuid7(),
                span_id=n + 1,
                started_at=after(10 + n),
                ended_at=after(10.04 + n),
                received_at=after(20),
                kind="tool",
                name="get_reservation_details",
                tool="get_reservation_details",
                conversation_id="chat-1",
                input='{"reservation_id": "UDMOP1"}',
                digest=b"x" * 16,
            )
        said = conversations.say(
            mara.project_id, talk.pk, "user", "Yes, let me speak to a human. Thanks.", now=after(100)
        )
        assert said.handed_over is not None
        item = said.handed_over
        Conversation.objects.update(
            confidence=0.58,
            handover_context={"facts": [{"text": "No insurance", "status": "verified", "source": "get_fares"}]},
        )
        human = people.human_for(mara.project_id, person_id=mara.person.pk)
        assert human is not None
        claims.claim(mara.project_id, item.pk, human, now=after(200))
        conversations.say(mara.project_id, talk.pk, "assistant", "PLEASE HOLD ON.", now=after(202.4))
    page = shown(mara, f"/queue/{item.pk}")
    assert "let me <mark>speak to a human</mark>. Thanks." in page
    assert "Amelia Davis asked for a person" in page
    assert "Phrase “speak to human”" in page
    assert "Confidence 0.58" in page
    assert "hands over below 0.70" in page
    assert "verified by get_fares" in page
    assert "get_reservation_details ×7" in page
    assert "7 steps, 0.3\u00a0s" in page
    assert "The AI can no longer send messages or start tools here." in page
    assert "Held back, not sent." in page
    assert "airline-support answered 2.4\u00a0s after you took over" in page
    assert "<s>PLEASE HOLD ON.</s>" in page


def test_the_email_is_masked_until_somebody_who_acts_asks() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id)
    page = shown(mara, f"/queue/{item.pk}")
    assert "y•••••@example.com" in page
    assert "yara@example.com" not in page
    assert "yara@example.com" in shown(mara, f"/queue/{item.pk}?part=customer&fact=email")
    assert mara.client.get(f"/queue/{item.pk}?part=customer&fact=id").status_code == 404


def test_what_the_customer_came_with_before_is_told() -> None:
    mara = signed_in()
    earlier = a_chat(mara.project_id, at=ago(90_000))
    act(mara, earlier, "resolve", outcome="solved")
    a_chat(mara.project_id, "Somebody Else", at=ago(80_000))
    item = a_chat(mara.project_id)
    why = shown(mara, f"/queue/{item.pk}?part=why")
    assert "1 conversation<" in why
    assert f'href="/queue/{earlier.pk}"' in why
    assert "resolved by a person" in why


def test_words_of_strangers_are_text() -> None:
    mara = signed_in()
    item = a_chat(mara.project_id, "<script>alert(1)</script>", reason="<b>x</b>")
    page = shown(mara, f"/queue/{item.pk}")
    assert "<script>alert(1)" not in page
    assert "<b>x</b>" not in page


def test_tabs_filter_and_count() -> None:
    mara = signed_in()
    mine, other = a_chat(mara.project_id, "Noah Muller"), a_chat(mara.project_id)
    act(mara, mine, "claim")
    page = shown(mara, "/queue?tab=mine")
    assert "Noah Muller" in page
    assert f'data-row="{other.pk}"' not in page
    assert 'Mine <span class="count-bare">1</span>' in page
    assert 'All <span class="count-bare">2</span>' in page
    assert "Approvals" not in page
    assert "You have nothing." not in page
    act(mara, mine, "release")
    assert "You have nothing." in shown(mara, "/queue?tab=mine")


def test_two_hundred_items_are_paged_within_the_query_budget(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    mara = signed_in()
    first = a_chat(mara.project_id, "Customer 000", at=ago(2000))
    with tenant(mara.project_id):
        talks = [
            Conversation(
                project_id=mara.project_id, conversation_id=f"c{n}", customer={"name": f"Customer {n:03}"}, agent="a"
            )
            for n in range(1, 200)
        ]
        Conversation.objects.bulk_create(talks)
        QueueItem.objects.bulk_create(
            QueueItem(
                project_id=mara.project_id,
                kind="chat",
                subject_id=str(talk.pk),
                conversation=talk,
                title="It asks for a person",
                trigger="agent_decision",
                requested_at=ago(1000 - n),
            )
            for n, talk in enumerate(talks)
        )
    with django_assert_max_num_queries(30):
        page = shown(mara, f"/queue/{first.pk}")
    assert page.count('class="item ') == 50
    assert "1 to 50 of 200" in page
    last = shown(mara, "/queue?page=4")
    assert "151 to 200 of 200" in last
    assert "Customer 199" in last
    assert shown(mara, "/queue?page=999999").count('class="item ') == 0
    with django_assert_max_num_queries(22):
        shown(mara, f"/queue/{first.pk}?part=centre")


@pytest.mark.parametrize("part", ["nothing", "page"])
def test_an_unknown_part_is_not_found(part: str) -> None:
    mara = signed_in()
    item = a_chat(mara.project_id)
    assert mara.client.get(f"/queue?part={part}").status_code == 404
    assert mara.client.get(f"/queue/{item.pk}?part={part}").status_code == 404


def test_the_sidebars_counts_come_alone() -> None:
    mara = signed_in()
    a_chat(mara.project_id)
    fragment = shown(mara, "/frame/counts?here=/queue")
    assert "<html" not in fragment
    assert 'id="watcher"' in fragment
    assert 'data-nav-count="queue">1<' in fragment
    assert 'id="nav-queue" href="/queue" data-go="q" aria-current="page"' in fragment


def test_who_is_at_a_page_is_not_gone() -> None:
    mara = signed_in()
    with tenant(mara.project_id):
        HumanAgent.objects.update(status=Presence.ONLINE, last_seen_at=ago(80))
    assert mara.client.post("/presence/seen", headers=HTMX).status_code == 204
    people.presence(now=datetime.now(UTC) + timedelta(seconds=30))
    with tenant(mara.project_id):
        assert HumanAgent.objects.get().status == Presence.ONLINE
        HumanAgent.objects.update(status=Presence.OFFLINE)
    mara.client.post("/presence/seen", headers=HTMX)
    with tenant(mara.project_id):
        assert HumanAgent.objects.get().status == Presence.OFFLINE


def test_an_item_that_never_was_is_not_found() -> None:
    mara = signed_in()
    assert mara.client.get(f"/queue/{UUID(int=7)}").status_code == 404
