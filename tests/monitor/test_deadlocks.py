"""Locks: who writes at the same time waits, and who meets a deadlock all the same does not hear of it."""

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, connections
from django.test import Client

from monitor import executions, ingest
from monitor.models import Conversation, Execution, LedgerEntry, Project, Run, RunQuarter
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import signed_in
from tests.monitor import spending
from tests.monitor.api.conftest import client_with, make_key
from tests.monitor.fleets import NOW, act, after, an_execution, beat, journal, look, tick

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def wait_for_somebody_waiting() -> None:
    """Until another session waits for a lock."""
    until_s = time.monotonic() + 20
    while True:
        with connection.cursor() as cursor:
            cursor.execute(WAITING)
            if cursor.fetchone()[0]:
                return
        assert time.monotonic() < until_s, "nobody waits"
        time.sleep(0.02)


def meanwhile(pool: ThreadPoolExecutor, call: Callable[[], Any]) -> "Future[Any]":
    """The call in a thread, on a connection of its own."""

    def run() -> Any:
        try:
            return call()
        finally:
            connections.close_all()

    return pool.submit(run)


def spend(project: Project, number: int, execution_id: UUID) -> None:
    span = spending.a_span(number, 1, started_at=NOW, execution_id=execution_id)
    assert ingest.accept(project.pk, [span], now=NOW).accepted == 1


@pytest.mark.parametrize(
    ("verb", "said", "ends"),
    [
        ("complete", {}, "completed"),
        ("fail", {"error": "broken", "retryable": False}, "failed"),
        ("cancel", {}, "cancelled"),
    ],
)
def test_an_execution_ends_while_its_spans_come_in(
    committed_db: None, verb: str, said: dict[str, Any], ends: str
) -> None:
    project = spending.a_project()
    one, other = an_execution(project.pk), an_execution(project.pk)
    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            spend(project, 1, other)
            ending = meanwhile(pool, lambda: act(verb, project.pk, one, now=NOW, **said))
            wait_for_somebody_waiting()
            # Whoever ends it waits for the hour and holds nothing that is needed here.
            spend(project, 2, one)
        assert ending.result().status == ends
    assert look(project.pk, one).api_calls == 1
    with crossing():
        assert LedgerEntry.objects.count() == 2


def test_a_run_that_leaves_its_trace_and_a_batch_of_its_quarters_meet_in_no_circle(committed_db: None) -> None:
    """One takes a run out of an early quarter after adding to a late one, the other adds to both."""
    project = spending.a_project()
    early, late = NOW - timedelta(hours=5), NOW - timedelta(hours=1)
    spending.accept(project, [spending.a_bare_span(1, 3, 2, kind="step", started_at=early)], now=NOW)
    before_that = early - timedelta(hours=1)
    spending.accept(project, [spending.a_span(2, 1, kind="step", run_id="night", started_at=before_that)], now=NOW)
    named = spending.a_span(1, 2, kind="step", run_id="night", started_at=late)
    others = [spending.a_span(n, 1, started_at=at) for n, at in ((3, early), (4, late))]
    with ThreadPoolExecutor(2) as pool:
        with tenant(project.pk):
            Run.objects.select_for_update().get(run_id=UUID(int=1).hex)
            naming = meanwhile(pool, lambda: spending.accept(project, [named], now=NOW))
            wait_for_somebody_waiting()
            # Whoever waits for a run holds no quarter yet.
            adding = meanwhile(pool, lambda: spending.accept(project, others, now=NOW))
            assert adding.result(timeout=20).accepted == 2
        assert naming.result(timeout=20).accepted == 1
    with tenant(project.pk):
        assert sorted(Run.objects.values_list("run_id", flat=True)) == ["night", "run-3", "run-4"]
    spending.assert_books_balance(project)


def test_the_present_quarter_is_free_until_a_batch_has_all_its_other_locks(committed_db: None) -> None:
    project = spending.a_project()
    spending.accept(project, [spending.a_span(1, 1, started_at=NOW)], now=NOW)
    with tenant(project.pk):
        Conversation.objects.create(project=project, conversation_id="talk")
    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            Conversation.objects.select_for_update().get()
            talking = [spending.a_span(2, 1, started_at=NOW, conversation_id="talk")]
            batch = meanwhile(pool, lambda: spending.accept(project, talking, now=NOW))
            wait_for_somebody_waiting()
            assert RunQuarter.objects.select_for_update(nowait=True).get().begun == 1
        assert batch.result(timeout=20).accepted == 1
    with tenant(project.pk):
        assert RunQuarter.objects.get().begun == 2


def test_runs_that_begin_and_leave_in_many_quarters_at_once_meet_in_no_circle(committed_db: None) -> None:
    """Nothing is tried again here: a single deadlock fails it."""
    rng = random.Random(12)
    project, straight = spending.a_project("crowded"), spending.a_project("straight")
    told = []
    for trace in range(1, 41):
        at = NOW - timedelta(minutes=15 * rng.randrange(1, 9))
        told.append(spending.a_bare_span(trace, 2, 1, started_at=at))
        at = NOW - timedelta(minutes=15 * rng.randrange(1, 9))
        told.append(spending.a_bare_span(trace, 1, run_id=f"run-{rng.randrange(20)}", kind="step", started_at=at))
    spending.accept(straight, told, now=NOW)

    def tell(seed: int) -> None:
        mine = told[:]
        random.Random(seed).shuffle(mine)
        for n in range(0, len(mine), 4):
            spending.accept(project, mine[n : n + 4], now=NOW)

    with ThreadPoolExecutor(6) as pool:
        for one in [meanwhile(pool, partial(tell, seed)) for seed in range(6)]:
            one.result(timeout=120)
    spending.assert_books_balance(project)
    assert spending.books_of(project) == spending.books_of(straight)


def cross(project_id: int, parent: UUID, child: UUID, cancelling: Callable[[], Any]) -> Any:
    """Lock the child, let `cancelling` lock the parent and wait for the child, and close the circle."""

    def lock(execution_id: UUID) -> Execution:
        return Execution.objects.select_for_update().get(project_id=project_id, id=execution_id)

    with ThreadPoolExecutor(1) as pool:
        with tenant(project_id):
            lock(child)
            answer = meanwhile(pool, cancelling)
            wait_for_somebody_waiting()
            # The one that has waited longer is the one that PostgreSQL gives up.
            lock(parent)
        return answer.result()


def test_a_call_of_the_api_that_met_a_deadlock_is_made_again(committed_db: None) -> None:
    project = spending.a_project()
    parent = an_execution(project.pk)
    child = an_execution(project.pk, parent_id=parent)
    client = client_with(make_key(project)[1])
    address = f"/api/v1/executions/{parent}/cancel"
    answer = cross(
        project.pk, parent, child, lambda: client.post(address, {"note": "stop"}, content_type="application/json")
    )
    assert (answer.status_code, answer.json().get("status")) == (200, "cancelled")
    assert look(project.pk, child).status == "cancelled"


def test_a_command_on_a_page_that_met_a_deadlock_is_given_again(committed_db: None) -> None:
    ann = signed_in()
    parent = an_execution(ann.project_id)
    child = an_execution(ann.project_id, parent_id=parent)
    client = Client()
    client.force_login(ann.person)
    answer = cross(
        ann.project_id,
        parent,
        child,
        lambda: client.post(f"/executions/{parent}/cancel", headers={"HX-Request": "true"}),
    )
    assert answer.status_code == 204
    assert look(ann.project_id, parent).status == look(ann.project_id, child).status == "cancelled"


def test_a_late_beat_that_waits_for_a_persons_decision_obeys_it(committed_db: None) -> None:
    """It was read as late; once the decision is there it is not told of a second time."""
    project = spending.a_project().pk
    one = an_execution(project, max_retries=0)
    assert tick(now=after(45)) == 1
    assert beat(project, one, now=after(50), attempt=1).command == "pause"
    with ThreadPoolExecutor(1) as pool:
        with tenant(project):
            executions.resume(project, one, now=after(60), actor="ann@example.org")
            late = meanwhile(pool, lambda: beat(project, one, now=after(61), attempt=1))
            wait_for_somebody_waiting()
        assert late.result().command == "continue"
    assert [cause for _, _, cause in journal(project, one)].count("came_back") == 1
