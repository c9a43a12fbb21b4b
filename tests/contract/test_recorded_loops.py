"""Recorded runs of agents: which of them looped, by the detection alone; `-s` prints each with its evidence."""

import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from monitor import loops
from tests.launcher.instance import ROOT

DATA = ROOT.parent / "shared/data"
FOLDERS = ("swe_agent", "tau2bench", "taubench")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="there are no recorded runs beside the repository")


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
