"""The human queue: exactly one winner, nobody over capacity, every loser told who was faster."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import product
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connections, transaction

from monitor import claims, clocks, conversations, handover, people, queue, turns
from monitor.models import Conversation, HumanAgent, Project, QueueEvent, QueueItem, StateChange
from monitor.models.conversations import MOVES, State
from monitor.models.people import Presence
from monitor.models.queue import ITEM_MOVES, ItemStatus
from monitor.tenancy import crossing, tenant

NOW = datetime.now(UTC).replace(microsecond=0)


def a_project(name: str = "north", **settings: Any) -> int:
    with crossing():
        return Project.objects.create(name=name, **settings).pk


def a_human(project_id: int, name: str, *, capacity: int = 5) -> HumanAgent:
    with tenant(project_id):
        return people.add(project_id, f"{name}@example.org", name=name, capacity=capacity)[0]


def a_handover(project_id: int, name: str = "chat-1") -> QueueItem:
    with tenant(project_id):
        conversation, _ = conversations.open_conversation(project_id, name, agent="helper", now=NOW)
        return handover.hand_over(project_id, conversation.pk, reason="They ask for a person.", now=NOW).item


def a_paused_execution(project_id: int) -> QueueItem:
    with tenant(project_id):
        return queue.open_item(
            project_id, "paused_execution", uuid4(), title="It hangs", trigger="retries_spent", now=NOW
        )


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Every call in its own thread, started together; the results, or what was raised."""
    gate = Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            gate.wait()
            return call()
        except queue.QueueRefusal as refusal:
            return refusal
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def claiming(project_id: int, item: QueueItem, human: HumanAgent) -> Callable[[], claims.Claimed]:
    def claim() -> claims.Claimed:
        with tenant(project_id):
            return claims.claim(project_id, item.pk, human, now=NOW)

    return claim


def test_fifty_claims_on_one_item_have_one_winner(committed_db: None) -> None:
    project_id = a_project()
    item = a_handover(project_id)
    humans = [a_human(project_id, f"person{n}") for n in range(50)]
    results = at_once([claiming(project_id, item, human) for human in humans])

    [winner] = [result for result in results if isinstance(result, claims.Claimed)]
    losers = [result for result in results if isinstance(result, queue.TakenBy)]
    assert len(losers) == 49
    assert {(loser.holder.pk, loser.at) for loser in losers} == {(winner.item.assignee_id, NOW)}
    with tenant(project_id):
        conversation = Conversation.objects.get()
        assert (conversation.state, conversation.owner_id) == (State.HUMAN_ACTIVE, winner.item.assignee_id)
        assert (conversation.epoch, winner.epoch, winner.item.version) == (2, 2, 1)
        assert [event.kind for event in QueueEvent.objects.order_by("seq")] == ["handover", "claimed"]


def test_the_last_place_of_a_person_is_given_once(committed_db: None) -> None:
    project_id = a_project()
    human = a_human(project_id, "ada", capacity=2)
    first, *others = [a_handover(project_id, f"chat-{n}") for n in range(6)]
    claiming(project_id, first, human)()
    results = at_once([claiming(project_id, item, human) for item in others])

    assert sum(isinstance(result, claims.Claimed) for result in results) == 1
    refusals = [result for result in results if isinstance(result, claims.AtCapacity)]
    assert [(refusal.held, refusal.capacity) for refusal in refusals] == [(2, 2)] * 4
    with tenant(project_id):
        assert QueueItem.objects.filter(assignee=human).count() == 2


def test_claiming_again_changes_nothing(db: None) -> None:
    project_id = a_project()
    item, human = a_handover(project_id), a_human(project_id, "ada", capacity=1)
    with tenant(project_id):
        first = claims.claim(project_id, item.pk, human, now=NOW)
        second = claims.claim(project_id, item.pk, human, now=NOW + timedelta(seconds=9))
        assert (first.again, second.again, second.epoch) == (False, True, first.epoch)
        assert (second.item.version, second.item.claimed_at) == (1, NOW)
        assert QueueEvent.objects.filter(kind="claimed").count() == 1


def test_a_refused_claim_leaves_everything_as_it_was(db: None) -> None:
    project_id = a_project()
    ada, bob = a_human(project_id, "ada", capacity=1), a_human(project_id, "bob")
    held, waiting = a_handover(project_id, "chat-1"), a_handover(project_id, "chat-2")
    with tenant(project_id):
        claims.claim(project_id, held.pk, ada, now=NOW)
        changes = StateChange.objects.count()
        with pytest.raises(claims.AtCapacity):
            claims.claim(project_id, waiting.pk, ada, now=NOW)
        with pytest.raises(queue.TakenBy, match=f"ada has had it since {NOW:%H:%M:%S} UTC"):
            claims.claim(project_id, held.pk, bob, now=NOW)
        waiting.refresh_from_db()
        assert (waiting.status, waiting.assignee, waiting.version) == (ItemStatus.PENDING, None, 0)
        assert StateChange.objects.count() == changes


def test_a_closed_item_is_not_claimed(db: None) -> None:
    project_id = a_project()
    item, human = a_handover(project_id), a_human(project_id, "ada")
    with tenant(project_id):
        claims.resolve(project_id, item.pk, None, outcome="spam", actor="key:bot", now=NOW)
        with pytest.raises(queue.Closed, match="resolved"):
            claims.claim(project_id, item.pk, human, now=NOW)
        assert Conversation.objects.get().state == State.RESOLVED


def test_a_subject_has_one_open_item_however_often_it_is_reported(committed_db: None) -> None:
    project_id, subject = a_project(), uuid4()

    def report() -> QueueItem:
        with tenant(project_id):
            return queue.open_item(project_id, "trip", subject, title="Over budget", trigger="budget", now=NOW)

    assert len({item.pk for item in at_once([report] * 8)}) == 1
    with tenant(project_id):
        assert StateChange.objects.filter(subject="queue_item", to_state="pending").count() == 1
        assert queue.close_for(project_id, "trip", subject, status="resolved", outcome="reset", now=NOW)
        assert not queue.close_for(project_id, "trip", subject, status="resolved", now=NOW)
    assert report().status == ItemStatus.PENDING


def test_a_release_keeps_the_place_in_the_queue(db: None) -> None:
    project_id = a_project()
    item, ada = a_handover(project_id), a_human(project_id, "ada")
    with tenant(project_id):
        claims.claim(project_id, item.pk, ada, now=NOW + timedelta(minutes=1))
        released = claims.release(project_id, item.pk, ada, now=NOW + timedelta(minutes=2))
        assert (released.status, released.assignee, released.requested_at) == (ItemStatus.PENDING, None, NOW)
        conversation = Conversation.objects.get()
        assert (conversation.state, conversation.owner, conversation.epoch) == (State.PENDING_HUMAN, None, 3)
        with pytest.raises(claims.NotHeld):
            claims.release(project_id, item.pk, ada, now=NOW)


def test_only_the_holder_releases_resolves_and_transfers(db: None) -> None:
    project_id = a_project()
    item, ada, bob = a_handover(project_id), a_human(project_id, "ada"), a_human(project_id, "bob")
    with tenant(project_id):
        claims.claim(project_id, item.pk, ada, now=NOW)
        for verb in (claims.release, claims.resolve):
            with pytest.raises(queue.TakenBy):
                verb(project_id, item.pk, bob, now=NOW)
        with pytest.raises(queue.TakenBy):
            claims.transfer(project_id, item.pk, bob, bob, now=NOW)
        item.refresh_from_db()
        assert (item.status, item.assignee_id) == (ItemStatus.CLAIMED, ada.pk)


def test_a_transfer_moves_the_fence_and_respects_capacity(db: None) -> None:
    project_id = a_project()
    first, second = a_handover(project_id, "chat-1"), a_handover(project_id, "chat-2")
    ada, bob = a_human(project_id, "ada"), a_human(project_id, "bob", capacity=1)
    with tenant(project_id):
        for item in (first, second):
            claims.claim(project_id, item.pk, ada, now=NOW)
        assert claims.transfer(project_id, first.pk, ada, bob, now=NOW).epoch == 3
        assert Conversation.objects.get(conversation_id="chat-1").owner_id == bob.pk
        with pytest.raises(claims.AtCapacity):
            claims.transfer(project_id, second.pk, ada, bob, now=NOW)


def test_a_paused_execution_is_claimed_here_and_decided_elsewhere(db: None) -> None:
    project_id = a_project()
    item, ada = a_paused_execution(project_id), a_human(project_id, "ada")
    with tenant(project_id):
        claimed = claims.claim(project_id, item.pk, ada, now=NOW)
        assert (claimed.item.status, claimed.epoch) == (ItemStatus.CLAIMED, None)
        with pytest.raises(queue.DecidedElsewhere):
            claims.resolve(project_id, item.pk, ada, now=NOW)
        assert queue.close_for(
            project_id, "paused_execution", item.subject_id, status="resolved", outcome="retry", now=NOW
        )


def test_a_breach_fires_once_with_two_beats(committed_db: None) -> None:
    project_id = a_project()
    item = a_handover(project_id)
    assert clocks.breaches(now=NOW + timedelta(seconds=119)) == 0

    def beat() -> int:
        return clocks.breaches(now=NOW + timedelta(seconds=120))

    assert sum(at_once([beat, beat])) == 1
    with tenant(project_id):
        [change] = StateChange.objects.filter(cause="claim_breached")
        assert (change.subject_id, change.to_state, change.judged_at) == (str(item.pk), "pending", None)


def test_a_claim_clock_that_is_off_never_fires(db: None) -> None:
    a_handover(a_project(claim_within_s=None))
    assert clocks.breaches(now=NOW + timedelta(days=1)) == 0


def test_who_claims_and_does_not_reply_loses_the_item_after_five_minutes(db: None) -> None:
    project_id = a_project()
    item, ada = a_handover(project_id), a_human(project_id, "ada")
    with tenant(project_id):
        claims.claim(project_id, item.pk, ada, now=NOW)
    assert clocks.unanswered(now=NOW + timedelta(seconds=299)) == 0
    assert clocks.unanswered(now=NOW + timedelta(seconds=300)) == 1
    assert clocks.unanswered(now=NOW + timedelta(seconds=301)) == 0
    with tenant(project_id):
        item.refresh_from_db()
        assert (item.status, item.requested_at) == (ItemStatus.PENDING, NOW)
    # It waits anew, so the clock of the claim runs anew.
    assert clocks.breaches(now=NOW + timedelta(seconds=419)) == 0
    assert clocks.breaches(now=NOW + timedelta(seconds=420)) == 1


def test_going_offline_returns_what_is_unanswered_and_keeps_the_rest(db: None) -> None:
    project_id = a_project()
    ada = a_human(project_id, "ada")
    answered, silent = a_handover(project_id, "chat-1"), a_handover(project_id, "chat-2")
    with tenant(project_id):
        for item in (answered, silent):
            claims.claim(project_id, item.pk, ada, now=NOW)
        said = {"human": ada, "now": NOW}
        conversations.say(project_id, answered.conversation_id, "human", "Hello, I am Ada.", **said)
        people.present(project_id, ada.pk, Presence.OFFLINE, now=NOW)
        statuses = dict(QueueItem.objects.values_list("subject_id", "status"))
        assert statuses == {answered.subject_id: "waiting_user", silent.subject_id: "pending"}
        # The rest returns when the customer writes again.
        conversations.say(project_id, answered.conversation_id, "user", "Are you there?", now=NOW)
        assert Conversation.objects.get(conversation_id="chat-1").state == State.PENDING_HUMAN
        assert not QueueItem.objects.exclude(status="pending").exists()


def test_lost_presence_shows_away_then_offline_and_requeues(db: None) -> None:
    project_id = a_project()
    item, ada = a_handover(project_id), a_human(project_id, "ada")
    with tenant(project_id):
        claims.claim(project_id, item.pk, ada, now=NOW)

    def after(seconds: int) -> tuple[int, str, str]:
        changed = people.presence(now=NOW + timedelta(seconds=seconds))
        with tenant(project_id):
            ada.refresh_from_db()
            item.refresh_from_db()
        return changed, ada.status, item.status

    assert after(90) == (0, "online", "claimed")
    assert after(91) == (1, "away", "claimed")
    assert after(300) == (0, "away", "claimed")
    assert after(301) == (1, "offline", "pending")
    assert after(302) == (0, "offline", "pending")


def test_a_person_who_leaves_the_project_leaves_nothing_behind(db: None) -> None:
    project_id = a_project()
    item, ada = a_handover(project_id), a_human(project_id, "ada")
    with tenant(project_id):
        claims.claim(project_id, item.pk, ada, now=NOW)
        people.remove(project_id, ada.pk, actor="key:admin", now=NOW)
        item.refresh_from_db()
        assert (item.status, item.assignee, HumanAgent.objects.count()) == (ItemStatus.PENDING, None, 0)


def test_another_tenant_sees_and_takes_nothing(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    item, stranger = a_handover(north), a_human(south, "mallory")
    with tenant(south):
        assert not QueueItem.objects.exists()
        assert not Conversation.objects.exists()
        with pytest.raises(QueueItem.DoesNotExist):
            claims.claim(south, item.pk, stranger, now=NOW)
        with pytest.raises(HumanAgent.DoesNotExist):
            claims.claim(north, item.pk, stranger, now=NOW)
    with tenant(north):
        assert QueueItem.objects.get().status == ItemStatus.PENDING


def the_database_lets(row: Any, **change: str) -> bool:
    """Does the database allow this change of the row?"""
    try:
        with transaction.atomic():
            type(row).objects.filter(pk=row.pk).update(**change)
    except IntegrityError as error:
        if "refuses this change" not in str(error):
            raise
        return False
    return True


def test_the_database_allows_the_listed_moves_of_an_item_and_no_other(db: None) -> None:
    project_id = a_project()
    ada = a_human(project_id, "ada")
    with tenant(project_id):
        for old, new in product(ItemStatus.values, repeat=2):
            item = QueueItem.objects.create(
                project_id=project_id,
                kind="trip",
                subject_id=f"{old}-{new}",
                trigger="budget",
                status=old,
                assignee=ada,
                requested_at=NOW,
            )
            assert the_database_lets(item, status=new) == (old == new or old in ITEM_MOVES[new]), (old, new)


def test_the_database_allows_the_listed_moves_of_a_conversation_and_no_other(db: None) -> None:
    project_id = a_project()
    with tenant(project_id):
        for old, new in product(State.values, repeat=2):
            row = Conversation.objects.create(project_id=project_id, conversation_id=f"{old}-{new}", state=old)
            assert the_database_lets(row, state=new) == (old == new or old in MOVES.get(new, set())), (old, new)


def test_an_illegal_move_is_refused_in_words(db: None) -> None:
    project_id = a_project()
    with tenant(project_id):
        conversation, _ = conversations.open_conversation(project_id, "chat-1", now=NOW)
        with pytest.raises(turns.IllegalMove, match="the conversation is new; it can't become finished"):
            conversations.finish(project_id, conversation.pk, now=NOW)
