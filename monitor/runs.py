"""Runs as a batch leaves them: summed, and mended where spans went over to another run.

The first statement takes the rows of all runs that the others touch, in the order of their names. Each returns the
quarters from which to which its runs reached and reach now, for monitor/rundays.py.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from monitor.bookings import RunSums
from monitor.pipeline import Statement, array, texts, times
from monitor.rundays import QUARTER_OF


def _quarters(*moments: str) -> str:
    return ", ".join(QUARTER_OF.format(at=at) for at in moments)


RUNS = f"""
INSERT INTO monitor_run AS run (project_id, run_id, agent, department, first_at, last_at, calls, failed_calls,
    unpriced_calls, tool_calls, latency_ms, input_tokens, output_tokens, cost_usd, reported_usd, computed_usd, spans)
SELECT %(project_id)s, * FROM unnest(%(run_id)s::text[], %(agent)s::text[], %(department)s::text[],
    %(first_at)s::timestamptz[], %(last_at)s::timestamptz[], %(calls)s::int[], %(failed_calls)s::int[],
    %(unpriced_calls)s::int[], %(tool_calls)s::int[], %(latency_ms)s::bigint[], %(input_tokens)s::bigint[],
    %(output_tokens)s::bigint[], %(cost_usd)s::numeric[], %(reported_usd)s::numeric[], %(computed_usd)s::numeric[],
    %(spans)s::int[])
ON CONFLICT (project_id, run_id) DO UPDATE SET
    agent = coalesce(nullif(run.agent, ''), excluded.agent),
    department = coalesce(nullif(run.department, ''), excluded.department),
    first_at = least(run.first_at, excluded.first_at),
    last_at = greatest(run.last_at, excluded.last_at),
    was_first_at = run.first_at,
    was_last_at = run.last_at,
    calls = run.calls + excluded.calls,
    failed_calls = run.failed_calls + excluded.failed_calls,
    unpriced_calls = run.unpriced_calls + excluded.unpriced_calls,
    tool_calls = run.tool_calls + excluded.tool_calls,
    latency_ms = run.latency_ms + excluded.latency_ms,
    input_tokens = run.input_tokens + excluded.input_tokens,
    output_tokens = run.output_tokens + excluded.output_tokens,
    cost_usd = run.cost_usd + excluded.cost_usd,
    reported_usd = run.reported_usd + excluded.reported_usd,
    computed_usd = run.computed_usd + excluded.computed_usd,
    spans = run.spans + excluded.spans
RETURNING {_quarters("was_first_at", "was_last_at", "first_at", "last_at")}
"""  # noqa: S608
RENAMED_RUNS = """
UPDATE monitor_run AS run SET agent = told.agent
  FROM unnest(%(run_id)s::text[], %(was)s::text[], %(agent)s::text[]) AS told (run_id, was, agent)
 WHERE run.project_id = %(project_id)s AND run.run_id = told.run_id AND run.agent = told.was
"""
# A run that somebody named takes its spans out of the run that goes by the trace. Where spans of other traces name that
# one too, it stays as far as it was told to reach.
LEFT_RUNS = f"""
UPDATE monitor_run AS run SET first_at = rest.first_at, last_at = rest.last_at,
    was_first_at = run.first_at, was_last_at = run.last_at
  FROM unnest(%(run_id)s::text[], %(first_at)s::timestamptz[], %(last_at)s::timestamptz[], %(spans)s::int[])
    AS rest (run_id, first_at, last_at, spans)
 WHERE run.project_id = %(project_id)s AND run.run_id = rest.run_id AND coalesce(run.spans = rest.spans, true)
RETURNING {_quarters("was_first_at", "was_last_at", "run.first_at", "run.last_at")}
"""  # noqa: S608
# Of a run that is older than the count of spans only one that goes by the trace is known to have none.
EMPTY_RUNS = f"""
DELETE FROM monitor_run WHERE project_id = %(project_id)s AND run_id = ANY(%(run_id)s::text[])
   AND (spans = 0 OR spans IS NULL AND run_id = ANY(%(traces)s::text[]))
   AND calls = 0 AND tool_calls = 0 AND tripped_at IS NULL
RETURNING {_quarters("first_at", "last_at")}, NULL::bigint, NULL::bigint
"""  # noqa: S608
# Whoever charges a run has its row, so that no window is made anew behind this.
EMPTY_WINDOWS = """
DELETE FROM monitor_budgetwindow AS held
 WHERE held.project_id = %(project_id)s AND held.scope = 'run' AND held.target = ANY(%(run_id)s::text[])
   AND NOT EXISTS (SELECT FROM monitor_run AS run WHERE run.project_id = held.project_id AND run.run_id = held.target)
"""


class Rest(NamedTuple):
    """What stays of a trace in the run named after it: from when to when it reaches, and how many spans it is."""

    first_at: datetime
    last_at: datetime
    spans: int


def summing(project_id: int, runs: Mapping[str, RunSums]) -> Statement:
    """The statement that adds the sums to the runs, in the order of their names."""
    summed = [runs[run_id] for run_id in sorted(runs)]
    parameters: dict[str, Any] = {"project_id": project_id}
    for name in RunSums.__struct_fields__:
        column = [getattr(run, name) for run in summed]
        kind = texts if name in ("run_id", "agent", "department") else times if name.endswith("_at") else array
        parameters[name] = kind(column)
    return Statement(RUNS, parameters)


def mending(
    project_id: int,
    runs: Mapping[str, RunSums],
    left: Mapping[str, Rest | None],
    renamed: Mapping[str, tuple[str, str]],
) -> list[Statement]:
    """The statements for runs that lost spans or whose agent's name is known better now; none for most batches.

    Where a run's last spans went over to another, it was none.
    """
    statements = []
    if renamed:
        named = sorted(renamed)
        statements.append(
            Statement(
                RENAMED_RUNS,
                {
                    "project_id": project_id,
                    "run_id": texts(named),
                    "was": texts(renamed[run_id][0] for run_id in named),
                    "agent": texts(renamed[run_id][1] for run_id in named),
                },
            )
        )
    rests = {run_id: rest for run_id, rest in sorted(left.items()) if rest is not None}
    if rests:
        reach = {
            "first_at": times(rest.first_at for rest in rests.values()),
            "last_at": times(rest.last_at for rest in rests.values()),
            "spans": array(rest.spans for rest in rests.values()),
        }
        statements.append(Statement(LEFT_RUNS, {"project_id": project_id, "run_id": texts(rests), **reach}))
    if empty := _empty(runs, left):
        traces = sorted(run_id for run_id, rest in left.items() if rest is None)
        statements.append(
            Statement(EMPTY_RUNS, {"project_id": project_id, "run_id": texts(empty), "traces": texts(traces)})
        )
    return statements


def clearing(project_id: int, runs: Mapping[str, RunSums], left: Mapping[str, Rest | None]) -> list[Statement]:
    """The statement that takes away the windows of runs that `mending` did; after their last charges."""
    empty = _empty(runs, left)
    return [Statement(EMPTY_WINDOWS, {"project_id": project_id, "run_id": texts(empty)})] if empty else []


def _empty(runs: Mapping[str, RunSums], left: Mapping[str, Rest | None]) -> list[str]:
    """The runs that may have lost their last span."""
    lost = {run_id for run_id, sums in runs.items() if sums.spans < 0}
    return sorted(lost.union(run_id for run_id, rest in left.items() if rest is None))
