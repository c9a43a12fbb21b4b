"""Long traces: a batch reads what it touches of them, and ends in the books that the whole trace would give."""

import random
from typing import Any
from uuid import UUID

import pytest

from monitor import ground, ingest, nearby
from monitor.models import Project, Run, Span
from monitor.records import Span as Record
from monitor.records import Tokens
from monitor.tenancy import tenant
from tests.monitor.spending import (
    CALL_USD,
    MODEL,
    REPORTED,
    a_bare_span,
    a_project,
    accept,
    assert_books_balance,
    books_of,
    usage,
)
from tests.monitor.test_settlement import older, reported


def a_tangle(trace: int, rng: random.Random, *, rings: bool) -> list[Record]:
    """Spans under any others of the trace, that repeat usage and responses of others; in rings, or in own runs.

    Not both: where a ring takes a span out of a named run again, the run goes on to reach to where that was.
    """
    ids = range(1, 12 + rng.randrange(20))
    spans = []
    for n in ids:
        said: dict[str, Any] = {"kind": rng.choice(("agent", "step", "llm", "llm", "tool"))}
        if said["kind"] in ("agent", "step") and rng.random() < 0.4:
            said |= {"tokens": usage(rng.randrange(1, 9000), 10), "model": MODEL, "provider": "openai"}
        if said["kind"] == "llm" and rng.random() < 0.3:
            said["tokens"] = Tokens()
        if rng.random() < 0.5:
            said["response_id"] = f"r-{rng.randrange(5)}"
        if rng.random() < 0.3:
            said |= {"agent": f"agent-{n % 4}", "agent_stated": True}
        if not rings and rng.random() < 0.15:
            said["run_id"] = f"run-{trace}-{n % 3}"
        if rng.random() < 0.1:
            said["conversation_id"] = f"talk-{n % 4}"
        if rng.random() < 0.05:
            said["execution_id"] = REPORTED
        above = ids if rings and rng.random() < 0.2 else range(max(1, n - 6), n + rings)
        spans.append(a_bare_span(trace, n, rng.choice((None, 900 + n, *above)), **said))
    return spans


def agents_at_work(trace: int, agents: int) -> list[Record]:
    """Agents under a root that has not come, each with a step, a call below it and a tool; 4 spans each."""
    spans = []
    for n in range(10, 10 * agents + 10, 10):
        name = {"agent": f"agent-{n % 7}", "agent_stated": True}
        spans += [
            a_bare_span(trace, n, 1, kind="agent", **name),
            a_bare_span(trace, n + 1, n, kind="step"),
            a_bare_span(trace, n + 2, n + 1, response_id=f"r-{n}"),
            a_bare_span(trace, n + 3, n, kind="tool", tool="search"),
        ]
    return spans


def reads(project: Project, *spans: Record) -> int:
    """How many stored spans a batch reads of their traces."""
    traces = {span.trace_id.hex() for span in spans}
    with tenant(project.pk):
        return sum(map(len, ground.read(project.pk, traces, works=(), days=(), told=spans).known.values()))


@pytest.mark.parametrize("seed", range(25))
def test_any_order_split_and_repetition_of_a_long_trace_ends_in_the_same_books(
    db: None, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    spans = a_tangle(1, rng, rings=True) + a_tangle(2, rng, rings=False)
    told = [*spans, *(older(span, rng) for span in spans if rng.random() < 0.4), *rng.sample(spans, 8)]
    rng.shuffle(told)
    straight, split = a_project("straight"), a_project("split")
    for project in (straight, split):
        reported(project)
    accept(straight, spans)
    # Every trace that has a span already is a long one.
    monkeypatch.setattr(nearby, "MOST_WHOLE", 0)
    while told:
        size = rng.randrange(1, 13)
        accept(split, told[:size])
        del told[:size]
    assert_books_balance(split)
    assert books_of(split) == books_of(straight)


def test_a_trace_that_grows_long_ends_in_the_same_books(db: None) -> None:
    spans = [*agents_at_work(1, 3 * nearby.MOST_WHOLE // 8), a_bare_span(1, 1, kind="agent", run_id="night")]
    assert len(spans) > nearby.MOST_WHOLE * 5 // 4
    straight, split = a_project("straight"), a_project("split")
    accept(straight, spans)
    random.Random(3).shuffle(spans)
    # The root, which names the run of all others, comes when the trace is long, and not last.
    spans.sort(key=lambda span: span.span_id == 1)
    spans.insert(len(spans) - 40, spans.pop())
    for n in range(0, len(spans), 97):
        accept(split, spans[n : n + 97])
    assert_books_balance(split)
    assert books_of(split) == books_of(straight)
    with tenant(split.pk):
        assert [run.run_id for run in Run.objects.all()] == ["night"]


def test_a_batch_reads_of_a_long_trace_what_it_touches(db: None) -> None:
    project = a_project()
    agents = nearby.MOST_WHOLE // 4 + 50
    spans = agents_at_work(1, agents)
    accept(project, spans)
    assert reads(project, a_bare_span(1, 9, kind="step")) == 0
    assert reads(project, a_bare_span(1, 9, 8)) == 0
    # What it hangs under, as long as that repeats no usage.
    assert reads(project, a_bare_span(1, 9, 12)) == 3
    assert reads(project, a_bare_span(1, 9, 11, response_id="new")) == 2
    # Another report of a response, with what that hangs under.
    assert reads(project, a_bare_span(1, 9, 8, response_id="r-50")) == 3
    # What is below.
    assert reads(project, spans[0]) == 4
    assert reads(project, a_bare_span(1, 1)) == 4 * agents


def test_of_many_traces_only_some_are_read_whole(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    project, traces, agents = a_project(), range(1, 11), 5
    accept(project, [span for trace in traces for span in agents_at_work(trace, agents)])
    late = [a_bare_span(trace, 9, 12) for trace in traces]
    assert reads(project, *late) == len(traces) * 4 * agents
    monkeypatch.setattr(nearby, "MOST_TOGETHER", 3 * 4 * agents + 1)
    # Of the others what the new span hangs under.
    assert reads(project, *late) == 3 * 4 * agents + (len(traces) - 3) * 3
    accept(project, late)
    assert_books_balance(project)


def test_a_late_child_in_a_long_trace_gives_a_response_back_to_its_twin(db: None) -> None:
    """The twin is far away, and whether something below it counts has to be read as well."""
    project = a_project()
    accept(project, agents_at_work(1, nearby.MOST_WHOLE // 4 + 1))
    full, fuller = usage(1000, 100), usage(2000, 200)
    twins = [a_bare_span(1, 3, 2, response_id="r", tokens=fuller), a_bare_span(1, 5, 4, response_id="r", tokens=full)]
    accept(project, twins)
    costs: dict[int, list[Any]] = {3: [], 5: [], 6: []}

    def look() -> None:
        with tenant(project.pk):
            found = dict(Span.objects.filter(span_id__in=costs).values_list("span_id", "cost_usd"))
        for span_id, seen in costs.items():
            seen.append(found.get(span_id, 0) / CALL_USD)

    look()
    accept(project, [a_bare_span(1, 6, 3)])
    look()
    accept(project, [a_bare_span(1, 7, 5, tokens=usage(2000, 200))])
    look()
    assert costs == {3: [2, 0, 0], 5: [0, 1, 0], 6: [0, 1, 1]}
    assert_books_balance(project)


def test_what_is_registered_for_a_long_trace_takes_all_of_it_over(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearby, "MOST_WHOLE", 0)
    project = a_project()
    accept(project, agents_at_work(1, 3))
    owner = reported(project, trace_id=UUID(int=1))
    with tenant(project.pk):
        ingest.look_again(project.pk, UUID(int=1).hex, now=owner.started_at)
        assert set(Run.objects.values_list("run_id", flat=True)) == {"night"}
    assert_books_balance(project)
