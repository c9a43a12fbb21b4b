"""The style pages: every part of the front end with fixed sample data, for those who build pages."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from dashboard import states
from dashboard.frame import (
    PLACES,
    Banner,
    Counts,
    Face,
    Frame,
    NavItem,
    ProjectLink,
    Watcher,
    range_of,
)

NOW = datetime(2026, 11, 20, 14, 5, 38, tzinfo=UTC)


def sheet(request: HttpRequest) -> HttpResponse:
    """The sheet of parts: states, colours, type, buttons, countdowns, live, quiet states."""
    _only_for_builders(request)
    swatches = ["bg", "surface", "sunken", "line", "line-2", "ink-3", "ink-2", "ink", "accent"]
    return render(
        request,
        "kit/sheet.html",
        {
            "executions": states.EXECUTIONS.values(),
            "alerts": [*states.ALERTS.values(), *(states.QUEUE[name] for name in states.QUEUE if "yours" not in name)],
            "swatches": [*swatches, "accent-fill", "accent-soft"],
            "tones": [("red", "act now"), ("amber", "soon, degraded"), ("blue", "running"), ("green", "healthy, done")],
            "in_41_min": NOW + timedelta(minutes=41, seconds=12),
            "in_26_s": NOW + timedelta(seconds=26),
            "began": NOW - timedelta(seconds=114),
            "late": NOW - timedelta(seconds=42),
            **_frozen(request),
        },
    )


def framed(request: HttpRequest) -> HttpResponse:
    """The frame with a page that shows rows, strip, chart, feed and table."""
    _only_for_builders(request)
    return render(request, "kit/framed.html", {**_frozen(request), **_overview(request)})


def parts(request: HttpRequest) -> HttpResponse:
    """Plan, waterfall, charts, forms, conversation, decision: what single pages are made of."""
    _only_for_builders(request)
    context = {
        **_frozen(request),
        "keys_sample": [("j", ""), ("k", "move"), ("c", "claim"), ("?", "all keys")],
        "in_3_s": NOW + timedelta(seconds=3),
        "in_40_min": NOW + timedelta(minutes=40, seconds=12),
        "trace": long_trace(int(request.GET["spans"])) if request.GET.get("spans", "").isdigit() else sample_trace(),
        "error_rate": _error_rate(),
        "cost_by_day": _cost_by_day(),
    }
    return render(request, "kit/parts.html", context)


def _only_for_builders(request: HttpRequest) -> None:
    if not settings.DEBUG and not request.user.is_authenticated:
        raise Http404


def _frozen(request: HttpRequest) -> dict[str, Any]:
    """The moment and the frame of the pictures, so that screenshots can be compared."""
    counts = Counts(queue=4, alerts=3, critical=1)
    shown = {"queue": counts.queue, "alerts": counts.alerts}
    nav = tuple(
        NavItem(place, "#", here=place.name == "overview", count=shown.get(place.name, 0), urgent=place.name in shown)
        for place in PLACES
    )
    project = ProjectLink("1", "Horizon Travel", "#")
    frame = Frame(
        nav=nav,
        range=range_of(request.GET, now=NOW),
        project=project,
        projects=(project, ProjectLink("2", "Sandbox", "#")),
        person=Face("Mara Lind", "mara@example.com", "operator", "online", "#"),
        counts=counts,
        stream_url="/events/" if "stream" in request.GET else "",
        stream_as="mara",
        watcher=Watcher(on_time=True, jobs=12, last_at=NOW - timedelta(seconds=3)),
    )
    if "ill" in request.GET:
        late = Watcher(on_time=False, jobs=12, last_at=NOW - timedelta(seconds=48))
        banner = Banner("The watchdog has not run for 48 s.", "Silence may go unseen.", "#", "See System")
        frame = replace(frame, watcher=late, banner=banner)
    return {"now": NOW, "frozen": True, "frame": frame, "live_state": request.GET.get("live", "off")}


def _overview(request: HttpRequest) -> dict[str, Any]:
    busy = [round(15 + 6 * math.sin(i / 15 + 1.2) + 2 * math.sin(i * 1.7)) for i in range(96)]
    failed = [(i * 7) % 5 // 4 + (8 if i == 95 else 0) + (2 if i > 86 and i % 3 == 0 else 0) for i in range(96)]
    past = [round(15 + 6.5 * math.sin(i / 15 + 1.3), 1) for i in range(96)]
    throughput = {
        "kind": "throughput",
        "t0": "2026-11-19T14:00:00Z",
        "dt": 900,
        "series": [
            {"name": "finished", "role": "finished", "y": busy},
            {"name": "failed or retried", "role": "failed", "y": failed},
            {"name": "same day last week", "role": "past", "y": past},
        ],
    }
    wave = [3 + 2 * math.sin(i / 2) + (i % 5) / 3 for i in range(36)]
    agents = [
        ("airline-support", "claude-sonnet-4-5", 412, 0.021, 11.2, "71.40", 1.0),
        ("booking-concierge", "claude-opus-4-6", 74, 0.0, 19.8, "31.10", 0.44),
        ("airline-rebooking", "gpt-4o-2024-11-20", 168, 0.31, 24.3, "19.60", 0.27),
        ("retail-returns", "gpt-4.1", 231, 0.017, 8.4, "13.90", 0.19),
        ("telecom-helpdesk", "gpt-4o", 96, 0.031, 12.6, "8.80", 0.12),
        ("evaluation", "qwen3-32b", 12, 0.0, 6.1, None, 0.0),
    ]
    feed = [
        (7, "running", "airline-support started, Aarav Garcia, trip HAT136 to Chicago"),
        (16, "completed", "retail-orders finished in 48 s, $0.09"),
        (40, "zombie", "telecom-helpdesk missed its beat by 30 s"),
        (58, "completed", "booking-concierge finished in 2 min 26 s, $0.44"),
        (86, "retrying", "airline-rebooking, try 2 of 3: not enough seats on the flight"),
        (94, "chat", "Amelia Davis waits for a person"),
        (101, "completed", "retail-returns finished in 63 s, $0.16"),
        (138, "acknowledged", "Mara Lind took the warning “p95 above 30 s”"),
        (169, "completed", "airline-support finished in 96 s, $0.27"),
    ]
    return {
        "rows": range(5, 5 + min(9, int(request.GET.get("rows", "0") or 0))),
        "claim_due": NOW + timedelta(seconds=26),
        "claim_from": NOW - timedelta(seconds=114),
        "approval_due": NOW + timedelta(minutes=41, seconds=12),
        "throughput": throughput,
        "wave": wave,
        "rising": [i * i / 40 + 2 for i in range(24)],
        "agents": [
            {"name": a, "model": m, "count": n, "errors": e, "p95_s": p, "cost": c and Decimal(c), "share": s}
            for a, m, n, e, p, c, s in agents
        ],
        "feed": [(NOW - timedelta(seconds=s), state, text) for s, state, text in feed],
    }


def sample_trace() -> dict[str, Any]:
    """Two finished tries and a running third, as the execution page sends it to waterfall.js."""
    spans: list[list[Any]] = [
        ["try1", -1, "agent", "Try 1, failed", 0, 41200, "0.0782", 31400, "error", "flight HAT030 not available"],
        ["try2", -1, "agent", "Try 2, failed", 42000, 38000, "0.1122", 43800, "error", "loop, 3 equal calls"],
        ["try3", -1, "agent", "Try 3, invoke_agent", 90000, None, "0.1908", 73500, "running", None],
    ]
    calls: list[tuple[str, str, int, int | None, str | None, int | None, str, str | None]] = [
        ("model", "chat gpt-4o-2024-11-20", 90000, 2100, "0.0148", 5600, "ok", None),
        ("tool", "get_reservation_details", 92100, 200, None, None, "ok", "XEWRD9"),
        ("model", "chat gpt-4o-2024-11-20", 92300, 3400, "0.0192", 6400, "ok", None),
        ("model", "chat gpt-4o-2024-11-20", 105100, 2600, "0.0214", 6900, "ok", None),
        ("tool", "search_direct_flight", 107700, 500, None, None, "ok", "ATL → LAS, 2024-05-21"),
        ("model", "chat gpt-4o-2024-11-20", 108200, 4900, "0.0297", 8800, "ok", None),
        ("tool", "update_reservation_flights", 113100, 400, None, None, "error", "HAT030 not available"),
        ("model", "chat gpt-4o-2024-11-20", 113500, 4400, "0.0318", 9700, "ok", None),
        ("tool", "update_reservation_flights", 117900, 300, None, None, "error", "same arguments, 2nd time"),
        ("tool", "search_onestop_flight", 118200, 1200, None, None, "ok", "LAX → ORD, 2024-05-13"),
        ("model", "chat gpt-4o-2024-11-20", 119400, 5800, "0.0377", 11400, "ok", None),
        ("model", "chat gpt-4o-2024-11-20", 143000, 4100, "0.0362", 11900, "ok", None),
        ("tool", "update_reservation_flights", 147100, 400, None, None, "error", "same arguments, 3rd time"),
        ("model", "chat gpt-4o-2024-11-20", 147500, None, "0.0404", 12800, "running", "no answer since 13:58:38"),
    ]
    spans += [[f"span{at}", 2, *call] for at, call in enumerate(calls)]
    spans += [["t1a", 0, "model", "chat gpt-4o-2024-11-20", 0, 41000, "0.0782", 31400, "ok", None]]
    spans += [["t2a", 1, "model", "chat gpt-4o-2024-11-20", 42000, 38000, "0.1122", 43800, "ok", None]]
    return {"spans": spans, "gaps": [[95700, 105100, "for the customer"]], "ends_ms": 177000, "axis_from_ms": 90000}


def long_trace(count: int) -> dict[str, Any]:
    """A trace of many spans, to see that the waterfall stays quick: at most 20,000."""
    spans: list[list[Any]] = [["root", -1, "agent", "invoke_agent", 0, 400 * count, "1.2000", 90000, "ok", None]]
    for at in range(1, min(count, 20_000)):
        kind = "tool" if at % 3 == 0 else "model"
        parent = 0 if at % 10 == 1 else at - (at - 1) % 10
        spans.append([f"s{at}", parent, kind, f"step {at}", at * 390, 300, None, at, "ok", None])
    return {"spans": spans, "gaps": [], "ends_ms": 400 * count}


def _error_rate() -> dict[str, Any]:
    calm = [2 + math.sin(i * 2.1) * 0.4 for i in range(48)]
    climb = [2.5, 3, 4, 6, 8, 9, 12, 15, 18, 20, 22, 25.3, 26.5, 27.5, 28.3, 29, 29.8, 30.4]
    held = [30.5, 30.2, 30.9, 31.1, 30.6, 30.8, 31.2, 30.7, 31.0, 30.5, 30.9, 31.1, 30.6, 31.0]
    return {
        "kind": "line",
        "t0": "2026-11-20T12:45:00Z",
        "dt": 60,
        "unit": "%",
        "series": [{"name": "error rate", "y": [round(v, 2) for v in calm + climb + held], "breach": 25}],
        "ending": "31 %",
        "thresholds": [
            {"y": 25, "label": "critical 25 %", "level": "critical"},
            {"y": 10, "label": "warning 10 %", "level": "warning"},
        ],
        "bands": [
            {"from": "2026-11-20T13:44:00", "to": "2026-11-20T13:54:00", "role": "held"},
            {"from": "2026-11-20T13:54:00", "to": "2026-11-20T14:05:00", "role": "firing"},
        ],
    }


def _cost_by_day() -> dict[str, Any]:
    weekday = [0.6, 0.9, 0.95, 1.0, 0.93, 1.0, 0.65]
    names = [("claude-sonnet-4-5", 110), ("claude-opus-4-6", 48), ("gpt-4o", 46), ("gpt-4.1", 22), ("others", 6)]
    return {
        "kind": "stacked",
        "t0": "2026-11-01T00:00:00Z",
        "dt": 86400,
        "unit": "$",
        "series": [
            {"name": name, "y": [round(size * weekday[day % 7], 2) for day in range(20)]} for name, size in names
        ],
        "thresholds": [{"y": 260, "label": "daily limit $260", "level": "limit"}],
        "forecast": {
            "t0": "2026-11-21T00:00:00Z",
            "dt": 86400,
            "median": [165, 152, 220, 231, 236, 240, 231, 168, 156, 223],
            "low": [152, 140, 198, 206, 210, 212, 202, 144, 132, 186],
            "high": [176, 166, 240, 256, 264, 270, 264, 196, 184, 262],
        },
    }
