"""`manage.py up`: listed here so that `help` knows it; `manage.py` itself hands it to the launcher, without Django."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from launcher.up import main


class Command(BaseCommand):
    help = "Start everything that Handrail needs and keep it running until Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--demo", action="store_true", help="with a simulated fleet")

    def handle(self, *, demo: bool, **_: Any) -> None:
        sys.exit(main(["--demo"] if demo else []))
