"""Transactions that are tried again when PostgreSQL chose them to break a deadlock."""

from collections.abc import Callable
from typing import TypeVar

import psycopg
from django.db import OperationalError

from monitor.tenancy import tenant

T = TypeVar("T")
TRIES = 3


def unhindered(project_id: int, work: Callable[[], T]) -> T:
    """Run `work` in a transaction of the project; after a deadlock, which left nothing behind, once more."""
    for left in reversed(range(TRIES)):
        try:
            with tenant(project_id):
                return work()
        except OperationalError as error:
            if not left or not isinstance(error.__cause__, psycopg.errors.DeadlockDetected):
                raise
    raise AssertionError("the last try returns or raises")
