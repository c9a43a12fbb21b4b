"""`manage.py create_operator EMAIL`: a person who can sign in; prints the generated password."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.core.validators import validate_email

from config.founding import project_named
from monitor import memberships
from monitor.models.people import Role
from monitor.tenancy import crossing


class Command(BaseCommand):
    help = "Make a person, their membership and their seat as a human agent; prints the password once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--role", default=Role.OPERATOR, choices=Role.values)
        parser.add_argument("--project", default="default", help="the project's name; made when it is missing")
        parser.add_argument("--name", default="", help="as the pages show it")

    def handle(self, *args: Any, **options: Any) -> None:
        email = options["email"].strip().lower()
        try:
            validate_email(email)
        except ValidationError as error:
            raise CommandError(f"{email!r} is not an email address.") from error
        try:
            with crossing():
                project = project_named(options["project"])
                password = memberships.invite(project, email, role=options["role"], name=options["name"])
        except memberships.AlreadyKnown as error:
            raise CommandError(str(error)) from error
        self.stdout.write(password)
