"""`manage.py bootstrap`: what a first start makes. Prints the sign-in and the key once, later nothing secret."""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config import founding
from monitor.checks import role_problems
from monitor.models import Person

NOBODY_YET = """\
Nobody has signed in yet. Lost the password? manage.py changepassword {email}"""
WELCOME = """\
Open          {url}
{lines}
These are shown this once. More: manage.py create_operator EMAIL, manage.py create_key NAME"""


class Command(BaseCommand):
    help = "Make the first project, budgets, channels, operator and key, where they are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        if problems := role_problems():
            raise CommandError("\n".join(f"{problem.id}: {problem.msg} {problem.hint}" for problem in problems))
        first = founding.found(now=datetime.now(UTC))
        lines = ""
        if first.password:
            lines += f"Sign in as    {founding.FIRST_OPERATOR}\nPassword      {first.password}\n"
        if first.key:
            lines += f"API key       {first.key}\n"
        if lines:
            self.stdout.write(WELCOME.format(url=settings.PUBLIC_URL, lines=lines))
        elif not Person.objects.filter(last_login__isnull=False).exists():
            self.stdout.write(NOBODY_YET.format(email=founding.FIRST_OPERATOR))
