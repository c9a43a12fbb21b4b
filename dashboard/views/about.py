"""What Handrail is made of, with the licences."""

import json
from functools import cache
from importlib.metadata import Distribution, distributions
from typing import Any, NamedTuple

from django.conf import settings
from django.http import Http404, HttpResponse
from django.template.response import TemplateResponse

from dashboard.access import PageRequest, page
from monitor.vitals import own_version

# What a licence's file is called at its start, without regard to case.
LICENCE_FILES = ("licence", "license", "copying", "notice")


class Part(NamedTuple):
    """One thing that we did not write; `text` is its licence as it came, "" when it brought none."""

    name: str
    version: str
    licence: str
    homepage: str
    text: str


@page
def about(request: PageRequest) -> HttpResponse:
    """Versions and licences of everything that is shipped or installed; with `?text=` one licence as it came."""
    name = request.GET.get("text")
    if name is not None:
        chosen = next((one for one in (*front_parts(), *back_parts()) if one.name == name and one.text), None)
        if chosen is None:
            raise Http404
        return HttpResponse(chosen.text, content_type="text/plain; charset=utf-8")
    context = {"version": own_version(), "front": front_parts(), "back": back_parts()}
    return TemplateResponse(request, "system/about.html", context)


@cache
def front_parts() -> list[Part]:
    """What pages load, as the build of the front end wrote it down."""
    file = settings.BASE_DIR / "static" / "vendor" / "licences.json"
    if not file.exists():
        return []
    return [
        Part(one["name"], one["version"], one["license"], one.get("homepage", ""), one["text"])
        for one in json.loads(file.read_text())
    ]


@cache
def back_parts() -> list[Part]:
    """The Python distributions of this environment, each once, by name."""
    found = {one.metadata["Name"].lower(): one for one in distributions() if one.metadata["Name"]}
    return [_part(one) for name, one in sorted(found.items()) if name != "handrail-server"]


def _part(one: Distribution) -> Part:
    told: Any = one.metadata
    files = [file for file in one.files or [] if file.name.lower().startswith(LICENCE_FILES)]
    texts = [file.locate() for file in files]
    return Part(
        name=told["Name"],
        version=one.version,
        licence=_licence(one),
        homepage=_homepage(one),
        text="\n\n".join(path.read_text(errors="replace") for path in texts if path.is_file()),  # type: ignore[attr-defined]
    )


def _licence(one: Distribution) -> str:
    """The licence's short name: the expression, else the classifiers, else the first line of the field."""
    told: Any = one.metadata
    if expression := told.get("License-Expression"):
        return str(expression)
    lines = told.get_all("Classifier") or []
    classified = ", ".join(line.rpartition(" :: ")[2] for line in lines if line.startswith("License ::"))
    return classified or str(told.get("License") or "").partition("\n")[0][:80] or "see its text"


def _homepage(one: Distribution) -> str:
    told: Any = one.metadata
    if page := told.get("Home-page"):
        return str(page)
    pairs = [line.partition(",")[::2] for line in told.get_all("Project-URL") or []]
    urls = {label.strip().lower(): url.strip() for label, url in pairs}
    return urls.get("homepage") or urls.get("source") or next(iter(urls.values()), "")
