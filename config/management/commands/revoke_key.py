"""`manage.py revoke_key NAME_OR_PREFIX`: ends a key at once and for good."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from monitor import keys
from monitor.tenancy import crossing


class Command(BaseCommand):
    help = "End an API key at once and for good."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("key", help="its name, or the hr_… that it begins with and list_keys shows")
        parser.add_argument("--project", default="", help="only look in the project of this name")

    def handle(self, *args: Any, **options: Any) -> None:
        now = datetime.now(UTC)
        try:
            with crossing():
                key = keys.named(options["key"], project_name=options["project"], now=now)
                keys.revoke(key.pk, now=now)
        except keys.NotNamed as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"revoked {keys.MARK}_{key.prefix} ({key.name}, {key.project.name})")
