"""What belongs to the whole instance and to no project: global budgets and their trips, and who may see them."""

from django.db.models import Q


def visible(project_id: int, *, is_instance_admin: bool) -> Q:
    """The budgets or trips of the project; for the instance's admins, which a key never is, the global ones as well.

    Global ones tell what other projects spend. Whom they refuse learns that, and no sum.
    """
    mine = Q(project_id=project_id)
    return mine | Q(project_id=None) if is_instance_admin else mine
