"""`manage.py demo`: a live simulated fleet, through the client and the public API only."""

import asyncio
import signal
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config.founding import FIRST_OPERATOR, project_named
from dashboard.arrival import is_empty
from monitor import keys, memberships
from monitor.management.demo.fleet import Fleet
from monitor.management.demo.line import Line, Refused
from monitor.management.demo.stage import Stage, client
from monitor.models import ApiKey, Person
from monitor.models.keys import Scope
from monitor.models.people import Role
from monitor.tenancy import crossing

PROJECT = "demo"
# What agents report by, and by what their supervisors see and command. That one may not ingest: who reads commands with
# such a key has delivered them, and here the client is to do that.
KEYS = {"demo fleet": [Scope.INGEST], "demo office": [Scope.READ, Scope.OPERATE]}
KEYS_LAST = timedelta(days=7)
PER_MINUTE = 1_200
PER_SECOND = 6.0
# An agent that is cut off tells of its end no more.
LAST_WORDS_S = 0.2


class Command(BaseCommand):
    help = "Simulate a fleet of agents in a project of its own, until Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--seconds", type=float, default=None, help="end after this time; without it, never")
        parser.add_argument("--seed", type=int, default=1, help="decides what happens; another one, another day")
        parser.add_argument("--url", default=f"http://127.0.0.1:{settings.PORT}")

    def handle(self, *, seconds: float | None, seed: int, url: str, **_: Any) -> None:
        fleet, office = prepare()
        self.stdout.write(f"The fleet works in the project {PROJECT} (seed {seed}).")
        try:
            asyncio.run(_live(url, fleet, office, seed=seed, seconds=seconds))
        except* Refused as refusals:
            raise CommandError(str(refusals.exceptions[0])) from refusals
        finally:
            with crossing():
                ApiKey.objects.filter(project__name=PROJECT, name__in=KEYS).delete()
        self.stdout.write("The fleet has stopped.")


def prepare() -> list[str]:
    """The project, with the first operator as a member, and both keys, which end with this fleet or within a week."""
    now = datetime.now(UTC)
    with crossing():
        project = project_named(PROJECT)
        operator = Person.objects.filter(email=FIRST_OPERATOR).first()
        if operator is not None:
            memberships.join(project, operator, role=Role.ADMIN)
            if operator.last_project_id is None or is_empty(operator.last_project_id):
                # Nothing is there to see yet, so the next page shows the fleet.
                Person.objects.filter(pk=operator.pk).update(last_project=project)
        # A killed fleet could not delete its own.
        ApiKey.objects.filter(project=project, name__in=KEYS).delete()
        made = (
            keys.make(
                project,
                name,
                scopes,
                now=now,
                lasts=KEYS_LAST,
                general_per_minute=PER_MINUTE,
                ingest_per_minute=PER_MINUTE,
            )
            for name, scopes in KEYS.items()
        )
        return [text for _, text in made]


async def _live(url: str, fleet: str, office: str, *, seed: int, seconds: float | None) -> None:
    """Live until the time is over or a signal says so."""
    agents = client(url, fleet)
    desk, people = (Line(url, key, per_second=PER_SECOND) for key in (fleet, office))
    stage = Stage(agents, desk, people, machine=lambda cable: client(url, fleet, over=cable))
    living = asyncio.create_task(Fleet(stage, seed=seed).live())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, living.cancel)
    try:
        await asyncio.wait({living}, timeout=seconds)
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
    finally:
        agents.shutdown(LAST_WORDS_S)
        await asyncio.gather(desk.close(), people.close())
    if not living.cancelled() and (error := living.exception()) is not None:
        raise error
