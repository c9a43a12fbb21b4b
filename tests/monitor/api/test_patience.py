"""What goes through as many rows as there are is stopped after its time, and whoever asked is told to ask for less."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.db import OperationalError, connection, transaction
from django.test import Client

from monitor import patience
from monitor.models import Project, Span
from monitor.patience import TookTooLong
from monitor.tenancy import tenant
from tests.monitor.api.conftest import make_key, make_project
from tests.monitor.fleets import at_once

SHORT_MS = 50
LIMIT = "SELECT current_setting('statement_timeout')"
# Each with the table that it would read for as long as there are rows.
CALLS = {
    "executions?search=refund": "monitor_execution",
    "executions?search=00000000-0000-0000-0000-00000000002a": "monitor_execution",
    "conversations?search=refund": "monitor_conversation",
    "alerts?search=refund": "alerts_alert",
    "operations": "monitor_span",
    "costs/summary?group_by=run": "monitor_run",
    "costs/summary?group_by=agent": "monitor_minuterollup",
}


@contextmanager
def locked(table: str) -> Iterator[None]:
    """Whoever reads the table waits, as it would for very many rows."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            # So that a call that nobody stops ends as well.
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '10s'")
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


@pytest.fixture
def north(committed_db: None) -> Project:
    return make_project("north")


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_takes_too_long_is_stopped_and_says_what_to_do(
    north: Project, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SEARCH_MS", "SUMS_MS"):
        monkeypatch.setattr(patience, name, SHORT_MS)
    _, key = make_key(north)

    def ask() -> tuple[int, str, str]:
        answer = Client().get(f"/api/v1/{call}", headers={"Authorization": f"Bearer {key}"})
        told = json.loads(answer.content)
        return answer.status_code, answer.headers.get("Retry-After", ""), told.get("detail", "")

    with locked(CALLS[call]):
        assert at_once([ask]) == [(503, "2", "It took too long; ask for a shorter time.")]
    assert at_once([ask]) == [(200, "", "")]


def test_what_was_stopped_leaves_its_transaction_as_it_was(north: Project) -> None:
    def ask() -> tuple[str, int]:
        with tenant(north.pk), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '7s'")
            with pytest.raises(TookTooLong), patience.within(SHORT_MS):
                Span.objects.count()
            cursor.execute(LIMIT)
            return cursor.fetchone()[0], Project.objects.count()

    with locked("monitor_span"):
        assert at_once([ask]) == [("7s", 1)]


def test_only_a_search_is_held_to_the_time_of_one(north: Project) -> None:
    def limits() -> str:
        with connection.cursor() as cursor:
            cursor.execute(LIMIT)
            return str(cursor.fetchone()[0])

    def held(words: str) -> Callable[[], str]:
        def ask() -> str:
            with tenant(north.pk), patience.searching(words):
                return limits()

        return ask

    assert at_once([held("refund"), held("")]) == ["3s", "0"]


def test_another_fault_of_the_database_stays_what_it_is(north: Project) -> None:
    def ask() -> str:
        with tenant(north.pk), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {SHORT_MS}")
            with pytest.raises(OperationalError) as caught, patience.within(patience.SUMS_MS):
                Span.objects.count()
        return type(caught.value.__cause__).__name__

    with locked("monitor_span"):
        assert at_once([ask]) == ["LockNotAvailable"]
