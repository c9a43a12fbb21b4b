"""Whether anything has ever reached a project, and how the first of it gets there."""

import json
from typing import Any

from django.http import HttpRequest

from monitor.models import Execution, Span


def is_empty(project_id: int) -> bool:
    """True until the first execution or span arrives."""
    return not (
        Execution.objects.filter(project_id=project_id).exists() or Span.objects.filter(project_id=project_id).exists()
    )


def curl(request: HttpRequest, path: str, body: dict[str, Any]) -> str:
    """A command that makes this call at the address the page was asked for, with the key in `$HANDRAIL_API_KEY`."""
    address = f"{request.scheme}://{request.get_host()}"
    return (
        f"""curl {address}/api/v1{path} -H "Authorization: Bearer $HANDRAIL_API_KEY" """
        f"""-H 'Content-Type: application/json' -d '{json.dumps(body)}'"""
    )
