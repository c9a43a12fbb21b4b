"""`manage.py demo`: a live simulated fleet, through the public API only."""

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
from monitor.models import ApiKey, Person
from monitor.models.keys import Scope
from monitor.models.people import Role
from monitor.tenancy import crossing

PROJECT = "demo"
KEY = "demo fleet"
KEY_LASTS = timedelta(days=7)
PER_MINUTE = 600
PER_SECOND = 6.0


class Command(BaseCommand):
    help = "Simulate a fleet of agents in a project of its own, until Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--seconds", type=float, default=None, help="end after this time; without it, never")
        parser.add_argument("--seed", type=int, default=1, help="decides what happens; another one, another day")
        parser.add_argument("--url", default=f"http://127.0.0.1:{settings.PORT}")

    def handle(self, *, seconds: float | None, seed: int, url: str, **_: Any) -> None:
        key, text = prepare()
        self.stdout.write(f"The fleet works in the project {PROJECT} (seed {seed}).")
        try:
            asyncio.run(_live(url, text, seed=seed, seconds=seconds))
        except* Refused as refusals:
            raise CommandError(str(refusals.exceptions[0])) from refusals
        finally:
            with crossing():
                ApiKey.objects.filter(pk=key.pk).delete()
        self.stdout.write("The fleet has stopped.")


def prepare() -> tuple[ApiKey, str]:
    """The project, with the first operator as a member, and a key that ends with this fleet or within a week."""
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
        ApiKey.objects.filter(project=project, name=KEY).delete()
        return keys.make(
            project,
            KEY,
            [Scope.INGEST, Scope.READ, Scope.OPERATE],
            now=now,
            lasts=KEY_LASTS,
            general_per_minute=PER_MINUTE,
            ingest_per_minute=PER_MINUTE,
        )


async def _live(url: str, key: str, *, seed: int, seconds: float | None) -> None:
    """Live until the time is over or a signal says so."""
    line = Line(url, key, per_second=PER_SECOND)
    living = asyncio.create_task(Fleet(line, seed=seed).live())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, living.cancel)
    try:
        await asyncio.wait({living}, timeout=seconds)
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
    finally:
        await line.close()
    if not living.cancelled() and (error := living.exception()) is not None:
        raise error
