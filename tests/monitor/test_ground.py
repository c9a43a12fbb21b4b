"""The locks of traces: nobody waits for another trace's, and many traces at once keep out each of them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from uuid import UUID

import pytest

from monitor import ground
from monitor.models import Project
from monitor.tenancy import tenant
from tests.monitor.spending import a_project, a_span, accept, assert_books_balance
from tests.monitor.test_deadlocks import meanwhile, wait_for_somebody_waiting

WITHIN_S = 20


def hexed(trace: int) -> str:
    return UUID(int=trace).hex


def in_the_drawer_of(project: Project, trace: int) -> int:
    """Another trace that falls into the same drawer."""

    def drawer(one: int) -> int:
        return ground._drawer(project.pk, UUID(int=one).bytes)

    return next(other for other in count(trace + 1) if drawer(other) == drawer(trace))


def locks(project: Project, *traces: int) -> Callable[[], None]:
    def take() -> None:
        with tenant(project.pk):
            ground.lock(project.pk, *map(hexed, traces))

    return take


def locks_all(project: Project) -> Callable[[], None]:
    def take() -> None:
        with tenant(project.pk):
            ground.lock_all(project.pk)

    return take


def test_a_batch_does_not_wait_for_another_trace_of_its_drawer(committed_db: None) -> None:
    project = a_project()
    other = in_the_drawer_of(project, 1)
    with ThreadPoolExecutor(1) as pool, tenant(project.pk):
        ground.lock(project.pk, hexed(1))
        told = meanwhile(pool, lambda: accept(project, [a_span(other, 1)])).result(timeout=WITHIN_S)
    assert told.accepted == 1
    assert_books_balance(project)


@pytest.mark.parametrize("first", ["one", "many"])
def test_many_traces_and_one_of_them_wait_for_each_other(committed_db: None, first: str) -> None:
    project = a_project()
    many = range(1, ground.MOST_SINGLE + 2)
    held, wanted = ([1], many) if first == "one" else (many, [1])
    with ThreadPoolExecutor(1) as pool:
        with tenant(project.pk):
            ground.lock(project.pk, *map(hexed, held))
            waiting = meanwhile(pool, locks(project, *wanted))
            wait_for_somebody_waiting()
            assert not waiting.done()
        waiting.result(timeout=WITHIN_S)


def test_who_locks_all_waits_for_one_and_keeps_one_waiting(committed_db: None) -> None:
    project = a_project()
    for held, wanted in ((locks(project, 1), locks_all(project)), (locks_all(project), locks(project, 1))):
        with ThreadPoolExecutor(1) as pool:
            with tenant(project.pk):
                held()
                waiting = meanwhile(pool, wanted)
                wait_for_somebody_waiting()
                assert not waiting.done()
            waiting.result(timeout=WITHIN_S)
