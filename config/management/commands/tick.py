"""`manage.py tick`: one turn of the crank."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from config import crank
from monitor import jobs


class Command(BaseCommand):
    help = "Run every periodic job that is due, once. Safe at any time, beside the workers too."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--all", action="store_true", help="run the jobs that are not due as well")

    def handle(self, *args: Any, **options: Any) -> None:
        outcomes = crank.turn(now=jobs.database_now(), only_due=not options["all"])
        for name, outcome in outcomes.items():
            self.stdout.write(f"{name}: {outcome}")
        failed = [name for name, outcome in outcomes.items() if outcome != "ok"]
        if failed:
            raise CommandError(f"failed: {', '.join(failed)}")
