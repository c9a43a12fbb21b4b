"""`manage.py restore PATH`: an instance as a backup shows it. `manage.py` starts the embedded PostgreSQL around it."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config.backups.manifest import Damaged
from config.backups.restoring import Refused, Restore


class Command(BaseCommand):
    help = "Bring an empty instance to what a backup shows, and compare; again after a kill it goes on."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("path", type=Path, help="the folder of one backup, as `backup` printed it")
        parser.add_argument("--replace", metavar="NAME", help="lose what the instance of this name holds")
        parser.add_argument("--check", action="store_true", help="only compare the backup's files with its checksums")

    def handle(self, *, path: Path, replace: str | None, check: bool, **_: Any) -> None:
        try:
            restore = Restore(path.absolute(), place=place(), say=self._say)
            if check:
                restore.check()
                return
            if settings.DB_ROLE != "owner":
                raise CommandError(
                    "Only the owner of the tables restores: call manage.py, or set HANDRAIL_DB_ROLE=owner."
                )
            restore.run(replace=replace)
        except (Damaged, Refused) as error:
            raise CommandError(str(error)) from error
        except (psycopg.Error, OSError) as error:
            raise CommandError(f"The restore is not finished: {error} Run it again; it goes on.") from error
        self.stdout.write(f"{place()} is as it was at {restore.manifest.made_at:%Y-%m-%d %H:%M:%S} UTC.")

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()  # Seen at once in a pipe as well.


def place() -> str:
    """What names this instance for people: the state folder, or the host and name of its database."""
    if settings.PLACES.database_url == settings.DATABASE_URL:
        return str(settings.PLACES.home)
    parts = urlsplit(settings.DATABASE_URL)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"
