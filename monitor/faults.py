"""What went wrong, in words that quote no row: PostgreSQL repeats what it refuses word for word, secrets and all."""

import traceback
from collections.abc import Iterator

import django.db
import psycopg

DATABASE = (django.db.Error, psycopg.Error)
# Of a connection, a lock, a limit or the server itself: they quote nothing that was to be stored.
OF_NO_ROW = (django.db.OperationalError, django.db.InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)
CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"


def said(error: BaseException) -> str:
    """The class of an error and its words; of what the database refuses its code and the names that are concerned."""
    words = _words(error) if isinstance(error, DATABASE) else str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def story(error: BaseException) -> str:
    """The error with its places and those that led to it, as Python prints it, but for what the database quotes."""
    return "".join(_story(error, set())).rstrip("\n")


def _words(error: BaseException) -> str:
    # Django's errors have the driver's as their cause.
    answer = error if isinstance(error, psycopg.Error) else error.__cause__
    diagnosis = answer.diag if isinstance(answer, psycopg.Error) else None
    state = diagnosis.sqlstate if diagnosis is not None else None
    if isinstance(error, OF_NO_ROW):
        return (diagnosis.message_primary or "") if diagnosis is not None and state else str(error)
    if diagnosis is None or not state:
        return ""
    named = {
        "constraint": diagnosis.constraint_name,
        "table": diagnosis.table_name,
        "column": diagnosis.column_name,
    }
    return ", ".join([f"SQLSTATE {state}", *(f"{what} {name}" for what, name in named.items() if name)])


def _story(error: BaseException, told: set[int]) -> Iterator[str]:
    told.add(id(error))
    before, joint = error.__cause__, CAUSED
    if before is None and not error.__suppress_context__:
        before, joint = error.__context__, MEANWHILE
    if before is not None and id(before) not in told:
        yield from _story(before, told)
        yield joint
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    if isinstance(error, DATABASE):
        yield f"{type(error).__module__}.{said(error)}\n"
    else:
        yield from traceback.format_exception_only(error)
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _story(one, told)
