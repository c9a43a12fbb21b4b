"""Budgets: what each call is held against, and what they say to whoever spends.

The windows that apply are locked in one fixed order within the transaction of the money, and made there when
they are missing, so that no two calls can both be the last that fitted.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from monitor import changes, pipeline, trips, windows
from monitor.bookings import Charge
from monitor.models import Budget, BudgetWindow, Subject
from monitor.models.money import BudgetAction, BudgetScope, Period
from monitor.pipeline import Statement, array, texts, times
from monitor.windows import INSTANCE, Key

ZERO = Decimal(0)
# Kept even without a budget: every answer tells what they hold.
ALWAYS = (Period.HOUR, Period.DAY, Period.MONTH)
# Scopes that are of somebody: a call of nobody falls into no window of theirs.
TARGETED = frozenset({BudgetScope.RUN.value, BudgetScope.AGENT.value, BudgetScope.DEPARTMENT.value})

RULES = """
SELECT '', '', '', NULL, NULL, '', NULL, time_zone FROM monitor_project WHERE id = %(project_id)s
UNION ALL
SELECT scope, target, period, limit_usd, warn_at, action, created_at, '' FROM monitor_budget
 WHERE project_id = %(project_id)s OR project_id IS NULL
"""
_WINDOW = "spent_usd, reserved_usd, calls, top_up_usd, warned_at, tripped_at"
_KEYS = """unnest(%(project_ids)s::int[], %(scopes)s::text[], %(targets)s::text[], %(periods)s::text[],
    %(starts)s::timestamptz[]"""
# Windows start at full seconds, and the driver takes ten times as long to read a moment.
SPEND = f"""
INSERT INTO monitor_budgetwindow AS held (project_id, scope, target, period, starts_at, spent_usd, calls)
SELECT * FROM {_KEYS}, %(spent)s::numeric[], %(calls)s::int[])
ON CONFLICT (project_id, scope, target, period, starts_at) DO UPDATE SET
    spent_usd = held.spent_usd + excluded.spent_usd, calls = held.calls + excluded.calls
RETURNING project_id, scope, target, period, extract(epoch FROM starts_at)::bigint, {_WINDOW}
"""  # noqa: S608
LOOK = f"""
SELECT project_id, scope, target, period, starts_at, {_WINDOW} FROM monitor_budgetwindow
  JOIN {_KEYS}) AS wanted (project_id, scope, target, period, starts_at)
 USING (project_id, scope, target, period, starts_at)
"""  # noqa: S608


class Rule(NamedTuple):
    """A budget as it applies to one window."""

    limit_usd: Decimal
    warn_at: float
    action: str
    created_at: datetime


class Held(NamedTuple):
    """What a window holds."""

    spent_usd: Decimal = ZERO
    reserved_usd: Decimal = ZERO
    calls: int = 0
    top_up_usd: Decimal = ZERO
    warned_at: datetime | None = None
    tripped_at: datetime | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the budgets say: may the caller go on, and if not which scope says no.

    `current_cost` is what the run, hour, day and month have spent, `remaining` the least that any stopping
    budget of the project has left (None without one); both in US dollars. A global budget that refuses leaves 0,
    and before that says nothing: what it has left tells what others spend.
    """

    allowed: bool = True
    reason: str = ""
    scope: str = ""
    current_cost: dict[str, Decimal] = {}
    remaining: Decimal | None = None
    warned: list[tuple[Key, Rule, Held]] = []
    tripped: list[tuple[Key, Rule, Held]] = []


# Nothing was spent, so no window was looked at: whoever asks looks at what stands.
UNASKED = Verdict()


class Charging(msgspec.Struct, frozen=True):
    """The windows that a batch of charges touches, with what each adds.

    `present` are those of them that run now, with the budgets that apply.
    """

    spends: dict[Key, tuple[Decimal, int]]
    present: dict[Key, Rule | None]

    @property
    def statements(self) -> list[Statement]:
        """What books the charges: one statement, or none when nothing was spent."""
        if not self.spends:
            return []
        keys = sorted(self.spends, key=lambda key: key.order)
        spent = {
            "spent": array(self.spends[key][0] for key in keys),
            "calls": array(self.spends[key][1] for key in keys),
        }
        return [Statement(SPEND, _keys(keys) | spent)]


def charging(project_id: int, charges: Iterable[Charge], *, now: datetime) -> Charging:
    """Find the windows of the charges, folded: one spend a window however many calls there were.

    What was charged before goes from, or between, the windows of that time: taken from the present ones it would
    buy room in them. Those that were not kept then are left alone.
    """
    charges = list(charges)
    if not charges:
        return Charging({}, {})
    budgets, time_zone = _budgets(project_id)
    spends: dict[Key, tuple[Decimal, int]] = {}
    present: dict[Key, Rule | None] = {}
    running = _kinds(project_id, budgets, time_zone, now=now)
    for at, by_scope in _folded(charges, {kind.scope for kind in running}).items():
        kinds = running if at == now else _kinds(project_id, budgets, time_zone, now=at)
        for kind in kinds:
            for target, (cost, count) in by_scope[kind.scope].items():
                if (window := _window(kind, budgets, target)) is None:
                    continue
                key, rule = window
                if at < now and not _was_kept(key, rule, budgets, at):
                    continue
                spent, calls = spends.get(key, (ZERO, 0))
                spends[key] = spent + cost, calls + count
                if kinds is running:
                    present[key] = rule
        if kinds is not running:
            windows_now = (_window(kind, budgets, target) for kind in running for target in by_scope[kind.scope])
            present.update(window for window in windows_now if window is not None)
    for key in present:
        spends.setdefault(key, (ZERO, 0))
    return Charging(spends, present)


def judge(plan: Charging, answers: Sequence[Sequence[tuple[Any, ...]]]) -> Verdict:
    """Say what the windows, as they are after the charges, mean for whoever spent; unasked when nobody did."""
    if not answers:
        return UNASKED
    held = {row[:5]: Held(*row[5:]) for row in answers[0]}
    return _verdict(
        {key: held[*key[:4], int(key.starts_at.timestamp())] for key in plan.present},
        {key: rule for key, rule in plan.present.items() if rule is not None},
    )


def act(project_id: int, verdict: Verdict, *, now: datetime) -> None:
    """Journal each warning, once a window, and trip what passed its limit, which needs no warning any more."""
    passed = {key for key, _, _ in verdict.tripped}
    for key, rule, held in verdict.warned:
        _mark(key, warned_at=now)
        if key not in passed:
            _tell(project_id, key, rule, held, to_state="warned", now=now)
    for key, rule, held in verdict.tripped:
        _mark(key, tripped_at=now)
        if rule.action == BudgetAction.STOP:
            trips.trip(
                project_id, key, spent_usd=held.spent_usd, threshold_usd=rule.limit_usd + held.top_up_usd, now=now
            )
        else:
            _tell(project_id, key, rule, held, to_state="exceeded", now=now)


class Cut(NamedTuple):
    """Windows of the project that run now by some calendar: of one target, or with "" of every other.

    What was received from `since` on is charged in them: their budget may be younger than they are.
    """

    scope: str
    target: str
    period: str
    starts_at: datetime
    since: datetime


def cuts(project_id: int, time_zone: str, *, now: datetime) -> list[Cut]:
    """The windows that run now by a time zone; those of runs and of all projects go by none."""
    budgets, _ = _budgets(project_id)
    found = []
    for kind in _kinds(project_id, budgets, time_zone, now=now):
        if kind.project_id == INSTANCE or kind.period == Period.RUN:
            continue
        named = {target for scope, target, period in budgets if (scope, period) == (kind.scope, kind.period)}
        for target in named | {""}:
            made = [rule.created_at for one in {target, ""} if (rule := budgets.get((kind.scope, one, kind.period)))]
            if kind.is_always:
                found.append(Cut(kind.scope, target, kind.period, kind.starts_at, kind.starts_at))
            elif made:
                found.append(Cut(kind.scope, target, kind.period, kind.starts_at, max(kind.starts_at, min(made))))
    return found


def standing(project_id: int, *, now: datetime, run_id: str = "", agent: str = "", department: str = "") -> Verdict:
    """What the budgets would say now, without spending anything."""
    budgets, time_zone = _budgets(project_id)
    kinds = _kinds(project_id, budgets, time_zone, now=now)
    applied = dict(_windows(kinds, budgets, run_id, agent, department))
    rules = {key: rule for key, rule in applied.items() if rule is not None}
    held = {key: Held() for key in applied} | look(applied)
    seen = _verdict(held, rules)
    return msgspec.structs.replace(seen, warned=[], tripped=[])


def window_of(budget: Budget, time_zone: str, *, now: datetime) -> Key | None:
    """The one window that a budget binds now, by its project's time zone; None where it binds many."""
    if not budget.target and budget.scope not in (BudgetScope.PROJECT, BudgetScope.GLOBAL):
        return None
    is_global = budget.project_id is None
    began = windows.starts_at(budget.period, "UTC" if is_global else time_zone, now=now)
    return Key(budget.project_id or INSTANCE, budget.scope, budget.target, budget.period, began)


def look(keys: Iterable[Key]) -> dict[Key, Held]:
    """What the windows hold; those in which nothing was spent are left out."""
    (rows,) = pipeline.flush([Statement(LOOK, _keys(list(keys)))])
    return {Key(*row[:5]): Held(*row[5:]) for row in rows}


def _verdict(held: dict[Key, Held], rules: dict[Key, Rule]) -> Verdict:
    warned, tripped = [], []
    refusing: tuple[Key, Rule, Held] | None = None
    remaining: Decimal | None = None
    for key in sorted(held, key=lambda key: key.order):
        window, rule = held[key], rules.get(key)
        if rule is None:
            continue
        allowance = rule.limit_usd + window.top_up_usd
        spent = window.spent_usd
        over = spent >= allowance and spent > 0
        if spent > 0 and spent >= rule.limit_usd * Decimal(str(rule.warn_at)) and window.warned_at is None:
            warned.append((key, rule, window))
        if over and window.tripped_at is None:
            tripped.append((key, rule, window))
        if rule.action == BudgetAction.STOP:
            refuses = over or window.tripped_at is not None
            if refuses and refusing is None:
                refusing = key, rule, window
            if refuses or key.project_id != INSTANCE:
                left = ZERO if key.project_id == INSTANCE else max(allowance - spent, ZERO)
                remaining = left if remaining is None else min(remaining, left)
    return Verdict(
        allowed=refusing is None,
        reason=_reason(*refusing) if refusing else "",
        scope=refusing[0].scope if refusing else "",
        current_cost=_current(held),
        remaining=remaining,
        warned=warned,
        tripped=tripped,
    )


def _current(held: dict[Key, Held]) -> dict[str, Decimal]:
    current = {"run": ZERO, "hour": ZERO, "day": ZERO, "month": ZERO}
    for key, window in held.items():
        if key.scope == BudgetScope.RUN:
            current["run"] = max(current["run"], window.spent_usd)
        elif key.scope == BudgetScope.PROJECT and key.period in current:
            current[key.period] = window.spent_usd
    return current


def _reason(key: Key, rule: Rule, held: Held) -> str:
    if key.project_id == INSTANCE:
        return f"The budget of all projects for this {key.period} is spent."
    whose = f"{key.scope} {key.target}".strip()
    span = "" if key.period == Period.RUN else f" for this {key.period}"
    return (
        f"The budget of {whose}{span} is spent: {held.spent_usd:.2f} of {rule.limit_usd + held.top_up_usd:.2f} "
        "US dollars."
    )


def _budgets(project_id: int) -> tuple[dict[tuple[str, str, str], Rule], str]:
    """The budgets as they stand now, for a limit that was just lowered must bind the next call; and the time zone."""
    (rows,) = pipeline.flush([Statement(RULES, {"project_id": project_id})])
    budgets = {(row[0], row[1], row[2]): Rule(*row[3:7]) for row in rows if row[0]}
    return budgets, next((row[7] for row in rows if row[7]), "UTC")


class _Kind(NamedTuple):
    """Windows of one scope and period: whose, since when the present one runs, whether it is kept without a budget."""

    project_id: int
    scope: str
    period: str
    starts_at: datetime
    is_always: bool


def _kinds(project_id: int, budgets: dict[tuple[str, str, str], Rule], time_zone: str, *, now: datetime) -> list[_Kind]:
    """The kinds of windows that any call of the project may fall into."""
    named = {(BudgetScope.PROJECT.value, period.value) for period in ALWAYS}
    named.add((BudgetScope.RUN.value, Period.RUN.value))
    found = []
    for scope, period in named | {(scope, period) for scope, _, period in budgets}:
        is_global = scope == BudgetScope.GLOBAL.value
        began = windows.starts_at(period, "UTC" if is_global else time_zone, now=now)
        found.append(_Kind(INSTANCE if is_global else project_id, scope, period, began, (scope, period) in named))
    return found


def _folded(
    charges: Iterable[Charge], scopes: Collection[str]
) -> dict[datetime, dict[str, dict[str, tuple[Decimal, int]]]]:
    """What the charges add up to, by moment, scope and target; the target of a project or of all of them is ""."""
    folded: dict[datetime, dict[str, dict[str, tuple[Decimal, int]]]] = {}
    for one in charges:
        by_scope = folded.get(one.at)
        if by_scope is None:
            by_scope = folded[one.at] = {scope: {} for scope in scopes}
        targets = _targets(one.run_id, one.agent, one.department)
        for scope, sums in by_scope.items():
            target = targets.get(scope, "")
            spent, calls = sums.get(target, (ZERO, 0))
            sums[target] = spent + one.cost_usd, calls + one.calls
    return folded


def _targets(run_id: str, agent: str, department: str) -> dict[str, str]:
    return {BudgetScope.RUN.value: run_id, BudgetScope.AGENT.value: agent, BudgetScope.DEPARTMENT.value: department}


def _windows(
    kinds: Iterable[_Kind], budgets: dict[tuple[str, str, str], Rule], run_id: str, agent: str, department: str
) -> Iterable[tuple[Key, Rule | None]]:
    """The windows that hold a call, each with the budget that binds it."""
    targets = _targets(run_id, agent, department)
    windows_of = (_window(kind, budgets, targets.get(kind.scope, "")) for kind in kinds)
    return (window for window in windows_of if window is not None)


def _window(kind: _Kind, budgets: dict[tuple[str, str, str], Rule], target: str) -> tuple[Key, Rule | None] | None:
    """The window of a target and the budget that binds it, its own before the general one; None where none is kept."""
    if not target and kind.scope in TARGETED:
        return None
    rule = budgets.get((kind.scope, target, kind.period)) or budgets.get((kind.scope, "", kind.period))
    if rule is None and not kind.is_always:
        return None
    return Key(kind.project_id, kind.scope, target, kind.period, kind.starts_at), rule


def _was_kept(key: Key, rule: Rule | None, budgets: dict[tuple[str, str, str], Rule], at: datetime) -> bool:
    """Whether the window was charged at that time: always, or since the first of the budgets that bind it was made."""
    if rule is None or key.scope == BudgetScope.RUN or (key.scope == BudgetScope.PROJECT and key.period in ALWAYS):
        return True
    general = budgets.get((key.scope, "", key.period), rule)
    return min(rule.created_at, general.created_at) <= at


def _keys(keys: Sequence[Key]) -> dict[str, Any]:
    return {
        "project_ids": array(key.project_id for key in keys),
        "scopes": array(key.scope for key in keys),
        "targets": texts(key.target for key in keys),
        "periods": array(key.period for key in keys),
        "starts": times(key.starts_at for key in keys),
    }


def _mark(key: Key, **fields: datetime) -> None:
    BudgetWindow.objects.filter(**key._asdict()).update(**fields)


def _tell(project_id: int, key: Key, rule: Rule, held: Held, *, to_state: str, now: datetime) -> None:
    changes.record(
        project_id,
        Subject.BUDGET,
        f"{key.scope}:{key.target}:{key.period}"[:200],
        to_state=to_state,
        cause="budget",
        now=now,
        data={
            "scope": key.scope,
            "target": key.target,
            "period": key.period,
            "window_starts_at": key.starts_at.isoformat(),
            "spent_usd": f"{held.spent_usd:f}",
            "limit_usd": f"{rule.limit_usd + held.top_up_usd:f}",
            "share": round(float(held.spent_usd / rule.limit_usd), 4) if rule.limit_usd else None,
        },
    )
