"""Reads that are asked together: what they hold, whose rows they see, and what an error leaves."""

from typing import Any

import pytest
from django.db import connection
from django.db.models import Count, QuerySet
from django.db.utils import DataError, ProgrammingError

from monitor import pipeline, rollups
from monitor.models import Agent, Conversation, Execution, Project
from monitor.pipeline import Statement
from monitor.tenancy import crossing, tenant
from monitor.together import Together
from tests.monitor.fleets import a_project, after, an_execution


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many statements each trip takes along."""
    taken: list[int] = []
    flush = pipeline.flush

    def counted(statements: Any) -> Any:
        taken.append(len(statements))
        return flush(statements)

    monkeypatch.setattr(pipeline, "flush", counted)
    return taken


def talks(project: int) -> QuerySet[Conversation]:
    return Conversation.objects.filter(project_id=project).order_by("conversation_id")


def test_what_is_asked_together_is_what_each_would_hold_alone(db: None, trips: list[int]) -> None:
    project = a_project()
    an_execution(project, agent="planner", task="100 % of it", now=after(0))
    an_execution(project, agent="critic", now=after(1))
    with tenant(project):
        for name in ("a", "b"):
            customer = {"name": "Ann's", "tags": ["x", 1]}
            Conversation.objects.create(project_id=project, conversation_id=name, customer=customer, agent="planner")
        works = Execution.objects.of(project)
        asked_for: list[QuerySet[Any, Any]] = [
            talks(project),
            talks(project).select_related("project").defer("metadata"),
            talks(project).values("conversation_id", "customer"),
            talks(project).values_list("customer", flat=True)[:1],
            works.filter(task__contains="100 %").only("id", "task"),
            works.order_by("agent", "-started_at").distinct("agent").values_list("agent"),
            works.order_by().values("project_id").annotate(count=Count("id")),
            Agent.objects.filter(project_id=project).values_list("name", flat=True).order_by("-last_seen_at"),
        ]
        alone = [list(one) for one in asked_for]
        trips.clear()
        with Together() as asked:
            together = [asked.rows(one) for one in asked_for]
            nobody = asked.rows(works.filter(id__in=[]))
            total = rollups.totals(project, since=after(-3600), until=after(3600), within=asked)
            assert not any(together)
        assert together == alone
        assert all(alone)
        assert (nobody, total) == ([], [])
        assert trips == [len(asked_for) + 1]
        assert together[1][0].project.name == "north"
        with Together():
            pass
        assert len(trips) == 1


def test_the_rows_of_a_project_are_its_own_and_across_they_are_everybodys(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    for project in (north, south):
        an_execution(project, agent=f"of-{project}")
    everybody = Execution.objects.order_by("agent").values_list("agent", flat=True)
    both = [f"of-{north}", f"of-{south}"]
    with tenant(north):
        with Together() as asked:
            own = asked.rows(everybody)
        with Together(across=True) as asked:
            all_of_them = asked.rows(everybody)
        assert (own, all_of_them) == ([f"of-{north}"], both)
        # Bound as before, and to no more.
        assert list(everybody) == [f"of-{north}"]
    with crossing(), Together(across=True) as asked:
        all_of_them = asked.rows(everybody)
    assert all_of_them == both


def test_outside_of_a_transaction_reads_cross_projects_in_one_of_their_own(committed_db: None) -> None:
    for name in ("north", "south"):
        a_project(name)
    with Together(across=True) as asked:
        names = asked.rows(Project.objects.order_by("name").values_list("name", flat=True))
    assert names == ["north", "south"]
    assert not connection.in_atomic_block


def test_what_fails_is_an_error_of_the_database_and_leaves_nobody_elses_rows_open(committed_db: None) -> None:
    north, south = a_project("north"), a_project("south")
    an_execution(south)
    asked = Together(across=True)
    found = []

    def ask() -> None:
        with tenant(north), asked:
            asked.ask(Statement("SELECT 1 / %(none)s", {"none": 0}), list)
            found.append(asked.rows(Execution.objects.all()))

    with pytest.raises(DataError):
        ask()
    assert found == [[]]
    with tenant(north):
        assert not Execution.objects.exists()


def test_an_error_before_the_end_asks_nothing(db: None, trips: list[int]) -> None:
    def ask() -> None:
        with Together() as asked:
            asked.ask(Statement("SELECT 1", {}), list)
            raise ProgrammingError("before the end")

    with pytest.raises(ProgrammingError):
        ask()
    assert trips == []
