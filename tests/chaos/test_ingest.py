"""Everything is killed again and again amid reports: what was acknowledged is there, once, to the last cent."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest

from monitor.prices import price
from monitor.records import disjoint
from tests.chaos.senders import ANSWERED, ASKED, IN_USD, MODEL, OUT_USD, Body, Sender, Sums, Truth
from tests.flows.running import address, ask, make_key
from tests.launcher.instance import ROOT, Instance, until

# `make chaos` takes 120; of 8 each part is one, and one comes again.
KILLS = int(os.environ.get("HANDRAIL_CHAOS_KILLS", "8"))
SEED = int(os.environ.get("HANDRAIL_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
SENDERS = ("otlp", "otlp", "otlp", "logs", "batch", "lines", "call", "call")
WEB_PROCESSES = 2
PROJECT = "durable"
OF_PROJECT = f"project_id = (SELECT id FROM monitor_project WHERE name = '{PROJECT}')"
# Of each part, the words in its command line and those that must not be there; a worker is any process of its pool.
VICTIMS = {
    "web": ("-m uvicorn", "leash.py"),
    "worker": ("--app config worker", "leash.py"),
    "beat": ("--app config beat", "leash.py"),
    "valkey": ("valkey-server unixsocket", "leash.py"),
    "postgres": ("bin/postgres -D", "leash.py"),
    "a backend": ("postgres: handrail", "leash.py"),
}
# What starts the others and holds their leashes. It is begun again by hand, as by whoever runs it.
SUPERVISOR = "supervisor"
BALANCE = """
from monitor.models import Project
from monitor.tenancy import crossing
from tests.monitor.spending import assert_books_balance
with crossing():
    project = Project.objects.get(name="durable")
assert_books_balance(project)
"""
# What a trace is worth, and what each scope of the budgets was charged.
WORTH = f"""
SELECT replace(trace_id::text, '-', ''), sum(calls)::int, sum(cost_usd), sum(input_tokens)::int,
       sum(output_tokens)::int
  FROM monitor_ledgerentry WHERE {OF_PROJECT} GROUP BY trace_id
"""
CHARGED = """
SELECT scope, period, sum(spent_usd), sum(calls)::int FROM monitor_budgetwindow
 WHERE (calls <> 0 OR spent_usd <> 0) GROUP BY scope, period
"""
# What spans were told by log records, and the records themselves.
WORDS = f"""
SELECT replace(trace_id::text, '-', ''), lpad(to_hex(span_id), 16, '0'), input, output
  FROM monitor_span WHERE {OF_PROJECT} AND (input IS NOT NULL OR output IS NOT NULL)
"""
RECORDS = f"""
SELECT replace(trace_id::text, '-', ''), lpad(to_hex(span_id), 16, '0'), name, said::json ->> 'content'
  FROM monitor_spanlog WHERE {OF_PROJECT}
"""
MINUTES = f"""
SELECT sum(count)::int, sum(cost_usd), sum(input_tokens)::int, sum(output_tokens)::int
  FROM monitor_minuterollup WHERE {OF_PROJECT} AND kind = %(kind)s
"""


@pytest.fixture(scope="module")
def handrail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("ingest") / "home", HANDRAIL_WEB_PROCESSES=WEB_PROCESSES)
    try:
        yield instance.begin().ready()
    finally:
        instance.end()


def test_the_senders_know_the_prices() -> None:
    found = price("openai", MODEL, disjoint(1_000_000, 1_000_000), datetime.now(UTC))
    assert found.computed_usd == (IN_USD + OUT_USD) * 1_000_000


def test_what_was_acknowledged_outlives_every_kill(handrail: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    key = make_key(handrail, PROJECT, scopes="ingest,read")
    truth, stop = Truth(), threading.Event()
    began_s = time.monotonic()
    with ThreadPoolExecutor(len(SENDERS)) as pool:
        programs = [
            Sender(address(handrail), key, way, f"{SEED}-{number}", truth, stop) for number, way in enumerate(SENDERS)
        ]
        running = [pool.submit(program.run) for program in programs]
        try:
            killed = kill(handrail, truth, running)
            after = truth.requests
            until(
                lambda: truth.requests >= after + 50 or any(one.done() for one in running),
                f"reports are taken after the last kill (answers {dict(truth.statuses)})",
                within_s=120,
            )
        finally:
            stop.set()
    for one in running:
        one.result()
    lasted_s = time.monotonic() - began_s

    everything_is_there_once(handrail, truth)
    books = kept_books(handrail)
    again(handrail, key, random.Random(SEED).sample(truth.bodies, min(200, len(truth.bodies))))
    assert kept_books(handrail) == books, "told again, it is counted again"
    until(lambda: is_quiet(handrail), "every job and process turns again", within_s=120)
    with capsys.disabled():
        sys.stdout.write(
            f"\nseed {SEED}: {sum(killed.values())} kills in {lasted_s:.0f} s {dict(killed)}; "
            f"{truth.requests} requests with {len(truth.acknowledged)} spans acknowledged, "
            f"{len(truth.abandoned)} given up; answers {dict(truth.statuses)}\n"
        )


def kill(handrail: Instance, truth: Truth, running: list) -> Counter[str]:
    """Kill parts at random, each amid reports that are being taken."""
    rng = random.Random(SEED)
    killed: Counter[str] = Counter()
    while sum(killed.values()) < KILLS:
        before = truth.requests
        until(
            lambda before=before: truth.requests >= before + 10 or any(one.done() for one in running),
            f"reports are taken (seed {SEED}, after {dict(killed)})",
            within_s=120,
        )
        assert not any(one.done() for one in running), [one.exception() for one in running if one.done()]
        # The moment is random by intent: amid a request, a commit, a start of another part.
        time.sleep(rng.random() * 1.5)
        # In turns at first, so that each part is among the victims.
        names = [*VICTIMS, SUPERVISOR]
        name = names[sum(killed.values())] if sum(killed.values()) < len(names) else rng.choice(names)
        if name == SUPERVISOR:
            kill_supervisor(handrail)
            killed[name] += 1
        elif pids := pids_of(handrail, name):
            try:
                os.kill(rng.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed[name] += 1
    return killed


def kill_supervisor(handrail: Instance) -> None:
    """With it goes all that hangs on its leashes; the next start finds a free port and a whole database."""
    assert handrail.process is not None
    before = set(handrail.processes())
    handrail.process.kill()
    handrail.process.wait()
    handrail.begin().ready()
    until(lambda: before.isdisjoint(handrail.processes()), "what it had started is gone", within_s=15)


def pids_of(handrail: Instance, name: str) -> list[int]:
    words, without = VICTIMS[name]
    return sorted(pid for pid, command in handrail.processes().items() if words in command and without not in command)


def kept_books(handrail: Instance) -> list[Counter]:
    return [Counter(ask(handrail, query)) for query in (WORTH, CHARGED, WORDS, RECORDS)]


def everything_is_there_once(handrail: Instance, truth: Truth) -> None:
    rows = ask(
        handrail,
        f"SELECT replace(trace_id::text, '-', ''), lpad(to_hex(span_id), 16, '0') FROM monitor_span WHERE {OF_PROJECT}",
    )
    by_otlp = {trace for trace, span in truth.acknowledged if span}
    by_otlp |= {trace for body in truth.abandoned for trace, _ in body.tells}
    kept = Counter((trace, span if trace in by_otlp else "") for trace, span in rows)
    assert max(kept.values()) == 1, [one for one, count in kept.items() if count > 1][:5]
    assert not truth.acknowledged - kept.keys(), f"lost: {sorted(truth.acknowledged - kept.keys())[:5]}"
    assert truth.abandoned, "nothing was given up midway"
    for body in truth.abandoned:
        there = [one in kept for one in body.tells]
        assert all(there) or not any(there), "a request that was given up is there in part"
    unknown = {one for body in truth.abandoned for one in body.tells}
    assert kept.keys() <= truth.acknowledged | unknown

    worth = {trace: truth.worth[trace] for trace, _ in kept}
    found = {trace: Sums(*sums) for trace, *sums in ask(handrail, WORTH)}
    expected = {trace: sums for trace, sums in worth.items() if sums.calls}
    assert {trace: sums for trace, sums in found.items() if sums.calls or sums.usd} == expected

    words = {(trace, span): (asked, answered) for trace, span, asked, answered in ask(handrail, WORDS)}
    assert words == truth.words
    records = Counter(ask(handrail, RECORDS))
    assert records == {
        (*place, name, said): 1
        for place, both in truth.words.items()
        for name, said in zip((ASKED, ANSWERED), both, strict=True)
    }

    total = Sums()
    for sums in worth.values():
        total = total.plus(sums)
    charged = {(scope, period): (usd, calls) for scope, period, usd, calls in ask(handrail, CHARGED)}
    assert set(charged.values()) == {(total.usd, total.calls)}, charged
    assert {scope for scope, _ in charged} >= {"run", "project", "global"}
    calls, tools = (ask(handrail, MINUTES, kind=kind)[0] for kind in ("llm", "tool"))
    assert calls[1] + tools[1] == total.usd
    assert (calls[2], calls[3]) == (total.input_tokens, total.output_tokens)
    # And every sum there is, from the stored spans alone.
    done = subprocess.run(
        [sys.executable, "-c", f"import config.asgi\n{BALANCE}"],
        cwd=ROOT,
        env=handrail.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def again(handrail: Instance, key: str, bodies: list[Body]) -> None:
    with httpx.Client(base_url=address(handrail), headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        for body in bodies:
            client.post(body.path, content=body.content, headers=body.headers).raise_for_status()


def is_quiet(handrail: Instance) -> bool:
    try:
        return httpx.get(f"{address(handrail)}/health/watch").status_code == 200
    except httpx.TransportError:
        return False
