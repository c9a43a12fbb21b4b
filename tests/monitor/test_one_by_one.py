"""One item that cannot be moved holds up none of the others."""

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import OperationalError
from psycopg import sql

from monitor import claims, clocks, jobs, people
from monitor.models import HumanAgent, QueueItem
from monitor.models.people import Presence
from monitor.tenancy import tenant
from tests.monitor.test_queue import NOW, a_handover, a_human, a_project

Breaks = Callable[[str, object], None]


@pytest.fixture
def breaks(committed_db: None, owner_dsn: str) -> Iterator[Breaks]:
    """Make a row of a table that refuses every update."""
    broken: list[str] = []
    with psycopg.connect(owner_dsn, autocommit=True) as owner:

        def break_it(table: str, key: object) -> None:
            trigger = sql.SQL(
                "CREATE TRIGGER a_test_breaks_it BEFORE UPDATE ON {} FOR EACH ROW WHEN (OLD.id = {}) "
                "EXECUTE FUNCTION handrail_refuse('a_test_breaks_it')"
            )
            owner.execute(trigger.format(sql.Identifier(table), sql.Literal(key)))
            broken.append(table)

        yield break_it
        for table in broken:
            owner.execute(sql.SQL("DROP TRIGGER a_test_breaks_it ON {}").format(sql.Identifier(table)))


def test_a_late_item_that_cannot_be_marked_holds_up_no_other(breaks: Breaks, caplog: pytest.LogCaptureFixture) -> None:
    project = a_project()
    items = [a_handover(project, f"chat-{n}") for n in range(3)]
    breaks("monitor_queueitem", items[1].pk)
    assert clocks.breaches(now=NOW + timedelta(minutes=10)) == 2
    with tenant(project):
        assert QueueItem.objects.get(claim_breached_at=None).pk == items[1].pk
    (told,) = (one for one in caplog.records if one.levelno == logging.ERROR)
    assert str(items[1].pk) in told.getMessage()


def test_an_unanswered_chat_that_cannot_go_back_holds_up_no_other(breaks: Breaks) -> None:
    project = a_project()
    items = [a_handover(project, f"chat-{n}") for n in range(3)]
    ada = a_human(project, "ada")
    for item in items:
        with tenant(project):
            claims.claim(project, item.pk, ada, now=NOW)
    breaks("monitor_queueitem", items[1].pk)
    assert clocks.unanswered(now=NOW + timedelta(minutes=6)) == 2
    with tenant(project):
        assert QueueItem.objects.get(status="claimed").pk == items[1].pk


def test_a_person_who_cannot_be_shown_away_holds_up_no_other(breaks: Breaks) -> None:
    project = a_project()
    humans = [a_human(project, name) for name in ("ada", "ben", "cleo")]
    for human in humans:
        with tenant(project):
            people.present(project, human.pk, Presence.ONLINE, now=NOW)
    breaks("monitor_humanagent", humans[1].pk)
    assert people.presence(now=NOW + timedelta(minutes=2)) == 2
    with tenant(project):
        assert HumanAgent.objects.get(status=Presence.ONLINE).pk == humans[1].pk


def test_a_database_that_is_away_ends_the_job() -> None:
    def act(number: int, **_: Any) -> bool:
        raise OperationalError("the server closed the connection")

    with pytest.raises(OperationalError):
        jobs.one_by_one(act, [(1,), (2,)], now=NOW)
