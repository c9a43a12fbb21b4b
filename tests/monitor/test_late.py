"""What comes for a time of which something has left already: what was booked then stays as it is."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from importlib import import_module
from uuid import UUID

import pytest
from django.db import connection
from msgspec import structs

from monitor import closing, keeping, nearby, reporting, retention, rollups, silence
from monitor.api import executions
from monitor.deadlocks import unhindered
from monitor.ingest import Accepted
from monitor.models import (
    Execution,
    HourRollup,
    Keeping,
    LedgerEntry,
    MinuteRollup,
    Project,
    Run,
    Span,
    StateChange,
    Subject,
    WholeSince,
)
from monitor.records import Span as Record
from monitor.registration import NewExecution
from monitor.reporting import CallAnswer, IdTaken
from monitor.reports import Call, ToolCall
from monitor.tenancy import crossing, tenant
from tests.monitor.spending import (
    NOW,
    REPORTED,
    a_bare_span,
    a_family,
    a_project,
    a_span,
    accept,
    assert_books_balance,
    books_of,
    pending,
)
from tests.monitor.test_settlement import an_agent, older, reported, works

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
SOON = NOW - 5 * MINUTE
ADA = "ada@example.org"
BOSS = 900
Told = dict[str, tuple[int, Decimal]]


def said(project: Project | None, **days: int) -> None:
    """Days as they may stand from before, whatever may be set today."""
    with crossing():
        for kind, most in days.items():
            Keeping.objects.create(project=project, kind=kind, days=most)


def keep(project: Project, *, now: datetime = NOW, **days: int | None) -> None:
    with tenant(project.pk):
        keeping.change(project.pk, days, actor=ADA, now=now)


def told_of(project: Project, at: datetime) -> Told:
    """The calls of an hour by their agents, as charts read them, with what they cost."""
    since = at.replace(minute=0)
    with tenant(project.pk):
        found = rollups.totals(project.pk, since=since, until=since + HOUR, kinds=("llm",), group_by="agent")
        return {one.group: (one.count, one.cost_usd) for one in found if one.count or one.cost_usd}


def counted_of(project: Project) -> list[tuple[int, int]]:
    """How many executions ended and failed, by the minutes of their ends."""
    with tenant(project.pk):
        found = MinuteRollup.objects.filter(kind="execution").exclude(count=0).order_by("minute")
        return list(found.values_list("count", "failed"))


def ten_calls(project: Project, at: datetime) -> Told:
    """Ten calls of then, whose hour is summed; the first is below a span that has not come, and says no agent."""
    calls = [a_bare_span(1, 1, BOSS, started_at=at), *(a_span(n, n, started_at=at) for n in range(2, 11))]
    assert accept(project, calls, now=at + MINUTE).accepted == 10
    closing.close(now=at + 2 * DAY)
    before = told_of(project, at)
    assert {agent: count for agent, (count, _) in before.items()} == {"shop": 1, "planner": 9}
    return before


def leave(*, now: datetime = NOW) -> None:
    retention.drop_partitions(now=now)
    retention.prune(now=now)


def boss_comes(project: Project) -> Accepted:
    """The span above the first of the ten, which gives it its agent."""
    return accept(project, [a_span(1, BOSS, kind="agent", agent="boss", started_at=SOON)])


def register(project: Project, trace: int = 1) -> Execution:
    """An execution for the whole trace."""
    with tenant(project.pk):
        body = NewExecution(agent="late", trace_id=trace.to_bytes(16, "big").hex())
        return executions.register(project.pk, body, now=NOW, actor=ADA)[0]


def ledger_of(project: Project) -> int:
    with tenant(project.pk):
        return LedgerEntry.objects.count()


@pytest.mark.parametrize("comes", ["boss", "execution"])
def test_what_comes_to_an_old_trace_leaves_an_hour_whose_minutes_are_gone(db: None, comes: str) -> None:
    project, at = a_project(), NOW - 200 * DAY
    said(project, spans=400)
    before = ten_calls(project, at)
    leave()
    assert told_of(project, at) == before
    if comes == "boss":
        assert boss_comes(project).accepted == 1
    else:
        register(project)
    assert told_of(project, at) == before
    closing.close(now=NOW + HOUR)
    assert told_of(project, at) == before
    assert ledger_of(project) == 10
    with tenant(project.pk):
        assert Span.objects.get(span_id=1).agent == "shop"
        assert Run.objects.get(run_id=f"{1:032x}").calls == 1


def test_what_is_new_below_an_old_span_is_placed_and_booked(db: None) -> None:
    project, at = a_project(), NOW - 200 * DAY
    said(project, spans=400)
    before = ten_calls(project, at)
    leave()
    work = register(project)
    fresh = a_bare_span(1, 50, 1, started_at=SOON)
    for _ in range(2):
        accept(project, [fresh, a_bare_span(1, 51, 50, kind="step", started_at=SOON)])
    assert told_of(project, at) == before
    with tenant(project.pk):
        assert Span.objects.get(span_id=50).agent == "late"
        assert Execution.objects.get(id=work.id).api_calls == 1
        assert Run.objects.get(run_id=f"{1:032x}").calls == 2
    assert ledger_of(project) == 11
    # A later version is booked in place of the one before, and still nothing of then.
    longer = a_bare_span(1, 50, 1, started_at=SOON, ended_at=SOON + MINUTE)
    assert accept(project, [longer]).accepted == 1
    assert ledger_of(project) == 13
    with tenant(project.pk):
        assert Run.objects.get(run_id=f"{1:032x}").calls == 2
    assert told_of(project, at) == before


def test_a_new_version_of_an_old_span_is_refused_by_name(db: None) -> None:
    project, at = a_project(), NOW - 200 * DAY
    said(project, spans=400)
    before = ten_calls(project, at)
    leave()
    told = accept(project, [a_span(60, 60), a_bare_span(1, 1, BOSS, started_at=SOON), a_span(61, 61)])
    assert (told.accepted, told.duplicates, [one.index for one in told.rejected]) == (2, 0, [1])
    assert told.rejected[0].reason == (
        "what is stored of it started more than 89 days ago, which is longer than minute sums are kept"
    )
    closing.close(now=NOW + HOUR)
    assert told_of(project, at) == before


def test_as_many_old_spans_as_come_cost_one_look_each(db: None) -> None:
    """The locks of all their traces are held meanwhile."""
    project, at, count = a_project(), NOW - 200 * DAY, 50
    said(project, spans=400)
    accept(project, [a_bare_span(n, n, started_at=at) for n in range(1, count + 1)], now=at + MINUTE)
    leave()
    looks = 0

    class Id(bytes):
        """The id of a trace that counts what it is compared with."""

        def __eq__(self, other: object) -> bool:
            nonlocal looks
            looks += 1
            return bytes(self) == other

        __hash__ = bytes.__hash__

    class Batch(list[Record]):
        """Spans that count how often they are looked through."""

        def __iter__(self) -> Iterator[Record]:
            nonlocal looks
            for one in super().__iter__():
                looks += 1
                yield one

    newer = [a_bare_span(n, n, started_at=SOON) for n in range(1, count + 1)]
    told = accept(project, Batch(structs.replace(one, trace_id=Id(one.trace_id)) for one in [*newer, *newer]))
    assert (told.accepted, told.duplicates) == (0, count)
    assert [one.index for one in told.rejected] == list(range(count))
    # Once to read it, and once to find that it came twice.
    assert looks <= 2 * 2 * count


@pytest.mark.parametrize("comes", ["boss", "execution"])
def test_a_trace_takes_more_when_the_ledger_of_its_first_spans_has_left(db: None, comes: str) -> None:
    project, at = a_project(), NOW - 50 * DAY
    said(project, ledger=35)
    before = ten_calls(project, at)
    leave()
    if comes == "boss":
        assert boss_comes(project).accepted == 1
    else:
        register(project)
    closing.close(now=NOW + HOUR)
    assert told_of(project, at) == before
    assert ledger_of(project) == 0


def test_what_stands_below_a_span_that_has_left_stays_where_it_is(db: None) -> None:
    """A trace that goes on for longer than its spans are kept."""
    project, began, at = a_project(), NOW - 6 * DAY, NOW - 2 * DAY
    boss = a_span(1, BOSS, kind="agent", agent="boss", run_id="night", conversation_id="talk", started_at=began)
    accept(project, [boss], now=began + MINUTE)
    below = [
        a_bare_span(1, 1, BOSS, started_at=at),
        a_bare_span(1, 2, BOSS, kind="agent", agent="helper", agent_stated=True, started_at=at),
        pending(a_bare_span(1, 3, 2, started_at=at)),
    ]
    accept(project, below, now=at + MINUTE)
    placed = ("span_id", "agent", "run_id", "conversation_id", "execution_id")

    def where(*spans: int) -> list[tuple]:
        return list(Span.objects.filter(span_id__in=spans).order_by("span_id").values_list(*placed))

    def spent() -> dict[str, int]:
        return dict(Run.objects.values_list("run_id", "calls"))

    with tenant(project.pk):
        stood = where(1, 2, 3)
        assert [one[1:4] for one in stood] == [(name, "night", "talk") for name in ("boss", "helper", "helper")]
        assert spent() == {"night": 1}
    said(project, spans=5)
    leave()
    later = [a_bare_span(1, 4, 1, kind="step", started_at=SOON), a_bare_span(1, 3, 2, started_at=at)]
    assert accept(project, later).accepted == 2
    with tenant(project.pk):
        assert not Span.objects.filter(span_id=BOSS)
        assert where(1, 2, 3) == stood
        assert [one[1:] for one in where(4)] == [stood[0][1:]]
        assert spent() == {"night": 2}
    # One that has lost what was above it may be told anew, too.
    assert accept(project, [a_bare_span(1, 1, BOSS, started_at=at, ended_at=at + MINUTE)]).accepted == 1
    with tenant(project.pk):
        assert where(1, 2, 3) == stood
        assert spent() == {"night": 2}


def test_an_agent_below_one_that_has_left_stays_the_execution_that_it_is(db: None) -> None:
    """The one that left took the execution of the API; between both stands a step."""
    project, began, at = a_project(), NOW - 6 * DAY, NOW - 2 * DAY
    agents = {"kind": "agent", "agent_stated": True}
    accept(project, [a_bare_span(1, BOSS, agent="boss", started_at=began, **agents)], now=began + MINUTE)
    below = [
        a_bare_span(1, 1, BOSS, kind="step", started_at=at),
        a_bare_span(1, 2, 1, agent="helper", started_at=at, **agents),
        a_bare_span(1, 3, 2, started_at=at),
    ]
    accept(project, below, now=at + MINUTE)
    work = register(project)

    def where() -> dict[int, UUID | None]:
        return dict(Span.objects.filter(span_id__in=(1, 2, 3)).values_list("span_id", "execution_id"))

    with tenant(project.pk):
        stood = where()
        assert stood[1] == work.id
        assert stood[2] == stood[3] != work.id
    said(project, spans=5)
    keeping.forget()
    leave()
    assert accept(project, [a_bare_span(1, 4, 1, kind="step", started_at=SOON)]).accepted == 1
    with tenant(project.pk):
        assert not Span.objects.filter(span_id=BOSS)
        assert where() == stood
        assert Execution.objects.get(id=stood[2]).api_calls == 1


@pytest.mark.parametrize("top", ["stays", "leaves"])
@pytest.mark.parametrize("days", [None, 5])
def test_an_agent_takes_the_execution_that_comes_between_it_and_what_is_older(
    db: None, days: int | None, top: str
) -> None:
    """Nothing that has left, or may have, stands between them."""
    project, at = a_project(), NOW - 2 * DAY
    reported(project)
    began = NOW - (6 * DAY if top == "leaves" else 4 * DAY + 12 * HOUR)
    accept(project, [pending(a_bare_span(1, BOSS, kind="step", started_at=began))], now=began + MINUTE)
    below = [
        a_bare_span(1, 1, BOSS, kind="step", started_at=at),
        an_agent(1, 3, 2, agent="triage", agent_stated=True, started_at=at),
        a_bare_span(1, 4, 3, started_at=at),
    ]
    accept(project, below, now=at + MINUTE)
    if days is not None:
        said(project, spans=days)
        keeping.forget()
        leave()
    assert set(works(project)) == {"triage"}
    accept(project, [a_bare_span(1, 2, 1, kind="step", execution_id=REPORTED, started_at=at)])
    assert works(project) == {}
    with tenant(project.pk):
        assert Span.objects.filter(span_id=BOSS).exists() == (days is None or top == "stays")
        assert Execution.objects.get().api_calls == 1


@pytest.mark.parametrize("most_whole", [nearby.MOST_WHOLE, 0])
@pytest.mark.parametrize("seed", range(10))
def test_an_old_trace_that_nothing_has_left_ends_in_the_books_of_any_other(
    db: None, monkeypatch: pytest.MonkeyPatch, seed: int, most_whole: int
) -> None:
    monkeypatch.setattr(nearby, "MOST_WHOLE", most_whole)
    rng = random.Random(seed)
    began, cuts = NOW - 4 * DAY - 12 * HOUR, 2 + rng.randrange(10)
    top = pending(a_bare_span(1, 1, kind="step", started_at=began))
    spans = [one for one in a_family(1, rng) if one.span_id != 1]
    told = [*spans, *(older(one, rng) for one in spans if rng.random() < 0.4)]
    rng.shuffle(told)
    straight, old = a_project("straight"), a_project("old")
    said(old, spans=5)
    for project, parts in ((straight, [spans]), (old, [told[n::cuts] for n in range(cuts)])):
        reported(project)
        accept(project, [top], now=began + MINUTE)
        for part in parts:
            accept(project, part)
        assert_books_balance(project)
    assert books_of(old) == books_of(straight)


@pytest.mark.parametrize("days", [None, 5])
def test_an_execution_registered_for_an_old_trace_that_nothing_has_left_takes_it_over(
    db: None, days: int | None
) -> None:
    """What is above the agent has not come yet."""
    project, began, at = a_project(), NOW - 4 * DAY - 12 * HOUR, NOW - DAY
    accept(project, [pending(a_bare_span(1, 1, kind="step", started_at=began))], now=began + MINUTE)
    agent = an_agent(1, 3, 2, agent="triage", agent_stated=True, started_at=at)
    accept(project, [agent, a_bare_span(1, 4, 3, started_at=at)], now=at + MINUTE)
    if days is not None:
        said(project, spans=days)
        keeping.forget()
    work = register(project)
    assert works(project) == {}
    with tenant(project.pk):
        assert Execution.objects.get(id=work.id).api_calls == 1


def test_an_execution_registered_when_what_was_above_has_left_takes_what_nobody_had(db: None) -> None:
    project, began, at = a_project(), NOW - 6 * DAY, NOW - 2 * DAY
    accept(project, [a_bare_span(1, BOSS, kind="step", started_at=began)], now=began + MINUTE)
    below = [
        a_bare_span(1, 1, BOSS, kind="step", started_at=at),
        an_agent(1, 2, 1, agent="triage", agent_stated=True, started_at=at),
        a_bare_span(1, 3, 2, started_at=at),
    ]
    accept(project, below, now=at + MINUTE)
    said(project, spans=5)
    keeping.forget()
    leave()
    # No agent can have been above the step: it would stand under an execution.
    work = register(project)
    assert works(project) == {}
    with tenant(project.pk):
        assert not Span.objects.filter(span_id=BOSS)
        assert Execution.objects.get(id=work.id).api_calls == 1


@pytest.mark.parametrize("leaves", ["span", "execution"])
def test_an_agent_told_anew_stays_the_execution_that_it_took_from_what_has_left(db: None, leaves: str) -> None:
    """Either the span that named it, or the execution itself, which had ended long before its trace."""
    project, began, at = a_project(), NOW - 12 * DAY, NOW - 2 * DAY
    retention.make_partitions(now=began)
    top = a_bare_span(1, BOSS, kind="step", started_at=began)
    if leaves == "span":
        reported(project)
        top = a_bare_span(1, BOSS, kind="step", started_at=began, execution_id=REPORTED)
    else:
        reported(project, trace_id=UUID(int=1), status="completed", ended_at=began)
    accept(project, [top], now=began + MINUTE)
    agent = an_agent(1, 2, 1, agent="triage", agent_stated=True, started_at=at, ended_at=SOON)
    below = [a_bare_span(1, 1, BOSS, kind="step", started_at=at), pending(agent), a_bare_span(1, 3, 2, started_at=at)]
    accept(project, below, now=at + MINUTE)
    assert works(project) == {}
    said(project, **({"spans": 5} if leaves == "span" else {"executions": 8}))
    keeping.forget()
    leave()
    with tenant(project.pk):
        assert Span.objects.filter(span_id=BOSS).exists() == (leaves == "execution")
        assert Execution.objects.exists() == (leaves == "span")
    assert accept(project, [agent]).accepted == 1
    assert works(project) == {}
    with tenant(project.pk):
        stand = Span.objects.filter(span_id__in=(1, 2, 3)).values_list("execution_id", "run_id")
        assert set(stand) == {(REPORTED, "night")}


def test_an_execution_keeps_its_parent_whose_span_has_left(db: None) -> None:
    project, began, at = a_project(), NOW - 6 * DAY, NOW - 2 * DAY
    accept(project, [an_agent(1, BOSS, agent="boss", agent_stated=True, started_at=began)], now=began + MINUTE)
    helper = an_agent(1, 2, BOSS, agent="helper", agent_stated=True, started_at=at, ended_at=SOON)
    child = an_agent(1, 4, 5, agent="child", agent_stated=True, started_at=at)
    accept(project, [pending(helper), child], now=at + MINUTE)
    boss = works(project)["boss"]
    assert [works(project)[name].parent_id for name in ("helper", "child")] == [boss.id, None]
    said(project, spans=5)
    keeping.forget()
    leave()
    # What was between it and its child comes with its end.
    between = an_agent(1, 5, 2, agent="between", agent_stated=True, started_at=at)
    assert accept(project, [helper, between]).accepted == 2
    found = works(project)
    assert found["helper"].status == "completed"
    stand = {name: one.parent_id for name, one in found.items()}
    assert stand == {"boss": None, "helper": boss.id, "between": found["helper"].id, "child": found["between"].id}
    # A version that stands below another says so.
    at_last = an_agent(1, 2, 3, agent="helper", agent_stated=True, started_at=at, ended_at=SOON + MINUTE)
    accept(project, [an_agent(1, 3, agent="chief", agent_stated=True, started_at=SOON), at_last])
    with tenant(project.pk):
        assert not Span.objects.filter(span_id=BOSS)
    assert works(project)["helper"].parent_id == works(project)["chief"].id


def test_an_execution_that_has_left_does_not_come_back_empty(db: None) -> None:
    project, at = a_project(), NOW - 20 * DAY
    said(project, executions=8)
    retention.make_partitions(now=at)
    family = [
        a_span(1, 2, BOSS, kind="agent", agent="child", started_at=at),
        a_span(1, 3, 2, agent="child", started_at=at),
    ]
    assert accept(project, family, now=at + MINUTE).accepted == 2
    leave()

    def known() -> tuple[list[str], int]:
        with tenant(project.pk):
            lines = StateChange.objects.filter(subject=Subject.EXECUTION, data__agent="child").count()
            return list(Execution.objects.values_list("agent", flat=True)), lines

    assert known() == ([], 1)
    boss_comes(project)
    assert known() == (["boss"], 1)


def test_a_recent_span_is_booked_anew_as_ever(db: None) -> None:
    project, at = a_project(), NOW - 88 * DAY
    ten_calls(project, at)
    leave()
    boss_comes(project)
    closing.close(now=NOW + HOUR)
    assert {agent: count for agent, (count, _) in told_of(project, at).items()} == {"boss": 1, "planner": 9}
    assert_books_balance(project)


@pytest.mark.parametrize("days_ago", [100, 80])
def test_what_is_given_up_counts_unless_that_is_too_long_ago(db: None, days_ago: int) -> None:
    project, at = a_project(trace_silent_s=None, trace_lost_s=None), NOW - days_ago * DAY
    retention.make_partitions(now=at)
    before = ten_calls(project, at)
    open_one = pending(a_span(77, 77, kind="agent", started_at=at))
    accept(project, [open_one], now=at + MINUTE)
    leave()
    with crossing():
        Project.objects.filter(pk=project.pk).update(trace_lost_s=3600)
    silence.look(now=NOW)
    closing.close(now=NOW + HOUR)
    assert told_of(project, at) == before
    with tenant(project.pk):
        assert Execution.objects.get().status == "timeout"
        counted = HourRollup.objects.filter(kind="execution", failed=1, hour=at.replace(minute=0)).count()
    assert counted == (days_ago == 80)
    if days_ago == 80:
        # Its end comes after all, and what it counted as is taken back.
        accept(project, [a_span(77, 77, kind="agent", started_at=at)])
        closing.close(now=NOW + HOUR)
        assert_books_balance(project)


def test_a_lost_one_counts_once_when_it_comes_back_after_its_line_in_the_journal_has_left(db: None) -> None:
    project, at = a_project(trace_lost_s=3600), NOW - 50 * DAY
    a_project("keeps the days of all")
    retention.make_partitions(now=at)
    said(project, journal=35)
    whole = a_span(1, 1, kind="agent", started_at=at, ended_at=SOON)
    accept(project, [pending(whole)], now=at + MINUTE)
    assert silence.look(now=at + 2 * HOUR) == 1
    leave()
    with tenant(project.pk):
        assert (Execution.objects.get().status, StateChange.objects.count()) == ("timeout", 0)
    accept(project, [whole])
    assert [silence.look(now=NOW + n * MINUTE) for n in range(3)] == [0, 0, 0]
    with tenant(project.pk):
        one = Execution.objects.get()
        assert (one.status, one.lost_at, one.look_at) == ("completed", None, None)
    assert counted_of(project) == [(1, 0)]
    assert_books_balance(project)


# Days that become shorter


def test_what_is_taken_by_the_longer_days_finds_its_minutes(db: None) -> None:
    project, at = a_project(), NOW - 50 * DAY
    before = ten_calls(project, at)
    longer = keeping.late(project.pk, now=NOW)
    keep(project, spans=3, minutes=10)
    retention.prune(now=NOW + timedelta(seconds=5))
    # Another process remembers them for a while.
    keeping._remembered[project.pk] = NOW - timedelta(seconds=1), longer
    assert accept(project, [a_span(50, 50, started_at=at)], now=NOW + timedelta(seconds=6)).accepted == 1
    closing.close(now=NOW + MINUTE)
    with tenant(project.pk):
        assert MinuteRollup.objects.exists()
    retention.prune(now=NOW + 2 * MINUTE)
    with tenant(project.pk):
        assert not MinuteRollup.objects.exists()
    after = told_of(project, at)
    assert {agent: count for agent, (count, _) in after.items()} == {"shop": 1, "planner": 10}
    assert after["shop"] == before["shop"]


def test_days_that_became_shorter_just_now_are_not_dropped(db: None) -> None:
    project, at = a_project(), NOW - 50 * DAY
    ten_calls(project, at)
    with tenant(project.pk):
        told = Span.objects.count()
    keeping.change_for_all({"spans": 3}, actor=ADA, now=NOW)
    leave(now=NOW + timedelta(seconds=5))
    with tenant(project.pk):
        assert Span.objects.count() == told > 0
    leave(now=NOW + 2 * MINUTE)
    with tenant(project.pk):
        assert not Span.objects.exists()


def test_an_hour_that_is_summed_yet_keeps_its_minutes(db: None) -> None:
    project, at = a_project(), NOW - 50 * DAY
    ten_calls(project, at)
    assert accept(project, [a_span(50, 50, started_at=at)]).accepted == 1
    keep(project, spans=3, minutes=10)
    for _ in range(2):
        retention.prune(now=NOW + 2 * MINUTE)
        closing.close(now=NOW + 2 * MINUTE)
        assert {agent: count for agent, (count, _) in told_of(project, at).items()} == {"shop": 1, "planner": 10}
    with tenant(project.pk):
        assert not MinuteRollup.objects.exists()


# Days that were shorter


def test_minutes_that_left_before_they_were_kept_for_longer_are_not_built_upon(db: None) -> None:
    project, at = a_project(), NOW - 30 * DAY
    said(project, minutes=10)
    before = ten_calls(project, at)
    leave()
    keep(project, minutes=None)
    told = accept(project, [a_span(60, 60, started_at=at), a_span(61, 61)])
    assert (told.accepted, [one.index for one in told.rejected]) == (1, [0])
    boss_comes(project)
    closing.close(now=NOW + HOUR)
    assert told_of(project, at) == before


def test_spans_that_left_by_mistake_are_refused_by_name_and_those_beside_them_taken(db: None) -> None:
    project = a_project()
    first = a_span(1, 1, started_at=NOW - 5 * DAY)
    accept(project, [first], now=NOW - 5 * DAY + MINUTE)
    keep(project, spans=3, now=NOW - MINUTE)
    leave()
    keep(project, spans=None)
    told = accept(project, [first, a_span(2, 2)])
    assert (told.accepted, [one.index for one in told.rejected]) == (1, [0])
    since = f"{NOW - 2 * DAY:%Y-%m-%d %H:%M}"
    assert told.rejected[0].reason == f"it started before {since} UTC, and spans of that time have left"
    assert ledger_of(project) == 2
    # What was kept all the while may come as late as ever.
    later = NOW + 40 * DAY
    assert accept(project, [a_span(3, 3, started_at=NOW - DAY)], now=later).rejected == []
    assert len(accept(project, [a_span(4, 4, started_at=NOW - 3 * DAY)], now=later).rejected) == 1


def test_the_latest_loss_of_several_counts(db: None) -> None:
    project = a_project()
    accept(project, [a_span(1, 1)])
    keep(project, spans=5)
    keep(project, spans=40, now=NOW + DAY)
    keep(project, spans=20, now=NOW + 2 * DAY)
    keep(project, spans=None, now=NOW + 2 * DAY)
    with tenant(project.pk):
        assert keeping.late(project.pk, now=NOW + 2 * DAY).oldest(now=NOW + 2 * DAY) == NOW + DAY - 5 * DAY + DAY


def test_days_of_all_that_were_shorter_are_remembered_for_those_who_follow(db: None) -> None:
    follower, own = a_project(), a_project("south")
    keep(own, spans=90)
    for project in (follower, own):
        accept(project, [a_span(1, 1, started_at=NOW - 5 * DAY), a_span(2, 2)])
    keeping.change_for_all({"spans": 3}, actor=ADA, now=NOW - MINUTE)
    leave()
    keeping.change_for_all({"spans": None}, actor=ADA, now=NOW)
    fresh = a_project("west")
    late = [a_span(9, 9, started_at=NOW - 5 * DAY)]
    assert [len(accept(one, late).rejected) for one in (follower, own, fresh)] == [1, 0, 0]


def test_a_project_that_holds_nothing_yet_has_lost_nothing(db: None) -> None:
    project = a_project()
    keep(project, spans=200, minutes=202, executions=200)
    assert accept(project, [a_span(1, 1, started_at=NOW - 150 * DAY)]).rejected == []


def test_what_was_made_longer_before_it_was_remembered_is_found_in_the_journal(db: None) -> None:
    project, own, fresh = a_project(), a_project("south"), a_project("west")
    keep(own, spans=80)
    for one in (project, own):
        accept(one, [a_span(1, 1)])
    for days in (5, 40, 20, None):
        keep(project, spans=days, minutes=93)
    keeping.change_for_all({"spans": 10}, actor=ADA, now=NOW - DAY)
    keeping.change_for_all({"spans": None}, actor=ADA, now=NOW)
    keep(project, messages=91)

    def known() -> dict[tuple[int, str], datetime]:
        with crossing():
            return {(one.project_id, one.kind): one.at for one in WholeSince.objects.all()}

    remembered = known()
    assert remembered == {(project.pk, "spans"): NOW - 5 * DAY, (project.pk, "minutes"): NOW - 92 * DAY}
    with crossing(), connection.cursor() as cursor:
        WholeSince.objects.all().delete()
        cursor.execute(import_module("monitor.migrations.0023_whole_since").REMEMBER)
    # Whether a project held anything then is not known any more.
    assert known() == remembered | {(fresh.pk, "spans"): NOW - 10 * DAY}


# Ids


def call(n: int, **fields: object) -> Call:
    return Call(id=UUID(int=n), model="gpt-4o", provider="openai", input_tokens=1000, output_tokens=100, **fields)  # type: ignore[arg-type]


def record(project: Project, one: Call, *, now: datetime) -> tuple[CallAnswer, bool]:
    return unhindered(project.pk, lambda: reporting.record_call(project.pk, one, now=now))


@pytest.mark.parametrize("ledger_days", [400, 35])
def test_a_call_told_again_is_answered_although_its_span_has_left(db: None, ledger_days: int) -> None:
    project = a_project()
    said(project, spans=3, ledger=ledger_days, ids=60)
    first, is_new = record(project, call(7, cost_usd=Decimal("0.25"), run_id="r"), now=NOW - 50 * DAY)
    assert is_new
    leave()
    assert ledger_of(project) == (1 if ledger_days == 400 else 0)
    again, is_new = record(project, call(7, cost_usd=Decimal("0.25"), run_id="r"), now=NOW)
    assert not is_new
    assert (again.id, again.allowed, again.priced) == (first.id, True, True)
    assert (again.cost_usd, again.reported_cost_usd) == (Decimal("0.25"), Decimal("0.25"))
    # What it was priced at is known as long as its booking is there.
    assert again.computed_cost_usd == (first.computed_cost_usd if ledger_days == 400 else None)
    with pytest.raises(IdTaken):
        record(project, call(7, cost_usd=Decimal(1), run_id="r"), now=NOW)
    with tenant(project.pk):
        assert not Span.objects.exists()


def test_a_long_call_told_again_is_answered_although_nothing_of_it_is_left(db: None) -> None:
    project, at = a_project(), NOW - 6 * DAY
    said(project, spans=3)
    # What an instrumentation tells as well stands in the ledger for both.
    accept(project, [a_span(1, 1, response_id="resp-1", started_at=at)], now=at + MINUTE)
    long = call(
        7, trace_id=f"{1:032x}", response_id="resp-1", occurred_at=at, latency_ms=1_800_000, cost_usd=Decimal("0.25")
    )
    assert record(project, long, now=at + MINUTE)[1]
    leave()
    with tenant(project.pk):
        assert not Span.objects.exists()
        assert list(LedgerEntry.objects.values_list("span_id", flat=True)) == [1]
    again, is_new = record(project, long, now=NOW)
    assert (is_new, again.reported_cost_usd, again.computed_cost_usd) == (False, Decimal("0.25"), None)


def test_an_id_is_kept_only_for_what_was_taken(db: None) -> None:
    project = a_project()
    keep(project, spans=3)
    late = ToolCall(id=UUID(int=8), tool="search", occurred_at=NOW - 5 * DAY)

    def take(now: datetime, times: int = 1) -> tuple[int, int, list[str]]:
        done = unhindered(project.pk, lambda: reporting.take(project.pk, [late] * times, now=now))
        return done.accepted, done.duplicates, [str(one) for one in done.refused.values()]

    why = "occurred_at: it started more than 2 days ago, which is longer than spans are kept"
    assert take(NOW) == (0, 0, [why])
    assert take(NOW, 3) == (0, 0, [why] * 3)
    # It was not too late a while ago, and what was taken then is a repeat however late it is.
    assert take(NOW - 4 * DAY, 2) == (1, 1, [])
    assert take(NOW, 2) == (0, 2, [])
    with tenant(project.pk):
        other = reporting.take(project.pk, [ToolCall(id=UUID(int=8), tool="buy", occurred_at=NOW - 5 * DAY)], now=NOW)
        assert [type(one) for one in other.refused.values()] == [IdTaken]
