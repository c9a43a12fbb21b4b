"""A project's time zone changes: what the windows of its budgets hold that run by the new one is counted anew.

A window is keyed by its start, and by another calendar others run. Opened empty they would be a second allowance, and
what a later version of a span takes back would leave them below zero.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from monitor import budgets, ground, news, pipeline
from monitor.budgets import TARGETED, Cut
from monitor.models import BudgetWindow, Project, Trip
from monitor.pipeline import Statement, array, texts, times
from monitor.windows import Key

ZERO = Decimal(0)
# By when each entry was received, which no index tells: it goes through the project's whole ledger.
CHARGED = """
SELECT cut.place, whose.target, sum(entry.cost_usd), sum(entry.calls)
  FROM unnest(%(scopes)s::text[], %(targets)s::text[], %(since)s::timestamptz[])
       WITH ORDINALITY AS cut (scope, target, since, place)
  JOIN monitor_ledgerentry AS entry ON entry.received_at >= cut.since,
LATERAL (
    SELECT CASE cut.scope WHEN 'agent' THEN entry.agent WHEN 'department' THEN entry.department ELSE '' END
) AS whose (target)
 WHERE entry.project_id = %(project_id)s AND cut.target IN ('', whose.target)
 GROUP BY cut.place, whose.target ORDER BY cut.place
"""
SET = """
INSERT INTO monitor_budgetwindow AS held
       (project_id, scope, target, period, starts_at, spent_usd, calls, top_up_usd, tripped_at)
SELECT %(project_id)s, * FROM unnest(%(scopes)s::text[], %(targets)s::text[], %(periods)s::text[],
    %(starts)s::timestamptz[], %(spent)s::numeric[], %(calls)s::int[], %(top_ups)s::numeric[],
    %(tripped)s::timestamptz[])
ON CONFLICT (project_id, scope, target, period, starts_at) DO UPDATE SET
    spent_usd = excluded.spent_usd, calls = excluded.calls, top_up_usd = excluded.top_up_usd,
    warned_at = NULL, tripped_at = excluded.tripped_at
"""


class _Recut(NamedTuple):
    """What a window is set to."""

    spent_usd: Decimal = ZERO
    calls: int = 0
    top_up_usd: Decimal = ZERO
    tripped_at: datetime | None = None


def move(project_id: int, time_zone: str, *, now: datetime) -> bool:
    """Cut the project's hours, days, weeks and months by another time zone; False when it has this one already.

    The windows that run by it hold what was charged since they began, as if the zone had always been this one. A stop
    that happened within them stands until a person resets it; of what was granted on top, what dropped out has used up
    its share. They warn anew.
    """
    # Every batch holds a trace: none is under way, and the next one reads the new zone.
    ground.lock_all(project_id)
    was = Project.objects.values_list("time_zone", flat=True).get(pk=project_id)
    if was == time_zone:
        return False
    began = {(cut.scope, cut.period): cut.starts_at for cut in budgets.cuts(project_id, was, now=now)}
    cuts = [
        cut for cut in budgets.cuts(project_id, time_zone, now=now) if cut.starts_at != began[cut.scope, cut.period]
    ]
    Project.objects.filter(pk=project_id).update(time_zone=time_zone)
    _set(project_id, _recut(project_id, cuts, began))
    news.tell(project_id, "costs")
    return True


def _recut(project_id: int, cuts: Iterable[Cut], began: dict[tuple[str, str], datetime]) -> dict[Key, _Recut]:
    """What each window holds by the new calendar; `began` tells when the old ones did, by scope and period."""
    cuts = list(cuts)
    found: dict[Key, _Recut] = {}
    for scope, period, starts_at in sorted({(cut.scope, cut.period, cut.starts_at) for cut in cuts}):
        named = {"project_id": project_id, "scope": scope, "period": period}
        running = BudgetWindow.objects.select_for_update().filter(**named).order_by("target", "starts_at")
        olds = {one.target: one for one in running.filter(starts_at=began[scope, period])}
        stale = set(running.filter(starts_at=starts_at).values_list("target", flat=True))
        stopped = _carried(named, began[scope, period], starts_at)
        charged = _charged(project_id, [cut for cut in cuts if (cut.scope, cut.period) == (scope, period)])
        for target in {*olds, *stale, *stopped, *charged}:
            spent, calls = charged.get(target, (ZERO, 0))
            top_up = ZERO
            if (old := olds.get(target)) is not None:
                top_up = max(ZERO, old.top_up_usd - max(ZERO, old.spent_usd - spent))
            recut = _Recut(spent, calls, top_up, stopped.get(target))
            if any(recut) or target in stale:
                found[Key(project_id, scope, target, period, starts_at)] = recut
    return found


def _carried(named: dict[str, Any], began: datetime, starts_at: datetime) -> dict[str, datetime]:
    """Move the open trips of the old windows that happened since the new ones began; when each did, by target.

    Those that are of the new windows already, because the zone was this one a moment ago, are among them.
    """
    opened = Trip.objects.filter(**named, reset_at=None)
    there = dict(opened.filter(window_starts_at=starts_at).values_list("target", "tripped_at"))
    moving = opened.filter(window_starts_at=began, tripped_at__gte=starts_at).exclude(target__in=list(there))
    tripped = dict(moving.values_list("target", "tripped_at"))
    moving.update(window_starts_at=starts_at)
    return there | tripped


def _charged(project_id: int, cuts: list[Cut]) -> dict[str, tuple[Decimal, int]]:
    """What was charged in the windows of one scope and period, by target; a target's own budget tells since when."""
    cuts = sorted(cuts, key=lambda cut: cut.target)
    wanted = {
        "project_id": project_id,
        "scopes": array(cut.scope for cut in cuts),
        "targets": texts(cut.target for cut in cuts),
        "since": times(cut.since for cut in cuts),
    }
    (rows,) = pipeline.flush([Statement(CHARGED, wanted)])
    is_of_somebody = cuts[0].scope in TARGETED
    return {target: (usd, calls) for _, target, usd, calls in rows if target or not is_of_somebody}


def _set(project_id: int, found: dict[Key, _Recut]) -> None:
    keys = sorted(found, key=lambda key: key.order)
    pipeline.flush(
        [
            Statement(
                SET,
                {
                    "project_id": project_id,
                    "scopes": array(key.scope for key in keys),
                    "targets": texts(key.target for key in keys),
                    "periods": array(key.period for key in keys),
                    "starts": times(key.starts_at for key in keys),
                    "spent": array(found[key].spent_usd for key in keys),
                    "calls": array(found[key].calls for key in keys),
                    "top_ups": array(found[key].top_up_usd for key in keys),
                    "tripped": times(found[key].tripped_at for key in keys),
                },
            )
        ]
    )
