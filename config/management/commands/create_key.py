"""`manage.py create_key NAME`: prints a new key and nothing else on stdout, and on stderr when it ends."""

from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from config.founding import project_named
from monitor import keys
from monitor.tenancy import crossing


class Command(BaseCommand):
    help = "Make an API key; its text is printed once and kept nowhere."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what the key is for")
        parser.add_argument("--scopes", default="ingest,read", help="of ingest,read,operate,admin,act-as")
        parser.add_argument("--project", default="default", help="the project's name; made when it is missing")
        parser.add_argument("--department", default="", help="the department that calls without one count against")
        parser.add_argument("--days", type=int, default=keys.LASTS.days, help="how long it is valid; 0 is for ever")
        parser.add_argument("--general-per-minute", type=int, default=None, help="its own limit of requests")
        parser.add_argument("--ingest-per-minute", type=int, default=None, help="its own limit of ingest requests")

    def handle(self, *args: Any, **options: Any) -> None:
        scopes = [scope.strip() for scope in options["scopes"].split(",") if scope.strip()]
        try:
            with crossing():
                project = project_named(options["project"])
                key, text = keys.make(
                    project,
                    options["name"],
                    scopes,
                    now=datetime.now(UTC),
                    department=options["department"],
                    lasts=timedelta(days=options["days"]) if options["days"] else None,
                    general_per_minute=options["general_per_minute"],
                    ingest_per_minute=options["ingest_per_minute"],
                )
        except keys.UnknownScope as error:
            raise CommandError(str(error)) from error
        self.stdout.write(text)
        if key.expires_at is not None:
            self.stderr.write(f"It ends on {key.expires_at:%d %b %Y}; `--days 0` makes one that does not.", str)
