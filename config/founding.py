"""A project with everything it needs to begin; and the instance's first start."""

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from alerts.planning import ensure_defaults
from monitor import keys, memberships
from monitor.allowances import give_budgets, give_global_budget
from monitor.models import ApiKey, Person, Project
from monitor.models.people import Role
from monitor.tenancy import crossing

FIRST_PROJECT = "default"
FIRST_OPERATOR = "operator@localhost"
FIRST_SCOPES = ("ingest", "read", "operate")


@dataclass(frozen=True)
class FirstStart:
    """What was made and is shown once; "" where there was one already."""

    password: str = ""
    key: str = ""


def project_named(name: str) -> Project:
    """The project of this name, made with budgets and channels when it is missing. Call it inside `crossing()`."""
    project, made = Project.objects.get_or_create(name=name)
    if made:
        give_budgets(project.pk, day_usd=settings.DAILY_BUDGET_USD, departments_usd=settings.DEPARTMENT_BUDGETS_USD)
        ensure_defaults(project.pk)
    return project


def found(*, now: datetime) -> FirstStart:
    """Make what a first start makes and is not there; a later start makes nothing."""
    with crossing():
        project = project_named(FIRST_PROJECT)
        give_global_budget()
        # A channel for an address that was set after the first start.
        ensure_defaults(project.pk)
        password = key = ""
        if not Person.objects.exists():
            password = memberships.invite(
                project, FIRST_OPERATOR, role=Role.ADMIN, name="Operator", is_instance_admin=True
            )
        if not ApiKey.objects.exists():
            _, key = keys.make(project, "first key", FIRST_SCOPES, now=now)
    return FirstStart(password, key)
