"""Recorded runs of agents: which of them looped, by the detection alone; `-s` prints each with its evidence.

And what real clients sent over OTLP, whose scripts never loop.
"""

import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from monitor import loops, loopwatch
from monitor.models import Loop
from monitor.records import sealed
from monitor.tenancy import tenant
from tests.contract.recordings import clients, mapped
from tests.launcher.instance import ROOT
from tests.monitor.spending import a_project, accept

DATA = ROOT.parent / "shared/data"
FOLDERS = ("swe_agent", "tau2bench", "taubench")


class Recorded(NamedTuple):
    """One actor's calls in one run, each with what was answered."""

    run: str
    ended: str
    calls: list[tuple[str, str]]
    answers: list[str]


def recorded(folder: str) -> Iterator[Recorded]:
    for path in sorted((DATA / folder).glob("*.gz")):
        with gzip.open(path, "rt") as file:
            if folder == "swe_agent":
                yield _trajectory(path, json.load(file))
                continue
            for n, line in enumerate(file):
                run = json.loads(line)
                if "_header" not in run:
                    yield from _conversation(f"{path.name.removesuffix('.jsonl.gz')} {n}", run)


def _trajectory(path: Path, run: dict[str, Any]) -> Recorded:
    steps = run.get("trajectory") or []
    calls = [("shell", json.dumps({"command": step["action"]})) for step in steps]
    return Recorded(path.name, "", calls, [step["observation"] for step in steps])


def _conversation(name: str, run: dict[str, Any]) -> Iterator[Recorded]:
    """Both sides may call tools; each by itself."""
    calls: dict[str, list[tuple[str, str]]] = {"assistant": []}
    answers: dict[str, list[str]] = {"assistant": []}
    waiting: list[str] = []
    for said in run.get("traj") or run.get("messages") or []:
        for call in said.get("tool_calls") or []:
            asked = call.get("function") or call
            arguments = asked["arguments"]
            who = call.get("requestor") or said["role"]
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            calls.setdefault(who, []).append((asked["name"], text))
            answers.setdefault(who, [])
            waiting.append(who)
        if said["role"] == "tool" and waiting:
            answers[waiting.pop(0)].append(said.get("content") or "")
    for who, made in calls.items():
        yield Recorded(f"{name} {who}", run.get("termination_reason") or "", made, answers[who])


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")


@pytest.mark.skipif(not DATA.is_dir(), reason="there are no recorded runs beside the repository")
def test_which_recorded_runs_loop() -> None:
    runs: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    flagged: Counter[str] = Counter()
    rounds: list[int] = []
    out_of_steps: Counter[bool] = Counter()
    for folder in FOLDERS:
        for one in recorded(folder):
            found = loops.find([loops.key(tool, arguments) for tool, arguments in one.calls])
            runs[folder] += not one.run.endswith(" user")
            calls[folder] += len(one.calls)
            flagged[folder] += bool(found)
            rounds += [stretch.rounds for stretch in found]
            if one.ended in ("max_steps", "too_many_errors") and one.run.endswith(" assistant"):
                out_of_steps[bool(found)] += 1
            for stretch in found:
                cycle = one.calls[stretch.first : stretch.first + stretch.length]
                answers = set(one.answers[stretch.first : stretch.last + 1])
                tell(f"{folder} {one.run}: {stretch.rounds} rounds, {len(answers)} answers, {one.ended}: {cycle}")
    tell(f"runs {dict(runs)}, calls {dict(calls)}, flagged {dict(flagged)}, rounds {sorted(rounds)}")
    assert runs == {"swe_agent": 9, "tau2bench": 378, "taubench": 332}
    assert calls == {"swe_agent": 80, "tau2bench": 3368, "taubench": 2320}
    assert flagged == {"swe_agent": 0, "tau2bench": 19, "taubench": 2}
    assert (len(rounds), sum(one > 50 for one in rounds)) == (23, 5)
    # Of the runs that were cut off because they went on for ever or failed too often.
    assert out_of_steps == {True: 6}


@pytest.mark.parametrize("client", clients())
def test_no_recorded_client_is_taken_for_one_that_loops(db: None, client: str) -> None:
    project = a_project()
    spans = mapped(client)[0]
    now = max(span.ended_at or span.started_at for span in spans) + timedelta(minutes=1)
    accept(project, list(spans), now=now)
    loopwatch.look(now=now)
    with tenant(project.pk):
        assert [(one.agent, one.cycle, one.rounds) for one in Loop.objects.all()] == []


def test_calls_that_a_client_sent_three_times_are_a_loop(db: None) -> None:
    """The recorded call of a tool, copied within its trace."""
    project = a_project()
    spans = list(mapped("pydantic_ai_native")[0])
    call = next(span for span in spans if span.kind == "tool" and span.arguments is not None)
    again = [
        sealed(replace(call, span_id=call.span_id + n, tool_call_id=f"c{n}", started_at=after, ended_at=after))
        for n in (1, 2)
        if (after := (call.ended_at or call.started_at) + timedelta(seconds=n))
    ]
    now = max(span.ended_at or span.started_at for span in spans) + timedelta(minutes=1)
    accept(project, [*spans, *again], now=now)
    assert loopwatch.look(now=now) >= 1
    with tenant(project.pk):
        [loop] = Loop.objects.all()
    assert (loop.cycle[0]["tool"], loop.rounds, loop.execution_id is not None) == (call.tool, 3, True)
