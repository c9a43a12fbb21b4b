"""`manage.py list_keys`: the keys that open something, one a line."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand

from monitor import keys
from monitor.models import ApiKey
from monitor.tenancy import crossing


class Command(BaseCommand):
    help = "List the API keys that are valid: prefix, project, name, scopes, last use, end."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", default="", help="only of the project of this name")

    def handle(self, *args: Any, **options: Any) -> None:
        with crossing():
            found = keys.living(now=datetime.now(UTC)).select_related("project").order_by("project__name", "created_at")
            if options["project"]:
                found = found.filter(project__name=options["project"])
            for key in found:
                self.stdout.write(_line(key))


def _line(key: ApiKey) -> str:
    used = f"used {key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never used"
    ends = f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else "for ever"
    return "\t".join([f"{keys.MARK}_{key.prefix}", key.project.name, key.name, ",".join(key.scopes), used, ends])
