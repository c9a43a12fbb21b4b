"""What belongs to the whole instance and to no project: global budgets and their trips, and who may see them."""

from django.db.models import Q, QuerySet

from monitor.models import Project, QueueItem, Trip
from monitor.models.queue import ItemKind
from monitor.tenancy import crossing


def visible(project_id: int, *, is_instance_admin: bool) -> Q:
    """The budgets or trips of the project; for the instance's admins, which a key never is, the global ones as well.

    Global ones tell what other projects spend. Whom they refuse learns that, and no sum.
    """
    mine = Q(project_id=project_id)
    return mine | Q(project_id=None) if is_instance_admin else mine


def home(trip: Trip) -> int | None:
    """The project in whose queue and journal a trip stands: of a global one the project whose call tripped it.

    None when nobody knows that any more.
    """
    if trip.project_id is not None:
        return trip.project_id
    with crossing():
        items = QueueItem.objects.filter(kind=ItemKind.TRIP, subject_id=str(trip.pk))
        return items.values_list("project_id", flat=True).first()


def keeper() -> int:
    """The project that keeps the journal of what belongs to the whole instance: its first."""
    with crossing():
        return first_project()[0]


def first_project() -> QuerySet[Project, int]:
    """`keeper` within a query that crosses projects."""
    return Project.objects.order_by("pk").values_list("pk", flat=True)[:1]
