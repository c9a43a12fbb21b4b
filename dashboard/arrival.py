"""Whether anything has ever reached a project."""

from monitor.models import Execution, Span


def is_empty(project_id: int) -> bool:
    """True until the first execution or span arrives."""
    return not (
        Execution.objects.filter(project_id=project_id).exists() or Span.objects.filter(project_id=project_id).exists()
    )
