"""`manage.py revoke_key NAME_OR_PREFIX`: ends a key at once and for good."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Q

from monitor import keys
from monitor.tenancy import crossing


class Command(BaseCommand):
    help = "End an API key at once and for good."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("key", help="its name, or the hr_… that it begins with and list_keys shows")
        parser.add_argument("--project", default="", help="only look in the project of this name")

    def handle(self, *args: Any, **options: Any) -> None:
        asked, now = options["key"], datetime.now(UTC)
        with crossing():
            found = keys.living(now=now).filter(Q(name=asked) | Q(prefix=asked.removeprefix(f"{keys.MARK}_")))
            if options["project"]:
                found = found.filter(project__name=options["project"])
            named = list(found.select_related("project").order_by("created_at"))
            if not named:
                raise CommandError(f"no valid key has the name or prefix {asked}; list_keys shows those there are")
            if len(named) > 1:
                prefixes = ", ".join(f"{keys.MARK}_{key.prefix} ({key.project.name})" for key in named)
                raise CommandError(f"several keys are named {asked}: say which one by its prefix: {prefixes}")
            keys.revoke(named[0].pk, now=now)
        self.stdout.write(f"revoked {keys.MARK}_{named[0].prefix} ({named[0].name}, {named[0].project.name})")
