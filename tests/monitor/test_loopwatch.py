"""Loops as they are found among stored calls: once, in any order, by any number of workers, and until they are over."""

import random
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from config import crank
from config.schedule import JOBS
from monitor import executions, jobs, loops, loopwatch, masking, reporting, toolcalls
from monitor.models import Execution, JobHeartbeat, Loop, Project, StateChange
from monitor.records import Span as Record
from monitor.reports import ToolCall
from monitor.tenancy import crossing, tenant
from tests.monitor.fleets import an_execution, at_once, beat, tick
from tests.monitor.spending import a_bare_span, a_project, accept, pending

NOW = datetime.now(UTC).replace(microsecond=0)
SEARCH = '{"city": "Oslo", "nights": 2}'


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def a_call(n: int, tool: str = "search", arguments: str | None = SEARCH, **fields: Any) -> Record:
    """The n-th call of a trace, n seconds after NOW less a minute."""
    started_at = after(n - 60)
    given = {"kind": "tool", "name": tool, "tool": tool, "arguments": arguments, "agent_stated": True}
    given |= {"agent": "planner", "started_at": started_at, "ended_at": started_at + timedelta(milliseconds=500)}
    return a_bare_span(fields.pop("trace", 1), 100 + n, fields.pop("parent", None), **given | fields)


def look(*, now: datetime = NOW) -> int:
    return loopwatch.look(now=now)


def send(project: Project, calls: list[Record], *, now: datetime = NOW) -> None:
    accept(project, calls, now=now)


def loops_of(project: Project) -> list[Loop]:
    with tenant(project.pk):
        return list(Loop.objects.order_by("found_at", "first_at"))


def told(project: Project) -> list[str]:
    with tenant(project.pk):
        return list(StateChange.objects.filter(subject="loop").order_by("id").values_list("to_state", flat=True))


def shape(loop: Loop) -> tuple[str, list[str], int, int, datetime, datetime]:
    return loop.place, [one["tool"] for one in loop.cycle], loop.rounds, loop.calls, loop.first_at, loop.last_at


def test_the_third_equal_call_is_a_loop_with_its_evidence(db: None) -> None:
    project = a_project()
    spelled = ['{"city": "Oslo", "nights": 2}', '{ "nights": 2, "city": "Oslo" }', '{"nights":2,"city":"Oslo"}']
    send(project, [a_call(n, arguments=spelled[n], result="none found") for n in range(2)])
    assert look() == 0
    send(project, [a_call(2, arguments=spelled[2], result="none found")])
    assert (look(), look()) == (1, 0)
    [loop] = loops_of(project)
    assert shape(loop) == (f"{UUID(int=1).hex} planner", ["search"], 3, 3, after(-60), after(-58))
    assert loop.cycle == [{"tool": "search", "arguments": '{"city":"Oslo","nights":2}'}]
    assert loop.spans == [f"{UUID(int=1).hex}-{100 + n:016x}" for n in range(3)]
    assert (loop.agent, loop.execution_id, loop.ended_at, loop.answers_differ) == ("planner", None, None, False)
    with tenant(project.pk):
        change = StateChange.objects.get(subject="loop")
    assert (change.to_state, change.subject_id, change.judged_at) == ("found", str(loop.pk), None)
    assert (change.data["rounds"], change.data["cycle"]) == (3, loop.cycle)


def test_what_a_client_says_in_the_place_of_our_hash_of_the_arguments_is_not_read(db: None) -> None:
    project = a_project()
    send(project, [a_call(n, attributes={masking.ARGUMENTS: f"{n}" * 100_000}) for n in range(3)])
    assert look() == 1


def test_a_cycle_of_several_calls_is_a_loop_too(db: None) -> None:
    project = a_project()
    send(project, [a_call(n, tool=("search", "book", "look")[n % 3]) for n in range(9)])
    assert look() == 1
    [loop] = loops_of(project)
    assert shape(loop)[1:4] == (["search", "book", "look"], 3, 9)


def test_calls_of_the_batch_api_make_a_loop_in_their_execution(db: None) -> None:
    project = a_project()
    work = an_execution(project.pk, now=after(-60), heartbeat_s=600, timeout_s=600)
    reports = [
        ToolCall(tool="search", arguments={"city": "Oslo"}, output=n, execution_id=work, occurred_at=after(n - 60))
        for n in range(4)
    ]
    with tenant(project.pk):
        reporting.take(project.pk, reports, now=NOW)
    assert look() == 1
    [loop] = loops_of(project)
    assert (loop.execution_id, loop.agent, loop.rounds, loop.answers_differ) == (work, "planner", 4, True)


@pytest.mark.parametrize(
    "calls",
    [
        [a_call(n, arguments=None) for n in range(5)],
        [a_call(n, arguments=f'{{"page": {n}}}') for n in range(5)],
        [a_call(n, tool="Wait") for n in range(5)],
        [a_call(n, trace=n) for n in range(5)],
        [a_call(n, agent=f"agent {n % 2}") for n in range(4)],
        # A client's span around the server's, twice: two calls.
        [a_call(n, parent=100 + n - 1 if n % 2 else None) for n in range(4)],
        # Two instrumentations of each of two calls.
        [
            a_call(2 * n, tool_call_id=f"c{n // 2}", started_at=after(n // 2 - 50), ended_at=after(n // 2 - 49.5))
            for n in range(4)
        ],
    ],
    ids=["unsent arguments", "other arguments", "waiting", "other traces", "other agents", "nested", "told twice"],
)
def test_what_is_no_loop(db: None, calls: list[Record]) -> None:
    project = a_project()
    send(project, calls)
    assert look() == 0
    assert loops_of(project) == []


def test_an_exempt_tool_counts_as_if_it_had_not_been_called(db: None) -> None:
    project = a_project(loop_exempt_tools=["Get_Status"])
    send(project, [a_call(n, tool="get_status") for n in range(5)])
    assert look() == 0
    send(project, [a_call(n, tool="wait" if n % 2 else "search") for n in range(10, 16)])
    assert look() == 1
    assert [one["tool"] for one in loops_of(project)[0].cycle] == ["search", "wait"]
    other = a_project("south", loop_exempt_tools=["wait"])
    send(other, [a_call(n, tool="wait" if n % 2 else "search") for n in range(10, 16)])
    assert look() == 1
    assert [one["tool"] for one in loops_of(other)[0].cycle] == ["search"]


def test_a_retry_that_does_the_same_is_no_loop(db: None) -> None:
    project = a_project()
    work = an_execution(project.pk, now=after(-60))
    send(project, [a_call(n, execution_id=work) for n in range(2)])
    with tenant(project.pk):
        executions.fail(project.pk, work, error="503", now=after(-57), actor="key", jitter=0)
    beat(project.pk, work, now=after(-54), attempt=2)
    send(project, [a_call(n, execution_id=work) for n in range(7, 9)])
    assert look() == 0
    send(project, [a_call(9, execution_id=work)])
    assert look() == 1
    [loop] = loops_of(project)
    assert (loop.rounds, loop.first_at) == (3, after(-53))


def test_a_loop_that_goes_on_is_counted_and_told_of_each_time_it_doubles(db: None) -> None:
    project = a_project()
    for n in range(25):
        send(project, [a_call(n)], now=after(n))
        look(now=after(n))
    [loop] = loops_of(project)
    assert (loop.rounds, loop.calls, loop.last_at) == (25, 25, after(-36))
    assert len(loop.spans) == 24
    assert told(project) == ["found", "goes_on", "goes_on", "goes_on"]


@pytest.mark.parametrize("seed", range(12))
def test_any_order_and_repetition_of_spans_ends_in_one_finding(db: None, seed: int) -> None:
    rng = random.Random(seed)
    project, straight = a_project(), a_project("straight")
    tools = "xabababababyccz"
    calls = [a_call(n, tool=tool) for n, tool in enumerate(tools)]
    send(straight, calls)
    look()
    told_again = [*calls, *rng.choices(calls, k=6)]
    rng.shuffle(told_again)
    while told_again:
        count = rng.randint(1, 5)
        send(project, told_again[:count])
        told_again = told_again[count:]
        look()
    assert [shape(one) for one in loops_of(project)] == [shape(one) for one in loops_of(straight)]
    assert len(loops_of(project)) == 1


def test_a_call_that_comes_late_and_lies_between_takes_the_finding_back(db: None) -> None:
    project = a_project()
    send(project, [a_call(n) for n in (0, 2, 4)])
    assert look() == 1
    send(project, [a_call(n, tool="book", arguments=f'"{n}"') for n in (1, 3)])
    assert look() == 1
    assert loops_of(project) == []
    assert told(project) == ["found", "withdrawn"]


def test_an_agents_span_that_comes_late_makes_the_finding_its_executions(db: None) -> None:
    project = a_project()
    send(project, [a_call(n, parent=7) for n in range(3)])
    assert look() == 1
    stated = {"agent": "planner", "agent_stated": True, "started_at": after(-61), "ended_at": after(-50)}
    agent = a_bare_span(1, 7, kind="agent", name="plan", **stated)
    # The calls themselves are no news any more.
    send(project, [agent], now=after(200))
    look(now=after(200))
    with tenant(project.pk):
        work = Execution.objects.get()
    assert [(one.execution_id, one.place) for one in loops_of(project)] == [(work.id, str(work.id))]
    assert told(project) == ["found"] + ["over"] * (work.status == "completed")


def test_what_two_agents_did_in_turns_was_no_loop(db: None) -> None:
    project = a_project()
    service = {"agent": "shop", "agent_stated": False}
    send(project, [a_call(n, parent=7 + n % 2, **service) for n in range(4)])
    assert look() == 1
    agents = [
        a_bare_span(1, 7 + n, kind="agent", name=f"a{n}", agent=f"a{n}", agent_stated=True, started_at=after(-61))
        for n in range(2)
    ]
    send(project, [pending(one) for one in agents])
    look()
    assert loops_of(project) == []
    assert told(project) == ["found", "withdrawn"]


def test_it_is_over_when_the_execution_ends(db: None) -> None:
    project = a_project()
    work = an_execution(project.pk, now=after(-60), heartbeat_s=600, timeout_s=600)
    send(project, [a_call(n, execution_id=work) for n in range(3)])
    assert look() == 1
    with tenant(project.pk):
        executions.complete(project.pk, work, output=None, now=NOW, actor="key")
    assert look() == 1
    [loop] = loops_of(project)
    assert (loop.end, loop.ended_at) == ("the execution is completed", NOW)
    assert told(project) == ["found", "over"]


def test_it_is_over_when_the_agent_does_something_else_for_a_minute_and_may_begin_again(db: None) -> None:
    project = a_project()
    send(project, [a_call(n) for n in range(3)])
    look()
    send(project, [a_call(20, tool="book"), a_call(21, tool="wait")], now=after(30))
    assert (look(now=after(59)), look(now=after(60))) == (0, 1)
    assert loops_of(project)[0].end == "the agent does something else"
    send(project, [a_call(n) for n in range(90, 94)], now=after(95))
    assert look(now=after(95)) == 1
    [loop] = loops_of(project)
    assert (loop.rounds, loop.ended_at, loop.end) == (7, None, "")
    assert told(project) == ["found", "over", "found_again"]
    # Waiting is nothing else.
    send(project, [a_call(96, tool="wait")], now=after(96))
    assert look(now=after(300)) == 0
    assert look(now=after(696)) == 1
    assert loops_of(project)[0].end == "no further round for 10 min"


def test_it_is_found_although_nobody_looked_for_hours(db: None) -> None:
    project = a_project()
    send(project, [a_call(n - 7200) for n in range(3)], now=after(-7200))
    assert look() == 0
    with crossing():
        JobHeartbeat.objects.create(name=loopwatch.JOB, every_s=10, last_ok_at=after(-7230))
    assert look() == 1
    assert len(loops_of(project)) == 1


def test_what_came_while_the_last_look_went_on_is_seen_by_the_next(db: None) -> None:
    project = a_project()
    send(project, [a_call(n - 220) for n in range(3)], now=after(-280))
    with crossing():
        JobHeartbeat.objects.create(name=loopwatch.JOB, every_s=10, last_ok_at=NOW, took_ms=300_000)
    assert look() == 1


def test_one_process_looks_at_a_time(committed_db: None) -> None:
    [job] = [job for job in JOBS if job.name == loopwatch.JOB]
    with jobs.alone(loopwatch.JOB):
        assert at_once([partial(crank.run, job, now=NOW)]) == [None]
    assert at_once([partial(crank.run, job, now=NOW + timedelta(minutes=1))]) == ["ok"]


@pytest.mark.parametrize("page", [1, 2, 3, 100])
def test_all_places_are_looked_at_however_many_there_are(db: None, page: int) -> None:
    project, other = a_project(), a_project("other")
    work = an_execution(other.pk, now=after(-60), heartbeat_s=600, timeout_s=600)
    send(project, [a_call(n, trace=trace) for trace in (1, 2, 3) for n in range(3)])
    send(project, [a_call(n, trace=3, agent="clerk", parent=None) for n in range(10, 13)])
    send(other, [a_call(n, trace=1) for n in range(3)])
    send(other, [a_call(n, trace=2, execution_id=work) for n in range(3)])
    assert loopwatch.look(now=NOW, places_a_page=page) == 6
    traced = [f"{UUID(int=n).hex} planner" for n in (1, 2, 3)]
    assert sorted(loop.place for loop in loops_of(project)) == sorted([*traced, f"{UUID(int=3).hex} clerk"])
    assert sorted(loop.place for loop in loops_of(other)) == sorted([traced[0], str(work)])


def test_no_statement_fetches_more_than_its_share(db: None) -> None:
    project = a_project()
    said = {trace: msgspec.json.encode({"text": str(trace) * 8_000}).decode() for trace in range(1, 7)}
    send(project, [a_call(n, trace=trace, arguments=said[trace]) for trace in said for n in range(4)])
    send(project, [a_call(n, trace=9) for n in range(2)])
    with crossing():
        places = toolcalls.fresh(since=after(-60), now=NOW)
        assert len(places) == 7
        with CaptureQueriesContext(connection) as asked:
            found = list(toolcalls.around(places, now=NOW, bytes_at_once=80_000))
    # Two calls are no loop and are not fetched; of the others two go together.
    assert [len(calls) for _, calls in found] == [4] * 6
    assert {place.trace_id for place, _ in found} == {UUID(int=trace) for trace in said}
    assert all(call.trace_id == place.trace_id for place, calls in found for call in calls)
    assert [loops.find([call.key for call in calls])[0].rounds for _, calls in found] == [4] * 6
    assert len(asked.captured_queries) == 1 + 3


def test_a_loop_of_work_that_nobody_registered_stays_open_while_it_goes_on(db: None) -> None:
    project = a_project()
    work = UUID(int=77)
    for n in range(6):
        send(project, [a_call(n, execution_id=work)], now=after(n))
        look(now=after(n))
    assert told(project) == ["found", "goes_on"]
    assert look(now=after(604)) == 0
    assert look(now=after(605)) == 1
    assert [loop.end for loop in loops_of(project)] == ["no further round for 10 min"]
    assert told(project) == ["found", "goes_on", "over"]


def test_a_loop_that_goes_on_after_its_execution_ended_is_over_when_it_is(db: None) -> None:
    project = a_project()
    work = an_execution(project.pk, now=after(-70), heartbeat_s=600, timeout_s=600)
    with tenant(project.pk):
        executions.complete(project.pk, work, output=None, now=after(-65), actor="key")
    for n in range(5):
        send(project, [a_call(n, execution_id=work)], now=after(n))
        look(now=after(n))
    assert told(project) == ["found"]
    send(project, [a_call(10, tool="book", execution_id=work)], now=after(10))
    assert look(now=after(64)) == 1
    assert [loop.end for loop in loops_of(project)] == ["the agent does something else"]
    assert told(project) == ["found", "over"]


def test_of_many_who_look_at_once_one_finds(committed_db: None) -> None:
    project = a_project()
    work = an_execution(project.pk, now=after(-60), heartbeat_s=6000, timeout_s=6000)
    calls = [a_call(n, tool="ab"[n % 2], execution_id=work) for n in range(12)]
    send(project, calls[:7])
    acts = [partial(look)] * 4 + [partial(send, project, calls[n:]) for n in (4, 7, 10)]
    random.Random(3).shuffle(acts)
    at_once(acts)
    look()
    [loop] = loops_of(project)
    assert (loop.rounds, loop.calls) == (6, 12)
    assert told(project).count("found") == 1
    assert tick(now=NOW) == 0


def test_of_many_who_see_it_begin_again_one_tells(committed_db: None, caplog: pytest.LogCaptureFixture) -> None:
    project = a_project()
    send(project, [a_call(n) for n in range(3)])
    at_once([partial(look)] * 6)
    [loop] = loops_of(project)
    settle = partial(loopwatch._settle_one, project.pk, loop.pk, now=after(600))
    assert sum(at_once([settle] * 8)) == 1
    send(project, [a_call(n + 650) for n in range(3)], now=after(600))
    at_once([partial(look, now=after(600))] * 6)
    assert told(project) == ["found", "over", "found_again"]
    assert [record.getMessage() for record in caplog.records] == []


def test_arguments_are_shortened_and_huge_ones_compared_as_written(db: None) -> None:
    project = a_project()
    huge = msgspec.json.encode({"text": "x" * 20_000}).decode()
    send(project, [a_call(n, arguments=huge) for n in range(3)])
    assert look() == 1
    [loop] = loops_of(project)
    assert len(loop.cycle[0]["arguments"]) == 300
