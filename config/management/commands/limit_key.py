"""`manage.py limit_key NAME_OR_PREFIX`: how many requests a minute a key may make, shown or changed."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from monitor import keys
from monitor.models import ApiKey
from monitor.tenancy import crossing, tenant

DEFAULT = "default"


class Command(BaseCommand):
    help = "Show how many requests a minute a key may make, and change what the options name; 0 is no limit."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("key", help="its name, or the hr_… that it begins with and list_keys shows")
        parser.add_argument("--project", default="", help="only look in the project of this name")
        for name in keys.LIMITS:
            parser.add_argument(f"--{name.replace('_', '-')}", dest=name, help="a number, or `default`")

    def handle(self, *args: Any, **options: Any) -> None:
        now = datetime.now(UTC)
        limits = {name: _limit(name, options[name]) for name in keys.LIMITS if options[name] is not None}
        try:
            with crossing():
                key = keys.named(options["key"], project_name=options["project"], now=now)
        except keys.NotNamed as error:
            raise CommandError(str(error)) from error
        if limits:
            with tenant(key.project_id):
                # A key that ended in this very moment has nothing to limit.
                key = keys.limit(key.project_id, key.pk, limits, actor="manage.py", now=now) or key
        for name in keys.LIMITS:
            self.stdout.write(f"{name:<20} {_shown(key, name)}")


def _limit(name: str, text: str) -> int | None:
    if text == DEFAULT:
        return None
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= keys.MOST_PER_MINUTE):
        raise CommandError(f"--{name.replace('_', '-')} {text!r}: say a number of requests a minute, or {DEFAULT}.")
    return int(text)


def _shown(key: ApiKey, name: str) -> str:
    value = getattr(key, name)
    return DEFAULT if value is None else "no limit" if value == 0 else str(value)
