"""How long a read may take that goes through as many rows as there are: a search for words, sums over a long time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from django.db import OperationalError
from psycopg.errors import QueryCanceled

from monitor import pipeline
from monitor.pipeline import Statement

SEARCH_MS = 3_000
SUMS_MS = 10_000
AS_BEFORE = [Statement("ROLLBACK TO SAVEPOINT patience", None), Statement("RELEASE SAVEPOINT patience", None)]


class TookTooLong(Exception):
    """A query was stopped: what was asked for has too much for its time."""


@contextmanager
def within(most_ms: int) -> Iterator[None]:
    """Only for reads, in a transaction: each query is stopped after so long. Raises TookTooLong."""
    short = Statement(f"SET LOCAL statement_timeout = {most_ms:d}", None)
    pipeline.flush([Statement("SAVEPOINT patience", None), short])
    try:
        yield
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            raise TookTooLong from error
        raise
    finally:
        # The timeout is again what it was, and the transaction goes on where a query was stopped.
        pipeline.flush(AS_BEFORE)


def searching(words: str | None) -> AbstractContextManager[None]:
    """`within` the time of a search, where there are words to search for."""
    return within(SEARCH_MS) if words else nullcontext()
