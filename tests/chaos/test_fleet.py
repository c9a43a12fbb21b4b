"""A fleet of real processes under the client, of which some are stopped, some killed, some cut off from the network."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from launcher.up import CELERY, CELERY_ENV
from tests.chaos.proxy import Road
from tests.flows.running import api, ask, make_key
from tests.launcher.instance import ROOT, Instance, clean_environment, send, until

AGENT = Path(__file__).with_name("agent.py")
# `make chaos` takes 200.
FLEET = int(os.environ.get("HANDRAIL_CHAOS_AGENTS", "40"))
VICTIMS = FLEET // 5
WORKERS, BEATS = 8, 3
STARTS_EVERY_S = 0.2
PROJECT = "chaos"
OF_PROJECT = f"project_id = (SELECT id FROM monitor_project WHERE name = '{PROJECT}')"
# A beat is due every 10 s and missed after 15; verdicts on a silent fleet wait for 2 min.
SILENT_WITHIN_S = 15 + 120 + 90


@pytest.fixture(scope="module")
def handrail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A running instance with more workers and beats beside its own."""
    instance = Instance(tmp_path_factory.mktemp("chaos") / "home", HANDRAIL_WORKER_CONCURRENCY=1)
    try:
        instance.begin().ready()
        with ExitStack() as stack:
            for number in range(1, WORKERS):
                name = ("--concurrency", "1", "--hostname", f"more-{number}@%h")
                stack.enter_context(celery(instance, "worker", "--without-gossip", "--without-mingle", *name))
            for number in range(1, BEATS):
                schedule = str(instance.home / f"beat-schedule-{number}")
                stack.enter_context(celery(instance, "beat", "--pidfile", "", "--schedule", schedule))
            yield instance
    finally:
        instance.end()


@contextmanager
def celery(instance: Instance, *words: str) -> Iterator[None]:
    environment = instance.environment | CELERY_ENV
    with subprocess.Popen([*CELERY, *words, "--loglevel", "ERROR"], cwd=ROOT, env=environment) as process:
        try:
            yield
        finally:
            process.kill()


class Agent:
    """One process of the fleet."""

    def __init__(self, number: int, url: str, key: str, folder: Path) -> None:
        self.url = url
        self.finish = folder / f"finish-{number}"
        environment = clean_environment(
            HANDRAIL_URL=url, HANDRAIL_API_KEY=key, HANDRAIL_SPOOL=folder / "spool", PYTHONPATH=ROOT / "sdk" / "src"
        )
        self.process = subprocess.Popen(
            [sys.executable, str(AGENT), str(number), str(self.finish)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.execution = self.process.stdout.readline().strip()
        assert self.execution, self.process.communicate()

    def end(self) -> None:
        """Whatever happened in the test, it does not stay."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def test_of_a_fleet_in_trouble_everybody_is_judged_rightly_and_once(handrail: Instance, tmp_path: Path) -> None:
    key = make_key(handrail, PROJECT)
    with Road(handrail.port) as road, ExitStack() as stack:
        fleet: list[Agent] = []
        for number in range(FLEET):
            began_s = time.monotonic()
            # The first fifth goes by the road that will be cut.
            port = road.port if number < VICTIMS else handrail.port
            fleet.append(Agent(number, f"http://127.0.0.1:{port}", key, tmp_path))
            stack.callback(fleet[-1].end)
            time.sleep(max(0.0, STARTS_EVERY_S - (time.monotonic() - began_s)))  # Not all beats at once.
        until(lambda: by_status(handrail) == {"running": FLEET}, "everybody works", within_s=60)

        cut, stopped, killed = (set_of(fleet, n) for n in range(3))
        healthy = {one.execution for one in fleet} - cut - stopped - killed
        road.cut()
        for one in fleet:
            if one.execution in stopped:
                send(one.process.pid, signal.SIGSTOP)
            elif one.execution in killed:
                send(one.process.pid, signal.SIGKILL)
        until(
            lambda: by_status(handrail).get("hitl_paused") == 3 * VICTIMS,
            "all who fell silent wait for a person",
            within_s=SILENT_WITHIN_S,
        )

        # Nobody else was accused, and everybody once.
        verdicts = ask(
            handrail,
            f"SELECT subject_id, cause FROM monitor_statechange WHERE {OF_PROJECT} AND subject = 'execution'"
            " AND to_state IN ('retrying', 'hitl_paused') AND from_state <> to_state",
        )
        assert Counter(verdicts) == Counter({(one, "zombie"): 1 for one in cut | stopped | killed})
        assert by_status(handrail) == {"hitl_paused": 3 * VICTIMS, "running": len(healthy)}
        items = ask(handrail, f"SELECT count(*), count(DISTINCT subject_id) FROM monitor_queueitem WHERE {OF_PROJECT}")
        assert items == [(3 * VICTIMS, 3 * VICTIMS)]
        silences = ask(handrail, f"SELECT note FROM monitor_statechange WHERE {OF_PROJECT} AND cause = 'fleet_silent'")
        assert len(silences) == 1, silences
        until(lambda: alerted(handrail) == cut | stopped | killed, "each has its alert", within_s=30)

        # The road is mended and the stopped go on: they are heard, and wait; what was killed stays silent.
        road.mend()
        for one in fleet:
            if one.execution in stopped:
                send(one.process.pid, signal.SIGCONT)
        came_back = f"SELECT subject_id FROM monitor_statechange WHERE {OF_PROJECT} AND cause = 'came_back'"
        until(lambda: {one for (one,) in ask(handrail, came_back)} == cut | stopped, "they came back", within_s=90)

        # A person lets them go on, and all end well but those that are no more.
        with api(handrail, key) as person:
            for one in sorted(cut | stopped):
                person.post(f"/api/v1/executions/{one}/resume", json={"note": "It is back."}).raise_for_status()
            for one in sorted(killed):
                person.post(f"/api/v1/executions/{one}/cancel", json={}).raise_for_status()
        for one in fleet:
            one.finish.touch()
        for one in fleet:
            if one.execution not in killed:
                assert one.process.wait(60) == 0
        # Who could not tell its end in the two seconds that it waits leaves that to the next program of its spool.
        heirs = [Agent(FLEET + number, one.url, key, tmp_path) for number, one in enumerate((fleet[0], fleet[-1]))]
        for one in heirs:
            stack.callback(one.end)
        ended = {"completed": FLEET - VICTIMS, "timeout": VICTIMS, "running": len(heirs)}
        until(lambda: by_status(handrail) == ended, "all have ended", within_s=90)
        for one in fleet:
            if one.execution in healthy:
                assert one.process.stderr is not None
                assert one.process.stderr.read() == "", handrail.complaints()
        assert len(ask(handrail, came_back)) == len(cut | stopped), "each came back once"


def alerted(handrail: Instance) -> set[str]:
    """The executions with an open alert; two for one are an error."""
    alerts = ask(
        handrail, f"SELECT fingerprint FROM alerts_alert WHERE {OF_PROJECT} AND fingerprint LIKE 'execution:%%'"
    )
    found = [fingerprint.removeprefix("execution:") for (fingerprint,) in alerts]
    assert len(found) == len(set(found)), found
    return set(found)


def set_of(fleet: list[Agent], fifth: int) -> set[str]:
    return {one.execution for one in fleet[fifth * VICTIMS : (fifth + 1) * VICTIMS]}


def by_status(handrail: Instance) -> dict[str, int]:
    return dict(ask(handrail, f"SELECT status, count(*) FROM monitor_execution WHERE {OF_PROJECT} GROUP BY status"))
