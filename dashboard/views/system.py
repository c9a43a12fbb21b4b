"""The instance itself: what runs on time, what is ill, and what that means.

The same for every project, but for a line on what was refused of this one.
"""

import platform
from typing import Any

import django
from django.http import Http404, HttpResponse
from django.template.response import TemplateResponse

from dashboard import health
from dashboard.access import PageRequest, page
from monitor import doorcounts, keeping, retention, vitals
from monitor.together import Together


@page
def system(request: PageRequest) -> HttpResponse:
    """The whole page, or with `?part=health` what is refreshed every few seconds, or `?part=tables` the sizes."""
    part = request.GET.get("part")
    if part not in (None, "health", "tables"):
        raise Http404
    context: dict[str, Any] = {}
    if part != "tables":
        whole_errors = request.visitor.person.is_instance_admin
        context |= {
            "health": health.look(now=request.now, whole_errors=whole_errors),
            "versions": versions(),
            "refused": doorcounts.refused(request.visitor.project.pk, now=request.now),
        }
    if part != "health":
        with Together(across=True) as asked:
            sizes = vitals.asking_table_sizes(asked, now=request.now)
            standing = keeping.asking(asked)
        kept = retention.longest_of_tables(standing())
        context |= {
            "tables": [(one, one.bytes / (sizes[0].bytes or 1), kept.get(one.name)) for one in sizes],
            "tables_bytes": sum(one.bytes for one in sizes),
        }
    return TemplateResponse(request, f"system/_{part}.html" if part else "system/page.html", context)


def versions() -> list[tuple[str, str]]:
    """Ours and those that we stand on."""
    return [
        ("Handrail", vitals.own_version()),
        ("Python", platform.python_version()),
        ("Django", django.get_version()),
    ]
