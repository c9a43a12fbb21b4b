"""What the log tells of errors, and what it keeps to itself."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable

import psycopg
import pytest
from django.db import DatabaseError, OperationalError, connection, transaction

from config.logs import Lines
from monitor import faults
from monitor.models import JobHeartbeat
from monitor.tenancy import crossing
from tests.loglines import line

SECRET = "hunter22"


def two_of_a_name() -> None:
    # Of tables with row-level security PostgreSQL itself quotes no row.
    with crossing():
        for _ in range(2):
            JobHeartbeat.objects.create(name=SECRET, every_s=1)


def asked(statement: str) -> Callable[[], None]:
    def ask() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)

    return ask


def asked_of_the_driver() -> None:
    connection.ensure_connection()
    with connection.connection.transaction():
        connection.connection.execute(f"SELECT '{SECRET}'::bigint")


REFUSED = {
    "a row": (
        two_of_a_name,
        "IntegrityError: SQLSTATE 23505, constraint monitor_jobheartbeat_pkey, table monitor_jobheartbeat",
    ),
    "a value": (asked(f"SELECT '{SECRET}'::bigint"), "DataError: SQLSTATE 22P02"),
    "a name": (asked(f"SELECT {SECRET}"), "ProgrammingError: SQLSTATE 42703"),
    "a text": (asked(f"DO $$ BEGIN RAISE EXCEPTION '{SECRET}'; END $$"), "ProgrammingError: SQLSTATE P0001"),
    "without Django": (asked_of_the_driver, "InvalidTextRepresentation: SQLSTATE 22P02"),
}


def failure(act: Callable[[], None]) -> Exception:
    try:
        act()
    except (DatabaseError, psycopg.Error) as error:
        return error
    raise AssertionError("nothing was refused")


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("monitor", logging.ERROR, __file__, 1, message, args, exc_info)


@pytest.mark.parametrize(("status", "has_places"), [(500, True), (503, False)])
def test_a_request_that_is_asked_to_come_back_has_one_line(status: int, has_places: bool) -> None:
    with pytest.raises(OperationalError) as gone:
        raise OperationalError("gone")
    told = record("%s: %s", "Not now", "/queue", error=gone.value)
    told.status_code = status
    assert ("Traceback" in line(told)) is has_places
    assert line(told).endswith("Not now: /queue") is not has_places


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_database_refuses_is_told_by_code_and_place_alone(db: None, what: str) -> None:
    act, said = REFUSED[what]
    error = failure(act)
    assert SECRET in str(error)
    assert faults.said(error) == said
    for told in (
        record("it failed", error=error),
        record("it failed: %s", error),
        record("it failed: %(why)s", {"why": error}),
        record(error),  # type: ignore[arg-type]
    ):
        written = line(told)
        assert SECRET not in written
        assert said in written
    assert f'"{__file__}", line ' in line(record("it failed", error=error))


def test_errors_on_top_of_it_and_beside_it_quote_nothing_either(db: None) -> None:
    refused = failure(REFUSED["a value"][0])
    try:
        try:
            raise LookupError("no such thing") from refused
        except LookupError:
            raise RuntimeError("and now this")  # noqa: B904
    except RuntimeError as error:
        above = error
    written = line(record("it failed", error=above))
    # In the order in which it came about, told as Python tells it.
    parts = [
        "DataError: SQLSTATE 22P02",
        "direct cause",
        "LookupError: no such thing",
        "During handling",
        "RuntimeError: and",
    ]
    assert [part for part in parts if part not in written] == []
    assert sorted(parts, key=written.rfind) == parts
    group = ExceptionGroup("several", [refused, ValueError("bad")])
    grouped = line(record("it failed", error=group))
    assert SECRET not in written + grouped
    assert "ValueError: bad" in grouped


def test_other_errors_are_told_as_ever() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        told = record("it failed", error=error)
    assert faults.said(KeyError("missing")) == "KeyError: 'missing'"
    assert faults.said(TimeoutError()) == "TimeoutError"
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s").format(told)
    told.exc_text = None
    assert line(told) == plain


def test_a_database_that_is_away_says_why() -> None:
    with pytest.raises(psycopg.OperationalError) as away:
        psycopg.connect("host=/nowhere-at-all connect_timeout=1")
    assert str(away.value) in line(record("no sign of life: %s", away.value))


def test_what_another_formatter_made_of_an_error_is_not_taken_over(db: None) -> None:
    told = record("it failed", error=failure(REFUSED["a row"][0]))
    assert SECRET in logging.Formatter().format(told)
    assert SECRET not in line(told)


def test_all_lines_are_written_by_one_handler() -> None:
    assert [type(one.formatter) for one in logging.getLogger().handlers if type(one) is logging.StreamHandler] == [
        Lines
    ]
    for name in ("django", "django.request", "uvicorn", "uvicorn.error", "celery", "celery.app.trace", "asyncio"):
        logger = logging.getLogger(name)
        assert {type(one) for one in logger.handlers} <= {logging.NullHandler}, name
        assert logger.propagate, name


def served(told: str, **settings: str) -> str:
    """What is printed in a process that is about to serve."""
    begun = "import logging; from uvicorn import Config; Config('config.asgi:application', access_log=False).load()"
    command = [sys.executable, "-W", "ignore", "-c", f"{begun}; print({told})"]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_request_leaves_no_line() -> None:
    assert served("logging.getLogger('uvicorn.access').hasHandlers()") == "False"


@pytest.mark.parametrize("level", ["INFO", "ERROR"])
def test_the_server_says_as_little_as_is_asked_for(level: str) -> None:
    how = "logging.getLevelName(logging.getLogger('uvicorn.error').getEffectiveLevel())"
    assert served(how, HANDRAIL_LOG_LEVEL=level) == level
