"""Which project a transaction may see. PostgreSQL's row-level security reads what is set here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from django.db import connection, transaction

from monitor import pipeline
from monitor.pipeline import Statement

TENANT_ROLE = "handrail_app"
CROSSING_ROLE = "handrail_jobs"


class Scope(NamedTuple):
    """What the running transaction is bound to; `project` is "" where none is."""

    role: str
    project: str


BIND = "SELECT set_config('role', %(role)s, true), set_config('app.project', %(project)s, true)"
_bound: ContextVar[Scope | None] = ContextVar("handrail_scope", default=None)


def _bind(scope: Scope) -> None:
    with connection.cursor() as cursor:
        cursor.execute(BIND, scope._asdict())


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


def read_across(reads: Sequence[Statement]) -> list[list[tuple[Any, ...]]]:
    """The rows of each of the reads, which cross projects, in one trip: wherever the transaction is bound to.

    Where one of them fails the transaction is over, and its binding with it.
    """
    outer = _bound.get() if connection.in_atomic_block else None
    if outer is None:
        with crossing():
            return pipeline.flush(reads)
    crossed = Statement(BIND, Scope(CROSSING_ROLE, "")._asdict())
    return pipeline.flush([crossed, *reads, Statement(BIND, outer._asdict())])[1:-1]
