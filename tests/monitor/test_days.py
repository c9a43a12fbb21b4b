"""Days are made and dropped beside those who read for long, and nobody who writes has to wait for these."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta

import psycopg
import pytest
from django.db import ProgrammingError, connection

from config import crank
from config.schedule import DROP
from monitor import ground, ingest, jobs, retention
from monitor.deadlocks import TRIES, unhindered
from monitor.models import JobHeartbeat, Keeping, Project, Span
from monitor.retention import PARTITIONED, StillRead
from monitor.tenancy import crossing, tenant
from tests.monitor.days import days_of
from tests.monitor.spending import NOW, a_project, a_span, accept, assert_books_balance
from tests.monitor.test_deadlocks import meanwhile, wait_for_somebody_waiting

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
OLD = NOW - 200 * DAY


# What there is to know of a table, each of it in an order of its own.
PARTS = """
SELECT array(SELECT regexp_replace(pg_get_indexdef(indexrelid), '^.* USING', '') FROM pg_index
              WHERE indrelid = %(part)s::regclass ORDER BY 1),
       array(SELECT contype::text || pg_get_constraintdef(oid) || conislocal || coninhcount FROM pg_constraint
              WHERE conrelid = %(part)s::regclass AND contype IN ('c', 'p', 'f', 'u') ORDER BY 1),
       array(SELECT regexp_replace(tgname, '[0-9]+$', '') || tgenabled::text FROM pg_trigger
              WHERE tgrelid = %(part)s::regclass ORDER BY 1),
       array(SELECT attname || format_type(atttypid, atttypmod) || attnotnull || attidentity::text || attislocal
                    || attstorage::text || coalesce(pg_get_expr(adbin, adrelid), '')
               FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
              WHERE attrelid = %(part)s::regclass AND attnum > 0 ORDER BY attnum),
       (SELECT relacl::text FROM pg_class WHERE oid = %(part)s::regclass)
"""


@pytest.fixture
def reader(committed_db: None, owner_dsn: str) -> Iterator[psycopg.Connection]:
    """Somebody who reads spans and bookings, and does not come to an end."""
    try:
        with psycopg.connect(owner_dsn) as session:
            session.execute("SELECT FROM monitor_span LIMIT 1")
            session.execute("SELECT FROM monitor_ledgerentry LIMIT 1")
            yield session
    finally:
        with crossing():
            Keeping.objects.all().delete()
        retention.drop_partitions(now=NOW)


@pytest.fixture
def project(committed_db: None) -> Project:
    """It takes spans of long ago."""
    made = a_project()
    with crossing():
        for kind in ("spans", "minutes", "hours", "ledger", "runs", "executions"):
            Keeping.objects.create(project=made, kind=kind, days=400)
    return made


def named(at: datetime | date) -> str:
    return f"monitor_span_p{at:%Y%m%d}"


def test_a_day_is_made_while_somebody_reads(reader: psycopg.Connection, project: Project) -> None:
    assert named(OLD) not in days_of("monitor_span")
    with ThreadPoolExecutor(2) as pool:
        telling = [meanwhile(pool, lambda n=n: accept(project, [a_span(n, n, started_at=OLD)])) for n in (1, 2)]
        try:
            told = [one.result(timeout=20) for one in telling]
        finally:
            reader.rollback()
    assert [one.accepted for one in told] == [1, 1]
    assert named(OLD) in days_of("monitor_span")
    assert_books_balance(project)


def test_a_day_is_made_before_the_locks_of_traces_are_taken(reader: psycopg.Connection, project: Project) -> None:
    """Who waits for a day holds up nobody."""
    reader.execute("LOCK TABLE monitor_span IN SHARE UPDATE EXCLUSIVE MODE")
    with ThreadPoolExecutor(1) as pool:
        telling = meanwhile(pool, lambda: accept(project, [a_span(1, 1, started_at=OLD)]))
        try:
            wait_for_somebody_waiting()
            with tenant(project.pk), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '5s'")
                assert ingest.accept(project.pk, [a_span(1, 2)], now=NOW).accepted == 1
            assert not telling.done()
        finally:
            reader.rollback()
        assert telling.result(timeout=20).accepted == 1


def test_a_day_that_was_attached_is_as_one_that_was_created(owner_dsn: str) -> None:
    """Its indexes, checks, triggers and rights are those of its table, none more and none less."""
    with psycopg.connect(owner_dsn) as owner:
        for table in PARTITIONED:
            day = f"FOR VALUES FROM ('{OLD.date() - 9 * DAY}') TO ('{OLD.date() - 8 * DAY}')"
            owner.execute(f"CREATE TABLE other PARTITION OF {table} {day}")  # type: ignore[arg-type]
            owner.execute("REVOKE ALL ON other FROM PUBLIC, handrail_app, handrail_jobs")
            if table != "monitor_statechange":
                owner.execute("GRANT INSERT ON other TO handrail_app")
            owner.execute("SELECT handrail_make_partitions(%s::regclass, %s, %s)", [table, OLD.date(), OLD.date()])
            created, attached = (
                owner.execute(PARTS, {"part": part}).fetchone()  # type: ignore[arg-type]
                for part in ("other", f"{table}_p{OLD:%Y%m%d}")
            )
            assert created == attached, table
            assert created is not None
            assert created[0]
            owner.execute("DROP TABLE other")
        owner.rollback()


def test_who_drops_a_day_keeps_nobody_waiting_behind_a_reader(reader: psycopg.Connection, project: Project) -> None:
    accept(project, [a_span(1, 1, started_at=OLD)])
    with crossing():
        Keeping.objects.all().delete()
    spans, entries = days_of("monitor_span"), days_of("monitor_ledgerentry")
    with ThreadPoolExecutor(1) as pool:
        dropping = meanwhile(pool, lambda: retention.drop_partitions(now=NOW))
        wait_for_somebody_waiting()
        # Behind the one who waits for the reader, until that gives up.
        assert accept(project, [a_span(2, 2)]).accepted == 1
        with pytest.raises(StillRead, match=r"were not dropped: 1 of monitor_span$"):
            dropping.result(timeout=60)
    assert (days_of("monitor_span"), days_of("monitor_ledgerentry")) == (spans, entries)
    reader.rollback()
    assert retention.drop_partitions(now=NOW) == 1
    assert named(OLD) not in days_of("monitor_span")
    with tenant(project.pk):
        assert list(Span.objects.values_list("span_id", flat=True)) == [2]


def test_a_day_that_is_dropped_before_its_span_is_written_is_known_to_be_gone(
    committed_db: None, owner_dsn: str
) -> None:
    project, at = a_project(), NOW - 60 * DAY
    first = a_span(1, 1, started_at=at)
    assert accept(project, [first]).accepted == 1
    locks = ground.locking(project.pk, [a_span(2, 2).trace_id.hex()])
    telling_of = [a_span(2, 2, started_at=at), a_span(2, 3)]
    with ThreadPoolExecutor(1) as pool, psycopg.connect(owner_dsn) as holder:
        for lock in locks:
            holder.execute(lock.sql.encode(), lock.parameters)
        telling = meanwhile(pool, lambda: accept(project, telling_of))
        wait_for_somebody_waiting()
        # It has seen the day. Another process shortens what is kept, and drops it.
        with crossing():
            Keeping.objects.create(project=project, kind="spans", days=30)
        assert retention.drop_partitions(now=NOW) >= 1
        assert named(at) not in days_of("monitor_span")
        holder.rollback()
        told = telling.result(timeout=20)
    assert (told.accepted, [one.index for one in told.rejected]) == (1, [0])
    assert "longer than spans are kept" in told.rejected[0].reason
    assert named(at) not in days_of("monitor_span")


def test_a_table_that_is_gone_for_good_is_told_of(db: None) -> None:
    tries = 0

    def ask() -> None:
        nonlocal tries
        tries += 1
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM no_such_table")

    with pytest.raises(ProgrammingError):
        unhindered(a_project().pk, ask)
    assert tries == TRIES


def test_days_that_are_read_each_time_are_told_of_after_three_hours(
    reader: psycopg.Connection, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOCK_WITHIN", "SET LOCAL lock_timeout = '50ms'")
    accept(project, [a_span(1, 1, started_at=OLD)])
    with crossing():
        Keeping.objects.all().delete()

    def ran(at: datetime) -> tuple[str | None, bool]:
        outcome = crank.run(DROP, now=at)
        with crossing():
            # It was turned all the while.
            JobHeartbeat.objects.filter(name=jobs.CRANK).update(last_started_at=NOW)
            return outcome, any(row.name == DROP.name for row in jobs.silent(now=at))

    with crossing():
        JobHeartbeat.objects.create(name=DROP.name, every_s=DROP.every_s, last_ok_at=NOW, last_started_at=NOW)
    said = "StillRead: days that others still read or write were not dropped: 1 of monitor_span"
    assert [ran(NOW + hours * HOUR) for hours in (1, 2, 3)] == [(said, False)] * 3
    assert ran(NOW + 4 * HOUR) == (said, True)
    reader.rollback()
    assert ran(NOW + 5 * HOUR) == ("ok", False)
