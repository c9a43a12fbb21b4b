"""The journal has a partition for each of 400 days; what is read all the time reads a few of them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.db import connection
from django.test.utils import CaptureQueriesContext

from dashboard.commands import COMMANDS, carry_out
from monitor import jobs, retention
from monitor.tenancy import crossing
from tests.monitor.fleets import NOW, a_project, act, after, an_execution, beat, journal, tick

# An execution's own week, the week ahead, and those around.
FEW = 20


@contextmanager
def few_days_read() -> Iterator[None]:
    """Within it no query may look into more than FEW of the journal's partitions, of which there are many."""
    for back in range(1, 10):
        retention.make_partitions(now=NOW - timedelta(days=9 * back))
    with CaptureQueriesContext(connection) as captured:
        yield
    asked = [one["sql"] for one in captured if re.match(r"SELECT .*monitor_statechange", one["sql"], re.DOTALL)]
    with crossing(), connection.cursor() as cursor:
        for sql in asked:
            cursor.execute("EXPLAIN " + sql)
            plan = "\n".join(line for (line,) in cursor.fetchall())
            days = set(re.findall(r"monitor_statechange_p\d{8}", plan))
            assert len(days) <= FEW, (len(days), sql)


def test_silence_of_jobs_is_told_without_reading_the_journal(db: None) -> None:
    a_project()
    jobs.sign_of_life("process:beat", 5, now=NOW)
    jobs.turning(now=NOW)
    with few_days_read():
        assert jobs.report_silence(now=NOW) == 0


def test_a_beat_that_comes_late_reads_the_days_of_its_execution(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    beat(project, one, now=after(1))
    assert tick(now=after(60)) == 1
    with few_days_read():
        assert beat(project, one, now=after(61), attempt=1).command == "retry"
        assert beat(project, one, now=after(62), attempt=1).command == "retry"
    assert [cause for _, _, cause in journal(project, one)] == ["registered", "zombie", "came_back"]


def test_a_command_that_comes_too_late_reads_the_days_of_its_execution(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    act("cancel", project, one, now=after(1))
    with few_days_read():
        outcome = carry_out(project, one, COMMANDS["pause"], now=after(2), actor="ann@example.org")
    assert outcome.words.startswith("has ended, cancelled at ")
