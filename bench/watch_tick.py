"""The watchdog's tick at 100,000 running executions of which 1,000 are due, against the bare claim of the same rows.

The bare claim is the least that any design could do: lock the due rows in batches and move their deadline. Both run
on the same rows, one after the other, in turns; the verdicts are taken back between the rounds.
"""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

from django.db import connection, connections

from monitor import watch
from monitor.models import Project
from monitor.tenancy import crossing

RUNNING = 100_000
DUE = 1_000
ROUNDS = 5
WATCHERS = 8

FILL = """
INSERT INTO monitor_execution (project_id, id, agent, run_id, task, crew_id, conversation_id, department, mode, digest,
    status, attempt, max_retries, timeout_s, heartbeat_s, message, verdict, command, command_reason, started_at,
    attempt_started_at, last_heartbeat_at, deadline_at, model, cost_usd, input_tokens, output_tokens, api_calls,
    error, metadata)
SELECT %(project_id)s, uuidv7(), 'agent-' || n %% 50, 'run-' || n / 10, 'A task like any other', '', '', '', '', '',
       'running', 1, 3, 86400, 30, '', '', '', '', %(now)s, %(now)s, %(now)s,
       %(now)s + CASE WHEN n <= %(due)s THEN interval '-1 s' ELSE interval '1 hour' END, '', 0, 0, 0, 0, '', '{}'
  FROM generate_series(1, %(running)s) AS n
"""
DUE_AGAIN = """
UPDATE monitor_execution SET status = 'running', attempt = 1, verdict = '', retry_at = NULL, command_seq = NULL, attempt_started_at = %(now)s,
       deadline_at = %(now)s - interval '1 s'
 WHERE project_id = %(project_id)s AND (status = 'retrying' OR deadline_at < %(now)s + interval '30 minutes')
"""  # noqa: E501
BARE_CLAIM = """
WITH due AS (
    SELECT project_id, id FROM monitor_execution
     WHERE status IN ('running', 'retrying') AND deadline_at <= %(now)s
     ORDER BY deadline_at LIMIT %(batch)s FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE monitor_execution e SET deadline_at = %(now)s + interval '1 minute'
  FROM due WHERE e.project_id = due.project_id AND e.id = due.id
RETURNING e.id
"""


def claim(*, now: datetime) -> int:
    """Claim all that is due and do nothing with it; returns how many that were."""
    claimed = 0
    while True:
        with crossing(), connection.cursor() as cursor:
            cursor.execute(BARE_CLAIM, {"now": now, "batch": watch.BATCH})
            found = len(cursor.fetchall())
        claimed += found
        if found < watch.BATCH:
            return claimed


def main() -> None:
    now = datetime.now(UTC)
    with crossing(), connection.cursor() as cursor:
        project = Project.objects.create(name="bench")
        cursor.execute(FILL, {"project_id": project.pk, "running": RUNNING, "due": DUE, "now": now})
    _analyze()
    bare: list[float] = []
    tick: list[float] = []
    for round_number in range(ROUNDS):
        for measured, act in ((bare, claim), (tick, watch.overdue)):
            _make_due(project.pk, now=now)
            measured.append(_timed_ms(act, now=now))
        print(f"  round {round_number + 1}: bare claim {bare[-1]:6.0f} ms, tick {tick[-1]:6.0f} ms", flush=True)
    ratios = [ours / least for ours, least in zip(tick, bare, strict=True)]
    print(
        f"  {RUNNING:,} running, {DUE:,} due: tick {statistics.median(tick):.0f} ms, bare claim"
        f" {statistics.median(bare):.0f} ms, ratio {statistics.median(ratios):.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f}, {ROUNDS} rounds)"
    )
    _make_due(project.pk, now=now)
    verdicts = _together(now=now)
    print(f"  {WATCHERS} watchers at once: {sum(verdicts):,} verdicts on {DUE:,} due, by each {sorted(verdicts)}")
    later = now + timedelta(seconds=1)
    nothing = [_timed_ms(watch.overdue, now=later, expected=0) for _ in range(ROUNDS)]
    print(f"  a tick with nothing due: {statistics.median(nothing):.1f} ms")


def _timed_ms(act: Callable[..., int], *, now: datetime, expected: int = DUE) -> float:
    began_s = time.perf_counter()
    handled = act(now=now)
    took_s = time.perf_counter() - began_s
    if handled != expected:
        raise RuntimeError(f"{handled} were handled where {expected} were due")
    return took_s * 1000


def _make_due(project_id: int, *, now: datetime) -> None:
    with crossing(), connection.cursor() as cursor:
        cursor.execute(DUE_AGAIN, {"project_id": project_id, "now": now})


def _analyze() -> None:
    """As autovacuum would have by now; only the owner may."""
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE none")
        cursor.execute("ANALYZE")
        cursor.execute("RESET ROLE")


def _together(*, now: datetime) -> list[int]:
    gate = Barrier(WATCHERS)

    def watched(_: int) -> int:
        try:
            gate.wait()
            return watch.overdue(now=now)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(WATCHERS) as pool:
        return list(pool.map(watched, range(WATCHERS)))
