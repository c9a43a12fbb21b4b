"""`manage.py bootstrap`: what stands between the migrations and the web. Prints the sign-in and the key once."""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config import founding, schedule
from monitor import jobs, retention
from monitor.checks import role_problems
from monitor.models import Person

NOBODY_YET = """\
Nobody has signed in yet. Lost the password? manage.py changepassword {email}"""
WELCOME = """\
Open          {url}
{lines}
These are shown this once. More: manage.py create_operator EMAIL, manage.py create_key NAME"""


class Command(BaseCommand):
    help = "Make what is missing of the coming days' partitions, first project, budgets, channels, operator and key."

    def handle(self, *args: Any, **options: Any) -> None:
        if problems := role_problems():
            raise CommandError("\n".join(f"{problem.id}: {problem.msg} {problem.hint}" for problem in problems))
        now = datetime.now(UTC)
        retention.make_partitions(now=now)
        if schedule.BACKUP not in schedule.JOBS:
            jobs.gone(schedule.BACKUP.name, now=now)  # It may have been scheduled until now.
        first = founding.found(now=now)
        lines = ""
        if first.password:
            lines += f"Sign in as    {founding.FIRST_OPERATOR}\nPassword      {first.password}\n"
        if first.key:
            lines += f"API key       {first.key}\n"
        if lines:
            self.stdout.write(WELCOME.format(url=settings.PUBLIC_URL, lines=lines))
        elif not Person.objects.filter(last_login__isnull=False).exists():
            self.stdout.write(NOBODY_YET.format(email=founding.FIRST_OPERATOR))
