"""`manage.py retention`: how long everything is kept where a project says nothing itself; changes it with `--keep`."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand

from config.keeping import ACTOR, add_keep, confirm, lines, planned, wanted
from monitor import keeping, leaving


class Command(BaseCommand):
    help = "Show for how many days each kind is kept, and change what --keep names; `off` is what Handrail comes with."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_keep(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        now = datetime.now(UTC)
        days = wanted(options["keep"])
        if days:
            made = planned(days, keeping.of_instance())
            confirm(self, made, leaving.of_all(made, now=now), is_sure=options["yes"])
            keeping.change_for_all(days, actor=ACTOR, now=now)
        for line in lines(keeping.of_instance()):
            self.stdout.write(line)
