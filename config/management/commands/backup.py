"""`manage.py backup [DIR]`: the whole instance as of now, in files, while everything goes on."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config.backups import folder, writing
from config.backups.manifest import Damaged


class Command(BaseCommand):
    help = "Write a backup of everything but the secret key and verify it; again after a kill it goes on."

    def add_arguments(self, parser: ArgumentParser) -> None:
        default = settings.BACKUP_DIR or settings.PLACES.home / "backups"
        parser.add_argument("folder", nargs="?", type=Path, default=default, help=f"default: {default}")
        parser.add_argument("--keep", type=int, default=0, metavar="N", help="forget all but the newest N; 0 keeps all")
        parser.add_argument("--with-secret-key", action="store_true", help="also the key that signs sessions")

    def handle(self, *, keep: int, with_secret_key: bool, **options: Any) -> None:
        if keep < 0:
            raise CommandError("--keep takes 0 or more.")
        base = options["folder"].absolute()
        try:
            made = writing.back_up(base, say=self._say, keep=keep or None, with_secret_key=with_secret_key)
        except (folder.Busy, writing.NotSettled, Damaged) as error:
            raise CommandError(str(error)) from error
        except (psycopg.Error, OSError) as error:
            raise CommandError(f"The backup is not finished: {error} Run it again; it goes on.") from error
        whole = made.manifest
        if made.forgotten:
            self.stdout.write(f"Forgotten: {', '.join(path.name for path in made.forgotten)}.")
        self.stdout.write(
            f"{made.path}: {whole.rows:,} rows of {whole.made_at:%Y-%m-%d %H:%M:%S} UTC, {whole.bytes:,} bytes in "
            f"{sum(bool(part.file) for part in whole.parts)} files, of which {made.taken_over} were at hand."
        )

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()  # Seen at once in a pipe as well.
