"""People join projects: an account, a role, a seat as one who takes conversations."""

import secrets

from monitor.models import HumanAgent, Membership, Person, Project

PASSWORD_BYTES = 12


class AlreadyKnown(Exception):
    """There is a person with this email already."""


def invite(project: Project, email: str, *, role: str, name: str = "", is_instance_admin: bool = False) -> str:
    """Make a person with a role in the project; returns the generated password. Raises AlreadyKnown.

    Call it inside `crossing()`: people are shared by projects.
    """
    email = email.strip().lower()
    if Person.objects.filter(email=email).exists():
        raise AlreadyKnown(f"{email} has an account already.")
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    person = Person.objects.create_user(
        email, password, name=name, last_project=project, is_instance_admin=is_instance_admin
    )
    join(project, person, role=role)
    return password


def join(project: Project, person: Person, *, role: str) -> None:
    """Give a person a role in a project, or another one, and a seat there."""
    Membership.objects.update_or_create(project=project, person=person, defaults={"role": role})
    HumanAgent.objects.get_or_create(project=project, person=person)
