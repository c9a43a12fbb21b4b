"""A project sees its own rows and nothing else, whatever the code above forgets."""

import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.db import IntegrityError, ProgrammingError, connection, transaction

from monitor.models import Agent, BudgetWindow, Execution, LedgerEntry, Project, StateChange, Subject
from monitor.tenancy import crossing, tenant

NOW = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
# Tables with a project column that are read across projects on purpose.
UNBOUND = {"monitor_person"}

TABLES_WITHOUT_POLICY = """
SELECT c.relname FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'project_id' AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
AND NOT (c.relrowsecurity AND EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid))
"""


def two_projects() -> tuple[Project, Project]:
    with crossing():
        return Project.objects.create(name="north"), Project.objects.create(name="south")


def an_agent(project: Project, name: str) -> Agent:
    return Agent.objects.create(project=project, name=name, first_seen_at=NOW, last_seen_at=NOW)


def test_every_table_of_a_project_has_a_policy(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(TABLES_WITHOUT_POLICY)
        found = {name for (name,) in cursor.fetchall()}
    assert found - UNBOUND == set()


def test_sessions_run_as_a_role_that_policies_bind(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user",
        )
        assert cursor.fetchone() == ("handrail_app", False, False)


def test_a_project_sees_only_its_own_rows(db: None) -> None:
    north, south = two_projects()
    with tenant(north.pk):
        an_agent(north, "planner")
        assert Agent.objects.count() == 1
    with tenant(south.pk):
        assert Agent.objects.count() == 0
        assert Project.objects.get() == south
    assert Agent.objects.filter(name="planner").update(name="taken") == 0


def test_a_foreign_row_is_refused(db: None) -> None:
    north, south = two_projects()
    with tenant(north.pk), pytest.raises(ProgrammingError, match="row-level security"), transaction.atomic():
        an_agent(south, "intruder")
    with crossing():
        assert Agent.objects.count() == 0


def test_scopes_nest_and_come_back(db: None) -> None:
    north, south = two_projects()
    with tenant(north.pk):
        an_agent(north, "a")
        with tenant(south.pk):
            an_agent(south, "b")
            with crossing():
                assert Agent.objects.count() == 2
            assert [agent.name for agent in Agent.objects.all()] == ["b"]
        assert [agent.name for agent in Agent.objects.all()] == ["a"]


def test_a_failed_inner_scope_leaves_the_outer_one_bound(db: None) -> None:
    north, south = two_projects()
    with tenant(north.pk):
        an_agent(north, "a")
        with pytest.raises(RuntimeError), tenant(south.pk):
            raise RuntimeError
        assert [agent.name for agent in Agent.objects.all()] == ["a"]


def test_the_same_client_id_may_live_in_two_projects(db: None) -> None:
    north, south = two_projects()
    theirs = uuid.uuid4()
    for project in (north, south):
        with tenant(project.pk):
            Execution.objects.create(project=project, id=theirs, agent="a", digest=b"")
            assert Execution.objects.filter(id=theirs).count() == 1


def test_partitions_take_copied_rows_of_the_bound_project_only(db: None) -> None:
    north, south = two_projects()
    leaf = f"monitor_ledgerentry_p{datetime.now(UTC):%Y%m%d}"
    at = datetime.now(UTC)
    columns = "project_id, trace_id, span_id, sequence, occurred_at, received_at, kind, calls, cost_usd"

    def copy(project: Project) -> None:
        with (
            transaction.atomic(),
            connection.cursor() as cursor,
            cursor.copy(f"COPY {leaf} ({columns}) FROM STDIN") as rows,
        ):
            rows.write_row((project.pk, uuid.uuid4(), 1, 0, at, at, "llm", 1, 0))

    with tenant(north.pk):
        copy(north)
        assert LedgerEntry.objects.count() == 1
        with pytest.raises((IntegrityError, psycopg.errors.CheckViolation)):
            copy(south)
        with (
            pytest.raises(ProgrammingError, match="permission denied"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(f"SELECT * FROM {leaf}")
        assert LedgerEntry.objects.count() == 1


def test_journals_refuse_to_be_rewritten(db: None) -> None:
    (north, _) = two_projects()
    with tenant(north.pk):
        change = StateChange.objects.create(
            project=north, at=datetime.now(UTC), subject=Subject.JOB, subject_id="x", to_state="silent", cause="test"
        )
        with pytest.raises(IntegrityError, match="refuses"), transaction.atomic():
            StateChange.objects.filter(id=change.id).update(note="rewritten")
        assert StateChange.objects.filter(id=change.id).update(judged_at=NOW) == 1


def test_projects_share_the_global_window_and_nothing_else(db: None) -> None:
    north, south = two_projects()
    with tenant(north.pk):
        BudgetWindow.objects.create(project_id=0, scope="global", target="", period="day", starts_at=NOW)
        BudgetWindow.objects.create(project_id=north.pk, scope="project", target="", period="day", starts_at=NOW)
    with tenant(south.pk):
        assert [window.project_id for window in BudgetWindow.objects.all()] == [0]
