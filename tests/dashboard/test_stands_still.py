"""What stands still is found by the list, its tab, the API and the row's own word: by one rule, along an index."""

import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection
from django.test import Client

from dashboard.views.executions import shown_state
from monitor import silence, standstill
from monitor.ids import uuid7
from monitor.models import Execution, Project
from monitor.standstill import Still
from monitor.tenancy import crossing, tenant
from tests.dashboard.test_executions import LIST, before, ended, now, page, rows, signed_in
from tests.monitor.api.conftest import client_with, make_key
from tests.monitor.fleets import a_project, an_execution, beat, look, tick
from tests.monitor.spending import a_bare_span, accept, pending

CALM: dict[str, Any] = {"heartbeat_s": 86_400, "timeout_s": 30 * 86_400}
LONG_AGO = timedelta(days=3)


@pytest.fixture
def fleet(db: None) -> tuple[int, dict[str, UUID]]:
    """A project with work of every kind: what moves, what hangs, and what is not heard of."""
    project = a_project()
    began = now() - LONG_AGO
    found = {name: an_execution(project, now=began, task=name, **CALM) for name in ("moves", "hangs")}
    beat(project, found["moves"], now=before(1), progress=10)
    beat(project, found["hangs"], now=before(9), progressing=False)
    found["waits"] = an_execution(project, now=before(60), **CALM)
    found["overdue"] = an_execution(project, now=before(60), heartbeat_s=30)
    found["zombie"] = an_execution(project, now=before(40), heartbeat_s=10)
    found["spent"] = an_execution(project, now=before(40), heartbeat_s=10, max_retries=0)
    found["failed"] = an_execution(project, now=before(5), **CALM)
    with tenant(project):
        Execution.objects.of(project).filter(id=found["overdue"]).update(deadline_at=now() + timedelta(minutes=1))
    assert tick(now=now()) == 2
    with tenant(project):
        Execution.objects.of(project).filter(id=found["overdue"]).update(deadline_at=before(1))
        Execution.objects.of(project).filter(id=found["failed"]).update(status="retrying", verdict="error")
    accept(
        Project(pk=project),
        [pending(a_bare_span(9, 1, kind="agent", agent="t", agent_stated=True, started_at=began))],
        now=began,
    )
    assert silence.look(now=began + timedelta(hours=1)) == 1
    with tenant(project):
        found["traced"] = Execution.objects.get(from_spans=True).id
    ended(project, 3)
    return project, found


def listed(browser: Client, query: str) -> set[UUID]:
    return set(rows(page(browser, f"{LIST}?{query}")))


def test_the_list_and_the_api_find_what_hangs_and_what_is_not_heard_of(fleet: tuple[int, dict[str, UUID]]) -> None:
    project, one = fleet
    hangs, silent = {one["hangs"]}, {one["overdue"], one["zombie"], one["traced"]}
    browser = signed_in(project)
    with crossing():
        client = client_with(make_key(Project.objects.get(pk=project))[1])

    def answered(query: str) -> set[UUID]:
        return {UUID(each["id"]) for each in client.get(f"/api/v1/executions?{query}").json()["results"]}

    for query, wanted in (
        ("still=stalled", hangs),
        ("still=silent", silent),
        ("still=stalled&still=silent", hangs | silent),
        ("still=silent&status=retrying", {one["zombie"]}),
    ):
        assert listed(browser, query) == wanted, query
        assert answered(query) == wanted, query
    assert listed(browser, "view=still") == hangs | silent
    assert listed(browser, "view=still&still=stalled") == hangs
    assert listed(browser, "order=started&still=silent") == silent
    assert listed(browser, "still=nonsense&range=1h") >= {one["zombie"], one["failed"]}
    assert client.get("/api/v1/executions?still=nonsense").status_code == 400
    # What moves again is gone from all of them.
    beat(project, one["hangs"], now=now(), progressing=True)
    assert listed(browser, "view=still") == answered("still=silent&still=stalled") == silent


def test_a_row_says_why_the_filter_has_found_it(fleet: tuple[int, dict[str, UUID]]) -> None:
    project, found = fleet
    moment = now()
    said = {name: shown_state(look(project, one), now=moment) for name, one in found.items()}
    zombies = dict.fromkeys(("overdue", "zombie", "traced"), "zombie")
    others = {"moves": "running", "hangs": "stalled", "waits": "running", "spent": "hitl_paused", "failed": "retrying"}
    assert said == zombies | others
    with tenant(project):
        for kind in Still:
            by_rule = {one for one in Execution.objects.of(project) if kind in standstill.kinds_of(one, now=moment)}
            chosen = set(Execution.objects.of(project).filter(standstill.chosen([kind], now=moment)))
            assert by_rule == chosen != set()


def test_the_tab_counts_them_and_says_when_there_are_none(fleet: tuple[int, dict[str, UUID]]) -> None:
    project, _ = fleet
    text = page(signed_in(project), LIST)
    assert re.search(r'Stands still</span> <span class="count-bare is-amber">4<', text)
    assert 'href="?still=silent&amp;range=24h"' in text
    narrowed = page(signed_in(project, name="bob"), f"{LIST}?still=stalled&agent=planner")
    assert "Stands still <b>Stalled </b>" in narrowed
    assert '<input type="hidden" name="still" value="stalled">' in narrowed

    calm = page(signed_in(a_project("south"), name="sue"), f"{LIST}?view=still")
    assert "No execution has been reported yet." in calm
    quiet = a_project("east")
    ended(quiet)
    text = page(signed_in(quiet, name="eva"), f"{LIST}?view=still")
    assert "Nothing stands still." in text
    assert 'Stands still</span> <span class="count-bare">0<' in text


def test_another_projects_standstill_is_not_found(fleet: tuple[int, dict[str, UUID]]) -> None:
    assert listed(signed_in(a_project("south")), "view=still") == set()


def test_a_few_are_found_among_many_that_move_without_reading_those(committed_db: None, owner_dsn: str) -> None:
    project = a_project()
    usual: dict[str, Any] = {"project_id": project, "agent": "clerk", "digest": b"", "started_at": before(60)}
    alive = {"status": "running", "deadline_at": now() + timedelta(hours=1)}
    over = {"status": "completed", "ended_at": before(5)}
    with tenant(project):
        many = [Execution(id=uuid7(), **usual | (alive if n % 2 else over)) for n in range(6000)]
        many += [Execution(id=uuid7(), **usual | alive, stalled_at=now()) for _ in range(3)]
        Execution.objects.bulk_create(many, batch_size=2000)
    with psycopg.connect(owner_dsn, autocommit=True) as owner:
        owner.execute("ANALYZE monitor_execution")
    for kinds in ([Still.STALLED], [Still.SILENT], list(Still)):
        found = Execution.objects.of(project).filter(standstill.chosen(kinds, now=now())).order_by("-started_at", "-id")
        with tenant(project), connection.cursor() as cursor:
            statement, values = found[:101].query.sql_with_params()
            cursor.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {statement}", values)
            told = "\n".join(line for (line,) in cursor.fetchall())
        assert sum(map(int, re.findall(r"Rows Removed by Filter: (\d+)", told))) < 100, told
