"""Several reads in one trip to PostgreSQL: pages wait for the network as seldom as they can."""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet

from monitor import pipeline, tenancy
from monitor.pipeline import Statement

T = TypeVar("T")
Rows = list[tuple[Any, ...]]


class Together:
    """Reads that are asked together: the list that each of them gives is filled when the block ends.

    With `across` they read the rows of every project, wherever the transaction is bound to.
    """

    def __init__(self, *, across: bool = False) -> None:
        self._across = across
        self._asked: list[tuple[Statement, Callable[[Rows], None]]] = []

    def ask(self, statement: Statement, understand: Callable[[Rows], Iterable[T]]) -> list[T]:
        """What `understand` makes of the statement's rows."""
        found: list[T] = []
        self._asked.append((statement, lambda rows: found.extend(understand(rows))))
        return found

    def rows(self, wanted: QuerySet[Any, T]) -> list[T]:
        """What the queryset holds."""
        wanted = wanted.all()
        compiler = wanted.query.get_compiler(wanted.db)
        try:
            text, values = compiler.as_sql()
        except EmptyResultSet:
            return []

        def understand(rows: Rows) -> Iterable[T]:
            shown = [row[: compiler.col_count] for row in rows]
            # The queryset makes its objects as always, of rows that are here already.
            compiler.execute_sql = lambda *_, **__: [shown]
            wanted.query.get_compiler = lambda *_, **__: compiler  # type: ignore[method-assign]
            return list(wanted)

        # Django writes its SQL for values within the text: as parameters some would have no type.
        return self.ask(Statement(connection.ops.compose_sql(text, values), None), understand)  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        # Values are written for the connection they go through.
        connection.ensure_connection()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None or not self._asked:
            return
        statements = [statement for statement, _ in self._asked]
        answers = tenancy.read_across(statements) if self._across else pipeline.flush(statements)
        for (_, take), rows in zip(self._asked, answers, strict=True):
            take(rows)
