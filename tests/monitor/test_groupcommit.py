"""Group commit: batches that wait for each other go together, and nobody pays for what another one holds."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection, connections

from monitor import ground, groupcommit
from monitor.ingest import Accepted
from monitor.models import Project, Span
from monitor.records import Span as Record
from monitor.tenancy import tenant
from tests.loglines import line
from tests.monitor.spending import NOW, a_project, a_span, a_trace, accept, assert_books_balance, books_of

THREADS = 8
TRANSACTIONS = "SELECT count(DISTINCT xmin::text), count(*) FROM monitor_span WHERE project_id = %s"


def tell(project: Project, spans: list[Record], department: str = "") -> Accepted:
    try:
        return groupcommit.accept(project.pk, spans, now=NOW, department=department)
    finally:
        connections.close_all()


def waits_for(what: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 20
    while not what():
        assert time.monotonic() < until_s
        time.sleep(0.01)


@contextmanager
def held_up(pool: ThreadPoolExecutor, project: Project) -> Iterator["Future[Any]"]:
    """While the first batch of the project is at work on trace 1, and can't go on."""
    with tenant(project.pk):
        ground.lock(project.pk, (1).to_bytes(16, "big").hex())
        first = pool.submit(tell, project, [a_span(1, 1)])
        with connection.cursor() as cursor:
            waits_for(lambda: _somebody_waits(cursor))
        yield first


def _somebody_waits(cursor: Any) -> bool:
    cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'")
    return bool(cursor.fetchone()[0])


def stand_in_line(project: Project, number: int) -> None:
    line = groupcommit._lines[project.pk]
    waits_for(lambda: len(line.waiting) == number)


def assert_nobody_is_left() -> None:
    assert not [line for line in groupcommit._lines.values() if line.is_led or line.waiting]


def transactions(project: Project) -> tuple[int, int]:
    with tenant(project.pk), connection.cursor() as cursor:
        cursor.execute(TRANSACTIONS, [project.pk])
        found: tuple[int, int] = cursor.fetchone()
    return found


def test_what_waits_is_committed_at_once_and_each_gets_its_own_answer(committed_db: None) -> None:
    project = a_project()
    with ThreadPoolExecutor(THREADS) as pool:
        with held_up(pool, project) as first:
            others = []
            for n in range(2, 6):
                others.append(pool.submit(tell, project, [a_span(n, 1), a_span(n, 2, 1)], f"Team {n}"))
                stand_in_line(project, n - 1)
            again = pool.submit(tell, project, [a_span(5, 1), a_span(5, 3, 1)])
            stand_in_line(project, 5)
        assert (first.result().accepted, first.result().duplicates) == (1, 0)
        assert [(one.result().accepted, one.result().duplicates) for one in others] == [(2, 0)] * 4
        assert (again.result().accepted, again.result().duplicates) == (1, 1)
    assert transactions(project) == (2, 10)
    assert_nobody_is_left()
    assert_books_balance(project)
    with tenant(project.pk):
        said = dict(Span.objects.filter(span_id=2).values_list("department", "trace_id"))
    assert sorted(said) == ["Team 2", "Team 3", "Team 4", "Team 5"]


def test_a_batch_that_cannot_be_stored_fails_alone_and_the_log_says_why_once(
    committed_db: None, caplog: pytest.LogCaptureFixture
) -> None:
    project = a_project()
    # A door never lets such a number through.
    impossible = [a_span(9, 2**63)]
    with ThreadPoolExecutor(THREADS) as pool:
        with held_up(pool, project):
            good = pool.submit(tell, project, [a_span(2, 1)])
            stand_in_line(project, 1)
            bad = pool.submit(tell, project, impossible)
            stand_in_line(project, 2)
            last = pool.submit(tell, project, [a_span(3, 1)])
            stand_in_line(project, 3)
        assert good.result().accepted == last.result().accepted == 1
        with pytest.raises((DatabaseError, OverflowError, psycopg.Error)) as failure:
            bad.result()
    (said,) = [one for one in caplog.records if one.name == "monitor.groupcommit"]
    assert said.getMessage() == f"3 batches of project {project.pk} that shared a transaction go one by one"
    assert said.exc_info is not None
    assert said.exc_info[0] is failure.type
    assert transactions(project)[1] == 3
    assert_nobody_is_left()
    assert tell(project, [a_span(4, 1)]).accepted == 1
    assert_books_balance(project)


def test_the_log_quotes_nothing_of_a_batch_that_cannot_be_stored(
    committed_db: None, owner_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    project = a_project()
    with psycopg.connect(owner_dsn, autocommit=True) as owner, ThreadPoolExecutor(THREADS) as pool:
        owner.execute("ALTER TABLE monitor_span ADD CONSTRAINT a_test CHECK (name NOT LIKE 'hunter%' OR name::int > 0)")
        try:
            with held_up(pool, project):
                good = pool.submit(tell, project, [a_span(2, 1)])
                stand_in_line(project, 1)
                bad = pool.submit(tell, project, [a_span(3, 1, name="hunter22")])
                stand_in_line(project, 2)
            assert good.result().accepted == 1
            with pytest.raises(DatabaseError, match="hunter22"):
                bad.result()
        finally:
            owner.execute("ALTER TABLE monitor_span DROP CONSTRAINT a_test")
    (said,) = [one for one in caplog.records if one.name == "monitor.groupcommit"]
    written = line(said)
    assert "hunter22" not in written
    assert "DataError: SQLSTATE 22P02" in written
    assert "monitor/store.py" in written


def test_a_large_batch_goes_by_itself_and_the_line_goes_on_behind_it(committed_db: None) -> None:
    project = a_project()
    large = [a_span(2, n + 1, kind="step") for n in range(groupcommit.MOST_SPANS)]
    with ThreadPoolExecutor(THREADS) as pool:
        with held_up(pool, project):
            told = [pool.submit(tell, project, large)]
            stand_in_line(project, 1)
            for n in (3, 4):
                told.append(pool.submit(tell, project, [a_span(n, 1)]))
                stand_in_line(project, n - 1)
        assert [one.result().accepted for one in told] == [groupcommit.MOST_SPANS, 1, 1]
    assert transactions(project) == (3, groupcommit.MOST_SPANS + 3)


def test_the_same_traces_from_many_threads_end_in_the_same_books(committed_db: None) -> None:
    rng = random.Random(7)
    spans = [span for trace in range(1, 9) for span in a_trace(trace, rng)]
    north, south = a_project("north"), a_project("south")
    accept(south, spans)
    batches = []
    for _ in range(THREADS):
        rng.shuffle(spans)
        batches += [spans[n : n + 7] for n in range(0, len(spans), 7)]
    with ThreadPoolExecutor(THREADS) as pool:
        done = list(pool.map(lambda batch: tell(north, batch), batches))
    assert sum(one.accepted for one in done) == len(spans)
    assert sum(one.accepted + one.duplicates for one in done) == THREADS * len(spans)
    assert books_of(north) == books_of(south)
    assert_books_balance(north)


def test_projects_do_not_wait_for_each_other(committed_db: None) -> None:
    north, south = a_project("north"), a_project("south")
    with ThreadPoolExecutor(THREADS) as pool, held_up(pool, north) as first:
        assert pool.submit(tell, south, [a_span(2, 1)]).result(timeout=20).accepted == 1
        assert not first.done()


def a_round_of_three(pool: ThreadPoolExecutor, project: Project) -> None:
    """Three batches in two transactions, the last of them in company."""
    with held_up(pool, project):
        others = [pool.submit(tell, project, [a_span(n, 1)]) for n in (2, 3)]
        stand_in_line(project, 2)
    assert [one.result().accepted for one in others] == [1, 1]
    assert groupcommit._lines[project.pk].crowd == 2


def test_who_came_in_company_is_waited_for(committed_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    project = a_project()
    with ThreadPoolExecutor(THREADS) as pool:
        a_round_of_three(pool, project)
        monkeypatch.setattr(groupcommit, "PATIENCE_S", 60)
        monkeypatch.setattr(groupcommit, "RHYTHM_S", 120)
        leader = pool.submit(tell, project, [a_span(4, 1)])
        waits_for(lambda: groupcommit._lines[project.pk].is_led)
        assert not leader.done()
        assert pool.submit(tell, project, [a_span(5, 1)]).result(timeout=20).accepted == 1
        assert leader.result(timeout=20).accepted == 1
    assert transactions(project) == (3, 5)
    assert_nobody_is_left()


def test_nobody_is_waited_for_beyond_the_patience_and_only_once(committed_db: None) -> None:
    project = a_project()
    with ThreadPoolExecutor(THREADS) as pool:
        a_round_of_three(pool, project)
        assert pool.submit(tell, project, [a_span(4, 1)]).result(timeout=20).accepted == 1
    assert groupcommit._lines[project.pk].crowd == 1
    assert transactions(project) == (3, 4)


def test_company_of_long_ago_is_not_waited_for(committed_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groupcommit, "PATIENCE_S", 60)
    monkeypatch.setattr(groupcommit, "RHYTHM_S", 0)
    project = a_project()
    with ThreadPoolExecutor(THREADS) as pool:
        with held_up(pool, project):
            told = [pool.submit(tell, project, [a_span(n, 1)]) for n in (2, 3)]
            stand_in_line(project, 2)
        assert [one.result(timeout=20).accepted for one in told] == [1, 1]
        assert pool.submit(tell, project, [a_span(4, 1)]).result(timeout=20).accepted == 1
