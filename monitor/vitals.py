"""How the instance itself is: database, Redis, machine, disk, and how much comes in. No project's data."""

import os
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from django.conf import settings
from django.db import connection
from redis import Redis, RedisError

from monitor import room
from monitor.pipeline import Statement
from monitor.room import Room
from monitor.together import Together

REDIS_WITHIN_S = 0.5
INGEST_MINUTES = 15
DATABASE = """
SELECT current_setting('server_version'), pg_postmaster_start_time(), pg_database_size(current_database()),
       (SELECT sum(numbackends) FROM pg_stat_database),
       current_setting('max_connections')::int
"""
# A partition that was never analysed has its count from the statistics of its inserts.
ROWS = "sum(CASE WHEN own.reltuples < 0 THEN pg_stat_get_live_tuples(own.oid) ELSE own.reltuples END)::bigint"
# A partition counts for its parent; `day` is the size of the partition of yesterday.
TABLES = f"""
SELECT coalesce(parent.relname, own.relname) AS name,
       sum(pg_total_relation_size(own.oid))::bigint AS bytes,
       {ROWS} AS rows,
       count(parent.oid) AS days,
       sum(pg_total_relation_size(own.oid)) FILTER (WHERE own.relname LIKE %(yesterday)s)::bigint AS day
  FROM pg_class AS own
  LEFT JOIN pg_inherits AS tree ON tree.inhrelid = own.oid
  LEFT JOIN pg_class AS parent ON parent.oid = tree.inhparent
 WHERE own.relkind = 'r' AND own.relnamespace = 'public'::regnamespace
 GROUP BY 1 ORDER BY 2 DESC LIMIT %(most)s
"""  # noqa: S608
INGEST = """
SELECT minute, sum(count) FILTER (WHERE kind = 'execution'), sum(count) FILTER (WHERE kind <> 'execution')
  FROM monitor_minuterollup WHERE minute >= %(since)s GROUP BY minute
"""

# State changes that nobody has judged yet, over all projects, and when the oldest was.
UNJUDGED = "SELECT count(*), min(at) FROM monitor_statechange WHERE judged_at IS NULL"


@dataclass(frozen=True)
class DatabaseVitals:
    version: str
    started_at: datetime
    bytes: int
    connections: int
    most_connections: int
    answered_ms: float


@dataclass(frozen=True)
class RedisVitals:
    """`error` is "" when it answers; then the other fields are known."""

    error: str = ""
    version: str = ""
    bytes: int = 0
    backlog: int = 0
    answered_ms: float = 0.0
    up_s: int = 0


@dataclass(frozen=True)
class Machine:
    """The machine of this web process, and the disk of HANDRAIL_HOME, None where it is not seen; shares are of one."""

    cores: int
    load: float
    memory_bytes: int
    memory_share: float
    own_bytes: int
    disk: Room | None
    started_at: datetime

    @property
    def load_share(self) -> float:
        return self.load / self.cores


@dataclass(frozen=True)
class TableSize:
    """`day_bytes` is what yesterday added, None where that is not known; `rows` is PostgreSQL's estimate."""

    name: str
    bytes: int
    rows: int
    days: int
    day_bytes: int | None


@dataclass(frozen=True)
class Intake:
    """Executions that ended and calls, by whole minute, oldest first; quiet minutes are zero."""

    executions: list[int]
    calls: list[int]

    @property
    def per_minute(self) -> float:
        return (sum(self.executions) + sum(self.calls)) / len(self.calls)


def database() -> DatabaseVitals:
    """Of the database behind this connection; `answered_ms` is how long this very question took."""
    began_s = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.execute(DATABASE)
        name, started_at, size, connections, most = cursor.fetchone()
    took_ms = (time.perf_counter() - began_s) * 1000
    return DatabaseVitals(name.split()[0], started_at, size, int(connections), most, took_ms)


def redis() -> RedisVitals:
    """Of the Redis or Valkey that carries news and tasks; never raises."""
    began_s = time.perf_counter()
    try:
        client = _redis()
        pipe = client.pipeline(transaction=False)
        pipe.info()
        # Where Celery keeps what no worker has taken yet.
        pipe.llen(settings.CELERY_TASK_DEFAULT_QUEUE)
        told, backlog = pipe.execute()
    except RedisError as error:
        return RedisVitals(error=type(error).__name__)
    took_ms = (time.perf_counter() - began_s) * 1000
    return RedisVitals(
        version=str(told.get("valkey_version") or told.get("redis_version", "")),
        bytes=int(told.get("used_memory", 0)),
        backlog=int(backlog),
        answered_ms=took_ms,
        up_s=int(told.get("uptime_in_seconds", 0)),
    )


@cache
def _redis() -> Redis:
    return Redis.from_url(
        settings.REDIS_URL, socket_timeout=REDIS_WITHIN_S, socket_connect_timeout=REDIS_WITHIN_S, retry=None
    )


def machine() -> Machine:
    """Of the machine that this process runs on."""
    memory, own = psutil.virtual_memory(), psutil.Process()
    return Machine(
        cores=os.cpu_count() or 1,
        load=os.getloadavg()[0],
        memory_bytes=memory.total,
        memory_share=memory.percent / 100,
        own_bytes=own.memory_info().rss,
        disk=room.disk_of(_existing(settings.PLACES.home)),
        started_at=datetime.fromtimestamp(own.create_time(), UTC),
    )


def table_sizes(*, now: datetime, most: int = 12) -> list[TableSize]:
    """The largest tables with their indexes, partitions summed under their parent."""
    with Together() as asked:
        return asking_table_sizes(asked, now=now, most=most)


def asking_table_sizes(asked: Together, *, now: datetime, most: int = 12) -> list[TableSize]:
    """`table_sizes` asked with others."""
    yesterday = f"%\\_p{now - timedelta(days=1):%Y%m%d}"
    statement = Statement(TABLES, {"yesterday": yesterday, "most": most})
    return asked.ask(statement, lambda rows: [TableSize(*row) for row in rows])


def intake(*, now: datetime) -> Intake:
    """What came in over all projects in the last whole minutes."""
    with Together(across=True) as asked:
        found = asking_intake(asked, now=now)
    return found[0]


def asking_intake(asked: Together, *, now: datetime) -> list[Intake]:
    """`intake` asked with others, across projects: it alone."""
    first = now.replace(second=0, microsecond=0) - timedelta(minutes=INGEST_MINUTES)

    def understand(rows: Iterable[tuple[datetime, int | None, int | None]]) -> list[Intake]:
        found = {minute: (executions or 0, calls or 0) for minute, executions, calls in rows}
        minutes = [found.get(first + timedelta(minutes=number), (0, 0)) for number in range(INGEST_MINUTES)]
        return [Intake([int(executions) for executions, _ in minutes], [int(calls) for _, calls in minutes])]

    return asked.ask(Statement(INGEST, {"since": first}), understand)


@cache
def own_version() -> str:
    """Handrail's version, from the installed distribution or the source beside it."""
    try:
        return version("handrail-server")
    except PackageNotFoundError:
        project = tomllib.loads((settings.BASE_DIR / "pyproject.toml").read_text())
        return str(project["project"]["version"])


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.parents) if one.exists())
