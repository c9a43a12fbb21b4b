"""Which project a transaction may see. PostgreSQL's row-level security reads what is set here."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from django.db import connection, transaction

TENANT_ROLE = "handrail_app"
CROSSING_ROLE = "handrail_jobs"


class Scope(NamedTuple):
    """What the running transaction is bound to; `project` is "" where none is."""

    role: str
    project: str


_bound: ContextVar[Scope | None] = ContextVar("handrail_scope", default=None)


def _bind(scope: Scope) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('role', %s, true), set_config('app.project', %s, true)", [scope.role, scope.project]
        )


@contextmanager
def _scope(scope: Scope) -> Iterator[None]:
    outer = _bound.get() if connection.in_atomic_block else None
    with transaction.atomic():
        if scope != outer:
            _bind(scope)
        token = _bound.set(scope)
        try:
            yield
        finally:
            _bound.reset(token)
        # A released savepoint keeps SET LOCAL, so the outer scope is put back by hand;
        # a rolled back one restores it by itself.
        if outer is not None and scope != outer:
            _bind(outer)


@contextmanager
def tenant(project_id: int) -> Iterator[None]:
    """A transaction that sees and writes the rows of one project only."""
    with _scope(Scope(TENANT_ROLE, str(project_id))):
        yield


@contextmanager
def crossing() -> Iterator[None]:
    """A transaction that may cross projects: jobs, the look-up of keys, sign-in."""
    with _scope(Scope(CROSSING_ROLE, "")):
        yield
