"""What a project adds up to at the moment: agents by window, the system, money. Read from rollups and windows."""

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import psutil
from django.db.models import Max, Sum

from monitor import budgets, commons, rollups, windows
from monitor.budgets import Held
from monitor.models import Budget, Execution, Project
from monitor.models.executions import ENDED
from monitor.models.money import Period
from monitor.rollups import Totals

WINDOWS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
CALLS = ("llm", "tool")
# Rollups read up to the beginning of a minute.
THIS_MINUTE = timedelta(minutes=1)
ZERO = Decimal(0)
NOTHING = Held()
# The first measurement of a process has nothing to compare with.
psutil.cpu_percent(None)


def of_agents(project_id: int, *, now: datetime) -> dict[str, dict[str, dict[str, Any]]]:
    """{agent: {"1h" | "24h" | "7d": figures}} for every agent that did something in the week."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, length in WINDOWS.items():
        worked, called = (
            {
                row.group: row
                for row in rollups.totals(
                    project_id,
                    since=now - length,
                    until=now + THIS_MINUTE,
                    kinds=kinds,
                    group_by="agent",
                    with_latency=kinds != CALLS,
                )
            }
            for kinds in (("execution",), CALLS)
        )
        asked = {
            row.group: row.count
            for row in rollups.totals(
                project_id, since=now - length, until=now + THIS_MINUTE, kinds=("llm",), group_by="agent"
            )
        }
        measured = {row["agent"]: row for row in _measured(project_id, since=now - length)}
        for agent in sorted({*worked, *called, *measured}):
            figures = _of_agent(worked.get(agent), called.get(agent), asked.get(agent, 0), measured.get(agent, {}))
            found.setdefault(agent, _idle())[name] = figures
    return found


def _of_agent(worked: Totals | None, called: Totals | None, asked: int, measured: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "executions": worked.count if worked else 0,
        "errors": worked.failed if worked else 0,
        "error_rate": (worked and worked.error_rate) or 0.0,
        "avg_duration_ms": _ms(worked.avg_ms if worked else None),
        "p95_ms": _ms(worked.p95_ms if worked else None),
        "tokens": called.input_tokens + called.output_tokens if called else 0,
        "cost_usd": called.cost_usd if called else ZERO,
        # What the client counted itself, or what it reported call by call.
        "api_calls": max(asked, measured.get("api_calls") or 0),
        "cpu_ms": measured.get("cpu_ms") or 0,
        "memory_delta_bytes": measured.get("memory_delta_bytes") or 0,
    }


def _idle() -> dict[str, dict[str, Any]]:
    return {name: _of_agent(None, None, 0, {}) for name in WINDOWS}


def _measured(project_id: int, *, since: datetime) -> Any:
    """What only tracked executions tell; few do, and the partial index `execution_measured` holds those alone."""
    tracked = Execution.objects.of(project_id).filter(cpu_ms__isnull=False, started_at__gte=since, status__in=ENDED)
    return tracked.values("agent").annotate(
        cpu_ms=Sum("cpu_ms"), memory_delta_bytes=Max("memory_delta_bytes"), api_calls=Sum("api_calls")
    )


def of_system(project_id: int, *, now: datetime) -> dict[str, Any]:
    """Throughput, errors, latency and cost by window, and the machine's health."""
    found: dict[str, Any] = {}
    for name, length in WINDOWS.items():
        worked = _only(rollups.totals(project_id, since=now - length, until=now + THIS_MINUTE, kinds=("execution",)))
        called = _only(rollups.totals(project_id, since=now - length, until=now + THIS_MINUTE, kinds=CALLS))
        found[name] = {
            "executions_per_hour": round(worked.count / (length / timedelta(hours=1)), 3) if worked else 0.0,
            "error_rate": (worked and worked.error_rate) or 0.0,
            "avg_response_ms": _ms(worked.avg_ms if worked else None),
            "total_cost_usd": called.cost_usd if called else ZERO,
        }
    found["health"] = {
        "cpu_percent": psutil.cpu_percent(None),
        "memory_percent": psutil.virtual_memory().percent,
        "uptime_s": round(time.time() - psutil.Process().create_time()),
    }
    return found


def of_costs(project_id: int, *, now: datetime) -> dict[str, Any]:
    """What was spent today and this month, by whom and with what, and how the budgets stand."""
    time_zone = Project.objects.values_list("time_zone", flat=True).get(pk=project_id)
    current = budgets.standing(project_id, now=now).current_cost
    month_began = windows.starts_at(Period.MONTH, time_zone, now=now)
    by = {
        f"by_{group}": {
            row.group: row.cost_usd
            for row in rollups.totals(
                project_id, since=month_began, until=now + THIS_MINUTE, kinds=CALLS, group_by=group
            )
        }
        for group in ("agent", "department", "model")
    }
    return {
        "today": current["day"],
        "month": current["month"],
        **by,
        "budgets": _budgets(project_id, time_zone, now=now),
    }


def _budgets(project_id: int, time_zone: str, *, now: datetime) -> list[dict[str, Any]]:
    """Each budget of the project with its present window; one that binds every target by itself has no single window.

    Figures are the project's, whoever asks: no global budget is among them.
    """
    seen = commons.visible(project_id, is_instance_admin=False)
    bound = [
        (budget, budgets.window_of(budget, time_zone, now=now))
        for budget in Budget.objects.filter(seen).order_by("scope", "period", "target")
    ]
    held = budgets.look(key for _, key in bound if key is not None)
    return [_of_budget(budget, held.get(key, NOTHING) if key else NOTHING) for budget, key in bound]


def _of_budget(budget: Budget, held: Held) -> dict[str, Any]:
    return {
        "scope": budget.scope,
        "target": budget.target,
        "period": budget.period,
        "limit_usd": budget.limit_usd,
        "spent_usd": held.spent_usd,
        "reserved_usd": held.reserved_usd,
        "tripped": held.tripped_at is not None,
    }


def _only(rows: list[Totals]) -> Totals | None:
    return rows[0] if rows else None


def _ms(value: float | None) -> int:
    return round(value or 0)
