"""Plain builders for stories about pages."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.test import Client

from monitor.models import Execution, HumanAgent, Membership, Person, Project
from monitor.models.executions import WATCHED
from monitor.tenancy import crossing, tenant


@dataclass(frozen=True)
class SignedIn:
    """A person with a browser of their own, in a project of their own."""

    client: Client
    person: Person
    project_id: int


def signed_in(project: str = "north", *, role: str = "operator", email: str = "") -> SignedIn:
    """A member of the project (made when missing) who is signed in."""
    with crossing():
        place, _ = Project.objects.get_or_create(name=project)
        person = Person.objects.create_user(
            email or f"{role}@{project}.example", "correct horse battery", name="Mara Lind"
        )
        Membership.objects.create(project=place, person=person, role=role)
        if role != "viewer":
            HumanAgent.objects.create(project=place, person=person)
    client = Client()
    client.force_login(person)
    return SignedIn(client, person, place.pk)


def an_execution(project_id: int, **fields: Any) -> Execution:
    """An execution as it might stand in the table; running and on time unless told otherwise."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "agent": "airline-support",
        "task": "Change of flight",
        "digest": b"x" * 32,
        "status": "running",
        "started_at": now,
    } | fields
    if values["status"] in WATCHED:
        values.setdefault("deadline_at", now + timedelta(seconds=45))
    with tenant(project_id):
        return Execution.objects.create(project_id=project_id, **values)
