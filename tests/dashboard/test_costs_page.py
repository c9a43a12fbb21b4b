"""The costs page: budgets, the chart with its sums, runs, trips and their reset, models without a price."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from monitor import ingest
from monitor.models import Budget, BudgetWindow, Person, Run, Trip
from monitor.records import Tokens
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import SignedIn, an_execution, signed_in
from tests.monitor.spending import a_span


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every story needs the database."""


@pytest.fixture
def mara() -> SignedIn:
    return signed_in()


def spend(visitor: SignedIn, usd: str, n: int, *, ago: timedelta = timedelta(minutes=1), **fields: Any) -> None:
    """One call that its client says cost so much, received a moment after it was made."""
    now = datetime.now(UTC) - ago
    given = {"run_id": "night", "started_at": now - timedelta(seconds=5), "reported_usd": Decimal(usd)} | fields
    with tenant(visitor.project_id):
        ingest.accept(visitor.project_id, [a_span(n, n, **given)], now=now)


def limit(visitor: SignedIn, scope: str, usd: str, period: str = "day", **fields: Any) -> Budget:
    with crossing():
        return Budget.objects.create(
            project_id=None if scope == "global" else visitor.project_id,
            scope=scope,
            period="run" if scope == "run" else period,
            limit_usd=Decimal(usd),
            **fields,
        )


def text(visitor: SignedIn, path: str = "/costs") -> str:
    answer = visitor.client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def test_a_stranger_is_led_to_sign_in() -> None:
    assert Client().get("/costs").headers["location"] == "/sign-in?next=%2Fcosts"


def test_an_empty_project_says_how_to_begin(mara: SignedIn) -> None:
    page = text(mara)
    assert "$0.00 is spent today." in page
    assert "There are no budgets." in page
    assert "No call was made in this time." in page
    assert "curl localhost:8000/api/v1/calls" in page
    assert "No run was active in this time." in page
