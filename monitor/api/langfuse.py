"""What the Langfuse SDK calls: its traces are OpenTelemetry's, its keys are ours, and nothing else of it is here."""

import msgspec
from django.urls import path

from monitor.api.caller import Request
from monitor.api.door import Door, endpoint
from monitor.api.otlp import Traces
from monitor.api.problems import Problem
from monitor.models import Project


class LangfuseOrganization(msgspec.Struct, frozen=True):
    id: str
    name: str


# Handrail has projects alone.
OURS = LangfuseOrganization("handrail", "Handrail")


class LangfuseProject(msgspec.Struct, rename="camel"):
    id: str
    name: str
    organization: LangfuseOrganization = OURS
    metadata: dict[str, str] = {}
    retention_days: int | None = None


class LangfuseProjects(msgspec.Struct):
    """The key's own project, in a list as the SDK expects it."""

    data: list[LangfuseProject]


class Projects(Door):
    """The project of the key; the Langfuse SDK asks for it to see whether its keys are valid."""

    @endpoint(scope="ingest or read", answer=LangfuseProjects)
    def get(self, request: Request) -> LangfuseProjects:
        project = Project.objects.get(pk=request.caller.project_id)
        return LangfuseProjects([LangfuseProject(str(project.pk), project.name)])


class Elsewhere(Door):
    """Every other address of Langfuse, such as scores and prompts: told in words that a person finds in a log."""

    def get(self, request: Request, rest: str) -> None:
        raise Problem(
            404,
            "Not found",
            f"Handrail has no /api/public/{rest[:100]}. Of the Langfuse API it takes traces and answers "
            "/api/public/projects; scores, prompts and datasets are not kept.",
        )

    post = put = patch = delete = get


urlpatterns = [
    path("api/public/otel/v1/traces", Traces.as_view()),
    path("api/public/projects", Projects.as_view()),
    path("api/public/<path:rest>", Elsewhere.as_view()),
]
