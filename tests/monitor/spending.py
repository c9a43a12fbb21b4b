"""Builders for spans that cost, and the proof that the books agree with the spans."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connections, transaction
from django.db.models import Q, Sum

from monitor import agentwork, budgets, closing, ingest, latency, lineage, metering, windows
from monitor.bookings import Books, RunSums, WorkSums, line, roles
from monitor.deadlocks import unhindered
from monitor.folding import KEY, SUMS, _by_minute
from monitor.ingest import Judged
from monitor.models import (
    Agent,
    Budget,
    BudgetWindow,
    Conversation,
    DayRollup,
    Execution,
    HourRollup,
    LedgerEntry,
    MinuteRollup,
    Project,
    Run,
    RunQuarter,
    Span,
    Trace,
)
from monitor.records import Span as Record
from monitor.records import Tokens, sealed
from monitor.spanrows import BOOKED_COLUMNS, Row, Work
from monitor.tenancy import crossing, tenant

NOW = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
# An execution that the API reported, where a test makes it.
REPORTED = UUID(int=77)
# 1,000 tokens in and 100 out cost 0.0035 dollars.
MODEL = "gpt-4o"
CALL_USD = Decimal("0.0035")
# Of an execution that spans tell of, what they decide.
TOLD_COLUMNS = ("parent_id", "agent", "task", "run_id", "conversation_id", "department", "status", "duration_ms")
RUN_SUMS = (
    "calls",
    "failed_calls",
    "unpriced_calls",
    "tool_calls",
    "latency_ms",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "reported_usd",
    "computed_usd",
)
WORK = (
    "id",
    "parent_id",
    "agent",
    "task",
    "run_id",
    "conversation_id",
    "department",
    "status",
    "error",
    "started_at",
    "ended_at",
    "duration_ms",
    "cost_usd",
    "input_tokens",
    "output_tokens",
    "api_calls",
)


def a_project(name: str = "north", **fields: Any) -> Project:
    with crossing():
        return Project.objects.create(name=name, **fields)


def a_span(trace: int, span: int, parent: int | None = None, **fields: Any) -> Record:
    """A span of one second; a model call with usage unless told otherwise."""
    started_at = fields.pop("started_at", NOW - timedelta(minutes=10) + timedelta(seconds=span % 400))
    given: dict[str, Any] = {
        "trace_id": trace.to_bytes(16, "big"),
        "span_id": span,
        "parent_span_id": parent,
        "kind": "llm",
        "name": "chat",
        "started_at": started_at,
        "ended_at": started_at + timedelta(seconds=1),
        "run_id": f"run-{trace}",
        "agent": "planner",
        "agent_stated": True,
    }
    if fields.get("kind", "llm") == "llm":
        given |= {"provider": "openai", "model": MODEL, "request_model": MODEL, "tokens": usage()}
    return sealed(Record(**given | fields))


def a_bare_span(trace: int, span: int, parent: int | None = None, **fields: Any) -> Record:
    """A span that says neither agent nor run; its service is `shop`."""
    unsaid = {"agent": "shop", "agent_stated": False, "run_id": trace.to_bytes(16, "big").hex()}
    return a_span(trace, span, parent, **unsaid | fields)


def usage(taken: int = 1000, made: int = 100) -> Tokens:
    return Tokens(input=taken, output=made, has_usage=True)


def a_trace(trace: int, rng: random.Random) -> list[Record]:
    """An agent that repeats its children's usage, chats, tools, a call below a call, a failure, a doubled response."""
    spans = [
        a_span(trace, 1, kind="agent", tokens=usage(9000, 900), model=MODEL, conversation_id="talk"),
        a_span(trace, 2, 1, kind="step"),
        a_span(trace, 3, 2, response_id="r-3"),
        a_span(trace, 4, 3, response_id="r-4", tokens=usage(500, 50)),
        a_span(trace, 5, 1, kind="tool", tool="search"),
        a_span(trace, 6, 1, kind="tool", tool="buy", reported_usd=Decimal("0.25")),
        a_span(trace, 7, 1, model="nobody-knows-me"),
        a_span(trace, 8, 1, tokens=Tokens(), status="error", error="overloaded"),
        a_span(trace, 9, 1, tokens=Tokens()),
        a_span(trace, 10, 2, response_id="r-10"),
        a_span(trace, 11, 2, response_id="r-10", tokens=usage(1000, 50)),
        a_span(trace, 12, 1, reported_usd=Decimal("0.9"), agent="critic", department="Sales"),
    ]
    for n in range(13, 13 + rng.randrange(6)):
        spans.append(a_span(trace, n, rng.randrange(1, n), tokens=usage(rng.randrange(1, 5000), rng.randrange(900))))
    return spans


def a_family(trace: int, rng: random.Random) -> list[Record]:
    """A random tree of agents, steps, calls and tools, most of which say little; some parents never come."""
    spans = []
    for n in range(1, 8 + rng.randrange(16)):
        said: dict[str, Any] = {"kind": rng.choice(("agent", "agent", "step", "llm", "llm", "tool"))}
        if rng.random() < 0.3 or (said["kind"] == "agent" and rng.random() < 0.6):
            said |= {"agent": f"agent-{n}", "agent_stated": True}
        if rng.random() < 0.15:
            said["run_id"] = f"run-{trace}-{n % 3}"
        if rng.random() < 0.2:
            said["conversation_id"] = f"talk-{n % 4}"
        if rng.random() < 0.1:
            said["execution_id"] = REPORTED
        if rng.random() < 0.3:
            said |= {"status": "error", "error": "overloaded"}
        parent = None if n == 1 else rng.choice((*range(1, n), 900 + n))
        spans.append(a_bare_span(trace, n, parent, **said))
    return spans


def pending(span: Record) -> Record:
    """The same span as it was told while it went on."""
    fields = {name: getattr(span, name) for name in span.__struct_fields__}
    return sealed(Record(**fields | {"ended_at": None, "tokens": Tokens(), "reported_usd": None, "status": "unset"}))


def accept(project: Project, spans: list[Record], *, now: datetime = NOW, **options: Any) -> Judged:
    return unhindered(project.pk, lambda: ingest.accept(project.pk, spans, now=now, **options))


def books_of(project: Project) -> dict[str, Any]:
    """Everything that is summed, without what tells in which order it came."""
    with tenant(project.pk):
        places = {
            one.id: (one.trace_id, one.span_id) for one in Execution.objects.filter(from_spans=True)
        }  # their ids differ from project to project
        return {
            "spans": sorted(
                (
                    (*row[:-1], places.get(row[-1], row[-1]))
                    for row in Span.objects.values_list(
                        "trace_id",
                        "span_id",
                        "started_at",
                        "ended_at",
                        "cost_usd",
                        "pricing",
                        "run_id",
                        "agent",
                        "conversation_id",
                        "computed_usd",
                        "execution_id",
                    )
                ),
                key=str,
            ),
            "ledger": sorted(
                (
                    (*row[:6], places.get(row[6], row[6]), *row[7:])
                    for row in LedgerEntry.objects.values_list(
                        "trace_id", "span_id", "model", "agent", "run_id", "conversation_id", "execution_id"
                    ).annotate(Sum("cost_usd"), Sum("calls"), Sum("input_tokens"), Sum("unpriced"), Sum("latency_ms"))
                    if any(row[7:])
                ),
                key=str,
            ),
            "minutes": minutes_of(),
            "executions": sorted(
                (
                    (places.get(row[0], row[0]), places.get(row[1], row[1]), *row[2:])
                    for row in Execution.objects.values_list(*WORK)
                ),
                key=str,
            ),
            "talks": sorted(Conversation.objects.values_list("conversation_id", "cost_usd")),
            "agents": sorted(Agent.objects.values_list("name", flat=True)),
            "runs": sorted(
                Run.objects.values_list(
                    "run_id",
                    "calls",
                    "failed_calls",
                    "unpriced_calls",
                    "tool_calls",
                    "latency_ms",
                    "cost_usd",
                    "input_tokens",
                    "output_tokens",
                    "reported_usd",
                    "computed_usd",
                    "first_at",
                    "last_at",
                )
            ),
            "quarters": quarters_of(),
            "traces": sorted(Trace.objects.values_list("trace_id", "first_at", "last_at", "spans"), key=str),
            "windows": sorted(
                row
                for row in BudgetWindow.objects.values_list(
                    "scope", "target", "period", "starts_at", "spent_usd", "calls"
                )
                if any(row[4:])
            ),
        }


def minutes_of() -> dict[tuple, tuple]:
    """The minute rollups that hold anything."""
    return _rollups(MinuteRollup.objects.values_list("minute", *KEY, *SUMS, "latency"))


def _rollups(found: Iterable[tuple]) -> dict[tuple, tuple]:
    rows = ((*row[:-1], tuple(latency.joined([row[-1]]))) for row in found)
    return {row[: len(KEY) + 1]: row[len(KEY) + 1 :] for row in rows if any(row[len(KEY) + 1 :])}


def hours_and_days_of(latest: datetime) -> tuple[dict[tuple, tuple], dict[tuple, tuple]]:
    """The hour and day rollups as they will be when all is closed; what is open stays open."""
    with transaction.atomic():
        while closing.close(now=latest + timedelta(days=3)):
            pass
        found = (
            _rollups(HourRollup.objects.values_list("hour", *KEY, *SUMS, "latency")),
            _rollups(DayRollup.objects.values_list("day", *KEY, *SUMS, "latency")),
        )
        transaction.set_rollback(True)
    return found


def added_up(minutes: Mapping[tuple, tuple], whole: Callable[[datetime], datetime | None]) -> dict[tuple, tuple]:
    """The sums of minutes by the longer time that each lies in, without those that lie in none."""
    found: dict[tuple, tuple] = {}
    for (minute, *key), sums in minutes.items():
        if (at := whole(minute)) is not None:
            held = found.get((at, *key), ((0,) * len(SUMS)) + ((),))
            added = (one + more for one, more in zip(held[:-1], sums[:-1], strict=True))
            found[at, *key] = (*added, tuple(latency.joined([held[-1], sums[-1]])))
    return {key: sums for key, sums in found.items() if any(sums)}


def hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def day_in(zone: ZoneInfo) -> Callable[[datetime], datetime | None]:
    """When the first whole hour begins of the day of a moment; None in an hour that two days share."""

    def day(at: datetime) -> datetime | None:
        noon = at.astimezone(zone).replace(hour=12, fold=0)
        around = [noon + timedelta(days=n) for n in range(-1, 3)]
        midnights = [one.replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC) for one in around]
        for begin, end in pairwise(midnights):
            first = begin if begin == hour(begin) else hour(begin) + timedelta(hours=1)
            if first <= hour(at) and hour(at) + timedelta(hours=1) <= end:
                return first
        return None

    return day


def quarters_of() -> dict[datetime, tuple[int, int]]:
    """The quarters of an hour in which runs began or were last heard of, and how many."""
    return {one.at: (one.begun, one.ended) for one in RunQuarter.objects.all() if one.begun or one.ended}


def quarter(at: datetime) -> datetime:
    return at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)


def assert_books_balance(project: Project, *, since: datetime | None = None) -> None:
    """Recompute every sum from the stored spans alone and compare exactly.

    Windows of budgets only from those on that ran at `since`, when the project's time zone was changed.
    """
    with tenant(project.pk):
        traces: dict[str, list[Row]] = defaultdict(list)
        for values in Span.objects.values(*BOOKED_COLUMNS):
            traces[values["trace_id"].hex].append(
                Row(
                    **values
                    | {
                        "trace_id": values["trace_id"].hex,
                        "digest": bytes(values["digest"]),
                        "execution_id": values["execution_id"] and str(values["execution_id"]),
                    }
                )
            )
        books = Books()
        works = {}
        for trace, rows in traces.items():
            spans = {row.span_id: row for row in rows}
            parents = metering.parents(spans)
            counted = roles(rows, parents)
            placed = lineage.places(project.pk, trace, spans, parents, work_of(project, trace))
            for row in rows:
                place = placed[row.span_id]
                assert (row.agent, row.conversation_id, row.run_id, row.execution_id) == (
                    place.agent or row.service,
                    place.conversation_id,
                    place.run_id or trace,
                    place.execution_id,
                )
                assert lineage.is_own(row) == place.is_own
                if place.is_own:
                    told = agentwork.of(row, place.parent_id)
                    works[told.id] = told
                    books.tell(None, told)
                role = counted.get(row.span_id)
                contribution = line(row, role) if role else None
                books.move(None, contribution, 0)
                billed = contribution.cost_usd if contribution and contribution.has_entry else Decimal(0)
                assert row.cost_usd == billed, row
        stored = {str(one.id): one for one in Execution.objects.filter(from_spans=True)}
        assert stored.keys() == works.keys()
        for one in Execution.objects.all():
            sums = books.works.get(str(one.id), WorkSums())
            assert (one.cost_usd, one.api_calls, one.input_tokens, one.output_tokens) == (
                sums.cost_usd,
                sums.calls,
                sums.input_tokens,
                sums.output_tokens,
            )
        for identity, work in works.items():
            assert [str(getattr(stored[identity], name)) for name in TOLD_COLUMNS] == [
                str(getattr(work, name)) for name in TOLD_COLUMNS
            ]
        expected = {
            key: (*sums, tuple(latency.joined([latency.packed(counts)])))
            for key, (sums, counts) in _by_minute(books.rollups).items()
        }
        assert minutes_of() == expected
        hours, days = hours_and_days_of(max((minute for minute, *_ in expected), default=NOW))
        assert hours == added_up(expected, hour)
        zone = ZoneInfo(Project.objects.values_list("time_zone", flat=True).get(pk=project.pk))
        assert days == added_up(expected, day_in(zone))
        _assert_runs_balance(traces, books)
        total = sum((one.cost_usd for one in books.charges), Decimal(0))
        booked = LedgerEntry.objects.aggregate(cost=Sum("cost_usd"), calls=Sum("calls"))
        assert (booked["cost"] or 0, booked["calls"] or 0) == (total, len(books.charges))
        for talk in Conversation.objects.all():
            assert talk.cost_usd == books.conversations.get(talk.conversation_id, 0), talk.conversation_id
        for trace in Trace.objects.all():
            starts = [row.started_at for row in traces[trace.trace_id.hex]]
            assert trace.spans == len(starts)
            assert not starts or trace.first_at <= min(starts) <= max(starts) <= trace.last_at
    _assert_windows_balance(project, since)


def _assert_runs_balance(traces: Mapping[str, list[Row]], books: Books) -> None:
    made: dict[str, list[Row]] = defaultdict(list)
    for row in (row for rows in traces.values() for row in rows):
        made[row.run_id].append(row)
    assert {run.run_id: run.spans for run in Run.objects.exclude(spans=None) if run.spans} == {
        run_id: len(rows) for run_id, rows in made.items()
    }
    for run in Run.objects.all():
        summed = books.runs.get(run.run_id) or RunSums(run.run_id, "", "", run.first_at, run.last_at)
        assert {name: getattr(run, name) for name in RUN_SUMS} == {name: getattr(summed, name) for name in RUN_SUMS}
        if rows := made.get(run.run_id):
            first_at, last_at = min(row.started_at for row in rows), max(row.ended_at or row.started_at for row in rows)
            # One that somebody named reaches to wherever a span of it was told to be.
            assert run.first_at <= first_at <= last_at <= run.last_at
            if {row.trace_id for row in rows} == {run.run_id}:
                assert (run.first_at, run.last_at) == (first_at, last_at)
    of_runs = BudgetWindow.objects.filter(scope="run").values_list("target", flat=True)
    assert set(of_runs) <= set(Run.objects.values_list("run_id", flat=True))
    began = Counter(quarter(run.first_at) for run in Run.objects.all())
    ended = Counter(quarter(run.last_at) for run in Run.objects.all())
    assert quarters_of() == {at: (began[at], ended[at]) for at in began | ended}


def _assert_windows_balance(project: Project, since: datetime | None) -> None:
    """Every window of the project, and of all, holds what the ledger says was received in it."""
    with crossing():
        own = LedgerEntry.objects.filter(project_id=project.pk)
        limits = list(Budget.objects.filter(Q(project=project) | Q(project=None)))
        expected: dict[tuple[str, str, str, datetime], tuple[Decimal, int]] = {}
        kept = [("project", period, None, "") for period in budgets.ALWAYS] + [("run", "run", None, "")]
        kept += [(one.scope, one.period, one.created_at, one.target) for one in limits]
        for scope, period in {(scope, period) for scope, period, *_ in kept}:
            made_at: dict[str, datetime | None] = {}
            for kind, length, at, target in kept:
                if (kind, length) == (scope, period):
                    made_at[target] = at if target not in made_at or made_at[target] is not None else None
            zone = "UTC" if scope == "global" else project.time_zone
            for entry in LedgerEntry.objects.all() if scope == "global" else own:
                whose = {"run": entry.run_id, "agent": entry.agent, "department": entry.department}.get(scope, "")
                binding = [made_at[one] for one in {whose, ""} if one in made_at]
                if not binding or (not whose and scope in budgets.TARGETED):
                    continue
                if None not in binding and entry.received_at < min(at for at in binding if at is not None):
                    continue
                key = scope, whose, period, windows.starts_at(period, zone, now=entry.received_at)
                usd, calls = expected.get(key, (Decimal(0), 0))
                expected[key] = usd + entry.cost_usd, calls + entry.calls
        held = {
            (one.scope, one.target, one.period, one.starts_at): (one.spent_usd, one.calls)
            for one in BudgetWindow.objects.filter(project_id__in=(project.pk, windows.INSTANCE))
        }
    if since is not None:
        ran = {period: windows.starts_at(period, project.time_zone, now=since) for *_, period, _ in held}
        held = {key: value for key, value in held.items() if key[3] >= ran[key[2]] and _is_cut(project, *key[2:])}
        expected = {key: value for key, value in expected.items() if key[3] >= ran[key[2]]}
    assert {key: value for key, value in held.items() if any(value)} == {
        key: value for key, value in expected.items() if any(value)
    }


def _is_cut(project: Project, period: str, starts_at: datetime) -> bool:
    """Whether a window begins there by the project's time zone."""
    return windows.starts_at(period, project.time_zone, now=starts_at) == starts_at


def work_of(project: Project, trace: str) -> Work | None:
    """The execution of the API that owns a trace."""
    found = Execution.objects.filter(project_id=project.pk, trace_id=trace, from_spans=False).order_by("id").first()
    if found is None:
        return None
    return Work(str(found.id), trace, found.run_id, found.agent, found.department, found.conversation_id)


def close_connection() -> None:
    """A thread's own connection ends with the thread."""
    connections.close_all()


def tell_from_many_sides(project: Project, spans: list[Record], *, size: int) -> None:
    """Eight connections tell all of the same spans at once, in batches of `size`, each in an order of its own.

    Some spans are told before they end as well, and some twice.
    """

    def tell(seed: int) -> None:
        mine = random.Random(seed)
        told = [pending(span) if mine.random() < 0.2 else span for span in spans] + spans[seed::8]
        mine.shuffle(told)
        try:
            for n in range(0, len(told), size):
                accept(project, told[n : n + size])
        finally:
            close_connection()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tell, range(8)))
